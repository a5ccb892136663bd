"""Which chat template a tokenizer gets. Never a guess: where nothing is certain, the user is asked."""

from __future__ import annotations

from pathlib import Path

from tunesmith.errors import TemplateError
from tunesmith.i18n import _
from tunesmith.tokens.tokenizer import Tokenizer

SHIPPED = Path(__file__).parent / "templates"


def choose(
    *,
    path: Path | None,
    own: str | None,
    folder: Path,
    fallback: str | None,
) -> tuple[str, str]:
    """(text, source): `path`, else the tokenizer's `own`, else the shipped one whose first comment fits the control
    tokens of the tokenizer in `folder`, else `fallback`, else TemplateError. Never a guess."""
    if path is not None:
        return _read(path), str(path)
    if own:
        return own, str(folder)
    shipped = {p.stem: _read(p) for p in sorted(SHIPPED.glob("*.jinja"))}
    fitting = [name for name, text in shipped.items() if Tokenizer(folder, text).fits(text)]
    if len(fitting) == 1:
        return shipped[fitting[0]], f"{fitting[0]}.jinja"
    if fallback in shipped:
        return shipped[fallback], f"{fallback}.jinja"
    if fallback:
        return _read(Path(fallback)), fallback
    raise TemplateError(
        _(
            "The tokenizer has no chat template. Set template.path to a Jinja file, or template.fallback to one of"
            " {names}."
        ).format(names=", ".join(shipped)),
        place=str(folder),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(_("The chat template can't be read: {why}.").format(why=error), place=str(path)) from None
