"""YAML text as a tree whose every part knows its line, a part as the value that is wanted there, a value as text.

YAML 1.1 guesses types from spelling (`no` is false, `1e-4` is text); here the wanted type decides how a spelling is
read. Knows no setting: it is told what is wanted.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tunesmith.config.secrets import is_secret, names_secret
from tunesmith.config.settings import Property, forms
from tunesmith.errors import Problem
from tunesmith.i18n import _
from tunesmith.log import escape

# Bounds that no honest file of settings meets: aliases can make a small text grow without end ("billion laughs").
_MAX_BYTES, _MAX_NODES, _MAX_DEPTH = 1_000_000, 10_000, 20

_NULLS = ("", "~", "null", "Null", "NULL")
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "inf", "infinity", "nan"}
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def read(path: Path, label: str) -> tuple[yaml.MappingNode | None, list[Problem]]:
    """The tree of a YAML file and what is wrong with it. An empty file is no tree and no problem."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        return None, [Problem(label, _("This is a device or a pipe, which may never end; a file is expected."))]
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except IsADirectoryError:
        return None, [Problem(label, _("This is a folder; a YAML file is expected."))]
    except FileNotFoundError:
        return None, [Problem(label, _("There is no such file."))]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return None, [Problem(label, _("The file can't be read: {reason}.").format(reason=reason))]
    if len(data) > _MAX_BYTES:
        return None, [Problem(label, _("The file is too large for settings. Is it data? Name it in data.train."))]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return None, [Problem(f"{label}:{line}", _("The text is not UTF-8. Save the file as UTF-8."))]
    return _tree(text, label)


def parse(text: str) -> yaml.Node | None:
    """The tree of a value from the command line; None where the text is no YAML or more than a value should be."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return None
    return None if node is None or _inspect(node, lambda _part: "") != (True, []) else node


def _tree(text: str, label: str) -> tuple[yaml.MappingNode | None, list[Problem]]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{label}:{mark.line + 1}" if mark else label
        return None, [Problem(place, _advice(error))]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, [Problem(f"{label}:{line}", _("A control character stands here. Remove it."))]
    except RecursionError:
        return None, [Problem(label, _("The values are nested too deeply."))]
    if node is None:
        return None, []
    bounded, problems = _inspect(node, lambda part: f"{label}:{part.start_mark.line + 1}")
    if not isinstance(node, yaml.MappingNode):
        message = _("Settings are names with values, such as 'method: lora'. Is a space missing after a colon?")
        return None, [Problem(f"{label}:{node.start_mark.line + 1}", message)]
    return node if bounded else None, problems


def _advice(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or ""
    known = {
        r"'\t'": _("A tab stands where YAML wants spaces. Replace it by spaces."),
        "another document": _("The file holds several documents ('---'). Keep one."),
        "mapping values are not allowed": _(
            "A colon is in the way. Put text that holds ': ' in quotes, and check the indent."
        ),
        "could not find expected ':'": _("A name without a value: a colon and a space are missing after it."),
        "undefined alias": _(
            "'*' begins the name of an anchor, and there is none. Put text that begins with '*' in quotes."
        ),
        "cannot start any token": _("Text that begins with this character needs quotes."),
        "end of stream": _("A quote or bracket is opened here or above and never closed."),
        "<stream end>": _("A quote or bracket is opened here or above and never closed."),
        "expected <block end>": _("The indent does not fit the lines above."),
    }
    for sign, advice in known.items():
        if sign in problem:
            return advice
    return _("This is not valid YAML: {problem}.").format(problem=escape(problem))


def _inspect(root: yaml.Node, place: Callable[[yaml.Node], str]) -> tuple[bool, list[Problem]]:
    """Whether the tree, its aliases followed, is small enough to be read to its end; and its faults."""
    problems: list[Problem] = []
    stack, count = [(root, 1)], 0
    while stack:
        node, depth = stack.pop()
        count += 1
        if depth > _MAX_DEPTH or count > _MAX_NODES:
            return False, [Problem(place(node), _("The values are nested too deeply, or too many."))]
        if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
            problems.append(Problem(place(node), _("Tags such as {tag} are not read.").format(tag=escape(node.tag))))
        if isinstance(node, yaml.SequenceNode):
            stack += [(child, depth + 1) for child in node.value]
        elif isinstance(node, yaml.MappingNode):
            problems += _bad_names(node, place)
            stack += [(child, depth + 1) for _name, child in node.value]
    return True, problems


def _bad_names(node: yaml.MappingNode, place: Callable[[yaml.Node], str]) -> list[Problem]:
    problems = []
    first: dict[str, int] = {}
    for name, _value in node.value:
        if not isinstance(name, yaml.ScalarNode):
            problems.append(Problem(place(name), _("A name must be text, not a list or a group.")))
        elif name.tag == "tag:yaml.org,2002:merge":
            problems.append(
                Problem(place(name), _("'<<' is not read. Put shared values in a file and name it in preset."))
            )
        elif name.value in first:
            message = _("{name} stands here twice; the first is on line {line}. Keep one.")
            problems.append(Problem(place(name), message.format(name=escape(name.value), line=first[name.value])))
        else:
            first[name.value] = name.start_mark.line + 1
    return problems


def value(node: yaml.Node, prop: Property) -> Any:
    """The value of a sound tree, read as `prop` wants it; what doesn't fit comes back as it is, to be refused."""
    kinds = forms(prop)
    if isinstance(node, yaml.SequenceNode):
        items = kinds.get("array", {}).get("items", {})
        return [value(child, items) for child in node.value]
    if isinstance(node, yaml.MappingNode):
        group = kinds.get("object", {})
        values = group.get("additionalProperties", True)
        named, inner = group.get("properties", {}), values if isinstance(values, dict) else {}
        pairs = [(name.value, child) for name, child in node.value if isinstance(name, yaml.ScalarNode)]
        return {name: value(child, named.get(name, inner)) for name, child in pairs}
    return _scalar(node.value, getattr(node, "style", None) is None, set(kinds))


def _scalar(text: str, plain: bool, kinds: set[str]) -> Any:
    if plain and text in _NULLS:
        return None
    free = "any" in kinds and plain
    if (free or "boolean" in kinds) and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    if free or kinds & {"integer", "number"}:
        return _number(text)
    return text


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    return text


def holds_secret(root: yaml.Node) -> bool:
    """Whether a key stands anywhere in a value, or in it under a name that says so."""
    stack = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, yaml.ScalarNode) and is_secret(node.value):
            return True
        if isinstance(node, yaml.MappingNode):
            stack += [part for pair in node.value for part in pair]
            named = [name.value for name, _value in node.value if isinstance(name, yaml.ScalarNode)]
            if any(map(names_secret, named)):
                return True
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value
    return False


def flow(value: Any) -> str:
    """A value as YAML in one line, which YAML 1.1 and 1.2 read alike."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow(name)}: {flow(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if value is None or isinstance(value, bool | int | float):
        return yaml.safe_dump(value).splitlines()[0]
    text = str(value)
    if re.fullmatch(r"[A-Za-z_/][\w./-]*", text, re.ASCII) and text.lower() not in _WORDS:
        return text
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=2**31).strip()
