"""A thousand files with a known mix of defects: every row is accounted for, by its line and what is wrong with it."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tunesmith.config.schema import DataSection
from tunesmith.data.dataset import load

FILES, BATCHES = 1000, 10
USER = {"role": "user", "content": "Is it on?"}
WORDS = ["pump", "valve", "seal", "filter", "motor", "gasket", "阀门", "水泵", "é", "ü", "😀"]

Make = Callable[[random.Random], bytes]


def line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def dialogue(*turns: Any, **columns: Any) -> bytes:
    return line({"messages": [USER, *turns], **columns})


def answer(content: Any = "No.", **keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **keys}


# Twenty-five ways in which a row is wrong: the code that the ledger gives it, and how it is made.
DEFECTS: dict[str, tuple[str, Make]] = {
    "a byte that is no UTF-8": ("encoding", lambda r: dialogue(answer()).replace(b"No.", b"N\xff.")),
    "half a character": ("encoding", lambda r: dialogue(answer()).replace(b"No.", b"\\ud83d.")),
    "cut short": ("not_json", lambda r: dialogue(answer("No, not now."))[: r.randrange(30, 60)]),
    "a quote missing": ("not_json", lambda r: dialogue(answer()).replace(b'"role"', b'"role', 1)),
    "single quotes": ("not_json", lambda r: str({"messages": [USER, answer()]}).encode()),
    "no JSON at all": ("not_json", lambda r: " ".join(r.choices(WORDS, k=5)).encode()),
    "text behind it": ("not_json", lambda r: dialogue(answer()) + b" and more"),
    "a name twice": ("not_json", lambda r: dialogue(answer()).replace(b'"role"', b'"role": "user", "role"', 1)),
    "not a number": ("not_json", lambda r: dialogue(answer(), score=float("nan"))),
    "a zero byte": ("not_json", lambda r: dialogue(answer()).replace(b"No.", b"N\x00.")),
    "too many digits": ("not_json", lambda r: dialogue(answer())[:-1] + b', "n": ' + b"7" * 5000 + b"}"),
    "too deep": ("too_deep", lambda r: b"[" * 50_000),
    "a list": ("not_object", lambda r: line(r.choices(WORDS, k=3))),
    "a text": ("not_object", lambda r: line(r.choice(WORDS))),
    "no messages": ("no_messages", lambda r: line({"messages": [], "site": r.choice(WORDS)})),
    "a role of nobody": ("unknown_role", lambda r: dialogue({"role": "bot", "content": "No."})),
    "content that is a number": ("content_type", lambda r: dialogue(answer(r.random()))),
    "a message that is text": ("content_type", lambda r: dialogue(answer(), "No.")),
    "no answer": ("no_answer", lambda r: dialogue()),
    "an empty answer": ("empty_answer", lambda r: dialogue(answer(r.choice(["", " ", "\n\t"])))),
    "nothing that is trained": ("nothing_trained", lambda r: dialogue(answer(weight=0))),
    "a weight below zero": ("weight", lambda r: dialogue(answer(weight=-1))),
    "a call of nothing": ("tool_call", lambda r: dialogue(answer("", tool_calls=[{"function": {"arguments": {}}}]))),
    "tools that are cut": ("tools", lambda r: dialogue(answer(), tools="[{")),
    "two system prompts": ("two_systems", lambda r: dialogue(answer(), system="One.", system_prompt="Two.")),
}


@dataclass
class Expected:
    """What the ledger has to say of one file."""

    accepted: list[int] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    rejected: list[tuple[int, str]] = field(default_factory=list)


def generated(draw: random.Random, number: int) -> tuple[bytes, Expected]:
    """A file of rows good, repeated, bad and blank in any order, with line ends of either kind."""
    rows: list[bytes] = []
    said: list[bytes] = []
    expected = Expected()
    for _row in range(draw.randrange(4, 24)):
        place = len(rows) + 1
        what = draw.choices(["good", "again", "bad", "blank"], [4, 1, 4, 1])[0]
        if what == "bad":
            code, make = DEFECTS[draw.choice([*DEFECTS])]
            rows.append(make(draw))
            expected.rejected.append((place, code))
        elif what == "blank":
            rows.append(draw.choice([b"", b"   ", b"\t"]))
        elif what == "again" and said:
            rows.append(draw.choice(said))
            expected.duplicates.append(place)
        else:
            text = f"{number}.{place} " + " ".join(draw.choices(WORDS, k=draw.randrange(1, 9)))
            said.append(dialogue(answer(text), site=draw.choice(WORDS)))
            rows.append(said[-1])
            expected.accepted.append(place)
    if not expected.accepted:
        rows.append(dialogue(answer("Yes.")))
        expected.accepted.append(len(rows))
    end = draw.choice([b"\n", b"\r\n"])
    return draw.choice([b"", b"\xef\xbb\xbf"]) + end.join(rows) + draw.choice([b"", end]), expected


def test_there_are_twenty_five_kinds_and_each_alone_is_found(tmp_path: Path) -> None:
    assert len(DEFECTS) == 25
    for name, (code, make) in DEFECTS.items():
        file = tmp_path / "rows.jsonl"
        file.write_bytes(b"\n".join([dialogue(answer("One.")), make(random.Random(0)), dialogue(answer("Two."))]))
        found = load(file, DataSection())
        assert [(r.origin.line, r.code) for r in found.rejected] == [(2, code)], name
        assert [c.origin.line for c in found.conversations if c.origin] == [1, 3], name


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_row_of_a_thousand_files_is_accounted_for(tmp_path: Path, batch: int) -> None:
    seen: Counter[str] = Counter()
    for number in range(batch, FILES, BATCHES):
        content, expected = generated(random.Random(number), number)
        file = tmp_path / f"{number}.jsonl"
        file.write_bytes(content)
        found = load(file, DataSection())
        totals = found.ledger()
        assert totals["rows"] == totals["accepted"] + totals["duplicates"] + totals["rejected"]
        assert [c.origin.line for c in found.conversations if c.origin] == expected.accepted, number
        assert [d.conversation.origin.line for d in found.duplicates if d.conversation.origin] == expected.duplicates
        assert [(r.origin.line, r.code) for r in found.rejected] == expected.rejected, number
        assert {r.origin.file for r in found.rejected} <= {str(file)}
        seen.update(code for _line, code in expected.rejected)
    assert set(seen) == {code for code, _make in DEFECTS.values()}
