"""Data on their way to the first step: rows a second and the highest memory, beside bare `tokenizers` on the same text.

    python data.py [--rows 100000 1000000] [--sentences 6] [--num-proc 1 2] [--folder DIR]

The rows are made here, about 1 KB each with answers of 6 sentences: a system prompt, a question and an answer of words
out of the tokenizer's own vocabulary, the frequent ones often. Cold: the rows are read, recognised, encoded and kept;
warm: the next start finds them. Memory is that of all processes together, looked at ten times a second. Rates are in
processor seconds, so that a shared machine distorts them less. Writes DATA.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tokenizers import Tokenizer

from tunesmith.model.packaged import base_model

BENCH = Path(__file__).resolve().parent
SYSTEM = "You answer the questions of a workshop's visitors in plain words."
SENTENCES, WORDS = 50_000, 14
SAMPLE = 40_000  # rows that the bare tokenizer is given
TEMPLATE = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"  #


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--sentences", type=int, nargs="+", default=[6], help="of an answer; a question has a third")
    parser.add_argument("--num-proc", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path, help="where rows and cache lie, instead of a folder that goes again")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="tunesmith-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    try:
        for length, count in product(asked.sentences, asked.rows):
            for each in cases(count, length, asked.num_proc, folder):
                found.append(each)
                print(json.dumps(each), flush=True)
                write(found)
    finally:
        if asked.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def cases(count: int, length: int, processes: Sequence[int], folder: Path) -> Iterator[dict[str, Any]]:
    model, data = base_model(), folder / f"{count}x{length}.jsonl"
    if not data.exists():
        make(data, count, length, model)
    for n in processes:
        told = {"rows": count, "size": data.stat().st_size, "num_proc": n, "bare": bare_rate(model, data, n)}
        shutil.rmtree(folder / "cache", ignore_errors=True)
        for start in ("cold", "warm"):
            took = measured(command("check", data, model, folder, n), folder)
            yield told | {"what": f"check, {start}"} | took
    took = measured(command("train", data, model, folder, n), folder)
    yield told | {"what": "train, one step and its evaluation, warm"} | took


def make(file: Path, count: int, length: int, model: Path) -> None:
    """Rows that all differ."""
    draw = np.random.default_rng(0)
    vocabulary = Tokenizer.from_file(str(model / "tokenizer.json")).get_vocab()
    words = sorted(word[1:] for word in vocabulary if word[0] == "Ġ" and word[1:].isalpha())
    draw.shuffle(words)
    chance = 1.0 / np.arange(1, len(words) + 1)
    chosen = draw.choice(len(words), size=(SENTENCES, WORDS), p=chance / chance.sum())
    sentences = [" ".join(words[i] for i in some).capitalize() + "." for some in chosen]
    asked = -(-length // 3)
    with file.open("w", encoding="utf-8") as out:
        for number in range(count):
            some = [sentences[i] for i in draw.integers(SENTENCES, size=asked + length)]
            question, answer = f"{number}: " + " ".join(some[:asked]), " ".join(some[asked:])
            said = zip(("system", "user", "assistant"), (SYSTEM, question, answer), strict=True)
            out.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in said]}) + "\n")


def bare_rate(model: Path, data: Path, threads: int) -> float:
    """Rows a processor second of the tokenizer alone, on rows that are read and rendered already."""
    texts = [TEMPLATE.format(*(m["content"] for m in json.loads(line)["messages"])) for line in _head(data)]
    program = (
        "import json, sys, time; from tokenizers import Tokenizer; texts = json.load(sys.stdin);"
        " tokenizer = Tokenizer.from_file(sys.argv[1]); began = time.process_time();"
        " [tokenizer.encode_batch_fast(texts[i : i + 1000]) for i in range(0, len(texts), 1000)];"
        " print(time.process_time() - began)"
    )
    command = [sys.executable, "-c", program, str(model / "tokenizer.json")]
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True, env=environment)
    return len(texts) / float(done.stdout)


def _head(data: Path) -> Iterator[str]:
    with data.open(encoding="utf-8") as lines:
        for _row, line in zip(range(SAMPLE), lines, strict=False):
            yield line


def command(name: str, data: Path, model: Path, folder: Path, num_proc: int) -> list[str]:
    settings = [f"data.num_proc={num_proc}", f"data.cache={folder / 'cache'}", "data.test_ratio=0.001"]
    settings += [
        "training.max_steps=1",
        "training.per_device_train_batch_size=1",
        f"training.output_dir={folder / 'run'}",
    ]
    more = ["--overwrite"] if name == "train" else []
    return [sys.executable, "-m", "tunesmith", name, str(data), "--model", str(model), *settings, *more]


def measured(program: Sequence[str], folder: Path) -> dict[str, Any]:
    """Seconds and the highest memory (MB) of a program with all its processes, and the size of what it keeps."""
    began, used, peak = time.perf_counter(), spent(), 0
    with (folder / "said.txt").open("w", encoding="utf-8") as said:
        running = subprocess.Popen(program, stdout=said, stderr=said)
        while running.poll() is None:
            peak = max(peak, resident(running.pid))
            time.sleep(0.1)
    if running.returncode:
        raise SystemExit((folder / "said.txt").read_text("utf-8"))
    kept = sum(file.stat().st_size for file in (folder / "cache").rglob("*") if file.is_file())
    took = {"seconds": time.perf_counter() - began, "cpu": spent() - used}
    return took | {"memory": peak / 2**20, "disk": kept / 2**20}


def spent() -> float:
    """Processor seconds of all programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def resident(pid: int) -> int:
    """Bytes in memory of a process and all that it started."""
    total = 0
    try:
        first = psutil.Process(pid)
        for process in [first, *first.children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def write(found: list[dict[str, Any]]) -> None:
    cores = len(psutil.Process().cpu_affinity())
    lines = [
        "# Data on their way to the first step",
        "",
        f"Made by `bench/data.py` on {cores} of the machine's cores. Everything counts the whole command, the program's"
        " start included. Rates are rows of a processor's second, so that a machine that others use too distorts them"
        " less; beside them bare `tokenizers` batch encoding of the same text in as many threads, and the share of its"
        " rate. Memory: all processes together.",
        "",
        "| rows | KB each | processes | | seconds | of processors | rate | bare tokenizers | share | memory, MB"
        " | cache, MB |",
        "|---|" + "---|" * 10,
    ]
    for each in found:
        rate = each["rows"] / each["cpu"]
        share = f"{rate / each['bare']:.0%}" if each["what"].endswith("cold") else ""
        lines.append(
            f"| {each['rows']:,} | {each['size'] / each['rows'] / 1000:.1f} | {each['num_proc']} | {each['what']}"
            f" | {each['seconds']:.0f} | {each['cpu']:.1f} | {rate:,.0f} | {each['bare']:,.0f} | {share}"
            f" | {each['memory']:.0f} | {each['disk']:.0f} |"
        )
    (BENCH / "DATA.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
