"""Answers to prompts that share a system prompt: tunesmith's batches beside `model.generate` in batches of that size.

    python generation.py [--rows 300] [--new 64] [--batch-size 8] [--alone 300] [--dtype bfloat16] [--core N]

Once under a system prompt of a few sentences and once under one of a page, as an evaluation has it. Both sides give the
likeliest tokens, by turns, since a machine is not equally fast all the time. Rates are in processor seconds, so that a
shared machine distorts them less. Writes GENERATION.md. The questions lie in the folder `shared` beside this checkout
and are not part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass, field
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
TURNS = 3
SHORT = (
    "You answer questions for the visitors of a public library. Say what is asked in plain words and in as few of them"
    " as it takes; give the fact first and the reason after it. Where a question has several parts, answer them in"
    " their order. Where you do not know, say so and name the place where the visitor can look it up. Never make up a"
    " title, a name or a number, and never ask a question back."
)
RULES = (
    ("opening hours", "name the day and the hours", "the board at the door"),
    ("a lost card", "say that the desk makes a new one", "the desk on the ground floor"),
    ("a book that is lent", "say when it is due back", "the catalogue by the stairs"),
    ("fees", "name the sum and what it is for", "the leaflet on fees"),
    ("the reading room", "say that it is open to everybody", "the plan of the house"),
    ("children's books", "name the shelf by age", "the second floor"),
    ("printing", "say that a page costs as much as a copy", "the machine beside the lift"),
    ("a complaint", "thank the visitor and say who reads it", "the box at the exit"),
)
LONG = SHORT + "".join(f" A question about {what}: {how}, and point to {where}." for what, how, where in RULES * 2)


@dataclass
class Found:
    """Answers of one side by their rows, and the processor seconds that they took."""

    ids: dict[int, list[int]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return sum(map(len, self.ids.values()))

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


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
    section = GenerationSection(max_new_tokens=asked.new, batch_size=asked.batch_size)
    lines = [
        "# Generation",
        "",
        f"{folder.name}, {asked.dtype}, torch {torch.__version__}, transformers {transformers.__version__},"
        f" {torch.get_num_threads()} thread. {asked.rows} prompts under one system prompt, answers of up to {asked.new}"
        f" tokens, {asked.batch_size} rows at once. Rates in processor seconds; `model.generate` has batches of the"
        " same size, sorted by length as ours.",
        "",
        "| system prompt, tokens | prompt, tokens on average | tunesmith, tokens/s | model.generate | ratio"
        " | equal to model.generate | batch = single |",
        "|---|" + "---|" * 6,
    ]
    for system in (SHORT, LONG):
        lines.append(case(model, encoder, section, system, asked))
        print(lines[-1], flush=True)
    lines += ["", "`model.generate` pads on the left, which rounds otherwise: its rows part from ours in bfloat16."]
    (BENCH / "GENERATION.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def case(model: Any, encoder: Encoder, section: GenerationSection, system: str, asked: Any) -> str:
    rows = conversations(asked.rows, system)
    contexts = [encoder.context(row) for row in rows]
    ours, theirs, part = Found(), Found(), -(-asked.rows // TURNS)
    for start in range(0, asked.rows, part):
        here = slice(start, start + part)
        began = time.process_time()
        ours.ids |= {start + i: answer.ids for i, answer in as_done(model, encoder, rows[here], section)}
        between = time.process_time()
        found = library.answers(
            model, contexts[here], [0] * len(contexts[here]), section, encoder.stop_ids, encoder.pad_id
        )
        theirs.ids |= {start + written.number: written.ids for written in found}
        ours.seconds, theirs.seconds = ours.seconds + between - began, theirs.seconds + time.process_time() - between
    chosen = range(0, asked.rows, max(1, asked.rows // asked.alone))
    other = [i for i in chosen if next(as_done(model, encoder, [rows[i]], section))[1].ids != ours.ids[i]]
    equal = sum(ours.ids[i] == theirs.ids[i] for i in ours.ids)
    differing = f" (not {', '.join(map(str, other))})" if other else ""
    length = sum(map(len, contexts)) / asked.rows
    return (
        f"| {len(encoder.tokenizer.text_ids(system))} | {length:.0f} | {ours.rate:.1f} | {theirs.rate:.1f}"
        f" | {ours.rate / theirs.rate:.2f} | {equal} of {asked.rows}"
        f" | {len(chosen) - len(other)} of {len(chosen)}{differing} |"
    )


def conversations(count: int, system: str) -> list[Conversation]:
    rows = json.loads(QUESTIONS.read_text(encoding="utf-8"))[:count]
    questions = ["\n".join(filter(None, (row["instruction"], row["input"]))) for row in rows]
    return [Conversation((Message("system", system), Message("user", question))) for question in questions]


if __name__ == "__main__":
    main()
