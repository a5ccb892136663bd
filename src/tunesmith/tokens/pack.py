"""Rows to arrays: what a stretch of rows becomes once it is read, judged and encoded; by what it can be told apart.

Made where the row is, in whatever process; knows nothing of files on a disk. Reading back is the cache's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tunesmith.conversation import Conversation
from tunesmith.data.intake import Intake, Rejected, fingerprint
from tunesmith.data.row import BadRow, Row
from tunesmith.data.split import prompt_number, value_text
from tunesmith.i18n import _
from tunesmith.tokens.answer import Answer, Encoded
from tunesmith.tokens.encode import Encoder

if TYPE_CHECKING:
    from tunesmith.config.schema import DataSection, TemplateSection

USABLE, UNREADABLE, REFUSED = (
    0,
    1,
    2,
)  # of a row: can be trained, says nothing trainable, does not fit a template or length

# One number for each input row, but for `print`, which has two. Names are interned: system prompt, class, group.
ROW_COLUMNS = {
    **dict.fromkeys(("line", "answers", "dropped", "trimmed", "tokens", "trained", "longest"), "u4"),
    **dict.fromkeys(("system", "class", "group"), "i4"),
    "state": "u1",
    "file": "u2",
    "print": "2u8",
    "prompt": "u8",
}
STARTS = ("first_answer", "first_token", "first_factor")  # of a row, in the columns below
# One number for each answer. Its ids are the first `shared` of the answer before it in the row, and new ones.
ANSWER_COLUMNS = {
    **dict.fromkeys(("turn", "left_out", "shared", "context", "answer"), "u4"),
    "weight": "f8",
    "even": "u1",
}
NAMED = ("system", "class", "group")
Arrays = dict[str, npt.NDArray]


@dataclass
class Chunk:
    """Some rows in order. `names` are what the NAMED columns' numbers mean in this chunk; `seen` is for notices."""

    rows: Arrays
    answers: Arrays
    tokens: npt.NDArray[np.uint32]
    factors: npt.NDArray[np.float64]
    names: dict[str, list[str]]
    files: list[str]
    meta: list[str]  # names of the columns that no format claimed
    rejected: list[Rejected]
    seen: Counter[str]


@dataclass(frozen=True)
class Recipe:
    """All that a process needs to make chunks: how rows are read, and how they are encoded."""

    folder: Path
    text: str  # of the chat template
    template: TemplateSection
    data: DataSection
    format: str

    def packer(self) -> Packer:
        return Packer(
            Encoder.load(self.folder, self.template, self.text), Intake.known(self.format, self.data), self.data
        )


@dataclass
class _Columns:
    """Numbers on their way into arrays."""

    kinds: dict[str, str]
    values: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, **row: Any) -> None:
        for name, value in row.items():
            self.values.setdefault(name, []).append(value)

    def arrays(self) -> Arrays:
        return {name: _array(self.values.get(name, []), kind) for name, kind in self.kinds.items()}


def _array(values: list[Any], kind: str) -> npt.NDArray:
    return np.array(values, dtype=kind[1:]).reshape(-1, 2) if kind == "2u8" else np.array(values, dtype=kind)


class Packer:
    """Reads, judges and encodes rows, one chunk after another."""

    def __init__(self, encoder: Encoder, intake: Intake, section: DataSection) -> None:
        self.encoder, self.intake, self.section = encoder, intake, section

    def pack(self, rows: Sequence[Row | BadRow], start: int) -> Chunk:
        """The rows `start` and following. Raises TemplateError for what concerns the whole data set."""
        self.intake.seen = Counter()
        taken = [self.intake.take(row, start + i) for i, row in enumerate(rows)]
        self.encoder.ready.check_reasoning([each for each in taken if isinstance(each, Conversation)])
        found, answers = _Columns(ROW_COLUMNS | dict.fromkeys(STARTS, "u8")), _Columns(ANSWER_COLUMNS)
        tokens: list[int] = []
        factors: list[float] = []
        names: dict[str, dict[str, int]] = {name: {} for name in NAMED}
        files: dict[str, int] = {}
        meta: dict[str, None] = {}
        rejected: list[Rejected] = []
        for row, each in zip(rows, taken, strict=True):
            starts = (len(answers.values.get("turn", ())), len(tokens), len(factors))
            encoded, state, named = Encoded(), UNREADABLE, dict.fromkeys(NAMED, "")
            prints, prompt = (0, 0), 0
            if isinstance(each, Rejected):
                rejected.append(each)
            else:
                meta |= dict.fromkeys(each.meta)
                encoded, state = self._encoded(each, rejected)
                named = self._named(each, encoded)
                mark = fingerprint(each.messages, each.tools)
                prints = (int.from_bytes(mark[:8], "little"), int.from_bytes(mark[8:], "little"))
                prompt = prompt_number(each)
            for answer, before in zip(encoded.answers, (None, *encoded.answers), strict=False):
                _add_answer(answer, before, answers, tokens, factors)
            found.add(
                state=state,
                line=row.origin.line,
                file=files.setdefault(row.origin.file, len(files)),
                print=prints,
                prompt=prompt,
                **{name: known.setdefault(named[name], len(known)) for name, known in names.items()},
                answers=len(encoded.answers),
                dropped=encoded.dropped,
                trimmed=encoded.trimmed,
                tokens=sum(map(len, encoded.answers)),
                trained=sum(map(_trained, encoded.answers)),
                longest=max(map(len, encoded.answers), default=0),
                **dict(zip(STARTS, starts, strict=True)),
            )
        return Chunk(
            found.arrays(),
            answers.arrays(),
            np.array(tokens, dtype=np.uint32),
            np.array(factors, dtype=np.float64),
            {name: list(known) for name, known in names.items()},
            list(files),
            list(meta),
            rejected,
            self.intake.seen,
        )

    def _encoded(self, conversation: Conversation, rejected: list[Rejected]) -> tuple[Encoded, int]:
        encoded = self.encoder.encode(conversation, self.section.max_length, self.section.overflow)
        code, reason = refusal(encoded, self.section)
        if not code:
            return encoded, USABLE
        assert conversation.origin is not None
        first = conversation.messages[0].content if conversation.messages else ""
        rejected.append(Rejected(conversation.origin, conversation.index, code, reason, first[:80]))
        return Encoded(), REFUSED

    def _named(self, conversation: Conversation, encoded: Encoded) -> dict[str, str]:
        columns = {"class": self.section.stratify_by, "group": self.section.split_by}
        values = {name: value_text(conversation.meta.get(c)) if c else "" for name, c in columns.items()}
        return {"system": self.encoder.ready.system_of(conversation) if encoded.answers else "", **values}


def _trained(answer: Answer) -> int:
    """Tokens with a weight above 0."""
    return len(answer.weights) - sum(map(answer.weights.count, {w for w in answer.weights if w <= 0}))


def _add_answer(
    answer: Answer, before: Answer | None, answers: _Columns, tokens: list[int], factors: list[float]
) -> None:
    """Each row's answers follow one another: what they begin with in common is kept once."""
    ids = answer.context_ids + answer.answer_ids
    shared = 0
    if before is not None:
        pairs = zip(before.context_ids + before.answer_ids, ids, strict=False)
        alike = min(len(before), len(ids))
        shared = next((i for i, (a, b) in enumerate(pairs) if a != b), alike)
    tokens += ids[shared:]
    even = len(set(answer.weights)) == 1
    if not even:
        factors += answer.weights
    answers.add(
        turn=answer.turn,
        left_out=answer.trimmed,
        shared=shared,
        context=len(answer.context_ids),
        answer=len(answer.answer_ids),
        weight=answer.weights[0],
        even=even,
    )


def refusal(encoded: Encoded, section: DataSection) -> tuple[str, str]:
    """Code and reason why an encoded row can't be trained; empty if it can."""
    if encoded.error:
        return encoded.error
    if encoded.dropped and (section.overflow != "trim_history" or not encoded.answers):
        reason = _("The answer and its question are longer than data.max_length ({n} tokens).")
        return "too_long", reason.format(n=section.max_length)
    if encoded.answers:
        return "", ""
    return "no_trained_answer", _("No answer in it has a weight above 0.")
