"""What is trained, made visible: each answer's tokens with their weights, for terminals, pages and programs.

Shows what encode and forest decided and decides nothing itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.conversation import Conversation, Message
from tunesmith.errors import TemplateError
from tunesmith.i18n import _
from tunesmith.tokens.answer import Answer, Encoded
from tunesmith.tokens.encode import Encoder
from tunesmith.tokens.forest import grow
from tunesmith.tokens.marks import clean

PROBE = tuple(Message(role, f"==={role}_message_test===") for role in ("system", "user", "assistant"))


def probe(encoder: Encoder) -> str:
    """What the chat template makes of a system prompt, a question, an answer, and the prompt for the next answer.
    Without the system prompt where the template has no place for one."""
    question = Message("user", PROBE[1].content)
    for messages in ([*PROBE, question], [*PROBE[1:], question]):
        try:
            return clean(encoder.template.render(messages, prompt=True))
        except TemplateError as error:
            refused = error
    raise refused


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one or several tokens (those that share a character) and the weight that they are trained with."""

    text: str
    ids: tuple[int, ...]
    weight: float | None  # None: context
    control: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer: `shared` tokens stand in an earlier turn already and are not shown again; `trimmed` messages were
    left out of its context."""

    turn: int
    shared: int
    pieces: list[Piece]
    length: int = 0
    trimmed: int = 0


@dataclass(frozen=True, slots=True)
class Preview:
    """All there is to see of a row: as read, as rendered, its tokens, and what a reader has to know of it."""

    conversation: Conversation
    rendered: str
    turns: list[Turn]
    remarks: list[str]

    @property
    def weights(self) -> dict[float | None, int]:
        """How many tokens are trained with each weight, the lightest first; context (None) at the end."""
        found = Counter({p.weight: 0 for t in self.turns for p in t.pieces})
        for turn in self.turns:
            for piece in turn.pieces:
                found[piece.weight] += len(piece.ids)
        return dict(sorted(found.items(), key=lambda item: (item[0] is None, item[0] or 0.0)))


def preview(
    encoder: Encoder, conversation: Conversation, encoded: Encoded, max_length: int, window: int | None = None
) -> Preview:
    """A row that was encoded with `max_length`, made visible; `window` is what the model was made for."""
    shown = turns(encoder, encoded.answers)
    remarks = _remarks(conversation, encoded, max_length)
    for turn in shown:
        if window and turn.length > window:
            text = _("messages[{i}] has {n} tokens with its context; the model was made for {window}.")
            remarks.append(text.format(i=turn.turn, n=turn.length, window=window))
    return Preview(conversation, encoder.rendered(conversation), shown, remarks)


def _remarks(conversation: Conversation, encoded: Encoded, max_length: int) -> list[str]:
    """Where a reader might believe something else: weights, answers without training, contexts without their past."""
    said = []
    if conversation.weight != 1:
        said.append(_("The whole row has the weight {weight:g}.").format(weight=conversation.weight))
    encoded_turns = {answer.turn: answer for answer in encoded.answers}
    trained = conversation.trained_turns()
    for i, message in enumerate(conversation.messages):
        answer = encoded_turns.get(i)
        if i in trained and answer is None:
            text = _("messages[{i}] is longer than data.max_length ({n} tokens) with its question: it is left out.")
            said.append(text.format(i=i, n=max_length))
        elif answer is not None and answer.trimmed:
            text = _("messages[{i}]: the oldest {k} messages are left out to fit data.max_length ({n} tokens).")
            said.append(text.format(i=i, k=answer.trimmed, n=max_length))
        elif message.role == "assistant" and i not in trained:
            why = _("its weight is 0") if message.loss_weight == 0 else _("no question stands before it")
            said.append(_("messages[{i}] is context and not trained: {why}.").format(i=i, why=why))
    return said


def pairs(conversation: Conversation, answers: Sequence[Answer]) -> Iterator[dict[str, Any]]:
    """{"row", "turn", "context_ids", "answer_ids", "weights"} of each answer, as the forest gives them back."""
    for answer, (context, target, weights) in zip(answers, grow(answers).answers(), strict=True):
        yield {
            "row": conversation.index,
            "turn": answer.turn,
            "context_ids": context,
            "answer_ids": target,
            "weights": weights,
        }


def turns(encoder: Encoder, answers: Sequence[Answer]) -> list[Turn]:
    """Each answer behind the part of its context that the answer before it did not have."""
    shown: list[Turn] = []
    before: list[int] = []
    for answer in answers:
        ids = answer.context_ids + answer.answer_ids
        shared = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
        shared = min(shared, len(answer.context_ids))
        pieces = _pieces(encoder, answer.context_ids[shared:], None)
        pieces += _weighted(encoder, answer)
        shown.append(Turn(answer.turn, shared, pieces, len(answer), answer.trimmed))
        before = ids
    return shown


def _weighted(encoder: Encoder, answer: Answer) -> list[Piece]:
    pieces: list[Piece] = []
    start = 0
    for i in range(1, len(answer.weights) + 1):
        if i == len(answer.weights) or answer.weights[i] != answer.weights[start]:
            pieces += _pieces(encoder, answer.answer_ids[start:i], answer.weights[start])
            start = i
    return pieces


def _pieces(encoder: Encoder, ids: list[int], weight: float | None) -> list[Piece]:
    """Tokens one by one; those that are parts of one character together."""
    pieces: list[Piece] = []
    start = 0
    for i in range(1, len(ids) + 1):
        text = encoder.tokenizer.decode(ids[start:i], skip_special_tokens=False)
        if "�" not in text or i == len(ids):
            control = ids[start] in encoder.tokenizer.control_ids
            pieces.append(Piece(text, tuple(ids[start:i]), weight, control))
            start = i
    return pieces
