"""Trainings of a tiny model by whatever engine is asked for: by a launcher in several processes, by tests in one.

torchrun --nproc_per_node=2 tests/worlds.py FOLDER ENGINE:METHOD:ACCUMULATION[:STEPS[:FROM]] ...
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tunesmith import rundir
from tunesmith.config.deepspeed import Known, filled
from tunesmith.config.schema import LoraSection, TrainingSection
from tunesmith.model.adapter import add_adapter
from tunesmith.model.attention import use_forest_attention
from tunesmith.model.kernels import use_fast_kernels
from tunesmith.tokens.answer import Answer
from tunesmith.train import launch, loop
from tunesmith.train.engines import Engine, Zero
from tunesmith.train.loss import Trainee, causal_model
from tunesmith.train.plan import Row
from tunesmith.train.world import World

STEP = 16  # conversations
STEPS = 20
AT_ONCE = 60  # tokens: a step is several batches, of unequal size and number
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}


def model(method: str):
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE), attn_implementation="eager").train()
    for name, parameter in made.named_parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(len(name)))
    return add_adapter(made, LoraSection(r=4, lora_alpha=8), seed=1) if method == "lora" else made


def rows(count: int, seed: int = 0) -> list[Row]:
    """Dialogues of very different length; about half begin like another one."""
    rng, made = random.Random(seed), []
    for i in range(count):
        context = [rng.randrange(64) for _ in range(rng.choice((3, 8, 20, 50)))]
        if made and rng.random() < 0.5:
            context = rng.choice(made).context_ids + context[:5]
        ids = [rng.randrange(64) for _ in range(rng.randint(1, 9))]
        made.append(Answer(i, context[:150], ids, [rng.choice([1.0, 2.0, 0.5])] * len(ids)))
    return [Row((answer,), f"rows.jsonl:{i + 1}") for i, answer in enumerate(made)]


def made(case: str, folder: Path, world: World) -> loop.Loop:
    engine, method, accumulation, *rest = case.split(":")
    section = TrainingSection(
        per_device_train_batch_size=STEP // world.size // int(accumulation),
        gradient_accumulation_steps=int(accumulation),
        max_steps=int(rest[0]) if rest else STEPS,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        save_steps=10,
        bf16=False,
        deepspeed=Path(engine) if engine.startswith("zero") else None,
        fsdp="full_shard" if engine == "fsdp" else None,
    )
    trained = model(method)
    start = folder / rest[1] if len(rest) > 1 else None
    use_forest_attention(causal_model(trained))
    if not launch.sharded(section):
        use_fast_kernels(trained)
    if start:
        from safetensors.torch import load_file

        found = next(start.glob("*model.safetensors"))
        weights = {
            k.replace(".weight", ".default.weight") if method == "lora" else k: v for k, v in load_file(found).items()
        }
        assert not trained.load_state_dict(weights, strict=False).unexpected_keys
    accelerator = launch.start(section, weights=torch.float32, device="cpu")
    settings = (
        filled(section.deepspeed, Known(section, world.size, SHAPE["hidden_size"])) if section.deepspeed else None
    )
    run = folder / case.replace(":", "-").replace("/", "-")
    if world.first:
        run.mkdir(parents=True, exist_ok=True)
    found = loop.Loop(
        accelerator, Trainee(trained), rows(61), rows(10, 3), section, run, forest=True, pad_id=0, deepspeed=settings
    )
    if start:
        found.resume(start)
    return found


def train(case: str, folder: Path, world: World) -> str:
    """The folder of the run, in which `engine` names what really ran."""
    at_once, loop.AT_ONCE = loop.AT_ONCE, AT_ONCE
    try:
        trained = made(case, folder, world)
        trained.train()
    finally:
        loop.AT_ONCE = at_once
    if world.first:
        name = trained.engine.name
        rundir.write_json(trained.run / "held.json", held(trained.engine))
        (trained.run / "engine").write_text(f"{name} {type(trained.model).__name__}", encoding="utf-8")
    return trained.run


def held(engine: Engine) -> dict[str, int]:
    """Bytes of weights, and of moments and float32 copies, that this process keeps between two steps."""
    parameters = list(engine.trainee.parameters())
    if isinstance(engine, Zero):
        local = [p.ds_tensor if engine.stage == 3 else p for p in parameters]
        copies = engine.flat
    else:
        local, copies = [getattr(p, "_local_tensor", p) for p in parameters], []
    moments = [value for state in engine.optimizer.optimizer.state.values() for value in state.values() if value.ndim]
    moments = [getattr(value, "_local_tensor", value) for value in moments]
    return {"weights": sum(t.nbytes for t in local), "optimizer": sum(t.nbytes for t in [*moments, *copies])}


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in rundir.metrics(run)]


if __name__ == "__main__":
    here = World.of_environment()
    torch.set_num_threads(1)
    here.join(120)
    for each in sys.argv[2:]:
        train(each, Path(sys.argv[1]), here)
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)  # DeepSpeed's own threads take seconds to go
