"""The schema as a flat table: dotted name -> what the setting takes, as JSON Schema says it, and that in plain words.

Knows nothing of files or values that a user gave.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from tunesmith.i18n import _

Property = dict[str, Any]


@cache
def settings() -> dict[str, Property]:
    """Every setting by its dotted name, in the schema's order."""
    from tunesmith.config.schema import Config

    schema = Config.model_json_schema()
    table: dict[str, Property] = {}
    for name, prop in schema["properties"].items():
        if "$ref" in prop:
            section = schema["$defs"][prop["$ref"].rpartition("/")[2]]
            table |= {f"{name}.{key}": _whole(inner, schema) for key, inner in section["properties"].items()}
        else:
            table[name] = prop
    return table


def _whole(prop: Property, schema: Property) -> Property:
    """The property with the group that each element of its list is, where it is such a list."""
    group = prop.get("items", {}).get("$ref", "").rpartition("/")[2]
    return prop | {"items": schema["$defs"][group]} if group else prop


def group_of(prop: Property) -> dict[str, Property]:
    """What each element of a list of groups may hold, by name; empty for any other setting."""
    found: dict[str, Property] = forms(prop).get("array", {}).get("items", {}).get("properties", {})
    return found


def sections() -> dict[str, list[str]]:
    """Each group of settings and the names in it."""
    groups: dict[str, list[str]] = {}
    for name in settings():
        section, dot, key = name.rpartition(".")
        if dot:
            groups.setdefault(section, []).append(key)
    return groups


def forms(prop: Property) -> dict[str, Property]:
    """What a setting may be, by JSON type (string, number, integer, boolean, array, object, null) or `any`."""
    return {form.get("type", "any"): form for form in prop.get("anyOf", [prop])}


def wanted(prop: Property) -> str:
    """What a setting takes, for a person: `a number, at least 0 and below 1`."""
    return _either([_form(kind, form) for kind, form in forms(prop).items() if kind != "null"])


def choices(prop: Property) -> list[str]:
    return [choice for form in forms(prop).values() for choice in form.get("enum", [])]


def _form(kind: str, form: Property) -> str:
    if "enum" in form:
        return _either(form["enum"])
    if kind in ("integer", "number"):
        noun = _("a whole number") if kind == "integer" else _("a number")
        bounds = _bounds(form)
        return _("{noun}, {bounds}").format(noun=noun, bounds=bounds) if bounds else noun
    if group_of(form):
        return _("a list of groups with {names}").format(names=", ".join(group_of(form)))
    if kind == "array":
        such = form["items"].get("format") == "path" or "enum" in form["items"]
        return _("a list of such") if such else _("a list")
    if "pattern" in form:
        example = re.sub(r"\\d(?:\{(\d+)\})?", lambda digits: "0" * int(digits[1] or 1), form["pattern"].strip("^$"))
        return _("text of the form {example}").format(example=example)
    if form.get("format") == "path":
        return _("a path")
    return {"string": _("text"), "boolean": _("true or false"), "object": _("names with values")}.get(
        kind, _("a value")
    )


def _bounds(form: Property) -> str:
    words = {
        "minimum": _("at least {n}"),
        "exclusiveMinimum": _("above {n}"),
        "maximum": _("at most {n}"),
        "exclusiveMaximum": _("below {n}"),
    }
    return _(" and ").join(text.format(n=f"{form[key]:g}") for key, text in words.items() if key in form)


def _either(words: list[str]) -> str:
    return _("{some} or {last}").format(some=", ".join(words[:-1]), last=words[-1]) if words[1:] else "".join(words)
