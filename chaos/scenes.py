"""What is trained while it is killed: a tiny model of random weights, made here, and settings that differ in all that a
resume must get right."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tunesmith import rundir

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TIMED = ("tokens_per_second", "seconds", "memory_gb", "gpu_memory_gb", "gpu_percent")


@dataclass(frozen=True)
class Scene:
    """Settings under a name, and what a training that nobody disturbs leaves: weights, log, operations, seconds."""

    name: str
    settings: tuple[str, ...]
    dialogues: bool = False

    def words(self, place: Path, run: Path) -> list[str]:
        data = place / ("dialogues.jsonl" if self.dialogues else "rows.jsonl")
        return ["train", str(data), "--model", str(place / "model"), "-o", str(run), *COMMON, *self.settings]


COMMON = (
    "training.max_steps=8",
    "training.save_steps=2",
    "training.save_total_limit=2",
    "training.per_device_train_batch_size=2",
    "training.learning_rate=1e-2",
    "data.validation_ratio=0.2",
    "model.dtype=float32",
    "lora.r=4",
)
SCENES = (
    Scene("lora", ("lora.lora_dropout=0.3", "training.eval_steps=3")),
    Scene("accumulation", ("training.gradient_accumulation_steps=3", "lora.lora_dropout=0.1", "training.save_steps=3")),
    Scene("full", ("method=full", "training.save_total_limit=1", "training.save_steps=3")),
    Scene("dialogues", ("lora.lora_dropout=0.2", "training.logging_steps=5", "training.eval_steps=4"), dialogues=True),
    Scene("plain kernels", ("training.kernels=plain", "training.lr_scheduler_type=linear", "training.save_steps=1")),
    Scene("patience", ("training.early_stopping_patience=2", "training.learning_rate=0.5", "training.eval_steps=1")),
)


def make(place: Path, **shape: int) -> None:
    """Model, tokenizer and data; `shape` are sizes of the model other than these."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = place / "model"
    folder.mkdir(parents=True)
    rows = [{"question": f"Is pump {i} faulty?", "answer": "Yes." if i % 3 else "No, it is not."} for i in range(26)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([json.dumps(row) for row in rows], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHATML,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 256, "eos_token_id": 2}
    LlamaForCausalLM(LlamaConfig(**sizes | shape, initializer_range=0.2, tie_word_embeddings=True)).save_pretrained(
        folder
    )
    _write(place / "rows.jsonl", rows)
    _write(place / "dialogues.jsonl", [{"messages": _dialogue(rows[i : i + 3])} for i in range(24)])


def _dialogue(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    turns = [("user", row["question"], "assistant", row["answer"]) for row in rows]
    return [{"role": turn[i], "content": turn[i + 1]} for turn in turns for i in (0, 2)]


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def weights(run: Path) -> str:
    """Of the last checkpoint: weights, optimizer, random state."""
    last = rundir.latest(run)
    return tensors(last.path) if last else ""


def tensors(folder: Path) -> str:
    """sha256 over name, type, shape and bytes of every tensor in a folder."""
    from safetensors.numpy import load_file

    total = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        for name, tensor in sorted(load_file(file).items()):
            total.update(f"{file.name} {name} {tensor.dtype} {tensor.shape}".encode() + tensor.tobytes())
    return total.hexdigest()


def files(folder: Path) -> str:
    """sha256 over the names and bytes of the files in the folders of a folder."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.glob("*/*") if path.is_file()):
        total.update(file.name.encode() + file.read_bytes())
    return total.hexdigest()


def answers(run: Path) -> str:
    """sha256 over the answers that an evaluation of the run kept."""
    found = [json.loads(file.read_text("utf-8")) for file in sorted(run.rglob("evaluation_results.json"))]
    given = [[row["answer"] for row in each["rows"]] for each in found]
    return hashlib.sha256(json.dumps(given).encode()).hexdigest()


def log(run: Path) -> list[dict[str, object]]:
    """Every record of the metrics, but for what a clock measured; a line that is no JSON is an error here."""
    lines = (run / rundir.METRICS).read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMED} for line in lines]


def remains(run: Path) -> list[str]:
    """Hidden names that nobody cleared."""
    return sorted(path.name for path in run.rglob(".*"))
