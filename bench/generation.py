"""Answers to prompts that share a system prompt: tunesmith's batches beside `model.generate` in batches of that size.

    python generation.py [--rows 300] [--new 64] [--batch-size 8] [--alone 300] [--dtype bfloat16] [--core N]

Both give the likeliest tokens. Rates are in processor seconds, so that a shared machine distorts them less. Writes
GENERATION.md. The questions lie in the folder `shared` beside this checkout and are not part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from tunesmith.config.schema import GenerationSection, TemplateSection
from tunesmith.conversation import Conversation, Message
from tunesmith.generate import library
from tunesmith.generate.engine import as_done
from tunesmith.model.load import load_model
from tunesmith.model.packaged import base_model
from tunesmith.tokens.encode import Encoder

BENCH = Path(__file__).resolve().parent
QUESTIONS = BENCH.parents[1] / "shared" / "assets" / "data" / "demos" / "alpaca_en_demo.json"
SYSTEM = (
    "You answer questions for the visitors of a public library. Say what is asked in plain words and in as few of them"
    " as it takes; give the fact first and the reason after it. Where a question has several parts, answer them in"
    " their order. Where you do not know, say so and name the place where the visitor can look it up. Never make up a"
    " title, a name or a number, and never ask a question back."
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--alone", type=int, default=300, help="rows that are also answered one by one")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--core", type=int)
    asked = parser.parse_args()
    if asked.core is not None:
        os.sched_setaffinity(0, {asked.core})
        torch.set_num_threads(1)
    folder = base_model()
    model: Any = load_model(str(folder), dtype=asked.dtype)
    encoder = Encoder.load(folder, TemplateSection())
    rows = conversations(asked.rows)
    contexts = [encoder.context(row) for row in rows]
    section = GenerationSection(max_new_tokens=asked.new, batch_size=asked.batch_size)

    ours, spent = timed(lambda: {i: answer.ids for i, answer in as_done(model, encoder, rows, section)})
    model.generation_config = library.as_library_settings(section, encoder.stop_ids, encoder.pad_id)
    theirs, spent_there = timed(lambda: by_library(model, contexts, section, encoder))
    chosen = range(0, asked.rows, max(1, asked.rows // asked.alone))
    alone = {i: next(as_done(model, encoder, [rows[i]], section))[1].ids for i in chosen}
    other = [i for i in alone if alone[i] != ours[i]]

    n, n_there = (sum(map(len, found.values())) for found in (ours, theirs))
    rate, rate_there = n / spent, n_there / spent_there
    equal = sum(ours[i] == theirs[i] for i in ours)
    lines = [
        "# Generation",
        "",
        f"{folder.name}, {asked.dtype}, torch {torch.__version__}, transformers {transformers.__version__},"
        f" {torch.get_num_threads()} thread. {asked.rows} prompts of {sum(map(len, contexts)) / asked.rows:.0f} tokens"
        f" on average under one system prompt, answers of up to {asked.new} tokens, {asked.batch_size} rows at once."
        " Rates in processor seconds.",
        "",
        "| | new tokens | seconds | tokens a second |",
        "|---|---|---|---|",
        f"| tunesmith | {n} | {spent:.1f} | {rate:.1f} |",
        f"| model.generate, the same batch size | {n_there} | {spent_there:.1f} | {rate_there:.1f} |",
        f"| ratio | | | {rate / rate_there:.2f} |",
        "",
        f"Batch = single: {len(alone) - len(other)} of {len(alone)} rows have the same tokens;"
        f" other: {', '.join(map(str, other)) or 'none'}.",
        f"Equal to model.generate: {equal} of {len(ours)} rows; its padding stands left, which rounds otherwise.",
    ]
    (BENCH / "GENERATION.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def conversations(count: int) -> list[Conversation]:
    rows = json.loads(QUESTIONS.read_text(encoding="utf-8"))[:count]
    questions = ["\n".join(filter(None, (row["instruction"], row["input"]))) for row in rows]
    return [Conversation((Message("system", SYSTEM), Message("user", question))) for question in questions]


def by_library(
    model: Any, contexts: list[list[int]], section: GenerationSection, encoder: Encoder
) -> dict[int, list[int]]:
    """`model.generate` in batches of rows of like length."""
    found = library.answers(model, contexts, [0] * len(contexts), section, encoder.stop_ids, encoder.pad_id)
    return {written.number: written.ids for written in found}


def timed(work: Callable[[], dict[int, list[int]]]) -> tuple[dict[int, list[int]], float]:
    began = time.process_time()
    found = work()
    return found, time.process_time() - began


if __name__ == "__main__":
    main()
