"""What `preview` shows: which tokens are trained and how much, what was left out, and the row that was asked for."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tunesmith.actions.check import preview, preview_html, template_probe
from tunesmith.actions.voice import Voice
from tunesmith.cli import main
from tunesmith.cli.preview import show_preview
from tunesmith.config.load import load
from tunesmith.errors import ConfigError, DataError
from tunesmith.tokens.preview import Preview

LABELLED = {
    "messages": [
        {"role": "system", "content": "You judge pumps."},
        {"role": "user", "content": "Is the pump faulty? <|im_end|> fake"},
        {"role": "assistant", "content": [{"text": "Judgement: ", "weight": 0}, {"text": "defect", "weight": 5}, "."]},
        {"role": "user", "content": "And the valve?"},
        {"role": "assistant", "content": "It leaks.\nReplace it."},
    ]
}
OPENING = {
    "messages": [
        {"role": "assistant", "content": "Welcome."},
        {"role": "user", "content": "The valve"},
        {"role": "assistant", "content": "Seen.", "weight": 0},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "It leaks."},
    ],
    "loss_weight": 0.5,
}


class Heard(Voice):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def seen(folder: Path, tmp_path: Path, rows: list[dict[str, Any]], *settings: str, **chosen: Any) -> Preview:
    data = write_rows(tmp_path / "rows.jsonl", rows)
    values = {"data.train": data, "model.name_or_path": folder}
    return preview(load(overrides=settings, values=values).config, Heard(), **chosen)


def printed(shown: Preview, capsys: pytest.CaptureFixture[str]) -> str:
    show_preview(shown)
    return capsys.readouterr().out


def test_every_token_of_an_answer_shows_its_weight(tiny_folder: Path, tmp_path: Path) -> None:
    shown = seen(tiny_folder, tmp_path, [LABELLED], "data.weights=[{text: leaks, weight: 2}]")
    first, second = shown.turns
    assert "".join(p.text for p in first.pieces if p.weight == 0) == "Judgement:"  # " defect" takes the space along
    assert "".join(p.text for p in first.pieces if p.weight == 5) == " defect"
    assert "".join(p.text for p in second.pieces if p.weight == 2) == " leaks"
    assert second.pieces[-1].text == "<|im_end|>"
    assert second.pieces[-1].weight == 1
    assert first.pieces[0].weight is None
    assert sum(shown.weights.values()) == sum(len(p.ids) for t in shown.turns for p in t.pieces)
    assert list(shown.weights) == [0, 1, 2, 5, None]


def test_control_tokens_are_told_from_text_that_spells_them(tiny_folder: Path, tmp_path: Path) -> None:
    first = seen(tiny_folder, tmp_path, [LABELLED]).turns[0]
    assert [p.text for p in first.pieces if p.control].count("<|im_end|>") == 3  # system, question, answer
    assert "".join(p.text for p in first.pieces).count("<|im_end|>") == 4


def test_without_colours_brackets_stand_around_what_is_trained(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed(seen(tiny_folder, tmp_path, [LABELLED]), capsys)
    assert "<|im_start|>assistant↵\n⟦Judgement:⟧×0⟦ defect⟧×5⟦.<|im_end|>⟧" in out
    assert "⟦It leaks.↵\nReplace it.<|im_end|>⟧" in out
    assert "weight 5: " in out


def test_colours_tell_weights_apart(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = printed(seen(tiny_folder, tmp_path, [LABELLED]), capsys)
    parts = re.findall(r"\x1b\[([\d;]+)m([^\x1b]*)", out[out.index("messages[2]") :])

    def text(style: str) -> str:
        return "".join(said for codes, said in parts if style in codes)

    assert text("9;31").startswith("Judgement:")  # struck out, red
    assert text("37;41").startswith(" defect")
    assert "It leaks.↵Replace it." in text("1;32")
    assert text("35").startswith("<|im_start|>")
    assert "⟦" not in out


def test_what_was_left_out_is_told(tiny_folder: Path, tmp_path: Path) -> None:
    whole = seen(tiny_folder, tmp_path, [LABELLED]).turns[-1].length
    shown = seen(tiny_folder, tmp_path, [LABELLED], f"data.max_length={whole - 1}")
    assert [t.trimmed for t in shown.turns] == [0, 2]
    limit = f"data.max_length ({whole - 1} tokens)"
    assert shown.remarks == [f"messages[4]: the oldest 2 messages are left out to fit {limit}."]
    assert "faulty" not in "".join(p.text for p in shown.turns[-1].pieces)


def test_answers_that_are_not_trained_say_why(tiny_folder: Path, tmp_path: Path) -> None:
    assert seen(tiny_folder, tmp_path, [OPENING]).remarks == [
        "The whole row has the weight 0.5.",
        "messages[0] is context and not trained: no question stands before it.",
        "messages[2] is context and not trained: its weight is 0.",
    ]


def test_more_tokens_than_the_model_was_made_for_are_told(tiny_folder: Path, tmp_path: Path) -> None:
    row = {"question": "pump " * 400, "answer": "Yes."}
    shown = seen(tiny_folder, tmp_path, [row], "data.max_length=4096")
    assert shown.remarks[0].endswith("tokens with its context; the model was made for 512.")
    rows = write_rows(tmp_path / "d.jsonl", [row, {"question": "q", "answer": "a"}])
    from tunesmith.actions.prepare import prepare

    values = {"data.train": rows, "model.name_or_path": tiny_folder, "data.max_length": 4096}
    notices = prepare(load(values=values).config, Heard()).notices
    said = "1 answers are longer with their context than the model was made for (512 tokens): lower data.max_length."
    assert said in notices


def test_a_row_is_found_by_number_line_or_text(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [{"question": f"Is pump {i} faulty?", "answer": "Yes." if i % 2 else "No."} for i in range(9)]

    def index(**chosen: Any) -> int:
        return seen(tiny_folder, tmp_path, rows, **chosen).conversation.index

    assert index() == 0
    assert index(row=3) == 3
    assert index(line="4") == 3
    assert index(line="rows.jsonl:9") == 8
    assert index(find="Yes.") == 1
    with pytest.raises(DataError, match="No row stands there"):
        index(line="other.jsonl:1")
    with pytest.raises(DataError, match="No row stands there"):
        index(line="0")
    with pytest.raises(DataError, match="No row holds this text"):
        index(find="turbine")
    with pytest.raises(ConfigError, match="give one"):
        index(row=1, line="2")


def test_a_row_of_a_list_is_found_by_any_of_its_lines(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"question": f"q{i}", "answer": "a"} for i in range(3)], indent=2), encoding="utf-8")
    config = load(values={"data.train": path, "model.name_or_path": tiny_folder}).config
    lines = path.read_text(encoding="utf-8").splitlines()
    place = 1 + next(i for i, line in enumerate(lines) if "q2" in line)
    assert preview(config, Heard(), line=str(place)).conversation.index == 2


def test_the_page_is_a_map_of_weights_and_runs_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    row = {"messages": [*LABELLED["messages"], {"role": "user", "content": "<script>x</script>"}]}
    row["messages"].append({"role": "assistant", "content": "<b>No</b>", "weight": 0.5})
    data = write_rows(tmp_path / "rows.jsonl", [row])
    config = load(values={"data.train": data, "model.name_or_path": tiny_folder}).config
    page = preview_html(config, Heard(), tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>No" not in page
    spans = re.findall(r'<span ([^>]*?) title="([^"]*)">(.*?)</span>', page, re.DOTALL)

    def text(look: str) -> str:
        return unescape("".join(said for found, _title, said in spans if look in found))

    assert text('class="none').startswith("Judgement:")
    assert text("hsl(11 ").startswith(" defect")  # weight 5: nearly red
    assert text('class="control"').startswith("<|im_start|>")
    assert all("×" in title for look, title, _said in spans if "hsl(" in look)
    shown = unescape(re.sub(r"<[^>]+>", "", page))
    assert "weight 5: " in shown
    assert "messages[2]" in shown


def test_the_template_is_shown_on_a_dialogue_that_names_its_parts(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = "".join(
        f"<|im_start|>{role}\n==={role}_message_test===<|im_end|>\n" for role in ("system", "user", "assistant", "user")
    )
    source, text = template_probe(load(values={"model.name_or_path": tiny_folder}).config)
    assert text == wanted + "<|im_start|>assistant\n"
    assert source == str(tiny_folder)
    assert main(["preview", "--template", "--model", str(tiny_folder)]) == 0
    assert capsys.readouterr().out == text + "\n"
