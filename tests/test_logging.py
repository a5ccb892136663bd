"""tunesmith.log holds every key step; letters can be typed out; colours can be off; a narrow encoding stops nothing."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunesmith import log, rundir
from tunesmith.cli import main
from tunesmith.cli.app import terminal
from tunesmith.cli.terminal import Terminal
from tunesmith.config.load import load

STAMP = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 [A-Z]+ "


class Screen(io.StringIO):
    """A terminal that keeps what every flush showed."""

    def __init__(self, tty: bool) -> None:
        super().__init__()
        self.tty, self.shown = tty, []

    def isatty(self) -> bool:
        return self.tty

    def flush(self) -> None:
        self.shown.append(self.getvalue())


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    taken: list[float] = []
    monkeypatch.setattr(time, "sleep", taken.append)
    return taken


@pytest.mark.parametrize(("tty", "delay", "typed"), [(True, 0.03, True), (True, 0.0, False), (False, 0.03, False)])
def test_letters_are_typed_out_on_a_terminal_only(tty, delay, typed, naps, monkeypatch):
    screen = Screen(tty)
    monkeypatch.setattr(sys, "stderr", screen)
    voice = Terminal()
    voice.typing_delay = delay
    voice.say("损失 ok")
    assert screen.getvalue() == "损失 ok\n"
    assert naps == ([0.03] * 5 if typed else [])
    assert screen.shown[:2] == (["损", "损失"] if typed else ["损失 ok\n"])


def test_the_delay_is_a_setting_of_every_command(tmp_path, monkeypatch, tiny_folder):
    monkeypatch.chdir(tmp_path)
    assert load().config.logging.typing_delay == 0
    (tmp_path / "run.yaml").write_text("logging: {typing_delay: 0.03}\n", encoding="utf-8")
    monkeypatch.setattr(terminal, "typing_delay", 0.0)
    assert main(["check", "run.yaml"]) == 2  # there is no model; what it says is typed already
    assert terminal.typing_delay == 0.03


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, trained by the command line; each test reads its log."""
    folder = tmp_path_factory.mktemp("logged")
    rows = [{"input": f"Is valve {i} leaking?", "output": f"Valve {i} is tight."} for i in range(8)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = ["data.test_ratio=0.25", "training.max_steps=2", "training.eval_steps=1", "generation.max_new_tokens=4"]
    call = ["train", str(folder / "data.jsonl"), "--model", str(tiny_folder), "-o", str(folder / "run"), *words]
    assert main(call) == 0
    return folder / "run"


def logged(run: Path) -> str:
    return (run / rundir.LOG).read_text(encoding="utf-8")


def test_the_log_holds_the_steps_and_results_of_a_training(run):
    text = logged(run)
    assert all(re.match(STAMP, line) for line in text.splitlines())
    for said in ("8 rows of the format", "parameters are trained", '"eval_loss": ', "Best is checkpoint-"):
        assert said in text, said
    results = [json.loads(line[line.index("{") :]) for line in text.splitlines() if '"eval_loss"' in line]
    assert results == [record for record in rundir.metrics(run) if "eval_loss" in record]


def test_the_log_holds_evaluation_merge_and_chat(run, tmp_path, monkeypatch):
    assert main(["eval", str(run)]) == 0
    assert main(["merge", str(run), "-o", str(tmp_path / "merged")]) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("q\n"))
    assert main(["chat", str(run)]) == 0
    text = logged(run)
    for key, what in (("evaluated ", '"accuracy"'), ("merged: ", str(tmp_path / "merged")), ("chat begins: ", "")):
        lines = [line for line in text.splitlines() if f"INFO {key}" in line]
        assert len(lines) == 1, key
        assert re.match(STAMP, lines[0])
        assert what in lines[0]


def test_a_run_that_cannot_be_written_to_can_still_be_asked(tmp_path):
    (tmp_path / rundir.LOG).mkdir()
    log.note(tmp_path / rundir.LOG, "chat begins")


@pytest.mark.parametrize(("level", "kept"), [("debug", ["d", "i", "w"]), ("info", ["i", "w"]), ("warning", ["w"])])
def test_the_level_decides_what_the_log_holds(level, kept, tmp_path):
    with log.open_log(tmp_path / "x.log", level) as journal:
        journal.debug("d")
        journal.info("i")
        journal.warning("w")
    assert [line.split()[-1] for line in (tmp_path / "x.log").read_text(encoding="utf-8").splitlines()] == kept


def command(*words: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    call = [sys.executable, "-m", "tunesmith", *words]
    return subprocess.run(call, env=os.environ | env, capture_output=True, check=False)


@pytest.mark.parametrize("words", [("--help",), ("train", "--help"), ("check", "lora.rnak=8"), ("init", "run.yaml")])
def test_a_console_in_gbk_stops_no_command(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(*words, PYTHONIOENCODING="gbk", PYTHONUTF8="0", TUNESMITH_LANG="zh")
    said = (done.stdout + done.stderr).decode("gbk")
    assert "Traceback" not in said
    assert re.search("[\u4e00-\u9fff]", said)


@pytest.mark.parametrize("words", [("data", "inspect", "data.jsonl"), ("preview", "data.jsonl", "--model", "MODEL")])
def test_symbols_that_gbk_lacks_stop_no_command(words, tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"input": "😀 ✓ \u2500 ü", "output": "𝄞 ok"}
    Path("data.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    words = [str(tiny_folder) if word == "MODEL" else word for word in words]
    done = command(*words, PYTHONIOENCODING="gbk", PYTHONUTF8="0", TUNESMITH_LANG="zh", FORCE_COLOR="1")
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


def test_colours_can_be_off(tmp_path, tiny_folder, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "")  # empty is not set, and is put back afterwards
    Path("data.jsonl").write_text(json.dumps({"input": "a", "output": "b"}), encoding="utf-8")
    words = ["preview", "data.jsonl", "--model", str(tiny_folder)]
    green = "\x1b[1;32"
    assert main(words) == 0
    assert green in capsys.readouterr().out
    assert main([*words, "--no-color"]) == 0
    assert green not in capsys.readouterr().out
