"""The slow proofs, on the real small model: `make test-long`. What they measured is written to docs/proofs.md."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

import recompute
import test_encode
from tunesmith import rundir
from tunesmith.cli.terminal import Terminal
from tunesmith.demo import task
from tunesmith.demo.run import demo
from tunesmith.model.packaged import base_model

pytestmark = pytest.mark.long
PROOFS = Path(__file__).parents[1] / "docs" / "proofs.md"
HEAD = "# Slow proofs\n\nWritten by `make test-long`: SmolLM2-135M-Instruct, {cores} CPU cores.\n\n"


@pytest.fixture(scope="module")
def proofs() -> Iterator[list[tuple[str, str]]]:
    """What a test found out; a proof that did not run this time keeps its row and its date."""
    found: list[tuple[str, str]] = []
    yield found
    lines = PROOFS.read_text(encoding="utf-8").splitlines() if PROOFS.exists() else []
    rows = {line.split(" | ")[0]: line for line in lines if line.startswith("| ")}
    rows |= {f"| {what}": f"| {what} | {measured} | {date.today()} |" for what, measured in found}
    rows.pop("| proof", None)
    table = "\n".join(["| proof | measured | on |", "|---|---|---|", *rows.values()])
    PROOFS.write_text(HEAD.format(cores=os.cpu_count()) + table + "\n", encoding="utf-8")


def test_the_demo_gains_fifty_points(tmp_path, proofs):
    summary = demo(tmp_path / "demo", Terminal())
    base, tuned = summary.outcome.base, summary.outcome.tuned
    proof = json.loads((tmp_path / "demo/run/merged/merge.json").read_text(encoding="utf-8"))
    proofs += [
        ("demo: accuracy before and after", f"{base.accuracy:.1%}, {tuned.accuracy:.1%} of {tuned.totals['n']} rows"),
        ("demo: time after installation", f"{summary.seconds / 60:.1f} minutes"),
        ("merged = base + adapter in float64, largest difference of logits", f"{proof['merged'][0]:.1e}"),
    ]
    assert tuned.accuracy - base.accuracy >= 0.5
    evaluation = tmp_path / "demo/run/evaluation"
    results = [recompute.read(file) for file in sorted(evaluation.glob("*/evaluation_results.json"))]
    for found in results:
        recompute.check_results(found, "judgement")
    (compared,) = recompute.read(next(evaluation.glob("*/comparison/comparison.json")))["comparisons"]
    recompute.check_comparison(*results, compared)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tunesmith", *words]


def weights(run: Path) -> str:
    file = rundir.latest(run).path / "adapter_model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, proofs):
    """20 steps straight, against 20 steps killed (SIGKILL) behind the 10th and resumed; dropout, two rows a batch."""
    task.write(tmp_path / "data")
    settings = [
        str(tmp_path / "data"),
        *("--model", str(base_model())),
        f"data.prompt_template={json.dumps(task.PROMPT_TEMPLATE)}",
        f"data.answer_template={json.dumps(task.ANSWER_TEMPLATE)}",
        "data.test_ratio=0.2",
        "data.stratify_by=subtype",
        "lora.lora_dropout=0.1",
        "training.max_steps=20",
        "training.save_steps=5",
        "training.eval_steps=1000",
        "training.per_device_train_batch_size=2",
        "training.gradient_accumulation_steps=2",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    subprocess.run(command("train", *settings, "-o", str(straight)), check=True, env=environment)
    process = subprocess.Popen(command("train", *settings, "-o", str(killed)), env=environment)
    while not (killed / "checkpoint-10").exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = rundir.latest(killed).step
    assert reached < 20
    subprocess.run(command("train", *settings, "-o", str(killed), "--resume"), check=True, env=environment)
    same = weights(straight) == weights(killed)
    proofs.append(("20 steps = 20 steps killed and resumed", f"{'same bits' if same else 'DIFFERENT'}, from {reached}"))
    assert same


@test_encode.needs_assets
@pytest.mark.parametrize("family", test_encode.FAMILIES)
def test_a_thousand_conversations_a_family(family, proofs):
    rng = random.Random(2026)
    for _ in range(1000):
        test_encode.check_structure(family, test_encode.random_conversation(rng, family))
    proofs.append(
        (f"random conversations with control tokens in the text, {family}", "1000 of 1000 keep their structure")
    )
