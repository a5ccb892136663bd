"""Tiny models and a tiny tokenizer, made in memory: every test of the upper floors runs on them, without a network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is there: what forks must not have its threads
os.environ["TUNESMITH_LANG"] = "en"  # the sentences that tests expect, whatever the machine speaks

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = [
    "The valve leaks at the seal. Is the pump faulty? Yes: replace the gasket before the next shift.",
    "Judgement: defect. Reason: the pressure fell below the limit twice within one hour.",
    "A short answer is a good answer; a long question deserves a careful one.",
    "阀门漏水了吗？请先关闭电源，再检查密封圈。判断：缺陷。原因：压力过低。",
]
VOCABULARY = 384  # all of it in use: every id of a tiny model means some text
REAL = Path(__file__).parents[2] / "shared" / "assets" / "tokenizers"


@pytest.fixture(scope="session", autouse=True)
def _real_tokenizers_are_read_once() -> Iterator[None]:
    """Seconds each, asked for by many tests, in folders that never change."""
    from tunesmith.tokens import encode

    read = encode.Tokenizer
    kept = cache(read)

    def tokenizer(folder: str | Path, template: str = "") -> object:
        return (kept if Path(folder).parent == REAL else read)(folder, template)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "Tokenizer", tokenizer)
        yield


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level BPE tokenizer and a ChatML template; end of turn and eos are `<|im_end|>`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHATML,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., object]:
    """`tiny_model(family, seed=0)`: a random float32 model of llama, qwen2, qwen3 or gemma3, new at every call.

    Hidden size 64, two layers, 384 tokens; Gemma 3's first layer sees a window of 8 tokens only.
    """
    return build_model


def build_model(family: str = "llama", seed: int = 0) -> object:
    import torch
    from transformers import (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    config_class, model_class = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
    }[family]
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,  # the usual 0.02 leaves logits too flat to tell right from wrong
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if family == "gemma3":
        sizes |= {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model_class(config_class(**sizes)).eval()


@pytest.fixture(scope="session")
def tiny_folder(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model folder, tiny Llama and tiny tokenizer. Shared by all tests: read it, never change it."""
    import shutil

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    build_model("llama").save_pretrained(folder)
    for file in tiny_tokenizer.iterdir():
        shutil.copy(file, folder)
    return folder
