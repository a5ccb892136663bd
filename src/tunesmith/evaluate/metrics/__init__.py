"""Metrics: each file beside this one is a metric, its name the one in `evaluation.metrics`; a user's own goes by path.

A metric is a function `score(gold, answer, context) -> dict` of two texts. The dict holds `correct` (bool) and whatever
else is worth keeping for the row; `expected` and `label` (None: not readable) also put the row into the confusion
table. A metric that can't judge by this expected answer at all raises DataError. Knows nothing of models or files.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import string
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError
from tunesmith.i18n import _


@dataclass(frozen=True, slots=True)
class MetricContext:
    """What a metric may need besides the two texts. `label`: the field that decides; None is the template's first."""

    answer_template: str | None = None
    label: str | None = None


Metric = Callable[[str, str, MetricContext], dict[str, Any]]

_EDGES = string.punctuation + string.whitespace + "。，、；：！？“”‘’（）「」《》…·"


def fold(text: str) -> str:
    """The text as comparisons see it: full width is half width, capitals are small, no punctuation at either end."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_EDGES)


def names() -> list[str]:
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def default(context: MetricContext) -> list[str]:
    """`label` where answers are written by a template, which tells how to read them back; else `exact`."""
    return ["label"] if context.answer_template else ["exact"]


def load(name: str) -> Metric:
    """The metric of that name, or the `score` of a Python file or dotted module name. Raises ConfigError."""
    try:
        if name in names():
            module = importlib.import_module(f"{__name__}.{name}")
        elif name.endswith(".py"):
            module = _module_at(Path(name))
        elif "." in name:
            module = importlib.import_module(name)
        else:
            raise ConfigError(_unknown(name), place="evaluation.metrics")
        score: Metric = module.score
    except (ImportError, OSError, AttributeError, SyntaxError) as error:
        message = _(
            "{name} can't be used as a metric: {error}. It must be a Python file with score(gold, answer, context)."
        )
        raise ConfigError(message.format(name=name, error=error), place="evaluation.metrics") from error
    return score


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
