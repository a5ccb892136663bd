"""`data augment`, `data example`: files of rows that did not exist before.

Augmented rows keep their answers, and say which row they come from, so that a split can keep them together.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.actions.data import list_removed, open_source
from tunesmith.actions.voice import Voice
from tunesmith.data import formats, write
from tunesmith.data.augment import OPERATIONS, question, vary, with_question, with_system
from tunesmith.data.convert import convert
from tunesmith.data.example import examples
from tunesmith.errors import ConfigError
from tunesmith.i18n import _, language

if TYPE_CHECKING:
    from tunesmith.config.load import Loaded
    from tunesmith.conversation import Conversation
    from tunesmith.data.paraphrase import Paraphraser

SYSTEM, PARAPHRASE = "system", "paraphrase"
FROM, BY = "augmented_from", "augmented_by"  # columns: the row's number in the source, and what was done to it

Maker = Callable[["Conversation", int], "Conversation | None"]


@dataclass(frozen=True)
class Plan:
    """What may be done to a row: names of offline operations, system prompts to try, a server that rewrites. `copies`
    is how many new rows each row gets at most."""

    operations: Sequence[str] = ()
    systems: Sequence[str] = ()
    endpoint: Paraphraser | None = None
    copies: int = 1

    def __post_init__(self) -> None:
        unknown = [name for name in self.operations if name not in OPERATIONS]
        if unknown:
            text = _("{value} is none of {names}.")
            raise ConfigError(text.format(value=", ".join(unknown), names=", ".join(OPERATIONS)), place="--with")

    def makers(self, draw: random.Random) -> dict[str, Maker]:
        """Every way by its name; without any choice these are the offline operations."""
        offline = self.operations or (() if self.systems or self.endpoint else tuple(OPERATIONS))
        found: dict[str, Maker] = {name: partial(_vary, name, draw) for name in offline}
        if self.systems:
            found[SYSTEM] = lambda c, n: with_system(c, self.systems[n % len(self.systems)])
        if self.endpoint:
            found[PARAPHRASE] = self._paraphrase
        return found

    def _paraphrase(self, conversation: Conversation, number: int) -> Conversation | None:
        turn = question(conversation)
        if turn is None or self.endpoint is None:
            return None
        said = self.endpoint.rewrite(conversation.messages[turn].content, number)
        return None if said is None else with_question(conversation, turn, said)


def _vary(name: str, draw: random.Random, conversation: Conversation, number: int) -> Conversation | None:
    return vary(conversation, name, draw)


def augment(source: Path, out: Path, plan: Plan, loaded: Loaded, voice: Voice, *, overwrite: bool) -> None:
    """The rows, each followed by its variants, in the rows' own format or else as `messages`. DataError, RunError."""
    write.claim([out], [source], overwrite)
    opened = open_source(source, loaded, voice)
    rows = opened.dataset.conversations
    draw = random.Random(loaded.config.training.seed)
    makers = plan.makers(draw)
    seen = {conversation.messages for conversation in rows}
    made: list[Conversation] = []
    done: Counter[str] = Counter()
    with voice.progress(_("Augmenting")) as advance:
        for number, conversation in enumerate(rows, 1):
            made.append(_marked(conversation, conversation.index))
            for name, variant in _variants(conversation, makers, plan.copies, draw):
                if variant.messages not in seen:
                    seen.add(variant.messages)
                    made.append(_marked(variant, conversation.index, name))
                    done[name] += 1
            advance(number, len(rows), "")
    name = opened.dataset.format if opened.dataset.format in formats.names() else "messages"
    found = convert(made, name)
    for notice in found.notices(name):
        voice.say(notice)
    write.rows(out, found.rows)
    list_removed(out, [*opened.dataset.rejected, *found.refused], voice)
    _say_made(len(rows), done, len({c.meta[FROM] for c in made if BY in c.meta}), plan, out, voice)


def _marked(conversation: Conversation, index: int, name: str | None = None) -> Conversation:
    marks = {FROM: index, **({BY: name} if name else {})}
    return replace(conversation, meta={**conversation.meta, **marks})


def _variants(
    conversation: Conversation, makers: dict[str, Maker], copies: int, draw: random.Random
) -> Iterator[tuple[str, Conversation]]:
    """Up to `copies` variants, by ways in an order by chance, each way again only after all others."""
    names = draw.sample(list(makers), len(makers))
    found = 0
    for attempt in range(copies * 2 if len(names) == 1 else copies + len(names)):
        name = names[attempt % len(names)]
        variant = makers[name](conversation, attempt)
        if variant is not None:
            found += 1
            yield name, variant
        if found == copies:
            return


def _say_made(rows: int, done: Counter[str], changed: int, plan: Plan, out: Path, voice: Voice) -> None:
    for name, n in done.most_common():
        voice.say(_("New rows by {name}: {n}.").format(name=name, n=n))
    if changed < rows:
        text = _("Rows without a variant, since none would have kept the answer true: {n}.")
        voice.say(text.format(n=rows - changed))
    if plan.endpoint and plan.endpoint.failed:
        text = _("Rewritings that did not come or were no good: {n}.")
        voice.say(text.format(n=plan.endpoint.failed))
    voice.say(_("{n} new rows and {rows} old ones written to {path}.").format(n=done.total(), rows=rows, path=out))
    text = _("A row and its variants belong on one side of a split: data.split_by={column}.")
    voice.say(text.format(column=FROM))


def example(out: Path, name: str, number: int, seed: int, voice: Voice, *, overwrite: bool) -> None:
    """A file of small conversations in the format `name`, in the reader's language. DataError, RunError."""
    formats.writer(name)
    write.claim([out], [], overwrite)
    single = name in ("input_output", "question_answer", "prompt_completion")
    turns, thinking = (1 if single else 3), name == "conversation_pair"
    made = convert(list(examples(number, turns=turns, thinking=thinking, chinese=language() == "zh", seed=seed)), name)
    write.rows(out, made.rows)
    voice.say(_("{n} rows of the format {format} written to {path}.").format(n=number, format=name, path=out))
    voice.say(_("Look at them: tunesmith data inspect {path}").format(path=out))
