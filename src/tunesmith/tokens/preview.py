"""What is trained, made visible: each answer's tokens with their weights, for terminals, pages and programs.

Shows what encode and forest decided and decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from tunesmith.conversation import Conversation
from tunesmith.i18n import _
from tunesmith.tokens.answer import Answer
from tunesmith.tokens.encode import Encoder
from tunesmith.tokens.forest import grow


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one or several tokens (those that share a character) and the weight that they are trained with."""

    text: str
    ids: tuple[int, ...]
    weight: float | None  # None: context


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer: `shared` tokens stand in an earlier turn already and are not shown again."""

    turn: int
    shared: int
    pieces: list[Piece]


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
        shown.append(Turn(answer.turn, shared, pieces))
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
            pieces.append(Piece(text, tuple(ids[start:i]), weight))
            start = i
    return pieces


STYLE = """
body { font: 15px/1.7 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
.tokens { white-space: pre-wrap; overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: 13px }
.tokens span { border-radius: 3px; box-shadow: inset 0 0 0 1px #0001 }
.context { color: #777 } .shared { color: #aaa; font-style: italic }
pre { white-space: pre-wrap; background: #f6f6f4; padding: .8rem; border-radius: 6px }
h2 { margin: 2rem 0 .4rem; font-size: 1.05rem }
"""


def html(conversation: Conversation, rendered: str, shown: Sequence[Turn]) -> str:
    """One self-contained page: the row as read, as rendered, and its tokens, darker green for more weight."""
    heaviest = max((p.weight for t in shown for p in t.pieces if p.weight), default=1.0)
    read = "\n\n".join(_as_read(conversation))
    body = [f"<h1>{escape(str(conversation.origin or ''))}</h1>"]
    for title, text in ((_("As read"), read), (_("As rendered"), rendered)):
        body.append(f"<h2>{escape(title)}</h2><pre>{escape(text)}</pre>")
    for turn in shown:
        body.append(f"<h2>messages[{turn.turn}]</h2><div class=tokens>")
        if turn.shared:
            same = _("{n} tokens as above").format(n=turn.shared)
            body.append(f"<span class=shared>… {escape(same)} …</span>\n")
        body += [_span(piece, heaviest) for piece in turn.pieces]
        body.append("</div>")
    legend = _("Green is trained, with the weight that is shown when the pointer rests on it; grey is context.")
    return (
        "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>tunesmith preview</title><style>{STYLE}</style>{''.join(body)}<p>{escape(legend)}</p>\n"
    )


def _span(piece: Piece, heaviest: float) -> str:
    title = " ".join(map(str, piece.ids))
    if piece.weight is None:
        return f'<span class=context title="{title}">{escape(piece.text)}</span>'
    depth = 0.15 + 0.5 * piece.weight / heaviest if heaviest else 0.0
    return (
        f'<span style="background: rgb(30 150 80 / {depth:.2f})" title="{title} × {piece.weight:g}">'
        f"{escape(piece.text)}</span>"
    )


def _as_read(conversation: Conversation) -> Iterator[str]:
    for message in conversation.messages:
        reasoning = f"\n<think> {message.reasoning}" if message.reasoning else ""
        calls = "".join(f"\n→ {call.name}({call.arguments})" for call in message.tool_calls)
        yield f"[{message.role}]{reasoning}\n{message.content}{calls}"
