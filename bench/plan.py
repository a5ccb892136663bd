"""What the plan says before a run, beside what the run then took; writes PLAN.md and PLAN.json.

    python plan.py [--only W1,gemma,lora] [--core N] [--model NAME=PATH ...] [--steps 6]

Every case is a run of a few steps in a process of its own: W1-W3, an adapter or all weights, with and without gradient
checkpointing. Time is compared with the process's CPU seconds on one thread, which other programs disturb least.
--only keeps the cases that have all these words; figures of the other cases stay as they were.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

from run import BENCH, STEP, WORK

from tunesmith.model.packaged import base_model

FOUND = BENCH / "PLAN.json"
DATA = {"W1": [], "W2": [], "W3": [f"template.path={BENCH / 'thinking.jinja'}"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--core", type=int, help="pin everything to this core")
    parser.add_argument("--model", action="append", default=[], help="another model, as NAME=PATH")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--data", type=Path, default=WORK, help="where the workloads lie")
    asked = parser.parse_args()
    if asked.core is not None:
        os.sched_setaffinity(0, {asked.core})
    models = {"smollm2": str(base_model())} | dict(pair.split("=", 1) for pair in asked.model)
    words = [word for word in asked.only.split(",") if word]
    found: dict[str, Any] = json.loads(FOUND.read_text("utf-8")) if FOUND.exists() else {}
    for model, data, method, kept in product(models, DATA, ("lora", "full"), ("kept", "checkpointing")):
        case = f"{model} {data} {method} {kept}"
        if set(words) <= set(case.split()):
            found[case] = _case(models[model], model != "smollm2", data, method, kept, asked)
            print(case, found[case], flush=True)
            _write(found)


def _case(model: str, bare: bool, data: str, method: str, kept: str, asked: Any) -> dict[str, Any]:
    """Planned and seen of one run. A `bare` model has no chat template of its own."""
    run = WORK / "plan"
    settings = [
        f"method={method}", "lora.r=8", "data.max_length=1280", "data.drop_duplicates=false",
        f"training.max_steps={asked.steps}", f"training.per_device_train_batch_size={STEP[data]}",
        f"training.gradient_checkpointing={str(kept == 'checkpointing').lower()}", *DATA[data],
    ]  # fmt: skip
    settings += ["template.path=chatml"] if bare and not DATA[data] else []
    program = [sys.executable, BENCH / "measured.py", "train", asked.data / f"{data}.messages.jsonl"]
    command = [str(word) for word in (*program, "--model", model, "-o", run, "--overwrite", *settings)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:200]}
    seen, record = json.loads(done.stdout.strip().splitlines()[-1]), json.loads((run / "run.json").read_text("utf-8"))
    return {
        "memory": [round(record["plan"]["memory"]["total"] / 2**20), seen["peak_mb"]],
        "seconds": [round(record["plan"]["seconds"]), round(seen["cpu_seconds"])],
        "trial": round(record["trial"]["peak"] / 2**20),
    }


def _write(found: dict[str, Any]) -> None:
    FOUND.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# The plan, and what came of it",
        "",
        "Made by `bench/plan.py`: memory in MB, seconds of one thread's work (the program's start included).",
        "",
        "| case | memory planned | seen | | seconds planned | seen | |",
        "|---|" + "---|" * 6,
    ]
    for case, figures in found.items():
        if "error" in figures:
            lines.append(f"| {case} | failed: {figures['error']} |")
            continue
        cells = [f"{a} | {b} | {100 * (a / b - 1):+.0f} %" for a, b in (figures["memory"], figures["seconds"])]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    (BENCH / "PLAN.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
