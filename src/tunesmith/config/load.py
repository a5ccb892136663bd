"""From a file, a preset and a command line to one Config in which every value's origin is known.

Layers, the later wins: the schema's defaults, the preset, the YAML file, `values`, `overrides`. All problems of all of
them come at once, each with its line. Which settings exist, schema.py says; how a layer is read, layers.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.config.layers import COMMAND_LINE, Entry, Layer, Reader, Source
from tunesmith.config.names import closest
from tunesmith.config.nodes import flow
from tunesmith.config.paths import find
from tunesmith.config.settings import Property, choices, forms, group_of, settings, wanted
from tunesmith.errors import ConfigError, Problem
from tunesmith.i18n import _
from tunesmith.log import escape

if TYPE_CHECKING:
    from tunesmith.config.schema import Config


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid config; `origin` maps each dotted setting to default, preset NAME, run.yaml:14 or command line."""

    config: Config
    origin: dict[str, str]
    path: Path | None


def load(
    path: Path | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    files: bool = True,
    place: str = COMMAND_LINE,
) -> Loaded:
    """The config of a YAML file, of `values` (dotted name -> value, None: not given) and of `overrides` (`key=value`).

    `place` is where `values` come from, for a person.

    A preset is used up: its values are in the config, whose own `preset` is None. A relative path starts
    beside the YAML file that names it; where nothing lies there, and on the command line, at the working directory.
    With `files=False` nobody asks whether files exist, as for the config of a run that is over. ConfigError.
    """
    reader = Reader()
    layers = [
        reader.file(path, Source(escape(str(path)), folder=path.parent)) if path else {},
        reader.values(values or {}, place),
        *map(reader.override, overrides),
    ]
    preset = _merged(layers).get("preset")
    if preset and preset.value is not None:
        layers[:0] = reader.presets(preset)
    merged = _merged(layers)
    merged.pop("preset", None)
    if files:
        find(merged, reader)
    config = _validated(merged, reader)
    if reader.problems or config is None:
        raise ConfigError(sorted(dict.fromkeys(reader.problems), key=_order))
    origin = {name: merged[name].origin if name in merged else "default" for name in settings()}
    return Loaded(config, origin, path)


def _merged(layers: Iterable[Layer]) -> Layer:
    """Later layers over earlier ones; a setting that holds names with values is merged name by name, as a group is."""
    merged: Layer = {}
    for layer in layers:
        for name, entry in layer.items():
            below = merged.get(name)
            if below and isinstance(below.value, dict) and isinstance(entry.value, dict):
                entry = replace(entry, value={**below.value, **entry.value})
            merged[name] = entry
    # A null puts the default back where the setting itself has no null.
    return {name: e for name, e in merged.items() if e.value is not None or "null" in forms(settings()[name])}


def _validated(merged: Layer, reader: Reader) -> Config | None:
    """The config, None if it has problems. What is wrong is left out and the rest asked again, for contradictions."""
    from pydantic import ValidationError

    from tunesmith.config.schema import Config

    sound = dict(merged)
    while True:
        try:
            return Config.model_validate(_tree(sound))
        except ValidationError as error:
            bad: dict[str, list[Any]] = {}
            for found in error.errors():
                part = list(map(str, found["loc"]))
                for name in (".".join(part[:1]), ".".join(part[:2])):
                    if name in sound:
                        bad.setdefault(name, []).append(found)
            if not bad:
                _contradictions([_sentence(found) or found["msg"] for found in error.errors()], merged, reader)
                return None
        reader.doubtful |= set(bad)
        for name, errors in bad.items():
            _refuse(name, sound.pop(name), errors, reader)


def _tree(layer: Layer) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, entry in layer.items():
        section, _dot, key = name.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[key] = entry.value
    return tree


def _refuse(name: str, entry: Entry, errors: list[Any], reader: Reader) -> None:
    depth = name.count(".") + 1
    if isinstance(entry.value, list) and group_of(settings()[name]):
        for error in errors:
            _refuse_element(name, entry, error, list(error["loc"][depth:]), reader)
        return
    said = [sentence for error in errors if (sentence := _sentence(error))]
    for sentence in said:
        reader.say(entry.place, f"{name}: {sentence}")
    if not said:
        _unfit(name, entry.value, settings()[name], entry.place, reader)


def _refuse_element(name: str, entry: Entry, error: Any, inner: list[Any], reader: Reader) -> None:
    """What is wrong with one group of a list of groups, at that group's own line."""
    group, (index, *rest) = group_of(settings()[name]), inner
    element = f"{name}[{index}]"
    place = entry.elements[index] if index < len(entry.elements) else entry.place
    if not rest and _sentence(error):
        reader.say(place, f"{element}: {_sentence(error)}")
    elif not rest:
        _unfit(element, entry.value[index], {"type": "object"}, place, reader)
    elif error["type"] == "missing":
        reader.say(place, _("{group} has no {name}.").format(group=element, name=rest[0]))
    elif rest[0] not in group:
        text = _("{group} has {names}; {name} is none of them.")
        names = ", ".join(group)
        reader.say(place, text.format(group=element, names=names, name=escape(rest[0])), closest(rest[0], list(group)))
    else:
        _unfit(f"{element}.{rest[0]}", entry.value[index][rest[0]], group[rest[0]], place, reader)


def _unfit(name: str, value: Any, prop: Property, place: str, reader: Reader) -> None:
    found = f"'{value}'" if isinstance(value, str) else flow(value)
    if len(found) > 60:
        found = found[:57] + "..."
    message = _("{name} is {found}; expected {wanted}.").format(name=name, found=escape(found), wanted=wanted(prop))
    if isinstance(value, dict | list) and "string" in forms(prop):
        message += " " + _("Text that begins with a bracket needs quotes.")
    reader.say(place, message, closest(str(value), choices(prop)))


def _sentence(error: Any) -> str:
    """What the schema itself says of a value, in our words; empty where it only does not fit its type."""
    return str(error["ctx"]["error"]) if error["type"] == "value_error" else ""


def _contradictions(messages: list[str], merged: Layer, reader: Reader) -> None:
    """Place each at the first setting that it names. One about a doubtful setting may be no contradiction at all."""
    for message in "\n".join(messages).splitlines():
        named = [name for name in re.findall(r"[a-z_]+(?:\.[a-z0-9_]+)?", message) if name in settings()]
        if not reader.doubtful.intersection(named):
            entries = {name: merged[name] for name in named if name in merged}
            own = [entry.place for entry in entries.values() if not entry.source.preset]
            for name, entry in entries.items():
                if own and entry.source.preset:
                    message += " " + _("{name} comes from {origin}.").format(name=name, origin=escape(entry.origin))
            reader.say(next(iter(own or [entry.place for entry in entries.values()]), ""), message)


def _order(problem: Problem) -> tuple[bool, str, int]:
    """By file, then by line; the command line comes last."""
    label, _colon, line = problem.place.rpartition(":")
    if line.isdigit():
        return False, label, int(line)
    return problem.place == COMMAND_LINE, problem.place, 0
