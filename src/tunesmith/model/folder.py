"""Names to folders: a folder, a GGUF file, or a model of a hub, fetched once and then taken from where it was kept.

A bare OWNER/NAME is Hugging Face's (HF_ENDPOINT names a mirror), `modelscope:OWNER/NAME` is ModelScope's, and one small
model comes as a package (packaged.py). Needs no torch unless a GGUF file has to be converted; knows nothing of what the
files say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.i18n import _
from tunesmith.model import packaged
from tunesmith.model.quiet import first_line, no_log_lines, silent
from tunesmith.model.weights import tensors
from tunesmith.rundir import MODELSCOPE

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_SETTINGS = ("config.json", "generation_config.json")
_WEIGHTS = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.py")

_PASSWORD = re.compile(r"(?<=://)[^/\s@]+@")  # of a mirror's address

Fetch = Callable[..., str]  # (allow_patterns=, local_files_only=) -> the folder


def locate(name: str, *, weights: bool = True) -> Path:
    """The model folder that `name` means; without `weights`, one with its tokenizer and config.json is enough.

    A GGUF file is converted and a hub's model is fetched, once. Raises ModelError, which says which ways there are.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        from tunesmith.model.gguf import gguf_folder

        return gguf_folder(path)
    if name == packaged.NAME:
        return packaged.base_model()
    fetch = _fetcher(name)
    kept = _kept(fetch, weights)
    if kept is not None:
        return kept
    try:
        wanted = _WEIGHTS if weights else (*TOKENIZER_FILES, *_SETTINGS)
        with no_log_lines():
            found = Path(fetch(allow_patterns=list(wanted), local_files_only=False))
    except Exception as error:  # each hub has its own classes, from OSError to ValueError
        raise _nowhere(name, error) from None
    if not weights and not (found / "tokenizer.json").is_file():
        raise ModelError(_("has no tokenizer.json. Name a tokenizer's folder in model.tokenizer."), name)
    return found


def _kept(fetch: Fetch, weights: bool) -> Path | None:
    """What an earlier call fetched, if all of it is there."""
    try:
        with silent():
            found = Path(fetch(local_files_only=True))
        if weights:
            tensors(found)
        return found if weights or (found / "tokenizer.json").is_file() else None
    except Exception:  # not here, or only a part of it
        return None


def _fetcher(name: str) -> Fetch:
    if name.startswith(MODELSCOPE):
        try:
            from modelscope.hub.snapshot_download import snapshot_download as fetch
        except ImportError:
            problem = _("ModelScope's package is missing. Type: pip install 'tunesmith[modelscope]'")
            raise ModelError(problem, name) from None
        return partial(fetch, name.removeprefix(MODELSCOPE))
    from huggingface_hub import snapshot_download

    fetching: Any = snapshot_download
    return partial(fetching, name)


def _nowhere(name: str, error: Exception) -> ModelError:
    hub = "ModelScope" if name.startswith(MODELSCOPE) else os.environ.get("HF_ENDPOINT") or "huggingface.co"
    problem = _(
        "is neither a folder or file here nor a model that {hub} sends ({reason}). Other ways: a folder or a GGUF file"
        " that was copied here, a mirror of Hugging Face in the environment variable HF_ENDPOINT, or ModelScope with"
        " modelscope:OWNER/NAME."
    )
    said = problem.format(hub=hub, reason=first_line(error))
    return ModelError(_PASSWORD.sub("", said), name)
