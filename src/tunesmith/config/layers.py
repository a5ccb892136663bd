"""One source of settings (file, preset, command line) as a layer: dotted name -> value, place and origin.

Names are looked up in the schema and values read as it wants them; whether these are right is asked in load.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tunesmith.config import nodes
from tunesmith.config.names import closest, explain, preset_name, suggest
from tunesmith.config.secrets import advice, is_secret
from tunesmith.config.settings import forms, sections, settings
from tunesmith.errors import Problem
from tunesmith.i18n import _
from tunesmith.log import escape

PRESETS = Path(__file__).parent / "presets"
COMMAND_LINE = "command line"
LONGEST = 100  # characters of a name that nobody knows


@dataclass(frozen=True, slots=True)
class Source:
    """Where values come from. `label` is None on the command line; `folder` is where the file lies."""

    label: str | None = None
    preset: str | None = None
    folder: Path | None = None

    def place(self, node: yaml.Node) -> str:
        return f"{self.label}:{node.start_mark.line + 1}" if self.label else COMMAND_LINE


@dataclass(frozen=True, slots=True)
class Entry:
    value: Any
    place: str
    source: Source = field(default=Source())
    elements: tuple[str, ...] = ()  # the places of a list's elements

    @property
    def origin(self) -> str:
        return f"preset {self.source.preset}" if self.source.preset else self.place


Layer = dict[str, Entry]


def presets() -> list[str]:
    """Names of the shipped presets."""
    return sorted(file.stem for file in PRESETS.glob("*.yaml"))


@dataclass
class Reader:
    """Reads layers and gathers their problems. `doubtful` are the settings of which a problem already speaks."""

    problems: list[Problem] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)

    def say(self, place: str, message: str, near: str | None = None) -> None:
        if near:
            message += " " + _("Did you mean {name}?").format(name=near)
        self.problems.append(Problem(place, message))

    def file(self, path: Path, source: Source) -> Layer:
        node, problems = nodes.read(path, source.label or "")
        self.problems += problems
        layer: Layer = {}
        if node:
            self._group(node, "", source, layer)
        return layer

    def presets(self, entry: Entry, above: tuple[str, ...] = ()) -> list[Layer]:
        """The layer of the preset that `entry` names, behind those of the presets on which it stands.

        A shipped one's name, or a YAML file beside the file that names it.
        """
        name = str(entry.value)
        if name.endswith((".yaml", ".yml")):
            path = (entry.source.folder or Path()) / Path(name).expanduser()
            source = Source(escape(str(path)), name, path.parent)
        elif found := preset_name(name, presets()):
            path, source = PRESETS / f"{found}.yaml", Source(f"preset {found}", found)
        else:
            message, near = _("There is no preset {name}.").format(name=escape(name)), closest(name, presets())
            if not near:
                message += " " + _("There are {names}, and YAML files of your own.").format(names=", ".join(presets()))
            self.say(entry.place, message, near)
            return []
        if str(path) in above:
            self.say(entry.place, _("This preset stands on itself: {names}.").format(names=", ".join(above)))
            return []
        layer = self.file(path, source)
        below = layer.pop("preset", None)
        return [*(self.presets(below, (*above, str(path))) if below and below.value else []), layer]

    def values(self, values: Mapping[str, Any], place: str) -> Layer:
        """Python values by dotted name, as the command line's own options give them. None is not given."""
        layer: Layer = {}
        for name, value in values.items():
            if name not in settings():
                self._unknown(name, place)
            elif value is not None:
                layer[name] = Entry(_text(value), place)
                if any(isinstance(text, str) and is_secret(text) for text in _texts(value)):
                    self._secret(name, place, layer)
        return layer

    def override(self, override: str) -> Layer:
        """The layer of one `key=value`."""
        key, equals, text = override.partition("=")
        names = key.strip().split(".")
        layer: Layer = {}
        if not equals or not all(names):
            message = _("'{text}' is not of the form name=value, such as training.learning_rate=2e-4.")
            self.say(COMMAND_LINE, message.format(text=escape(override)))
            return layer
        node = _override(".".join(names), text)
        for name in reversed(names):
            node = yaml.MappingNode("tag:yaml.org,2002:map", [(yaml.ScalarNode("tag:yaml.org,2002:str", name), node)])
        self._group(node, "", Source(), layer)
        return layer

    def _group(self, node: yaml.Node, prefix: str, source: Source, layer: Layer) -> None:
        """Add the settings of a tree to `layer`. `prefix` is the group that it belongs to, with its dot."""
        groups = sections()
        for name_node, child in node.value:
            if not isinstance(name_node, yaml.ScalarNode) or name_node.value == "<<":
                continue
            name, place = prefix + name_node.value, source.place(name_node)
            if "." in name_node.value and name in settings():
                group, _dot, key = name.rpartition(".")
                self.say(place, _("Write {key} on a line of its own below {group}: .").format(key=key, group=group))
            elif name in settings():
                elements = child.value if isinstance(child, yaml.SequenceNode) else []
                value = nodes.value(child, settings()[name])
                layer[name] = Entry(value, source.place(child), source, tuple(map(source.place, elements)))
                if nodes.holds_secret(child):
                    self._secret(name, place, layer)
            elif name in groups or (near := self._unknown(name, place)) in groups:
                self._section(child, name if name in groups else near, source, layer)

    def _section(self, node: yaml.Node, name: str, source: Source, layer: Layer) -> None:
        if isinstance(node, yaml.MappingNode):
            self._group(node, f"{name}.", source, layer)
        elif nodes.value(node, {}) is not None:
            message = _("{name} is a group of settings: {keys}. Write them below it, indented.")
            self.say(source.place(node), message.format(name=name, keys=", ".join(sections()[name])))

    def _secret(self, name: str, place: str, layer: Layer) -> None:
        """A key is refused, and its value dropped, so that nothing says it again."""
        del layer[name]
        self.doubtful.add(name)
        self.say(place, _("{name} holds a key or a password. {advice}").format(name=name, advice=advice()))

    def _unknown(self, name: str, place: str) -> str:
        """Report a name that is no setting. The name that it probably stands for, or an empty text."""
        name = name if len(name) <= LONGEST else name[:LONGEST] + "..."
        message = _("{name} is not a setting.").format(name=escape(name))
        if answer := explain(name):
            self.say(place, f"{message} {answer}")
            return ""
        near = suggest(name)
        group = name.rpartition(".")[0]
        if not near and group in sections():
            names = ", ".join(sections()[group])
            message += " " + _("{group} has {names}.").format(group=group, names=names)
        self.say(place, message, near)
        if near:
            self.doubtful.add(near)
        return near or ""


def _override(name: str, text: str) -> yaml.Node:
    """The node of a value on the command line. Where text is wanted it is text, whatever YAML would make of it."""
    plain = yaml.ScalarNode("tag:yaml.org,2002:str", text.strip())
    node = nodes.parse(text)
    if isinstance(node, yaml.ScalarNode):
        return node if node.style else plain
    kinds = forms(settings()[name]) if name in settings() else {"any": {}}
    return node if node and kinds.keys() & {"array", "object", "any"} else plain


def _texts(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _text(value: Any) -> Any:
    """`value` with paths as text, as a file would have it."""
    if isinstance(value, Path):
        return str(value)
    return [_text(each) for each in value] if isinstance(value, list | tuple) else value
