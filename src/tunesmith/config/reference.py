"""The settings for readers and for editors: the reference page and the JSON Schema, both made from the schema."""

from __future__ import annotations

from typing import Any

from tunesmith.config.nodes import flow
from tunesmith.config.settings import sections, settings, wanted
from tunesmith.i18n import _


def markdown() -> str:
    """The page of all settings: name, what it takes, default, meaning. `make docs` writes it."""
    lines = [
        _("# Settings"),
        "",
        _("Written by `make docs` from the schema. On the command line: `section.name=value`."),
        "",
    ]
    for section in ("", *sections()):
        if section:
            lines += ["", f"## {section}", ""]
        lines += [_("| setting | takes | default | meaning |"), "|---|---|---|---|"]
        for name, prop in settings().items():
            group, _dot, key = name.rpartition(".")
            if group == section:
                default = "" if prop["default"] is None else f"`{flow(prop['default'])}`"
                cells = (f"`{key}`", wanted(prop), default, _(prop["description"]))
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def json_schema() -> dict[str, Any]:
    """JSON Schema of the YAML file, for completion and checks in an editor."""
    from tunesmith.config.schema import Config

    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}


if __name__ == "__main__":
    print(markdown(), end="")
