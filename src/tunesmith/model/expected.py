"""What the weights of a model must be called and shaped by its config.json, for families built like Llama.

Reads no file and needs no torch; for other families it expects nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith.i18n import _
from tunesmith.model.weights import Tensor

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")

SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "num_attention_heads")

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.(.+)")


def mismatches(found: Mapping[str, Tensor], config: dict[str, Any]) -> Iterator[str]:
    """One sentence for each kind of weight that is missing, left over, or of another shape than config.json says."""
    if config.get("model_type") not in FAMILIES or "quantization_config" in config:
        return
    absent = [name for name in SIZES if not isinstance(config.get(name), int)]
    if absent:
        yield _("config.json does not say {names}.").format(names=", ".join(absent))
        return
    layers, wanted = int(config["num_hidden_layers"]), _shapes(config)
    for name, tensor in found.items():
        match = _LAYER.search(name)
        part = match[2] if match else name.removeprefix("model.")
        if match and int(match[1]) >= layers:
            yield _("{name} is a weight of layer {layer}; config.json has {layers} layers, counted from 0.").format(
                name=name, layer=match[1], layers=layers
            )
        elif part in wanted and tensor.shape != wanted[part]:
            yield _("{name} has the shape {shape}; by config.json it is {wanted}.").format(
                name=name, shape=list(tensor.shape), wanted=list(wanted[part])
            )
    yield from _missing(set(found), layers, wanted, bool(config.get("tie_word_embeddings", False)))


def _missing(names: set[str], layers: int, wanted: Mapping[str, tuple[int, ...]], tied: bool) -> Iterator[str]:
    inside = [part for part in wanted if part.endswith(("_proj.weight", "layernorm.weight"))]
    needed = [f"model.layers.{i}.{part}" for i in range(layers) for part in inside]
    needed += ["model.embed_tokens.weight", "model.norm.weight"] + ([] if tied else ["lm_head.weight"])
    absent = [name for name in needed if name not in names]
    if absent:
        text = _("{n} weights that config.json demands are in no file, such as {first}. Download the model again.")
        yield text.format(n=len(absent), first=absent[0])


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Part of a name behind `layers.N.`, or a whole name without `model.` -> shape."""
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    queries, keys = heads * width, (config.get("num_key_value_heads") or heads) * width
    return {
        "embed_tokens.weight": (vocabulary, hidden),
        "lm_head.weight": (vocabulary, hidden),
        "norm.weight": (hidden,),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
