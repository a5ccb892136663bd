"""Where a run's numbers are shown besides metrics.jsonl. Each file here is a tracker; its name is the name in the YAML.

A tracker's file has PACKAGE (what pip calls it), MODULE (what Python calls it) and a class `Tracker` with the three
methods below; it imports its library inside them, so that nothing is loaded which nobody asked for. A tracker that
fails is told of once and left out: no training stops for it. Keys come from the environment or from the file that the
library's own login wrote; nothing here reads, keeps or writes one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from tunesmith.errors import ConfigError, Problem
from tunesmith.i18n import _

Say = Callable[[str], None]


@dataclass(frozen=True)
class Traced:
    """What a tracker is told of the run. `id` stays when the run goes on; steps up to `done` are known already."""

    folder: Path
    project: str
    experiment: str
    id: str
    settings: Mapping[str, Any]
    done: int = 0


class Tracker(Protocol):
    def start(self, run: Traced) -> str:
        """Begins, and says in one line where to look: a link, or the command to type."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def finish(self) -> None: ...


def names() -> list[str]:
    """The trackers that there are."""
    return sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py"))


def refuse_missing(wanted: Sequence[str]) -> None:
    """Raises ConfigError with the line to type for each tracker whose package is not installed; loads none."""
    text = _("{name} is not installed. Type: pip install {package}")
    modules = {name: _module(name) for name in wanted}
    problems = [
        Problem("tracking.trace", text.format(name=name, package=module.PACKAGE))
        for name, module in modules.items()
        if find_spec(module.MODULE) is None
    ]
    if problems:
        raise ConfigError(problems)


class Trackers:
    """All the trackers of one run; each fails for itself."""

    def __init__(self, wanted: Sequence[str], run: Traced, say: Say) -> None:
        self._say = say
        self._open: dict[str, Tracker] = {name: _module(name).Tracker() for name in wanted}
        for name, tracker in list(self._open.items()):
            where = self._try(name, tracker.start, run)
            if where:
                say(f"{name}: {where}")

    def log(self, record: Mapping[str, Any]) -> None:
        """One record of metrics.jsonl: its numbers under their own names, at its step."""
        numbers = {key: value for key, value in record.items() if key != "step" and isinstance(value, int | float)}
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.log, record["step"], numbers)

    def finish(self) -> None:
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.finish)

    def _try(self, name: str, call: Callable[..., Any], *given: Any) -> Any:
        try:
            return call(*given)
        except Exception as error:
            del self._open[name]
            text = _("{name} failed and is left out; training goes on: {error}")
            self._say(text.format(name=name, error=_without_keys(str(error) or type(error).__name__)))
            return None


def _module(name: str) -> Any:
    return import_module(f"{__name__}.{name}")


def _keys() -> list[str]:
    """The keys in the environment, of this or any other service."""
    secret = ("_API_KEY", "_TOKEN", "_PASSWORD", "_SECRET", "_SECRET_KEY")
    return [value for name, value in os.environ.items() if name.upper().endswith(secret) and len(value) > 4]


def _without_keys(text: str) -> str:
    for key in _keys():
        text = text.replace(key, "***")
    return text
