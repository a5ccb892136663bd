"""Which chat template a tokenizer gets. Never a guess: where nothing is certain, the user is asked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tunesmith.conversation import Message
from tunesmith.errors import TemplateError
from tunesmith.i18n import _
from tunesmith.tokens.jsontemplate import read
from tunesmith.tokens.marks import clean
from tunesmith.tokens.template import ChatTemplate
from tunesmith.tokens.tokenizer import Tokenizer

SHIPPED = Path(__file__).parent / "templates"
QUESTION, ANSWER = Message("user", "question"), Message("assistant", "answer")
SHOWN = 40  # characters around the place where two templates part


@cache
def shipped() -> dict[str, Path]:
    """The templates that come with tunesmith: name -> file."""
    return {path.stem: path for path in sorted(SHIPPED.iterdir()) if path.suffix in (".jinja", ".json")}


def choose(
    *,
    path: Path | None,
    own: str | None,
    folder: Path,
    fallback: str | None,
) -> tuple[str, str]:
    """(text, source): `path`, else the tokenizer's `own`, else the shipped one whose first comment fits the control
    tokens of the tokenizer in `folder`, else `fallback`, else TemplateError. Both take a shipped one's name, a Jinja
    file or a JSON file."""
    if path is not None:
        return _named(str(path))
    if own:
        return own, str(folder)
    tokenizer = Tokenizer(folder)
    fitting = [name for name, file in shipped().items() if tokenizer.fits(read(file))]
    if len(fitting) == 1:
        return _named(fitting[0])
    if fallback:
        return _named(fallback)
    raise TemplateError(
        _(
            "The tokenizer has no chat template. Set template.fallback to one of {names}, or to a Jinja or JSON file;"
            " template.path does the same for every tokenizer."
        ).format(names=", ".join(shipped())),
        place=str(folder),
    )


def _named(name: str) -> tuple[str, str]:
    file = shipped().get(name)
    if file is None and not Path(name).exists():
        text = _("There is no such chat template: neither a file nor one of {names}.")
        raise TemplateError(text.format(names=", ".join(shipped())), place=name)
    return (read(file), file.name) if file else (read(Path(name)), name)


def difference(mine: ChatTemplate, own: ChatTemplate) -> str | None:
    """One line that shows where `mine` first renders something else than the tokenizer's own; None if it never does."""
    system = Message("system", "system")
    dialogues = [(QUESTION,), (system, QUESTION), (system, QUESTION, ANSWER, QUESTION)]
    for dialogue in dialogues:
        ours, theirs = _probe(mine, dialogue), _probe(own, dialogue)
        if ours == theirs or theirs is None:
            continue
        if ours is None:
            text = _("{source} refuses a system prompt, which the tokenizer's own chat template renders.")
            return text.format(source=mine.source)
        pairs = zip(ours, theirs, strict=False)
        start = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
        text = _("{source} renders {mine} where the tokenizer's own chat template renders {own}.")
        return text.format(source=mine.source, mine=_excerpt(ours, start), own=_excerpt(theirs, start))
    return None


def _probe(template: ChatTemplate, dialogue: Sequence[Message]) -> str | None:
    try:
        return clean(template.render(dialogue, prompt=True))
    except TemplateError:
        return None


def _excerpt(text: str, start: int) -> str:
    begin = max(0, start - SHOWN // 2)
    return repr(("…" if begin else "") + text[begin : start + SHOWN // 2])
