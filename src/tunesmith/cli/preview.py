"""A row in the terminal: as read, as rendered, and token by token, coloured by how much each is trained.

Where nothing can be coloured, brackets stand around what is trained.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tunesmith.i18n import _
from tunesmith.log import escape

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from tunesmith.conversation import Conversation, Message
    from tunesmith.tokens.preview import Piece, Preview, Turn

CONTEXT, CONTROL = "bright_black", "magenta"
TRAINED, OPEN, CLOSE = "bold green", "⟦", "⟧"


def show_preview(shown: Preview) -> None:
    """The row as read, as rendered, then its tokens; what has to be known of it last, where it is not scrolled away."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    plain = console.color_system is None
    console.print(Text(escape(str(shown.conversation.origin))))  # a line of its own: a rule would cut a long path
    console.rule(_("as read"), align="left", style="dim")
    _read(shown.conversation, console)
    console.rule(_("as rendered"), align="left", style="dim")
    console.print(Text(escape(shown.rendered, keep="\n")))
    for turn in shown.turns:
        facts = _("{n} tokens, {trained} trained").format(n=turn.length, trained=_trained(turn))
        console.rule(f"messages[{turn.turn}]  " + _("as tokens") + f"  ({facts})", align="left", style="dim")
        console.print(_tokens(turn, plain))
    console.rule(style="dim")
    console.print(_legend(shown, plain))
    for remark in shown.remarks:
        console.print(Text(remark, style="yellow"))


def _read(conversation: Conversation, console: Console) -> None:
    from rich.text import Text

    if conversation.tools:
        names = [str(tool.get("function", tool).get("name", "?")) for tool in conversation.tools]
        console.print(Text(_("[tools] {names}").format(names=", ".join(map(escape, names))), style="bold"))
    for message in conversation.messages:
        weight = f"  ×{message.weight:g}" if message.weight is not None else ""
        console.print(Text(f"[{message.role}]{weight}", style="bold"), Text(escape(_said(message), keep="\n")))


def _said(message: Message) -> str:
    """All that a message holds, its reasoning and its calls of tools included."""
    calls = [f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})" for call in message.tool_calls]
    reasoning = [_("(reasoning) {text}").format(text=message.reasoning)] if message.reasoning else []
    return "\n".join([*reasoning, *([message.content] if message.content else []), *calls])


def _trained(turn: Turn) -> int:
    return sum(len(piece.ids) for piece in turn.pieces if piece.weight)


def _tokens(turn: Turn, plain: bool) -> Text:
    from rich.text import Text

    text = Text()
    if turn.shared:
        text.append("… " + _("{n} tokens as above").format(n=turn.shared) + " …\n", style="italic dim")
    before: float | None = None
    for i, piece in enumerate(turn.pieces):
        following = turn.pieces[i + 1].weight if i + 1 < len(turn.pieces) else None
        if plain and piece.weight is not None and before != piece.weight:
            text.append(OPEN)
        text.append(_visible(piece), style=f"{_style(piece)}{' on grey15' if i % 2 and not _loud(piece) else ''}")
        if piece.weight is not None and following != piece.weight:
            mark = "" if piece.weight == 1 else f"×{piece.weight:g}"
            text.append((CLOSE if plain else "") + mark, style="" if plain else "yellow")
        before = piece.weight
    return text


def _visible(piece: Piece) -> str:
    """The token's text with its line breaks marked; harmless for the terminal."""
    return escape(piece.text, keep="\n").replace("\n", "↵\n")


def _loud(piece: Piece) -> bool:
    return piece.weight is not None and piece.weight > 1


def _style(piece: Piece) -> str:
    if piece.weight is None:
        return CONTROL if piece.control else CONTEXT
    return _heat(piece.weight) + (" underline" if piece.control else "")


def _heat(weight: float) -> str:
    """Red and struck out for nothing, green for one, hotter the more it counts."""
    if weight == 0:
        return "strike red"
    if weight <= 1:
        return "green" if weight < 1 else TRAINED
    return "bold black on yellow" if weight <= 2 else "bold white on red"


def _legend(shown: Preview, plain: bool) -> Text:
    from rich.text import Text

    text = Text()
    for weight, count in shown.weights.items():
        if weight is None:
            text.append(_("context: {n} tokens").format(n=count), style=CONTEXT)
        else:
            name = _("weight {weight:g}: {n} tokens")
            text.append(name.format(n=count, weight=weight), style=_heat(weight))
            text.append("  ")
    return text
