"""Which reader fits a data set: the settings' own, or the one format whose types the rows have.

Asks and never guesses: where no format fits, or two do, the error shows the columns and settings to paste.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tunesmith.data import fields, formats
from tunesmith.data.formats import Format, Parsed
from tunesmith.data.row import RowError
from tunesmith.errors import DataError
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.config.schema import DataSection

Row = dict[str, Any]
Parse = Callable[[Row], Parsed]

SAMPLE = 2000
ROLES = ("system", "user", "assistant")
ANSWERS = ("output", "response", "answer", "completion", "target", "label", "solution", "reply", "result", "assistant")
SYSTEMS = ("system", "system_prompt")
MEDIA = ("image", "images", "video", "videos", "audio", "audios")


def choose(rows: Sequence[Row], section: DataSection, place: str) -> tuple[str, Parse]:
    """Name of the format and the function that parses a row. Raises DataError with what to set, at `place`."""
    settings = {
        "data.mapping": section.mapping,
        "data.format": section.format,
        "data.answer_template": section.answer_template,
    }
    given = [name for name, value in settings.items() if value]
    if section.mapping and section.prompt_template:
        given.append("data.prompt_template")
    if len(given) > 1:
        raise DataError(_("{names} exclude each other. Keep one.").format(names=", ".join(given)), given[0])
    if section.mapping:
        return "mapping", _mapping(section.mapping)
    if section.prompt_template and section.answer_template:
        prompt, answer = section.prompt_template, section.answer_template
        for template in (prompt, answer):
            fields.pieces(template)  # a malformed one is an error before any row
        return "template", partial(fields.parse_templates, prompt_template=prompt, answer_template=answer)
    if section.format:
        name = section.format
        found: formats.Reader = formats.reader(section.format)
    else:
        name, found = detect(rows, place)
    if section.prompt_template:
        fields.pieces(section.prompt_template)
        return name, partial(_with_prompt, parse=found.parse, template=section.prompt_template)
    return name, found.parse


def detect(rows: Sequence[Row], place: str) -> tuple[str, Format]:
    """The format that most rows have and no other comes near to, of rows taken evenly from the whole."""
    sample = rows[:: max(1, len(rows) // SAMPLE)]
    problem = Counter(filter(None, map(_not_supervised, sample))).most_common(1)
    if problem and problem[0][1] * 2 > len(sample):
        raise DataError(problem[0][0], place)
    known = {name: formats.get(name) for name in formats.names()}
    found = [{name for name, each in known.items() if each.detect(row)} for row in sample]
    ranking = Counter(name for names in found for name in names).most_common(2)
    if not ranking or ranking[0][1] * 2 < len(sample):
        raise DataError(_("The format of the rows is not recognised.") + _advice(sample), place)
    best, count = ranking[0]
    # Rows of another format are that format's and are rejected; rows that fit both leave nothing to go by.
    rivals = Counter(name for names in found if best in names for name in names - {best}).most_common(1)
    rivals = [(name, n) for name, n in rivals if n * 2 >= count] or [(n, c) for n, c in ranking[1:] if c == count]
    if rivals:
        text = _("Two formats are possible: {best} ({n} of {rows} rows) and {other} ({m}). Name one in data.format.")
        (other, m), rows_seen = rivals[0], len(sample)
        raise DataError(text.format(best=best, n=count, rows=rows_seen, other=other, m=m) + _advice(sample), place)
    return best, known[best]


def _mapping(mapping: dict[str, str]) -> Parse:
    if not {"user", "assistant"} <= set(mapping) <= set(ROLES):
        text = _("data.mapping needs the keys user and assistant, and may have system; it has {keys}.")
        raise DataError(text.format(keys=", ".join(mapping)), "data.mapping")
    return partial(fields.parse_mapping, mapping=mapping)


def _with_prompt(row: Row, parse: Parse, template: str) -> Parsed:
    """What the format reads, with its one question rewritten by the template."""
    parsed = parse(row)
    asked = [i for i, message in enumerate(parsed.messages) if message.role == "user"]
    if len(asked) != 1:
        reason = _("data.prompt_template rewrites one question; the row has {n}.").format(n=len(asked))
        raise RowError("many_turns", reason)
    prompt, used = fields.fill(template, row)
    messages = list(parsed.messages)
    messages[asked[0]] = replace(messages[asked[0]], content=prompt)
    return replace(parsed, messages=messages, claimed=set(parsed.claimed) | fields.columns(used))


def _not_supervised(row: Row) -> str:
    """Why a row is for another kind of training; empty if it is not."""
    chosen = "chosen" in row and "rejected" in row
    if chosen or "rejected_response" in row or "rejected_messages" in row:
        return _(
            "These are preferences (chosen and rejected answers), not supervised conversations. "
            "Name the columns to train in data.mapping, such as user: prompt and assistant: chosen."
        )
    if isinstance(row.get("completion"), str) and isinstance(row.get("label"), bool):
        return _(
            "These are judged answers (a label of true or false), not supervised conversations. "
            "To train them all the same, set data.format: prompt_completion."
        )
    if isinstance(row.get("input_ids"), list):
        return _("These rows are token numbers already, not supervised conversations. Give the text.")
    if any(row.get(column) and isinstance(row[column], list | dict) for column in MEDIA):
        return _("These rows have pictures, sound or video, not supervised conversations in text.")
    return ""


def _advice(rows: Sequence[Row]) -> str:
    """The columns with their types, and a draft of the settings that would read them."""
    shapes: dict[str, Counter[str]] = {}
    for row in rows:
        for column, value in row.items():
            shapes.setdefault(column, Counter())[_shape(value)] += 1
    lines = [f"    {column}: {' | '.join(shape)}" for column, shape in shapes.items()]
    common = {column: shape.most_common(1)[0][0] for column, shape in shapes.items()}
    example = next((row for row in rows if set(row) == set(common)), max(rows, key=len, default={}))
    return "\n".join(["", _("  The columns are:"), *lines, _("  Settings to adapt and paste:"), *_draft(example)])


def _shape(value: Any) -> str:
    if isinstance(value, dict):
        return _("object ({keys})").format(keys=", ".join(map(str, list(value)[:8])))
    if isinstance(value, list):
        return _("list of {shape}").format(shape=_shape(value[0])) if value else _("empty list")
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return _("text") if isinstance(value, str) else _("number")


def _draft(row: Row) -> list[str]:
    """YAML: templates if the texts are nested, otherwise a mapping of columns."""
    answer = next((column for column in ANSWERS if column in row), next(reversed(row), "COLUMN"))
    nested = [column for column, value in row.items() if isinstance(value, dict)]
    if nested:
        paths = {
            column: [_field(row, p) for p, v in fields.leaves(row[column], column) if isinstance(v, str)]
            for column in row
        }
        prompt = [path for column in nested if column != answer for path in paths[column]]
        prompt = prompt or [path for column in row if column != answer for path in paths[column]]
        templates = {"prompt_template": prompt, "answer_template": paths.get(answer, [])}
        quoted = {key: "\n\n".join(f"{{{path}}}" for path in found) for key, found in templates.items()}
        return ["    data:", *(f"      {key}: {json.dumps(text, ensure_ascii=False)}" for key, text in quoted.items())]
    texts = [column for column, value in row.items() if isinstance(value, str) and column != answer]
    system = next((column for column in SYSTEMS if column in texts), "")
    user = next((column for column in texts if column != system), "COLUMN")
    mapping = {"system": system, "user": user, "assistant": answer}
    return ["    data:", "      mapping:", *(f"        {role}: {_yaml(c)}" for role, c in mapping.items() if c)]


def _field(row: Row, path: str) -> str:
    """The shortest way to write a field: its name if no other has it."""
    name = fields.name_of(path)
    return name if [fields.name_of(other) for other, _value in fields.leaves(row)].count(name) == 1 else path


def _yaml(text: str) -> str:
    return text if text.isidentifier() else json.dumps(text, ensure_ascii=False)
