"""A row as one self-contained web page: the dialogue, its tokens as a map of their weights, and what was rendered.

Shows a Preview and decides nothing. Everything of the user's is escaped; the page runs no script.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from math import log2

from tunesmith.conversation import Conversation, Message
from tunesmith.i18n import _
from tunesmith.tokens.preview import Piece, Preview, Turn

STYLE = """
:root { color-scheme: light dark; --back: #fff; --soft: #f5f5f2; --line: #0002; --text: #222; --faint: #777 }
@media (prefers-color-scheme: dark) { :root { --back: #17181a; --soft: #222428; --line: #fff3; --text: #ddd } }
body { font: 15px/1.6 system-ui, "Noto Sans CJK SC", sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--text); background: var(--back) }
h1 { font-size: 1.2rem; overflow-wrap: anywhere } h2 { margin: 2rem 0 .5rem; font-size: 1.05rem }
h2 small, .faint { color: var(--faint); font-weight: normal }
.remarks { border-left: 4px solid #e0a100; padding: .4rem .8rem; background: var(--soft); list-style: none }
.legend span { padding: .1rem .5rem; border-radius: 4px; margin-right: .5rem; white-space: nowrap }
.turn { border: 1px solid var(--line); border-radius: 8px; padding: .5rem .8rem; margin: .5rem 0;
  overflow-wrap: anywhere }
.turn b { display: block; font-size: .8rem; color: var(--faint) } .turn div, .turn code { white-space: pre-wrap }
.assistant { border-left: 4px solid #1e9650 }
.reasoning { color: var(--faint); border-left: 2px dashed; padding-left: .7rem }
.tokens, pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.9 ui-monospace, "Noto Sans Mono CJK SC",
  monospace; background: var(--soft); border-radius: 8px; padding: .8rem; margin: 0 }
.tokens span { border-radius: 3px; box-shadow: inset 0 0 0 1px var(--line); padding: 1px 0 }
.context { color: var(--faint) } .shared { color: var(--faint); font-style: italic; box-shadow: none !important }
.control { color: #a040c0; font-weight: 600 } .none { color: #c03030; text-decoration: line-through }
sub { color: #b06000; font-size: 9px; line-height: 0 } i { color: var(--faint); opacity: .7; font-style: normal }
"""


def html(shown: Preview) -> str:
    """The page. Hotter is more weight; struck out is an answer's token that is not trained."""
    conversation = shown.conversation
    body = [f"<h1>{escape(str(conversation.origin or ''))}</h1>", _legend(shown)]
    if shown.remarks:
        body.append(f"<ul class=remarks>{''.join(f'<li>{escape(remark)}</li>' for remark in shown.remarks)}</ul>")
    body += [f"<h2>{escape(_('As read'))}</h2>", *_dialogue(conversation)]
    for turn in shown.turns:
        body += [_heading(turn), "<div class=tokens>", *_tokens(turn), "</div>"]
    body.append(f"<h2>{escape(_('As rendered'))}</h2><pre>{escape(shown.rendered)}</pre>")
    return (
        "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>tunesmith preview</title><style>{STYLE}</style>{''.join(body)}\n"
    )


def _legend(shown: Preview) -> str:
    marks = []
    for weight, count in shown.weights.items():
        if weight is None:
            marks.append(f"<span class=context>{escape(_('context: {n} tokens').format(n=count))}</span>")
        else:
            name = _("weight {weight:g}: {n} tokens")
            marks.append(f"<span {_look(weight)}>{escape(name.format(n=count, weight=weight))}</span>")
    hint = _("Tokens by their weight in the loss. Rest the pointer on one for its number; ↵ is a line break.")
    return f"<p class=legend>{''.join(marks)}</p><p class=faint>{escape(hint)}</p>"


def _dialogue(conversation: Conversation) -> Iterator[str]:
    for tool in conversation.tools:
        yield f"<div class=turn><b>tools</b><code>{escape(json.dumps(tool, ensure_ascii=False))}</code></div>"
    for message in conversation.messages:
        weight = f" × {message.weight:g}" if message.weight is not None else ""
        yield f"<div class='turn {escape(message.role)}'><b>{escape(message.role)}{weight}</b>{_said(message)}</div>"


def _said(message: Message) -> str:
    thought = f"<div class=reasoning>{escape(message.reasoning)}</div>" if message.reasoning else ""
    calls = (f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})" for call in message.tool_calls)
    return f"{thought}<div>{escape(message.content)}</div>" + "".join(f"<code>{escape(c)}</code>" for c in calls)


def _heading(turn: Turn) -> str:
    trained = sum(len(piece.ids) for piece in turn.pieces if piece.weight)
    facts = _("{n} tokens, {trained} trained").format(n=turn.length, trained=trained)
    return f"<h2>messages[{turn.turn}] <small>{escape(facts)}</small></h2>"


def _tokens(turn: Turn) -> Iterator[str]:
    if turn.shared:
        yield f"<span class=shared>… {escape(_('{n} tokens as above').format(n=turn.shared))} …</span>\n"
    for i, piece in enumerate(turn.pieces):
        following = turn.pieces[i + 1].weight if i + 1 < len(turn.pieces) else None
        yield _span(piece)
        if piece.weight not in (None, 0, 1) and following != piece.weight:
            yield f"<sub>×{piece.weight:g}</sub>"


def _span(piece: Piece) -> str:
    title = " ".join(map(str, piece.ids)) + ("" if piece.weight is None else f" × {piece.weight:g}")
    text = escape(piece.text).replace("\n", "<i>↵</i>\n")
    look = _look(piece.weight, "control" if piece.control else "context" if piece.weight is None else "")
    return f'<span {look} title="{title}">{text}</span>'


def _look(weight: float | None, kind: str = "") -> str:
    """Class and colour: green up to 1, from yellow to red above."""
    if weight is None:
        return f'class="{kind}"'
    if weight == 0:
        return f'class="none {kind}"'
    hue, depth = (140, 0.15 + 0.2 * weight) if weight <= 1 else (max(0, 48 - 16 * log2(weight)), 0.55)
    return f'class="{kind}" style="background: hsl({hue:.0f} 75% 48% / {depth:.2f})"'
