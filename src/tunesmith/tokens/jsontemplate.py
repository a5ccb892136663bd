"""Chat templates written as JSON, turned into Jinja: one text for each role, and what stands around them.

The Jinja is what is rendered, recorded and put beside a checkpoint; nothing downstream knows that it was JSON. Knows no
tokenizer and no message.
"""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tunesmith.errors import Problem, TemplateError
from tunesmith.i18n import _

CONTENT = "{{content}}"
ROLES = ("system", "user", "assistant", "tool")
TEXTS = (*ROLES, "prefix", "default_system", "generation_prompt", "description")
LISTS = ("made_for", "not_for")
FIELDS = (*TEXTS, *LISTS, "trim")
PLACEHOLDER = re.compile(r"\{\{ *(\w+) *\}\}")
NAMES = {"content": "content", "bos_token": "bos_token", "eos_token": "eos_token"}


def to_jinja(text: str, place: str) -> str:
    """The Jinja template that a JSON template means. `{"chat_template": ...}` holds Jinja already.

    Raises TemplateError with all that is wrong with its fields.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f"{place}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else place
        raise TemplateError(_("The chat template is not JSON: {why}.").format(why=error), place=line) from None
    if isinstance(fields, dict) and isinstance(fields.get("chat_template"), str):
        return fields["chat_template"]
    problems = (
        [_("It must be an object with a text for each role.")] if not isinstance(fields, dict) else _wrong(fields)
    )
    if problems:
        raise TemplateError([Problem(place, problem) for problem in problems])
    return _jinja(fields)


def _wrong(fields: dict[str, Any]) -> list[str]:
    found = [_unknown(name) for name in fields if name not in FIELDS]
    wanted = {
        **dict.fromkeys(TEXTS, (str, _("text"))),
        **dict.fromkeys(LISTS, (list, _("a list"))),
        "trim": (bool, _("true or false")),
    }
    for name, (kind, words) in wanted.items():
        if name in fields and not isinstance(fields[name], kind):
            found.append(_("{field} must be {kind}.").format(field=name, kind=words))
    for role in ROLES:
        given = fields.get(role)
        if given is None and role in ("user", "assistant"):
            found.append(_("The field {field} is missing.").format(field=role))
        elif isinstance(given, str) and given.count(CONTENT) != 1:
            text = _("{field} must hold {placeholder} once, where the message's text goes.")
            found.append(text.format(field=role, placeholder=CONTENT))
    if "default_system" in fields and "system" not in fields:
        found.append(_("default_system needs the field system beside it."))
    texts = [(name, fields[name]) for name in TEXTS if isinstance(fields.get(name), str)]
    unknown = [(name, p[0]) for name, text in texts for p in PLACEHOLDER.finditer(text) if p[1] not in NAMES]
    text = _("{field} holds {placeholder}; known are {names}.")
    known = ", ".join(f"{{{{{name}}}}}" for name in NAMES)
    return found + [text.format(field=name, placeholder=shown, names=known) for name, shown in unknown]


def _unknown(name: str) -> str:
    near = get_close_matches(name, FIELDS, 1)
    hint = _("Did you mean {name}?").format(name=near[0]) if near else ", ".join(FIELDS)
    return _("{field} is not a field of a JSON template.").format(field=name) + " " + hint


def _jinja(fields: dict[str, Any]) -> str:
    answer = fields["assistant"]
    prompt = fields.get("generation_prompt", answer[: answer.index(CONTENT)])
    lines = [_written(fields.get("prefix", ""))]
    if "default_system" in fields:
        opening = fields["system"].replace(CONTENT, fields["default_system"])
        lines += ["{%- if messages[0].role != 'system' -%}", "    " + _written(opening), "{%- endif -%}"]
    lines += [
        "{%- for message in messages -%}",
        "    {%- set content = message.content" + (" | trim" if fields.get("trim") else "") + " -%}",
    ]
    given = [role for role in ROLES if role in fields]
    for role in given:
        word = "if" if role == given[0] else "elif"
        lines += [f"    {{%- {word} message.role == '{role}' -%}}", "        " + _written(fields[role])]
    lines += ["    {%- endif -%}", "{%- endfor -%}"]
    lines += ["{%- if add_generation_prompt -%}", "    " + _written(prompt), "{%- endif -%}"]
    return _made_for(fields) + "\n".join(line for line in lines if line.strip()) + "\n"


def _made_for(fields: dict[str, Any]) -> str:
    """The first comment, by which a tokenizer finds the template that fits, and which ids its words are."""
    if not fields.get("made_for"):
        return ""
    excluded = f"; not for: {' '.join(fields['not_for'])}" if fields.get("not_for") else ""
    return f"{{#- made for: {' '.join(fields['made_for'])}{excluded} -#}}\n"


def _written(text: str) -> str:
    """A text with placeholders as Jinja output, white space around it not its own."""
    pieces = PLACEHOLDER.split(text)
    shown = [NAMES[piece] if i % 2 else _quoted(piece) for i, piece in enumerate(pieces) if piece]
    return "".join(f"{{{{- {piece} -}}}}" for piece in shown)


def _quoted(text: str) -> str:
    for character, escape in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, escape)
    return f"'{text}'"


def read(path: Path) -> str:
    """A chat template's Jinja from a Jinja or JSON file. Raises TemplateError."""
    try:
        if path.exists() and not path.is_file():  # to read a pipe or a device might never end
            raise OSError(_("it is no file"))
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(_("The chat template can't be read: {why}.").format(why=error), place=str(path)) from None
    return to_jinja(text, str(path)) if path.suffix == ".json" else text
