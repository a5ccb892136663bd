"""Weights that settings and rows give: rules that look for a text or a pattern in the answers, and columns of a row.

Knows characters only; which tokens they become is decided where tokens are made.
"""

from __future__ import annotations

import re
from collections import Counter
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


class Rules:
    """What settings say of parts of the answers."""

    def __init__(self, rules: Sequence[WeightRule]) -> None:
        self._rules = [(rule, re.compile(rule.pattern or re.escape(rule.text or ""))) for rule in rules]

    def weigh(self, conversation: Conversation, seen: Counter[str]) -> Conversation:
        """The conversation with what the rules say of its answers; `seen` counts the answers in which each holds."""
        if not self._rules:
            return conversation
        return replace(conversation, messages=tuple(self._weighed(m, seen) for m in conversation.messages))

    def _weighed(self, message: Message, seen: Counter[str]) -> Message:
        if message.role != "assistant":
            return message
        spans = list(message.spans)
        for i, (rule, pattern) in enumerate(self._rules):
            matches = [m.span() for m in pattern.finditer(message.content) if m[0]]
            spans += [Span(start, stop, rule.weight) for start, stop in matches]
            seen[f"data.weights[{i}]"] += bool(matches)
        return replace(message, spans=tuple(spans))

    def notices(self, seen: Counter[str]) -> list[str]:
        """For each rule a sentence on where it holds."""
        said = _("data.weights: {what} stands in {n} answers and has the weight {weight:g}.")
        never = _("data.weights: {what} stands in no answer.")
        counted = [(rule, seen[f"data.weights[{i}]"]) for i, (rule, _pattern) in enumerate(self._rules)]
        return [
            (said if n else never).format(what=rule.text or rule.pattern, n=n, weight=rule.weight)
            for rule, n in counted
        ]
