"""Random damage to good files: whatever comes of it is an error of ours or a result, never a traceback, never a hang.

A few hundred files each in the fast suite, ten thousand in all in the slow one; the same ones every time.
"""

from __future__ import annotations

import json
import shutil
import struct
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.config.load import load
from tunesmith.config.schema import DataSection, TemplateSection
from tunesmith.conversation import Conversation, Message
from tunesmith.data import dataset
from tunesmith.data.prompts import read_prompts
from tunesmith.errors import TunesmithError
from tunesmith.model.check import check_model
from tunesmith.model.weights import fingerprint, tensors
from tunesmith.tokens.encode import Encoder

WATCHDOG = 5.0  # seconds for one file
ROWS = [
    {"messages": [{"role": "user", "content": "阀门漏水了吗？"}, {"role": "assistant", "content": "没有。"}], "id": 1},
    {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "é?"},
                  {"role": "assistant", "content": "a\n\"b\"\\u0041", "weight": 0.5}], "tags": ["x", None, -1.5e3]},
    {"messages": [{"role": "user", "content": "Call it."}, {"role": "assistant", "tool_calls": [
        {"function": {"name": "f", "arguments": {"a": [1]}}}]}, {"role": "tool", "content": "7"},
        {"role": "assistant", "content": "<think>So.</think>7"}], "tools": "[{\"name\": \"f\"}]"},
]  # fmt: skip
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
DATA = {
    "rows.jsonl": LINES.encode(),
    "rows.json": json.dumps(ROWS, ensure_ascii=False, indent=2).encode(),
    "wrapped.json": json.dumps({"version": 1, "data": ROWS}).encode(),
    "rows.csv": 'question,answer,site\r\n"Is it, now?","No. ""Never"".",a\r\n阀门,好,b\r\n"a\nlines",c,\r\n'.encode(),
    "rows.tsv": "question\tanswer\nIs it?\tNo.\nAnd?\tYes.\n".encode("utf-16"),
    "alpaca.json": json.dumps([{"instruction": "Say", "input": "a", "output": "b"}] * 2).encode("gb18030"),
}
CONFIG = b"""method: lora
model: {name_or_path: base, dtype: float32}
template: {system: "You are {role}.", kwargs: {effort: low, n: 3}}
data:
  train: [rows.jsonl]
  mapping: {user: q, assistant: a}
  weights: [{text: Judgement, weight: 2}, {pattern: '(a|b)+', weight: 0.5}]
lora: {r: 8, target_modules: [q_proj, v_proj], lora_dropout: 0.1}
training:
  learning_rate: 1e-4   # peak
  max_steps: -1
  output_dir: "runs/a"
generation: &g {temperature: 0.7, do_sample: true}
"""
TEMPLATE = (
    b"{%- if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    b"{% else %}{% set rest = messages %}{% endif -%}"
    b"{% for m in rest if m.content %}<|im_start|>{{ m['role'] }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    b"{% macro f(n) %}{{ n ~ 'x' * 3 }}{% endmacro %}"
    b"{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Pieces that mean something somewhere, beside any bytes.
TOKENS = [
    *(b'"', b"{", b"}", b"[", b"]", b":", b",", b"\\", b"\n", b"\r", b"\t", b"\x00", b"\xff", b"\xef\xbb\xbf", b"- "),
    *(b"&a ", b"*a", b"!!", b"? ", b"|", b"{{", b"}}", b"{%", b"%}", b"#}", b"null", b"true", b"-1", b"1e999", b"NaN"),
    *(b"9" * 400, b"\\ud800", b"\xed\xa0\x80", "\u2028".encode(), b"[" * 2000, b"<|im_end|>", b"<think>", b"**9"),
    *(b"range(99999)", b"__class__"),
]
PIECE = st.one_of(st.sampled_from(TOKENS), st.binary(max_size=6))
PLACE = st.floats(0, 1, exclude_max=True)
EDIT = st.tuples(st.sampled_from(["put", "over", "cut", "twice", "swap"]), PLACE, PLACE, PIECE)
EDITS = st.lists(EDIT, min_size=1, max_size=5)


def edited(raw: bytes, edits: list[tuple[str, float, float, bytes]]) -> bytes:
    for what, first, second, piece in edits:
        a, b = int(first * (len(raw) + 1)), int(second * 40)
        part = raw[a : a + b]
        raw = (
            raw[:a]
            + {
                "put": piece + raw[a:],
                "over": piece + raw[a + len(piece) :],
                "cut": raw[a + b :],
                "twice": part + raw[a:],
                "swap": raw[a + b : a + 2 * b] + part + raw[a + 2 * b :],
            }[what]
        )
    return raw


def fuzzed(examples: int) -> Callable[..., Any]:
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[*HealthCheck],
    )


@contextmanager
def watched() -> Any:
    began = time.thread_time()  # of this thread: a busy machine is nobody's hang
    with suppress(TunesmithError):
        yield
    assert time.thread_time() - began < WATCHDOG


def data_file(folder: Path, name: str, raw: bytes) -> None:
    """Every row of what is left ends in one place, whichever command reads it."""
    path = folder / name
    path.write_bytes(raw)
    with watched():
        found = dataset.load(path, DataSection())
        totals = found.ledger()
        assert totals["rows"] == totals["accepted"] + totals["duplicates"] + totals["rejected"] > 0
        places = [c.origin for c in found.conversations] + [r.origin for r in found.rejected]
        assert all(place and 1 <= place.line <= raw.count(b"\n") + raw.count(b"\r") + 1 for place in places)
        json.dumps([r.as_dict() for r in found.rejected])
    with watched():
        read_prompts(path, DataSection())


def config_file(folder: Path, raw: bytes) -> None:
    path = folder / "run.yaml"
    path.write_bytes(raw)
    with watched():
        load(path, files=False)


def model_file(model: Path, name: str, raw: bytes) -> None:
    path = model / name
    before = path.read_bytes()
    path.write_bytes(raw)
    try:
        with watched():
            check_model(model)
        with watched():
            tensors(model)
            fingerprint(model)
        with watched():
            encoder = Encoder.load(model, TemplateSection())
            encoder.encode(Conversation((Message("user", "a é 阀?"), Message("assistant", "b <|im_end|>"))), 128)
            encoder.decode([1, 5, 300])
    finally:
        path.write_bytes(before)


@pytest.fixture(scope="module")
def model(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "chat_template.jinja").write_bytes(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def header_of(raw: bytes) -> int:
    return 8 + struct.unpack("<Q", raw[:8])[0]


JSON_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


def run_data(folder: Path, examples: int) -> None:
    @fuzzed(examples)
    @given(st.sampled_from([*DATA]), EDITS)
    def go(name: str, edits: Any) -> None:
        data_file(folder, name, edited(DATA[name], edits))

    go()


def run_config(folder: Path, examples: int) -> None:
    @fuzzed(examples)
    @given(EDITS)
    def go(edits: Any) -> None:
        config_file(folder, edited(CONFIG, edits))

    go()


def run_model(model: Path, examples: int) -> None:
    @fuzzed(examples)
    @given(st.sampled_from(JSON_FILES), EDITS)
    def go(name: str, edits: Any) -> None:
        model_file(model, name, edited((model / name).read_bytes(), edits))

    go()


def run_weights(model: Path, examples: int) -> None:
    raw = (model / "model.safetensors").read_bytes()
    end = header_of(raw)

    @fuzzed(examples)
    @given(EDITS)
    def go(edits: Any) -> None:
        model_file(model, "model.safetensors", edited(raw[:end], edits) + raw[end:])

    go()


def run_template(model: Path, examples: int) -> None:
    @fuzzed(examples)
    @given(EDITS)
    def go(edits: Any) -> None:
        model_file(model, "chat_template.jinja", edited(TEMPLATE, edits))

    go()


def test_data_files(folder: Path) -> None:
    run_data(folder, 250)


def test_settings(folder: Path) -> None:
    run_config(folder, 100)


def test_model_folders(model: Path) -> None:
    run_model(model, 60)


def test_headers_of_weights(model: Path) -> None:
    run_weights(model, 40)


def test_chat_templates(model: Path) -> None:
    run_template(model, 60)


@pytest.mark.long
def test_ten_thousand_damaged_files(folder: Path, model: Path) -> None:
    run_data(folder, 6000)
    run_config(folder, 1500)
    run_model(model, 1000)
    run_weights(model, 500)
    run_template(model, 1000)
