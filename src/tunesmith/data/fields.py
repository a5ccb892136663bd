"""Fields of a nested row: found by name or path, written into a prompt or an answer, and read back out of one.

Knows one row and one template at a time; which template is used, and when, is not its business.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from tunesmith.data.formats import Parsed, single_turn, with_system
from tunesmith.data.row import RowError
from tunesmith.errors import DataError
from tunesmith.i18n import _

_INDEX = re.compile(r"\[\d+\]")

Pieces = tuple[tuple[str, str | None], ...]


@lru_cache(maxsize=64)
def pieces(template: str, setting: str = "data.prompt_template") -> Pieces:
    """The template as pairs of literal text and the field after it. `{{` is a brace; raises DataError if malformed,
    under the name of the setting that holds it.

    A backslash and an n are a line break where the template has no real one: so it comes from a command line.
    """
    if "\n" not in template:
        template = template.replace("\\n", "\n")
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        text = _("The template {template!r} is malformed ({why}). Write {{{{ for a brace.")
        raise DataError(text.format(template=template, why=error), setting) from error
    if any(field == "" or spec or conversion for _text, field, spec, conversion in parsed):
        text = _("The template {template!r} may hold only names in braces, such as {{event}} or {{input.event}}.")
        raise DataError(text.format(template=template), setting)
    merged: list[tuple[str, str | None]] = []
    for literal, field, _spec, _conversion in parsed:
        before = merged.pop()[0] if merged and merged[-1][1] is None else ""
        merged.append((before + literal, field))
    return tuple(merged)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no list or object, by its path: `input.event`, `instruction[0].subtype`."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from leaves(item, f"{path}[{i}]")
    else:
        yield path, value


def name_of(path: str) -> str:
    """The last name of a path; an element of a list of plain values has none but its path."""
    return path.rpartition(".")[2]


def short(path: str) -> str:
    """The name by which a column that was given by its path is written: `subtype` for `instruction[0].subtype`."""
    return name_of(_INDEX.sub("", path))


def find(row: dict[str, Any], field: str) -> tuple[str, str]:
    """Path and text of a field, which is given by path or by a name that occurs once in the row."""
    values = dict(leaves(row))
    if field in values:
        paths = [field]
    else:
        paths = [path for path in values if name_of(path) == field]
    if len(paths) > 1:
        reason = _("{field} could be any of {paths}; write one of these.")
        raise RowError("ambiguous_field", reason.format(field=field, paths=", ".join(paths)))
    if not paths:
        reason = _("The row has no field {field} with a text; it has {paths}.")
        raise RowError("missing_field", reason.format(field=field, paths=", ".join(values)))
    value = values[paths[0]]
    if value is None:
        raise RowError("missing_field", _("{field} is empty (null).").format(field=paths[0]))
    return paths[0], str(value).lower() if isinstance(value, bool) else str(value)


def column(row: dict[str, Any], name: str) -> list[Any]:
    """The values of a column: given by its name, by a path, or by the name of a nested field; empty if there is none.

    `subtype` finds `instruction[0].subtype`; where a list holds several, all are returned, in order. RowError where
    fields in different places have the name.
    """
    held = row.get(name)
    if name in row and not (isinstance(held, list) and held and all(map(_is_plain, held))):
        return [] if held is None else [held]
    values = dict(leaves(row))
    if name in values:
        return [] if values[name] is None else [values[name]]
    places = {path: _INDEX.sub("", path) for path in values}
    found = [path for path, place in places.items() if place == name]
    found = found or [path for path, place in places.items() if name_of(place) == name]
    if len({places[path] for path in found}) > 1:
        reason = _("{field} could be any of {paths}; write one of these.")
        raise RowError("ambiguous_field", reason.format(field=name, paths=", ".join(found)))
    return [values[path] for path in found if values[path] is not None]


def _is_plain(value: Any) -> bool:
    return not isinstance(value, dict | list)


def fill(template: str, row: dict[str, Any]) -> tuple[str, set[str]]:
    """The template's text with the row's fields in it, and the paths that it used."""
    text, used = "", set()
    for literal, field in pieces(template):
        text += literal
        if field is not None:
            path, value = find(row, field)
            used.add(path)
            text += value
    return text, used


def parse_templates(row: dict[str, Any], prompt_template: str, answer_template: str) -> Parsed:
    """A conversation of one question and one answer, each written from the row's fields."""
    prompt, asked = fill(prompt_template, row)
    answer, answered = fill(answer_template, row)
    messages = single_turn(prompt, answer, "answer_template")
    return Parsed(messages, claimed=columns(asked | answered), meta=lifted(row, asked | answered))


def parse_mapping(row: dict[str, Any], mapping: dict[str, str]) -> Parsed:
    """A conversation of one question and one answer from the columns named in the mapping."""
    used: set[str] = set()
    texts = {}
    for role, field in mapping.items():
        try:
            path, texts[role] = find(row, field)
            used.add(path)
        except RowError as error:
            if role != "system" or error.code != "missing_field":
                raise
    messages = with_system(
        single_turn(texts["user"], texts["assistant"], mapping["assistant"]), texts.get("system", "")
    )
    return Parsed(messages, claimed=columns(used), meta=lifted(row, used))


def columns(paths: set[str]) -> set[str]:
    """The top-level columns in which these paths begin."""
    return {re.split(r"[.\[]", path, maxsplit=1)[0] for path in paths} | paths


def lifted(row: dict[str, Any], used: set[str]) -> dict[str, Any]:
    """Nested values that nobody used, under their own names where these are unambiguous."""
    values = dict(leaves(row))
    count = Counter(map(name_of, values))
    free = [path for path in values if path not in used and path not in row and not path.endswith("]")]
    return {name_of(path): values[path] for path in free if count[name_of(path)] == 1}


def parse_answer(template: str, text: str) -> dict[str, str] | None:
    """The fields of a text that was written by the template, or None if it was not.

    Full and half width are the same in the template's own words, and so is any white space; the fields are returned
    as they stand. The last field runs to the end.
    """
    folded = [_fold(character) for character in text]
    starts = [i for i, character in enumerate(folded) for _part in character]
    match = _reader(template).fullmatch("".join(folded))
    if match is None:
        return None
    fields = [field for _literal, field in pieces(template) if field is not None]
    found = {}
    for number, field in enumerate(fields, 1):
        start, end = match.span(number)
        found[field] = text[starts[start] : starts[end - 1] + 1].strip() if start < end else ""
    return found


def _fold(character: str) -> str:
    return unicodedata.normalize("NFKC", character)


@lru_cache(maxsize=64)
def _reader(template: str) -> re.Pattern[str]:
    pattern = ""
    for literal, field in pieces(template):
        words = [re.escape("".join(map(_fold, word))) for word in literal.split()]
        # Two fields with nothing but a space between them need that space to tell them apart.
        pattern += r"\s+" if pattern and literal.isspace() else r"\s*" + r"\s*".join(words) + r"\s*"
        pattern += "" if field is None else "(.*?)"
    return re.compile(pattern + r"\s*", re.DOTALL)
