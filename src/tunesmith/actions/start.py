"""`init`: the files that a user begins with and then edits. Nothing that is there is replaced unasked."""

from __future__ import annotations

from pathlib import Path

from tunesmith.config.layers import PRESETS
from tunesmith.config.write import draft
from tunesmith.errors import ConfigError, Problem, RunError
from tunesmith.i18n import _
from tunesmith.log import escape


def init(
    path: Path,
    *,
    preset: str | None = None,
    style: str = "short",
    deepspeed: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Writes the settings to `path`, and DeepSpeed's own file beside it. Returns what was written. ConfigError,
    RunError."""
    texts = {path: draft(preset, style)}
    if deepspeed is not None:
        texts[path.parent / f"ds_{deepspeed}.json"] = _deepspeed(deepspeed)
    there = [file for file in texts if file.exists()]
    if there and not overwrite:
        raise RunError([Problem(str(file), _("The file exists. Replace it with --overwrite.")) for file in there])
    for file, text in texts.items():
        file.write_text(text, encoding="utf-8")
    return list(texts)


def _deepspeed(name: str) -> str:
    shipped = {file.stem: file for file in sorted((PRESETS / "deepspeed").glob("*.json"))}
    if name not in shipped:
        text = _("There is no DeepSpeed file {name}; there are {names}.")
        raise ConfigError(text.format(name=escape(name), names=", ".join(shipped)), "--deepspeed")
    return shipped[name].read_text(encoding="utf-8")
