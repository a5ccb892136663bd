"""tool_call: the tools that an answer calls: the same names with the same arguments, in any order.

Reads calls as answers hold them here, one JSON object a line, and an answer that is nothing but such objects. An
expected answer without a call is met by one without a call.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tunesmith.evaluate.metrics import MetricContext

NONE = "(none)"
Call = tuple[str, Any]


def suits(golds: Sequence[str]) -> bool:
    """At least half of the answers call a tool."""
    return 2 * sum(bool(calls(gold)) for gold in golds) >= len(golds)


def score(gold: str, answer: str, context: MetricContext) -> dict[str, Any]:
    """`correct`; `names`: the names alone are right; `arguments`: the share of expected arguments that are right, of
    calls that pair by name; None without any. `expected` and `label` are the names."""
    wanted, said = calls(gold), calls(answer)
    return {
        "correct": Counter(map(_key, wanted)) == Counter(map(_key, said)),
        "names": float(_names(wanted) == _names(said)),
        "arguments": _arguments(wanted, said),
        "expected": _names(wanted),
        "label": _names(said),
    }


def calls(text: str) -> list[Call]:
    """(name, arguments) of every call in a text, in its order."""
    try:
        whole = json.loads(text)
        found = whole if isinstance(whole, list) else [whole]
    except (ValueError, RecursionError):
        found = [_object(line) for line in text.splitlines()]
    return [call for call in map(_call, found) if call]


def _object(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _call(value: Any) -> Call | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    key = next((key for key in ("arguments", "parameters") if key in value), None)
    if key is None:
        return None
    arguments = value[key]
    read = _object(arguments) if isinstance(arguments, str) else None
    return value["name"], arguments if read is None else read


def _key(call: Call) -> str:
    return json.dumps(call, sort_keys=True)


def _names(found: Sequence[Call]) -> str:
    return ", ".join(sorted(name for name, _arguments in found)) or NONE


def _arguments(wanted: Sequence[Call], said: Sequence[Call]) -> float | None:
    rest = list(said)
    right = count = 0
    for name, arguments in wanted:
        if not isinstance(arguments, dict):
            continue
        given: Call = next((call for call in rest if call[0] == name), (name, {}))
        if given in rest:
            rest.remove(given)
        values = given[1] if isinstance(given[1], dict) else {}
        count += len(arguments)
        right += sum(key in values and values[key] == value for key, value in arguments.items())
    return right / count if count else None
