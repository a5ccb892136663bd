"""json: a JSON object, field by field; nested fields count by their paths, words around the object are free."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tunesmith.errors import DataError
from tunesmith.evaluate.metrics import MetricContext, Scored
from tunesmith.i18n import _

_DECODER = json.JSONDecoder(strict=False)


def suits(golds: Sequence[str]) -> bool:
    return all(gold.lstrip()[:1] == "{" and gold.rstrip()[-1:] == "}" and fields(gold) for gold in golds)


def score(gold: str, answer: str, context: MetricContext) -> dict[str, Any]:
    """`correct`: every field right and none more. `share` of the expected fields that are right; `wrong`, `missing`
    and `extra` name the others. `label` is None where the answer holds no object."""
    wanted, said = fields(gold), fields(answer)
    if not wanted:
        raise DataError(_("The expected answer is not a JSON object with fields."))
    found = said or {}
    right = [path for path in wanted if path in found and _same(wanted[path], found[path])]
    extra = sorted(found.keys() - wanted.keys())
    scored = {
        "correct": len(right) == len(wanted) and not extra,
        "share": len(right) / len(wanted),
        "right": right,
        "wrong": [path for path in wanted if path in found and path not in right],
        "missing": [path for path in wanted if path not in found],
        "extra": extra,
    }
    return scored if said is not None else scored | {"label": None}


def total(rows: Sequence[Scored], context: MetricContext) -> dict[str, Any]:
    """`fields`: the share of rows with this field in which it is right."""
    right, all_ = Counter[str](), Counter[str]()
    for row in rows:
        right.update(row.score["right"])
        all_.update(part for name in ("right", "wrong", "missing") for part in row.score[name])
    return {"fields": {path: right[path] / all_[path] for path in sorted(all_)}}


def fields(text: str) -> dict[str, Any] | None:
    """The values of the first JSON object in a text by their paths, empty lists and objects included; None without."""
    start = text.find("{")
    while start >= 0:
        try:
            return dict(_leaves(_DECODER.raw_decode(text, start)[0]))
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
    return None


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        items = ((f"{path}.{key}" if path else str(key), item) for key, item in value.items())
    elif isinstance(value, list):
        items = ((f"{path}[{i}]", item) for i, item in enumerate(value))
    if value and isinstance(value, dict | list):
        for inner, item in items:
            yield from _leaves(item, inner)
    elif path:  # an empty list is a value too
        yield path, value


def _same(wanted: Any, said: Any) -> bool:
    """Numbers by value, texts without the space around them; true is not 1."""
    if isinstance(wanted, str) and isinstance(said, str):
        return wanted.strip() == said.strip()
    return isinstance(wanted, bool) == isinstance(said, bool) and bool(wanted == said)
