# ruff: noqa: F811 - a trained run is the command line tests' own fixture
"""Hostile and broken inputs through the real command line: each ends as its table says, and none does anything else.

Whatever the input: no traceback, no code run, no process, no connection, nothing written elsewhere, nothing raw on the
terminal, and an end within seconds.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from hostile import (
    ACCEPTED,
    GOOD,
    REFUSED,
    REPORTED,
    Case,
    Place,
    checkpoint,
    config,
    data,
    lines,
    prompt,
    tables,
    template,
)
from test_cli import Said, trained, tunesmith  # noqa: F401
from tunesmith.config.load import load
from tunesmith.config.settings import settings
from tunesmith.errors import ConfigError

PATIENCE = 20.0  # seconds; the slowest takes two on an idle machine
MOST_LINES, LONGEST_LINE = 60, 4000
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
WATCHED = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "pickle.find_class",
)
KINDS = {
    "data": lambda: [*data.cases(), *tables.cases()],
    "config": config.cases,
    "checkpoint": lambda: [*checkpoint.cases(), *template.cases()],
    "prompt": prompt.cases,
}


class Watch:
    """What happens while a case runs, told by the interpreter itself."""

    def __init__(self) -> None:
        self.inside: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.inside is None:
            return
        if event in WATCHED and arguments[0] != "nvidia-smi":  # asked how much memory a GPU has
            self.seen.append(f"{event} {arguments}")
        elif event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            path = os.path.abspath(os.fsdecode(arguments[0])) if not isinstance(arguments[0], int) else ""
            own = Path(path).is_relative_to(self.inside) or path in (os.devnull, "/dev/full")
            if path and not own and Path(path).name != "tunesmith.log":  # a run's log, which notes who asked it
                self.seen.append(f"writes {path}")


@pytest.fixture(scope="module")
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.inside = None


@pytest.fixture(scope="module", autouse=True)
def _the_command_line_is_built_once() -> Iterator[None]:
    """typer makes all commands anew for each call, which is half of what a case takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(scope="module", autouse=True)
def _the_base_model_stays_as_it_is(tiny_folder: Path) -> Iterator[None]:
    before = _hashes(tiny_folder)
    yield
    assert _hashes(tiny_folder) == before


def _hashes(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


NAMED = [(f"{kind}: {case.name}", case) for kind, make in KINDS.items() for case in make()]
CASES = [  # every class of input is in the fast suite, every input in the slow one
    pytest.param(case, id=name, marks=[] if place % 2 else [pytest.mark.long])
    for place, (name, case) in enumerate(NAMED)
]


@pytest.mark.parametrize("case", CASES)
def test_it_ends_as_it_must(
    case: Case,
    watch: Watch,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = Place(tmp_path / "case", tiny_folder, lambda: request.getfixturevalue("trained").run)
    place.folder.mkdir()
    words = case.make(place)
    watch.seen, watch.inside = [], tmp_path
    began = time.monotonic()
    try:
        said = tunesmith(*words)
    finally:
        watch.inside = None
    took = time.monotonic() - began
    judge(case, said)
    assert watch.seen == []
    assert not place.canary.exists()
    assert not (tmp_path / "CANARY").exists()
    assert took < PATIENCE


def test_there_are_more_than_three_hundred_and_no_name_stands_twice() -> None:
    names = [name for name, _case in NAMED]
    assert len(names) == len(set(names))
    assert len(names) // 2 >= 300


@pytest.mark.parametrize("name", config.KEYS)
def test_no_key_is_said_or_kept(name: str, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever in settings it stands, and whichever command reads them; in the environment it is nobody's business."""
    key = config.KEYS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("HF_ENDPOINT", f"https://user:{key}@127.0.0.1:1")
    Path("run.yaml").write_text(f"tracking: {{api_key: '{key}', experiment: '{key}'}}\nlora: {{r: '{key}'}}\n")
    data = Path("rows.jsonl")
    data.write_text(lines(*GOOD), encoding="utf-8")
    for command in ("check", "train"):
        for words in (["run.yaml"], [f"lora.r={key}"], [f"model.tokenizer={key}"], [f"training.output_dir={key}"]):
            said = tunesmith(command, data, "--model", tiny_folder, *words)
            assert said.code == 2
            assert key not in said.err + said.out
    Path("run.yaml").unlink()
    assert tunesmith("check", data, "--model", tiny_folder).code == 0
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(key.encode() in each for each in written)


def misspelt(name: str, draw: random.Random) -> Iterator[str]:
    """The name with a letter left out, two changed about, one doubled, one large, one of another alphabet."""
    group, dot, key = name.rpartition(".")
    place = draw.randrange(1, len(key) - 1)
    yield group + dot + key[:place] + key[place + 1 :]
    yield group + dot + key[:place] + key[place + 1] + key[place] + key[place + 2 :]
    yield group + dot + key[:place] + key[place] + key[place:]
    yield group + dot + key[:place] + key[place].upper() + key[place + 1 :]
    yield group + dot + key.translate(str.maketrans("aeoc", "аеос"))


def test_a_misspelt_setting_is_refused_and_the_right_one_named() -> None:
    draw, wrong, right = random.Random(0), 0, 0
    for name in settings():
        if len(name.rpartition(".")[2]) < 3:
            continue
        for typed in misspelt(name, draw):
            if typed in settings():
                continue
            with pytest.raises(ConfigError) as refused:
                load(None, [f"{typed}=1"])
            wrong += 1
            right += name in str(refused.value)
    assert wrong > 400
    assert right >= 0.95 * wrong


def judge(case: Case, said: Said) -> None:
    assert said.code == (2 if case.ends == REFUSED else 0), said.err
    assert "should not have happened" not in said.err
    assert case.says in said.err + said.out, said.err
    assert not RAW.search(said.err + said.out)
    assert len(said.lines) < MOST_LINES
    assert max(map(len, [*said.lines, ""])) < LONGEST_LINE
    if case.ends == ACCEPTED:
        assert " rejected" not in said.err
    if case.ends == REPORTED:
        assert said.err
