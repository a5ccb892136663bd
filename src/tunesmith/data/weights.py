"""Weights that settings and rows give: rules that look for a text or a pattern in the answers, and columns of a row.

Knows characters only; which tokens they become is decided where tokens are made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tunesmith.conversation import Conversation, Message, Span
from tunesmith.data.parts import weight
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.config.schema import WeightRule

ROW_WEIGHTS = ("loss_weight", "loss_scale")  # a column called `weight` may well be somebody's, in kilograms


def of_row(row: dict[str, Any], claimed: set[str]) -> float:
    """The weight of a whole row, from the columns that can mean nothing else; claims them. RowError if it is none."""
    given = {key: row[key] for key in ROW_WEIGHTS if key in row and key not in claimed}
    claimed.update(given)
    found = weight(given)
    return 1.0 if found is None else found


def apply(rules: Sequence[WeightRule], conversations: Sequence[Conversation]) -> tuple[list[Conversation], list[str]]:
    """The conversations with what the rules say of their answers, and for each rule a sentence on where it holds."""
    patterns = [(re.compile(rule.pattern or re.escape(rule.text or "")), rule.weight) for rule in rules]
    found = [0] * len(rules)

    def weighed(message: Message) -> Message:
        if message.role != "assistant":
            return message
        spans = list(message.spans)
        for i, (pattern, factor) in enumerate(patterns):
            matches = [m.span() for m in pattern.finditer(message.content) if m[0]]
            spans += [Span(start, stop, factor) for start, stop in matches]
            found[i] += bool(matches)
        return replace(message, spans=tuple(spans))

    done = [replace(c, messages=tuple(map(weighed, c.messages))) for c in conversations] if rules else conversations
    said = _("data.weights: {what} stands in {n} answers and has the weight {weight:g}.")
    never = _("data.weights: {what} stands in no answer.")
    return list(done), [
        (said if n else never).format(what=rule.text or rule.pattern, n=n, weight=rule.weight)
        for rule, n in zip(rules, found, strict=True)
    ]
