"""The small Jinja world in which chat templates run: sandboxed, with what transformers gives them and nothing more."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What these filters do to a text, the text itself notices.
NOTICED = {
    *("trim", "tojson", "string", "default", "d", "length", "count", "list", "first", "last", "items"),
    *("selectattr", "rejectattr", "replace", "upper", "lower", "title", "capitalize"),
}
UNNOTICED = (nodes.Concat, nodes.Macro, nodes.CallBlock, nodes.AssignBlock, nodes.FilterBlock)


def compiled(source: str, date: str | None) -> Template:
    """The template, with `date` as its today. Raises jinja2.TemplateError where the source is not valid."""
    return _environment(date).from_string(source)


def makes_unnoticed(source: str) -> bool:
    """Whether the template makes new texts of those it is given in ways that a text does not notice."""
    tree = _environment(None).parse(source)
    formats = any(node.attr in ("format", "format_map") for node in tree.find_all(nodes.Getattr))
    filters = {node.name for node in tree.find_all(nodes.Filter)}
    return formats or bool(filters - NOTICED) or next(tree.find_all(UNNOTICED), None) is not None


def _environment(date: str | None) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: _today(date).strftime(form)
    return environment


def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False):
    # ensure_ascii stays off: escaped marks could not be taken out again
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _today(date: str | None) -> datetime:
    """The given day; else SOURCE_DATE_EPOCH's (reproducible-builds.org); else today."""
    if date:
        return datetime.fromisoformat(date)
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now()


class _Generation(Extension):
    """`{% generation %}` marks answers for other tools; here its body is rendered and nothing more."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)
