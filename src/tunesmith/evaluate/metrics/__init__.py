"""Metrics: each file beside this one is a metric, its name the one in `evaluation.metrics`; a user's own goes by path.

A metric is a function `score(gold, answer, context) -> dict` of two texts. The dict holds whatever is worth keeping for
the row: `correct` (bool) where the metric tells right from wrong, numbers, of which the mean is told, and others.
`expected` and `label` (None: not readable) also put the row into the confusion table. A metric that can't judge by this
expected answer at all raises DataError. Beside it a file may have

- `total(rows, context) -> dict`: figures of all rows that are no means of the rows' own, as BLEU's;
- `suits(golds) -> bool`: whether answers like these are its business, so that it is chosen by itself;
- `sums(rows, context) -> (table, figures)` where rows are drawn anew to learn how far chance moves a figure that is no
  mean: numbers for each row, and a function from their sums to the figures of `total`;
- `measure(model, rows, pad_id) -> one dict a row` in place of `score`, where the model is needed, not its answers.

Knows nothing of models or files.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.fields import pieces
from tunesmith.errors import ConfigError
from tunesmith.i18n import _


@dataclass(frozen=True, slots=True)
class MetricContext:
    """What a metric may need besides the two texts. `label`: the field that decides; None is the template's first."""

    answer_template: str | None = None
    label: str | None = None

    @property
    def fields(self) -> list[str]:
        """The fields of the answer template, the one that decides first."""
        found = [field for _text, field in pieces(self.answer_template or "") if field]
        return sorted(found, key=lambda field: field != self.label)


@dataclass(frozen=True, slots=True)
class Scored:
    """One row for a metric's `total`: both texts, and what the metric said of them."""

    gold: str
    answer: str
    score: dict[str, Any]


Sums = tuple[list[list[float]], Callable[[Sequence[float]], dict[str, float | None]]]


@dataclass(frozen=True, slots=True)
class Metric:
    """What a file holds, see above; calling it is its `score`. It has `score` or `measure`."""

    score: Callable[[str, str, MetricContext], dict[str, Any]] | None
    total: Callable[[Sequence[Scored], MetricContext], dict[str, Any]] | None = None
    suits: Callable[[Sequence[str]], bool] | None = None
    measure: Callable[..., Iterable[dict[str, Any]]] | None = None
    sums: Callable[[Sequence[Scored], MetricContext], Sums] | None = None

    def __call__(self, gold: str, answer: str, context: MetricContext) -> dict[str, Any]:
        return self.score(gold, answer, context) if self.score else {}


_EDGES = string.punctuation + string.whitespace + "。，、；：！？“”‘’（）「」《》…·"
_SENTENCE = 20  # letters: longer answers than this are hardly ever given to the letter


def fold(text: str) -> str:
    """The text as comparisons see it: full width is half width, capitals are small, no punctuation at either end."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_EDGES)


def names() -> list[str]:
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def default(context: MetricContext, golds: Sequence[str] = ()) -> list[str]:
    """By what the data shows: `label` where a template writes the answers, and ROUGE for its other fields; else the
    metric whose answers these are; else `exact`, with the likeness of words where answers are sentences."""
    if context.answer_template:
        return ["label", "rouge"] if len(context.fields) > 1 else ["label"]
    for name in sorted(names(), key=lambda name: name != "tool_call"):  # a call is a JSON object, too
        suits = load(name).suits
        if golds and suits and suits(golds):
            return [name]
    long = sum(len(gold) > _SENTENCE for gold in golds) * 2 > len(golds)
    return ["exact", "bleu", "chrf", "rouge"] if long else ["exact"]


def load(name: str) -> Metric:
    """The metric of that name, or of a Python file or dotted module name. Raises ConfigError."""
    try:
        if name in names():
            module = importlib.import_module(f"{__name__}.{name}")
        elif name.endswith(".py"):
            module = _module_at(Path(name))
        elif "." in name:
            module = importlib.import_module(name)
        else:
            raise ConfigError(_unknown(name), place="evaluation.metrics")
        parts = [getattr(module, part, None) for part in Metric.__slots__]
        return Metric(*parts) if hasattr(module, "measure") else Metric(module.score, *parts[1:])
    except (ImportError, OSError, AttributeError, SyntaxError) as error:
        message = _(
            "{name} can't be used as a metric: {error}. It must be a Python file with score(gold, answer, context)."
        )
        raise ConfigError(message.format(name=name, error=error), place="evaluation.metrics") from error


def _module_at(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, names(), n=1)
    if near:
        return _("{name} is not a metric. Did you mean {near}?").format(name=name, near=near[0])
    message = _("{name} is not a metric. There are {names}, and Python files by their path.")
    return message.format(name=name, names=", ".join(names()))
