"""Inputs that are hostile or broken, as a table: how each is made, what is asked of it, and how that must end.

Every input is written by code into a fresh folder; none is kept in the project. Knows nothing of how a case is judged.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REFUSED, REPORTED, ACCEPTED = "refused", "reported", "accepted"
SHORT = "generation.max_new_tokens=2"
LENIENT = "data.max_dropped=0.99"
GOOD = [
    {"question": "Is pump one faulty?", "answer": "No."},
    {"question": "Is pump two faulty?", "answer": "Yes."},
]


@dataclass(frozen=True)
class Place:
    """Where a case is made: an empty `folder`, and a whole `model`, which is read only, as is the trained run."""

    folder: Path
    model: Path
    trained: Callable[[], Path]

    @property
    def canary(self) -> Path:
        """A file that is there only if an input ran code."""
        return self.folder / "CANARY"

    def write(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path

    def rows(self, name: str = "rows.jsonl", rows: Sequence[Any] = tuple(GOOD)) -> Path:
        return self.write(name, lines(*rows))

    def copied(self, source: Path, name: str) -> Path:
        """A copy that a case may damage."""
        return Path(shutil.copytree(source, self.folder / name))


@dataclass(frozen=True)
class Case:
    """`make` writes the input and returns the command line. It must end in `ends`: refused is exit code 2 and nothing
    written; reported is exit code 0, and `says` names what was left out; accepted is exit code 0. `says` stands in what
    a person reads."""

    name: str
    make: Callable[[Place], Sequence[object]]
    ends: str
    says: str = ""


def lines(*rows: Any) -> str:
    """JSON Lines; a row that is text already stands as it is."""
    return "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)


def check(place: Place, data: Path | str, *words: object) -> list[object]:
    """The command that looks through data, template, labels and model, and lets single rows be bad."""
    return ["check", data, "--model", place.model, LENIENT, *words]


def pickled(canary: Path) -> bytes:
    """A pickle that writes the canary when it is loaded."""
    return f"cos\nsystem\n(Vtouch {canary}\ntR.".encode()
