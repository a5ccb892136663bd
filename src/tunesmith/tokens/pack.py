"""Rows to arrays: what a stretch of rows becomes once it is read, judged and encoded; by what it can be told apart.

Made where the row is, in whatever process; knows nothing of files on a disk. Reading back is the cache's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tunesmith.conversation import Conversation, Origin
from tunesmith.data.intake import Intake, Rejected, fingerprint
from tunesmith.data.row import BadRow, Row
from tunesmith.data.split import prompt_number, value_text
from tunesmith.i18n import _
from tunesmith.tokens.answer import Answer, Encoded
from tunesmith.tokens.encode import Encoder

if TYPE_CHECKING:
    from tunesmith.config.schema import DataSection, TemplateSection

# Of a row: it can be trained, says nothing trainable, does not fit a template or length.
USABLE, UNREADABLE, REFUSED = 0, 1, 2

# One number for each input row. `print` and `print_end` tell rows apart. Names are interned: system, class, group.
ROW_COLUMNS = {
    **dict.fromkeys(("line", "answers", "dropped", "trimmed", "tokens", "trained", "longest"), "u4"),
    **dict.fromkeys(("system", "class", "group"), "i4"),
    "state": "u1",
    "file": "u4",
    **dict.fromkeys(("print", "print_end", "prompt"), "u8"),
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
    """Some rows in order. `names` are what the numbers of NAMED and `file` stand for; `seen` is for notices."""

    rows: Arrays
    answers: Arrays
    tokens: npt.NDArray[np.uint32]
    factors: npt.NDArray[np.float64]
    names: dict[str, list[str]]
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


class _Columns:
    """Numbers on their way into arrays."""

    def __init__(self, kinds: dict[str, str]) -> None:
        self._kinds, self._values = kinds, {name: list[Any]() for name in kinds}

    def __len__(self) -> int:
        return len(next(iter(self._values.values())))

    def add(self, **row: Any) -> None:
        for name, value in row.items():
            self._values[name].append(value)

    def arrays(self) -> Arrays:
        return {name: np.array(self._values[name], dtype=kind) for name, kind in self._kinds.items()}


class Packer:
    """Reads, judges and encodes rows, one chunk after another."""

    def __init__(self, encoder: Encoder, intake: Intake, section: DataSection) -> None:
        self.encoder, self.intake, self.section = encoder, intake, section

    def pack(self, rows: Sequence[Row | BadRow], start: int) -> Chunk:
        """The rows `start` and following. Raises TemplateError for what concerns the whole data set."""
        self.intake.seen = Counter()
        growing, meta, rejected = _Growing(), dict[str, None](), list[Rejected]()
        for i, row in enumerate(rows, start):
            taken = self.intake.take(row, i)
            if isinstance(taken, Rejected):
                rejected.append(taken)
                growing.add(row.origin, UNREADABLE, Encoded(), dict.fromkeys(NAMED, ""))
                continue
            meta |= dict.fromkeys(taken.meta)
            encoded, state = self._encoded(taken, rejected)
            mark = fingerprint(taken.messages, taken.tools)
            prints = (int.from_bytes(mark[:8], "little"), int.from_bytes(mark[8:], "little"))
            growing.add(row.origin, state, encoded, self._named(taken, encoded), prints, prompt_number(taken))
        return growing.chunk(meta, rejected, self.intake.seen)

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


class _Growing:
    """A chunk to which rows are added."""

    def __init__(self) -> None:
        self._rows, self._answers = _Columns(ROW_COLUMNS | dict.fromkeys(STARTS, "u8")), _Columns(ANSWER_COLUMNS)
        self._tokens: list[int] = []
        self._factors: list[float] = []
        self._names: dict[str, dict[str, int]] = {name: {} for name in (*NAMED, "file")}

    def add(
        self,
        origin: Origin,
        state: int,
        encoded: Encoded,
        named: dict[str, str],
        prints: tuple[int, int] = (0, 0),
        prompt: int = 0,
    ) -> None:
        starts = (len(self._answers), len(self._tokens), len(self._factors))
        lengths = [len(answer) for answer in encoded.answers]
        for answer, before in zip(encoded.answers, (None, *encoded.answers), strict=False):
            self._add_answer(answer, before)
        self._rows.add(
            state=state,
            line=origin.line,
            print=prints[0],
            print_end=prints[1],
            prompt=prompt,
            **{name: self._number(name, value) for name, value in (named | {"file": origin.file}).items()},
            answers=len(lengths),
            dropped=encoded.dropped,
            trimmed=encoded.trimmed,
            tokens=sum(lengths),
            trained=sum(map(_trained, encoded.answers)),
            longest=max(lengths, default=0),
            **dict(zip(STARTS, starts, strict=True)),
        )

    def _number(self, column: str, name: str) -> int:
        known = self._names[column]
        return known.setdefault(name, len(known))

    def _add_answer(self, answer: Answer, before: Answer | None) -> None:
        """Each row's answers follow one another: what they begin with in common is kept once."""
        ids = answer.context_ids + answer.answer_ids
        shared = 0
        if before is not None:
            pairs = zip(before.context_ids + before.answer_ids, ids, strict=False)
            alike = min(len(before), len(ids))
            shared = next((i for i, (a, b) in enumerate(pairs) if a != b), alike)
        self._tokens += ids[shared:]
        even = len(set(answer.weights)) == 1
        if not even:
            self._factors += answer.weights
        self._answers.add(
            turn=answer.turn,
            left_out=answer.trimmed,
            shared=shared,
            context=len(answer.context_ids),
            answer=len(answer.answer_ids),
            weight=answer.weights[0],
            even=even,
        )

    def chunk(self, meta: Iterable[str], rejected: list[Rejected], seen: Counter[str]) -> Chunk:
        return Chunk(
            self._rows.arrays(),
            self._answers.arrays(),
            np.array(self._tokens, dtype=np.uint32),
            np.array(self._factors, dtype=np.float64),
            {name: list(known) for name, known in self._names.items()},
            list(meta),
            rejected,
            seen,
        )


def _trained(answer: Answer) -> int:
    """Tokens with a weight above 0."""
    return len(answer.weights) - sum(map(answer.weights.count, {w for w in answer.weights if w <= 0}))


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
