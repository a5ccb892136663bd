"""How near a training step comes to what the machine can do, and how its cost grows; prints one JSON line.

    python limit.py MODEL WORK [--threads T]

`share`: operations of a step (counted from the model, computed tokens only, nothing that is computed twice) against
the rate of bfloat16 products of the model's own shapes, which is measured between the steps, because it moves.
`growth`: a step of 64 rows of W1 with and without 2,000 tokens that all of them begin with.
`vocabulary`: memory of the loss over 150,000 words, in chunks and as one table of logits.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

VOCABULARY, WIDTH, TARGETS = 151_936, 896, 2_048  # a small Qwen's head, and a batch of long answers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("work", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--loss", choices=["chunked", "plain"])
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(asked.threads)
    if asked.loss:
        print(json.dumps(_loss_memory(asked.loss)))
        return
    stepper = Stepper(asked.model)
    rows = {
        name: stepper.rows(asked.work / f"{name}.messages.jsonl", count) for name, count in (("W2", 32), ("W1", 64))
    }
    found: dict[str, Any] = {"share": _share(stepper, rows["W2"]), "growth": _growth(stepper, rows["W1"])}
    found["vocabulary"] = {
        kind: json.loads(
            subprocess.run(
                [sys.executable, __file__, asked.model, asked.work, "--loss", kind], capture_output=True, check=True
            ).stdout
        )
        for kind in ("chunked", "plain")
    }
    print(json.dumps(found))


class Stepper:
    """The training step of a run, without the run."""

    def __init__(self, name: str) -> None:
        from tunesmith.config.schema import LoraSection
        from tunesmith.model.adapter import add_adapter
        from tunesmith.model.attention import use_forest_attention
        from tunesmith.model.kernels import use_fast_kernels
        from tunesmith.model.load import load_model
        from tunesmith.train.loss import Trainee

        self.name = name
        self.model = add_adapter(load_model(name), LoraSection(r=8, lora_alpha=32), seed=1).train()
        use_forest_attention(self.model.get_base_model())
        use_fast_kernels(self.model)
        self.trainee = Trainee(self.model)

    def rows(self, data: Path, count: int) -> list[Any]:
        from tunesmith.actions.prepare import prepare
        from tunesmith.actions.voice import Voice
        from tunesmith.config.load import load
        from tunesmith.train.plan import Row

        settings = [f"data.train={data}", f"model.name_or_path={self.name}", "data.max_length=1280"]
        prepared = prepare(load(None, [*settings, "data.drop_duplicates=false"]).config, Voice())
        return [Row(tuple(e.answers)) for _i, e in zip(range(count), prepared.train.encoded, strict=False)]

    def step(self, rows: list[Any]) -> dict[str, float]:
        """Seconds, computed tokens, targets and query-key pairs of one step."""
        import torch

        from tunesmith.model.trunk import Trunk
        from tunesmith.tokens.forest import grow, one_path
        from tunesmith.train.batch import Batch
        from tunesmith.train.plan import AT_ONCE, cut

        began, device = time.process_time(), torch.device("cpu")
        shared, batches = cut(rows, len(rows), AT_ONCE)
        trunk = Trunk(shared) if shared else None
        forests = [one_path(shared)] if trunk else []
        if trunk:
            self.trainee(Batch.of_trunk(trunk, device))
        for batch in batches:
            forests.append(grow([a for row in batch for a in row.answers]))
            self.trainee(Batch.of_forest(forests[-1], device, trunk=trunk))[0].backward()
        if trunk:
            trunk.backward()
        self.model.zero_grad()
        seconds = time.process_time() - began
        again = len(shared) * len(batches) if trunk else 0
        pairs = sum(int((f.position_ids + 1).sum()) for f in forests) - again * (len(shared) + 1) // 2
        tokens = sum(map(len, forests)) - again
        return {"seconds": seconds, "tokens": tokens, "targets": sum(len(f.target) for f in forests), "pairs": pairs}


def _operations(model: Any, done: dict[str, float]) -> float:
    """Of a step: products of the frozen layers forward and to their input, the adapter's three, head, attention."""
    config = model.config
    inside = config.num_hidden_layers * config.hidden_size
    frozen = sum(p.numel() for n, p in model.named_parameters() if "base_layer" in n)
    adapter = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    attention = done["pairs"] * inside * 2 * 6  # two products forward, four back
    head = done["targets"] * config.vocab_size * config.hidden_size
    return done["tokens"] * (4 * frozen + 6 * adapter) + 4 * head + attention


def _rate(model: Any, tokens: int) -> float:
    """bfloat16 operations a second of products of the model's own shapes, forward and back, as a step mixes them."""
    import torch

    shapes = {p.shape for n, p in model.named_parameters() if "base_layer" in n}
    seconds = operations = 0.0
    for out, inner in shapes:
        x, weight = torch.randn(tokens, inner).bfloat16(), torch.randn(out, inner).bfloat16()
        grad = torch.randn(tokens, out).bfloat16()
        for left, right in ((x, weight.T), (grad, weight)):
            times = []
            for _ in range(5):
                began = time.process_time()
                left @ right
                times.append(time.process_time() - began)
            seconds += statistics.median(times)
            operations += 2 * tokens * out * inner
    return operations / seconds


def _share(stepper: Stepper, rows: list[Any]) -> dict[str, float]:
    stepper.step(rows)  # the first one touches memory for the first time
    rates, steps = [], []
    for _ in range(4):
        rates.append(_rate(stepper.model, 1024))
        steps.append(stepper.step(rows))
    rates.append(_rate(stepper.model, 1024))
    seconds, rate = statistics.median(s["seconds"] for s in steps), statistics.median(rates)
    operations = _operations(stepper.model, steps[0])
    return {
        "gigaflops": rate / 1e9, "step_gigaflops": operations / seconds / 1e9, "share": operations / seconds / rate,
    }  # fmt: skip


def _growth(stepper: Stepper, rows: list[Any]) -> dict[str, float]:
    source = random.Random(0)
    system = [source.randrange(20, 40_000) for _ in range(2_000)]
    longer = [
        replace(row, answers=tuple(replace(a, context_ids=[*system, *a.context_ids]) for a in row.answers))
        for row in rows
    ]
    short, long = ([stepper.step(given) for _ in range(2)][-1] for given in (rows, longer))
    return {
        "time": long["seconds"] / short["seconds"],
        "tokens": long["tokens"] / short["tokens"],
        "linear": sum(len(a) for r in longer for a in r.answers) / sum(len(a) for r in rows for a in r.answers),
    }


def _loss_memory(kind: str) -> dict[str, int]:
    import torch
    from torch.nn.functional import cross_entropy

    from tunesmith.train.loss import chunked_cross_entropy

    hidden = torch.randn(TARGETS, WIDTH).bfloat16().requires_grad_()
    head = torch.empty(VOCABULARY, WIDTH, dtype=torch.bfloat16).normal_()
    target, weight = torch.randint(0, VOCABULARY, (TARGETS,)), torch.ones(TARGETS)
    hidden[:1] @ head[:1].T  # loads what products need
    before = _peak()
    if kind == "chunked":
        chunked_cross_entropy(hidden, head, target, weight)[0].backward()
    else:
        cross_entropy((hidden @ head.T).float(), target, reduction="sum").backward()
    return {"peak_mb": _peak() - before, "targets": TARGETS, "vocabulary": VOCABULARY}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
