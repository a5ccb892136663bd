"""Which settings name files, where those are looked for, and what is said when they are missing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from tunesmith.config.deepspeed import shipped
from tunesmith.config.layers import Entry, Layer, Reader
from tunesmith.config.names import closest
from tunesmith.i18n import _
from tunesmith.log import escape

_FILES = ("data.train", "data.validation", "data.test")
_FILES_OR_NAMES = (
    *("model.name_or_path", "model.tokenizer", "template.path", "template.fallback"),
    *("data.format", "evaluation.metrics", "training.deepspeed"),
)


def find(layer: Layer, reader: Reader) -> None:
    """Put found paths in place of those that `layer` names; report those that are missing."""
    for name in (*_FILES, *_FILES_OR_NAMES):
        entry = layer.get(name)
        if entry is None or not isinstance(entry.value, str | list):
            continue
        paths = entry.value if isinstance(entry.value, list) else [entry.value]
        found = [_found(name, path, entry, reader) if isinstance(path, str) else path for path in paths]
        layer[name] = replace(entry, value=found if isinstance(entry.value, list) else found[0])


def _found(name: str, text: str, entry: Entry, reader: Reader) -> str:
    folder = entry.source.folder or Path()
    if name in _FILES_OR_NAMES and not _names_file(name, text):
        return text
    if name == "training.deepspeed" and not any(map(os.path.exists, _candidates(text, folder))) and shipped(Path(text)):
        return text
    for path in _candidates(text, folder):
        if os.path.exists(path):  # unlike Path.exists, it never raises
            return path
    if name in _FILES or _looks_local(text):
        message = _("{name}: there is no file or folder {path}.").format(name=name, path=escape(text))
        reader.say(entry.place, message, _neighbour(text, folder))
    return text


def _candidates(text: str, folder: Path) -> tuple[str, str]:
    """Beside the file that names it, then where the user works, where a folder of results may be called the same."""
    path = os.path.expanduser(text)
    return os.path.join(folder, path) if folder != Path() else path, path


def _names_file(name: str, text: str) -> bool:
    """A bare word names a model that may lie beside the file, but a format or a metric is never looked for there."""
    return name.startswith("model.") or _looks_local(text)


def _looks_local(text: str) -> bool:
    """A path rather than a hub id. `owner/name` is a path only where a folder `owner` is there that holds no models."""
    if text.startswith((".", "/", "~")) or "\\" in text or text.count("/") > 1:
        return True
    if text.endswith((".gguf", ".py", ".jinja", ".json")):
        return True
    owner, slash, _name = text.partition("/")
    return bool(slash) and os.path.isdir(owner) and not any(Path(owner).glob("*/config.json"))


def _neighbour(text: str, folder: Path) -> str | None:
    """The file of nearly this name in the same place."""
    for path in _candidates(text, folder):
        parent, name = os.path.split(path)
        try:
            near = closest(name, sorted(os.listdir(parent or ".")))
        except (OSError, ValueError):
            continue
        if near:
            return escape(os.path.join(os.path.dirname(text), near))
    return None
