"""tunesmith and its peers on the same work, one after the other, in one run; writes RESULTS.md and RESULTS.json.

    python run.py [--threads T] [--workloads W1,W2,W3] [--peers trl,seed,seed-tuned] [--core N]

Each tool trains the same conversations (peers on a prefix of the rows, and tunesmith on that prefix again), each
adapter is judged by judge.py. A tool that fails stands in the table with its reason. Peers live in bench/.venv.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunesmith.model.packaged import base_model

BENCH = Path(__file__).resolve().parent
WORK = BENCH / "work"
PEER_PYTHON = BENCH / ".venv" / "bin" / "python"
PEER_PACKAGES = ["transformers==5.23.0", "trl==1.16.0", "peft==0.21.2", "accelerate==1.15.0", "datasets"]
STEP = {"W1": 16, "W2": 16, "W3": 1}  # conversations of a step
# conversations that everybody trains in the comparison, and the samples that they are
PREFIX = {"W1": 96, "W2": 32, "W3": 4}
SHORT = {"W1": 32, "W2": 16, "W3": 1}  # for the script as it is written, which is slow


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--core", type=int, help="pin everything to this core")
    parser.add_argument("--workloads", default="W1,W2,W3")
    parser.add_argument("--peers", default="trl,seed,seed-tuned")
    asked = parser.parse_args()
    if asked.core is not None:
        os.sched_setaffinity(0, {asked.core})
    model = str(base_model())
    _environment()
    subprocess.run([sys.executable, BENCH / "workloads.py", model, WORK], check=True)
    results: dict[str, Any] = {"machine": _machine(asked.threads), "workloads": {}}
    results["limit"] = _json([sys.executable, BENCH / "limit.py", model, WORK, "--threads", asked.threads])
    for name in asked.workloads.split(","):
        results["workloads"][name] = _workload(name, asked.peers.split(","), model, asked.threads)
        _write(results)


def _environment() -> None:
    if not PEER_PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", BENCH / ".venv"], check=True)
        for packages in (["torch==2.13.0"], PEER_PACKAGES):
            subprocess.run([PEER_PYTHON, "-m", "pip", "install", "--quiet", *packages], check=True)


def _workload(name: str, peers: list[str], model: str, threads: int) -> dict[str, Any]:
    """Every tool's figures; `tunesmith@PEER` is tunesmith on the very rows that the peer trained."""
    found: dict[str, Any] = {"tunesmith": _tunesmith(name, None, model, threads)}
    for peer in peers:
        conversations = (SHORT if peer == "seed" else PREFIX)[name]
        found[peer] = _peer(peer, name, conversations, model, threads)
        same = f"tunesmith@{conversations}"
        if same not in found:
            found[same] = _tunesmith(name, conversations, model, threads)
        found[peer]["rows_as"] = same
    adapters = {tool: figures.pop("adapter", None) for tool, figures in found.items()}
    there = [str(path) for path in adapters.values() if path]
    losses = _json([PEER_PYTHON, BENCH / "judge.py", model, WORK / f"{name}.eval.samples.jsonl", *there])
    for tool, figures in found.items():
        figures["eval_loss"] = losses.get(str(adapters[tool]))
    return found


def _prefix(name: str, conversations: int | None) -> tuple[Path, int]:
    """The file with the first conversations, and how many answers they have."""
    lines = (WORK / f"{name}.messages.jsonl").read_text(encoding="utf-8").splitlines()[:conversations]
    path = WORK / f"{name}.{len(lines)}.messages.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path, sum(m["role"] == "assistant" for line in lines for m in json.loads(line)["messages"])


def _tunesmith(name: str, conversations: int | None, model: str, threads: int) -> dict[str, Any]:
    data, answers = _prefix(name, conversations)
    run = WORK / f"{name}.{conversations or 'all'}.tunesmith"
    settings = [
        "lora.r=8", "lora.lora_alpha=32", "training.num_train_epochs=1", "training.learning_rate=1e-4",
        "training.lr_scheduler_type=linear", "training.warmup_ratio=0", "data.max_length=1280",
        "data.drop_duplicates=false", f"training.per_device_train_batch_size={STEP[name]}",
    ]  # fmt: skip
    settings += [f"template.path={BENCH / 'thinking.jinja'}"] if name == "W3" else []
    command = [sys.executable, BENCH / "measured.py", "train", data, "--model", model, "-o", run, "--overwrite"]
    figures = _json([*command, *settings], OMP_NUM_THREADS=str(threads))
    if "error" in figures:
        return figures
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    tokens, speed = sum(r["tokens"] for r in records), records[-1]["tokens_per_second"]
    weights = [r["loss"] for r in records]
    return {
        "tokens_per_second": speed, "peak_mb": figures["peak_mb"], "loss": sum(weights) / len(weights),
        "seconds": tokens / speed, "rows": answers, "tokens": tokens, "steps": len(records),
        "adapter": run / f"checkpoint-{len(records)}",
    }  # fmt: skip


def _peer(peer: str, name: str, conversations: int, model: str, threads: int) -> dict[str, Any]:
    answers = _prefix(name, conversations)[1]
    out = WORK / f"{name}.{peer}"
    step = 16 if name != "W3" else 9
    command = [PEER_PYTHON, BENCH / "peers.py", peer, model, WORK / f"{name}.samples.jsonl", out]
    figures = _json([*command, "--rows", answers, "--rows-per-step", step, "--threads", threads])
    return figures if "error" in figures else figures | {"adapter": out}


def _json(command: list[Any], **environment: str) -> dict[str, Any]:
    """The JSON object on a program's last line; {"error": why} where it failed."""
    words = [str(word) for word in command]
    print("$", *words[1:6], "...", flush=True)
    done = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | environment, check=False, preexec_fn=_bound_memory
    )
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]}


def _bound_memory() -> None:
    """A tool that needs more than there is shall fail, not take the machine with it."""
    there = next(x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemAvailable"))
    most = int(there.split()[1]) * 1024 * 9 // 10
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _machine(threads: int) -> dict[str, Any]:
    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), ""
    )
    packages = {name: version(name) for name in ("torch", "transformers", "peft")}
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": threads, "python": platform.python_version()} | packages


def _write(results: dict[str, Any]) -> None:
    (BENCH / "RESULTS.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    machine = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    lines = ["# Results", "", f"Made by `make bench` on: {machine}.", "", *_limits(results["limit"]), ""]
    for name, tools in results["workloads"].items():
        lines += [
            f"## {name}",
            "",
            "| tool | rows | steps | tokens/s | peak MB | loss | held-out loss |",
            "|---|" + "---|" * 6,
        ]
        for tool, figures in tools.items():
            if "error" in figures:
                lines.append(f"| {tool} | failed: {figures['error']} |")
                continue
            cells = [figures["rows"], figures["steps"], f"{figures['tokens_per_second']:.0f}", figures["peak_mb"]]
            losses = [f"{figures[key]:.4f}" if figures[key] is not None else "-" for key in ("loss", "eval_loss")]
            lines.append(f"| {tool} | " + " | ".join(map(str, [*cells, *losses])) + " |")
        lines += ["", *_ratios(tools), ""]
    (BENCH / "RESULTS.md").write_text("\n".join(lines), encoding="utf-8")


def _limits(found: dict[str, Any]) -> list[str]:
    if "error" in found:
        return [f"The machine's limit was not measured: {found['error']}"]
    share, growth, words = found["share"], found["growth"], found["vocabulary"]
    return [
        f"- W2: a step computes {share['step_gigaflops']:.0f} billion operations a second, {share['share']:.0%} of the"
        f" {share['gigaflops']:.0f} that bfloat16 products of the model's shapes reach between the steps",
        f"- 64 rows of W1 behind 2,000 tokens that all begin with: {growth['time']:.1f} x the time,"
        f" {growth['tokens']:.2f} x the computed tokens of the same rows without; row by row it would be"
        f" {growth['linear']:.1f} x",
        f"- loss over {words['plain']['vocabulary']:,} words at {words['plain']['targets']:,} places:"
        f" {words['chunked']['peak_mb']} MB in chunks, {words['plain']['peak_mb']} MB at once",
    ]


def _ratios(tools: dict[str, Any]) -> list[str]:
    said = []
    for peer, figures in tools.items():
        ours = tools.get(figures.get("rows_as", ""))
        if not ours or "error" in figures or "error" in ours:
            continue
        speed, memory = (ours[key] / figures[key] for key in ("tokens_per_second", "peak_mb"))
        loss = 100 * (ours["eval_loss"] / figures["eval_loss"] - 1) if ours["eval_loss"] and figures["eval_loss"] else 0
        said.append(
            f"- against {peer} on the same rows: {speed:.1f} x the tokens/s, {memory:.2f} x the memory,"
            f" held-out loss {loss:+.1f} %"
        )
    return said


if __name__ == "__main__":
    main()
