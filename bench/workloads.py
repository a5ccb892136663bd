"""Writes the workloads: the same training work for every tool.

    python workloads.py MODEL OUT

W.messages.jsonl is what a user hands to tunesmith, W.samples.jsonl one row per trained answer, rendered by the chat
template as inference would see it: what the others are fed. W.eval.* are rows that are never trained.
W1: one short system prompt shared by all rows; W2: single turns of varied length; W3: dialogues with reasoning that the
template drops from the history. The data lie in the folder `shared` beside this checkout and are not part of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
DATA = BENCH.parents[1] / "shared" / "assets" / "data"
THINKING = BENCH / "thinking.jinja"
Messages = list[dict[str, Any]]


def persona() -> Iterator[Messages]:
    for row in json.loads((DATA / "huanhuan/huanhuan.json").read_text("utf-8"))[: 256 + 64]:
        yield [
            {"role": "system", "content": "现在你要扮演皇帝身边的女人--甄嬛"},
            {"role": "user", "content": row["instruction"] + row["input"]},
            {"role": "assistant", "content": row["output"]},
        ]


def single_turn() -> Iterator[Messages]:
    for row in json.loads((DATA / "demos/alpaca_en_demo.json").read_text("utf-8"))[: 96 + 32]:
        question = "\n".join(filter(None, (row["instruction"], row["input"])))
        yield [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]


def dialogue() -> Iterator[Messages]:
    for row in json.loads((DATA / "crosswoz/crosswoz.seed0.json").read_text("utf-8")):
        turns = row["conversation_pair"]
        alternate = [t["role"] for t in turns] == ["user", "assistant"] * (len(turns) // 2)
        reasoned = all(t.get("thinking") for t in turns if t["role"] == "assistant")
        if 8 <= len(turns) <= 24 and alternate and reasoned:
            yield [
                {"role": "system", "content": row["system_prompt"]},
                *(
                    {"role": t["role"], "content": t["content"]}
                    | ({"reasoning_content": t["thinking"]} if t["role"] == "assistant" else {})
                    for t in turns
                ),
            ]


def main() -> None:
    model, out = sys.argv[1], Path(sys.argv[2])
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    out.mkdir(parents=True, exist_ok=True)
    for name, rows, trained, held, template in (
        ("W1", persona(), 256, 64, None),
        ("W2", single_turn(), 96, 32, None),
        ("W3", dialogue(), 12, 3, THINKING.read_text("utf-8")),
    ):
        taken = [next(rows) for _ in range(trained + held)]
        _write(out, name, taken[:trained], tokenizer, template)
        _write(out, f"{name}.eval", taken[trained:], tokenizer, template)


def _write(out: Path, name: str, conversations: list[Messages], tokenizer: Any, template: str | None) -> None:
    given = {"tokenize": False} | ({"chat_template": template} if template else {})
    samples = []
    for messages in conversations:
        for turn in (i for i, message in enumerate(messages) if message["role"] == "assistant"):
            prompt = tokenizer.apply_chat_template(messages[:turn], add_generation_prompt=True, **given)
            whole = tokenizer.apply_chat_template(messages[: turn + 1], **given)
            samples.append({"prompt": prompt, "answer": whole.removeprefix(prompt).rstrip("\n")})
    for kind, rows in (("messages", [{"messages": m} for m in conversations]), ("samples", samples)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{name}.{kind}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
