"""Trains one workload with another tool, in that tool's own environment, and prints one JSON line.

    python peers.py {trl,seed,seed-tuned} MODEL SAMPLES.jsonl OUT [--rows N] [--rows-per-step R] [--threads T]

`trl` is SFTTrainer with all that makes it faster on a CPU (packing, completion loss, no checkpointing); `seed` the
tutorial's script as it is written (padding, gradient checkpointing, dropout 0.1); `seed-tuned` without those two.
Every tool trains the same LoRA for one epoch on the same samples; OUT gets the adapter.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import time
from pathlib import Path

LONGEST = 1280
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=["trl", "seed", "seed-tuned"])
    parser.add_argument("model")
    parser.add_argument("samples", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rows-per-step", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": str(asked.threads), "TOKENIZERS_PARALLELISM": "false"}
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    rows = [json.loads(line) for line in asked.samples.read_text(encoding="utf-8").splitlines()][: asked.rows]
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.bfloat16)
    encoded = [
        tuple(tokenizer(r[k], add_special_tokens=False)["input_ids"] for k in ("prompt", "answer")) for r in rows
    ]
    make = _trl if asked.peer == "trl" else _plain
    trainer = make(asked, rows, encoded, tokenizer, model)
    began = time.perf_counter()
    result = trainer.train()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    trainer.model.save_pretrained(asked.out)
    tokens = sum(len(prompt) + len(answer) for prompt, answer in encoded)
    figures = {"tokens_per_second": tokens / seconds, "peak_mb": peak, "loss": result.training_loss, "seconds": seconds}
    print(json.dumps(figures | {"rows": len(rows), "tokens": tokens, "steps": result.global_step}))


def _lora(dropout: float):
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, lora_dropout=dropout, target_modules=MODULES)


def _common(out: Path) -> dict:
    return {
        "output_dir": str(out / "trainer"), "num_train_epochs": 1, "learning_rate": 1e-4, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True, "bf16": False,
    }  # fmt: skip


def _trl(asked, rows, encoded, tokenizer, model):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    packs = math.ceil(sum(len(p) + len(a) for p, a in encoded) / LONGEST * 1.05)
    steps = math.ceil(len(rows) / asked.rows_per_step)
    config = SFTConfig(
        **_common(asked.out), per_device_train_batch_size=1, packing=True, max_length=LONGEST,
        gradient_accumulation_steps=max(1, round(packs / steps)), gradient_checkpointing=False,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": r["prompt"], "completion": r["answer"]} for r in rows])
    return SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=_lora(0.0))


def _plain(asked, rows, encoded, tokenizer, model):
    from datasets import Dataset
    from peft import get_peft_model
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    as_written = asked.peer == "seed"
    if as_written:
        model.enable_input_require_grads()
    data = [{"input_ids": p + a, "attention_mask": [1] * len(p + a), "labels": [-100] * len(p) + a} for p, a in encoded]
    arguments = TrainingArguments(
        **_common(asked.out), per_device_train_batch_size=asked.rows_per_step, gradient_checkpointing=as_written
    )
    return Trainer(
        model=get_peft_model(model, _lora(0.1 if as_written else 0.0)), args=arguments,
        train_dataset=Dataset.from_list(data), data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
    )  # fmt: skip


if __name__ == "__main__":
    main()
