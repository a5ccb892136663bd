"""What encoding makes of a conversation: its trained answers in ids, each with its whole context."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """One trained answer: `turn` is its message's index; `weights` has one number for each of `answer_ids`."""

    turn: int
    context_ids: list[int]
    answer_ids: list[int]
    weights: list[float]
    trimmed: int = 0  # messages left out of the context so that it fits

    def __len__(self) -> int:
        return len(self.context_ids) + len(self.answer_ids)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A conversation's answers; `dropped` answers did not fit. `error`: (code, reason) where the row can't be used."""

    answers: tuple[Answer, ...] = ()
    dropped: int = 0
    error: tuple[str, str] | None = None

    @property
    def trimmed(self) -> int:
        return sum(1 for answer in self.answers if answer.trimmed)
