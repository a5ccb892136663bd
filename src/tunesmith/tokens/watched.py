"""Text that goes through a template with marks in it and notes when the template looks into it.

A question about the text (is it empty, does it hold or begin with something) is answered as without marks. Whatever
else would see them is noted, and then the marks may have changed what came out. Text that is only written, trimmed
or joined stays unnoted, so that nobody needs to render it again without marks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsIndex

from tunesmith.tokens.marks import CLOSE, OPEN, Marked


class Watched(Marked):
    """`notes` are the ways in which this text, and all that was made of it, was looked into."""

    notes: list[str]

    @classmethod
    def of(cls, text: str, notes: list[str]) -> Watched:
        made = cls(text)
        made.notes = notes
        return made

    @property
    def plain(self) -> str:
        """The text without the marks around it."""
        return str.replace(str.replace(self, OPEN, ""), CLOSE, "")

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> Watched:
        return Watched.of(str.__add__(self, other), self.notes)

    def __radd__(self, other: str) -> Watched:
        return Watched.of(str.__add__(other, self), self.notes)

    def strip(self, chars: str | None = None, /) -> Watched:
        return self._trimmed(str.strip, chars)

    def lstrip(self, chars: str | None = None, /) -> Watched:
        return self._trimmed(str.lstrip, chars)

    def rstrip(self, chars: str | None = None, /) -> Watched:
        return self._trimmed(str.rstrip, chars)

    def _trimmed(self, trim: Callable[[str, str | None], str], chars: str | None) -> Watched:
        """Marks stand inside of the white space around a text; other characters would hide behind them."""
        if chars is not None and chars.strip():
            self.notes.append("strip")
        return Watched.of(trim(self, chars), self.notes)

    def __len__(self) -> int:
        return len(self.plain)

    def __contains__(self, part: str, /) -> bool:  # type: ignore[override]
        return _plain(part) in self.plain

    def __eq__(self, other: object) -> bool:
        return self.plain == (other.plain if isinstance(other, Watched) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.plain)

    def startswith(self, part: str | tuple[str, ...], *bounds: SupportsIndex | None) -> bool:
        return self.plain.startswith(part, *bounds)

    def endswith(self, part: str | tuple[str, ...], *bounds: SupportsIndex | None) -> bool:
        return self.plain.endswith(part, *bounds)


def _plain(text: str) -> str:
    return text.plain if isinstance(text, Watched) else text


def _noting(name: str) -> Callable[..., Any]:
    def look(self: Watched, *given: Any, **named: Any) -> Any:
        self.notes.append(name)
        return getattr(Marked, name)(self, *given, **named)

    return look


_OPERATORS = ("getitem", "iter", "mod", "rmod", "mul", "rmul", "format", "lt", "le", "gt", "ge", "repr")
_METHODS = [name for name in dir(str) if not name.startswith("__") and name not in vars(Watched)]
for _name in [*_METHODS, *(f"__{name}__" for name in _OPERATORS)]:
    setattr(Watched, _name, _noting(_name))
