"""A GGUF file made an ordinary model folder in bfloat16, once, with its tokenizer.

Packed weights can be neither trained nor saved, so they are unpacked. Knows nothing of where the file came from.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from tunesmith.errors import ModelError
from tunesmith.i18n import _
from tunesmith.log import tell
from tunesmith.model.quiet import first_line, quiet, silent


def gguf_folder(path: Path) -> Path:
    """A GGUF file as a model folder, converted once and kept under its content's hash.

    Kept in $TUNESMITH_CACHE, else ~/.cache/tunesmith. Raises ModelError for what is no GGUF file or can't be converted.
    """
    root = Path(os.environ.get("TUNESMITH_CACHE") or Path.home() / ".cache" / "tunesmith")
    target = root / f"{path.stem}-{_content_key(path)}"
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    tell(_("Converting {name}; this is done only once.").format(name=path.name))
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{path.stem}-") as temporary:
        made = Path(temporary) / "model"
        convert(path, made)
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster, and its folder is as good
                raise
    return target


def convert(path: Path, made: Path) -> None:
    """Writes the folder `made`. Raises ModelError."""
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        with quiet(), silent():  # the conversion's bar has no switch
            unpacked = GgufConfig(dequantize=True)
            model = AutoModelForCausalLM.from_pretrained(**source, quantization_config=unpacked, dtype=torch.bfloat16)
            tokenizer = AutoTokenizer.from_pretrained(**source)
            tokenizer.model_max_length = model.config.max_position_embeddings
            _split_digits(path, tokenizer)
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
    except Exception as error:
        raise ModelError(_("cannot be converted: {reason}").format(reason=first_line(error)), str(path)) from error


def _content_key(path: Path) -> str:
    """Size, first and last megabyte: the same file keeps its conversion wherever it is copied."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(1 << 20)
        if head[:4] != b"GGUF":
            raise ModelError(_("is no GGUF file and no model folder."), str(path))
        stream.seek(max(0, size - (1 << 20)))
        return hashlib.sha256(head + stream.read() + str(size).encode()).hexdigest()[:12]


def _split_digits(path: Path, tokenizer: Any) -> None:
    """SmolLM's files say that digits stand alone (`pre: smollm`), and the conversion forgets it: mend that."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(path).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        rest = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, rest])
