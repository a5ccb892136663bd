"""The small Jinja world in which chat templates run: sandboxed and bounded, with what transformers gives them and
nothing more."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunesmith.i18n import _
from tunesmith.tokens.limits import Clock, bounded, not_too_long

# What these filters do to a text, the text itself notices.
NOTICED = {
    *("trim", "tojson", "string", "default", "d", "length", "count", "list", "first", "last", "items"),
    *("selectattr", "rejectattr", "replace", "upper", "lower", "title", "capitalize"),
}
UNNOTICED = (nodes.Concat, nodes.Macro, nodes.CallBlock, nodes.AssignBlock, nodes.FilterBlock)


MOST_DIGITS = 10_000  # of a power
MOST_PARTS = 1_000_000  # of a list or an object that is written


class Compiled:
    """A template that can be rendered, within bounds. Raises jinja2.TemplateError where the source is not valid."""

    def __init__(self, source: str, date: str | None) -> None:
        environment = _environment(date)
        self._clock = environment.clock
        with bounded(self._clock):  # what is constant in a template is computed already here
            self._template = environment.from_string(_watched(environment.parse(source)))

    def render(self, **variables: Any) -> str:
        """Raises Overrun, and whatever the template raises."""
        with bounded(self._clock):
            return not_too_long(self._template.render(**variables))


def _watched(tree: nodes.Template) -> nodes.Template:
    """The template with a look at the clock wherever it begins something again."""
    begun: list[Any] = [*tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))]
    for node in begun:
        tick = nodes.EnvironmentAttribute("tick", lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        if isinstance(node, nodes.For) and node.test is not None:  # decides whether the body is reached at all
            node.test = nodes.Or(tick, node.test, lineno=node.lineno)
    return tree


class _World(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["**"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.clock = Clock()

    @property
    def tick(self) -> None:
        self.clock.check()

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MOST_DIGITS:
            raise TemplateError(_("a power with too many digits"))
        return super().call_binop(context, operator, left, right)


def makes_unnoticed(source: str) -> bool:
    """Whether the template makes new texts of those it is given in ways that a text does not notice."""
    tree = _environment(None).parse(source)
    formats = any(node.attr in ("format", "format_map") for node in tree.find_all(nodes.Getattr))
    filters = {node.name for node in tree.find_all(nodes.Filter)}
    return formats or bool(filters - NOTICED) or next(tree.find_all(UNNOTICED), None) is not None


def _environment(date: str | None) -> _World:
    extensions = ["jinja2.ext.loopcontrols", _Generation]
    environment = _World(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=_countable)
    plain_round = environment.filters["round"]
    environment.filters["round"] = lambda value, precision=0, method="common": plain_round(
        value, max(-MOST_DIGITS, min(precision, MOST_DIGITS)), method
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: _today(date).strftime(form)
    return environment


def _countable(value: Any) -> Any:
    """The value, unless it has more parts than anybody wrote: a list that holds itself ten times, ten times over."""
    if isinstance(value, list | tuple | dict):
        stack, count = [value], 0
        while stack:
            part = stack.pop()
            inside = part.values() if isinstance(part, dict) else part
            count += len(part)
            if count > MOST_PARTS:
                raise TemplateError(_("a list with too many parts"))
            stack += [item for item in inside if isinstance(item, list | tuple | dict)]
    return value


def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False):
    # ensure_ascii stays off: escaped marks could not be taken out again
    return json.dumps(_countable(value), ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)


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
