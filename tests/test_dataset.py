"""Files to conversations: detection, checks, duplicates, and a ledger that always adds up."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tunesmith.config.schema import DataSection
from tunesmith.data import write
from tunesmith.data.dataset import Dataset, inspect, load
from tunesmith.errors import DataError

SHARED = Path(__file__).parents[1].parent / "shared"
DATA = SHARED / "assets" / "data"
TEMPLATES = {
    "prompt_template": "任务：{task}\n\n事件：\n{event}\n\n输出格式：\n{output_format}",
    "answer_template": "判断:{judgement}\n\n原因：{reason}",
}
DEFECT = {
    "instruction": [{"subtype": "x"}],
    "input": {"task": "t", "event": "e", "output_format": "f"},
    "output": {"judgement": "j", "reason": "r"},
}


def dump(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def loaded(tmp_path: Path, rows: list[Any], **settings: Any) -> Dataset:
    return load(dump(tmp_path / "d.jsonl", rows), DataSection(**settings))


def failure(tmp_path: Path, rows: list[Any], **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, rows, **settings)
    return str(caught.value)


def chat(*turns: tuple[str, str], **columns: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **columns}


GOOD = chat(("user", "q"), ("assistant", "a"))


def test_imports_neither_torch_nor_pydantic_nor_arrow() -> None:
    heavy = "{'torch', 'transformers', 'pydantic', 'pyarrow'}"
    code = f"import sys, tunesmith.data.dataset, tunesmith.data.split; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (chat(("user", "q")), "no_answer"),
        (chat(("user", "q"), ("assistant", " \n")), "empty_answer"),
        (chat(("assistant", "a")), "nothing_trained"),
        (chat(("user", "q"), ("robot", "a")), "unknown_role"),
        (chat(("system", "s"), ("user", "q"), ("assistant", "a"), system="other"), "two_systems"),
        (chat(("user", "q"), ("assistant", "a"), system="one", system_prompt="other"), "two_systems"),
        (chat(("user", "q"), ("assistant", "a"), tools="[{"), "tools"),
        ({"messages": [{"role": "user", "content": {"a": 1}}, GOOD["messages"][1]]}, "content_type"),
        ({"messages": []}, "no_messages"),
        ({"instruction": "of", "output": "another format"}, "no_messages"),
    ],
)
def test_rows_that_cannot_be_trained(tmp_path: Path, row: dict[str, Any], code: str) -> None:
    data = loaded(tmp_path, [GOOD, row, chat(("user", "q2"), ("assistant", "a"))])
    (rejected,) = data.rejected
    assert (rejected.code, rejected.index, rejected.origin.line) == (code, 1, 2)
    assert "format: messages" in rejected.reason
    assert [c.index for c in data.conversations] == [0, 2]


def test_weights_of_zero_leave_nothing_to_train(tmp_path: Path) -> None:
    untrained = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "loss_weight": 0}]}
    assert [r.code for r in loaded(tmp_path, [GOOD, untrained]).rejected] == ["nothing_trained"]


def test_an_opening_answer_is_context_and_said(tmp_path: Path) -> None:
    data = loaded(tmp_path, [chat(("assistant", "hello"), ("user", "q"), ("assistant", "a"))])
    assert data.conversations[0].trained_turns() == [2]
    assert any("open with the assistant" in notice for notice in data.notices)


def test_columns_beside_the_messages(tmp_path: Path) -> None:
    tool = {"name": "f", "parameters": {}}
    row = chat(
        ("user", "q"), ("assistant", "a"), system="be brief", tools=json.dumps([tool]), scene="x", nested={"k": [1]}
    )
    (conversation,) = loaded(tmp_path, [row]).conversations
    assert (conversation.messages[0].role, conversation.messages[0].content) == ("system", "be brief")
    assert conversation.tools == ({"type": "function", "function": tool},)
    assert conversation.meta == {"scene": "x", "nested": {"k": [1]}}


def test_duplicates(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": 1}, {**GOOD, "id": 2}, {**GOOD, "tools": [{"name": "f"}]}]
    data = loaded(tmp_path, rows)
    assert [c.index for c in data.conversations] == [0, 2]
    assert [(d.conversation.index, d.first and d.first.line) for d in data.duplicates] == [(1, 1)]
    assert len(loaded(tmp_path, rows, drop_duplicates=False).conversations) == 3


def test_mapping(tmp_path: Path) -> None:
    mapping = {"system": "persona", "user": "ask", "assistant": "reply"}
    rows = [{"persona": "p", "ask": "q", "reply": "a", "id": 1}, {"ask": "q", "reply": 5}, {"ask": ["q"], "reply": "a"}]
    data = loaded(tmp_path, rows, mapping=mapping)
    assert [[m.content for m in c.messages] for c in data.conversations] == [["p", "q", "a"], ["q", "5"]]
    assert data.conversations[0].meta == {"id": 1}
    assert [r.code for r in data.rejected] == ["missing_field"]
    assert "user and assistant" in failure(tmp_path, rows, mapping={"user": "ask"})
    assert "exclude each other" in failure(tmp_path, rows, mapping=mapping, format="alpaca")


def test_a_prompt_template_alone_keeps_the_format_s_answer(tmp_path: Path) -> None:
    row = {"instruction": "i", "input": "n", "output": "o", "system": "s"}
    (conversation,) = loaded(tmp_path, [row], prompt_template="{input} <- {instruction}").conversations
    assert [m.content for m in conversation.messages] == ["s", "n <- i", "o"]


def test_a_format_of_ones_own_may_fail(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from tunesmith.conversation import Message\nfrom tunesmith.data.formats import Parsed\n"
        "def detect(row): return True\n"
        "def parse(row):\n"
        "    return Parsed([Message('user', row['q']), Message('assistant', row['a'])], claimed={'q', 'a'})\n",
        encoding="utf-8",
    )
    data = loaded(tmp_path, [{"q": "1", "a": "2", "id": 3}, {"q": "1"}], format=str(path))
    assert data.conversations[0].meta == {"id": 3}
    assert [r.code for r in data.rejected] == ["format_failed"]


def test_unrecognised_rows_get_a_draft_that_works(tmp_path: Path) -> None:
    import yaml

    flat = [{"persona": "p", "ask": "why?", "reply": "so"}]
    for rows in ([DEFECT], flat):
        text = failure(tmp_path, rows)
        assert "not recognised" in text
        draft = yaml.safe_load(text[text.index("    data:") :])["data"]
        assert loaded(tmp_path, rows, **draft).ledger()["accepted"] == 1
    assert "object (task, event, output_format)" in failure(tmp_path, [DEFECT])


def test_two_formats(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "a", "input": "q", "output": "a"}]
    text = failure(tmp_path, rows)
    assert "input_output" in text
    assert "question_answer" in text
    assert loaded(tmp_path, rows, format="question_answer").format == "question_answer"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "completion": "a", "label": True},
        {"input_ids": [1, 2], "labels": [1, 2]},
        {**GOOD, "images": ["a.png"]},
    ],
)
def test_data_for_another_kind_of_training(tmp_path: Path, row: dict[str, Any]) -> None:
    assert "not supervised conversations" in failure(tmp_path, [row])


def test_no_rows(tmp_path: Path) -> None:
    assert "There are no rows" in failure(tmp_path, [])
    data = load(dump(tmp_path / "d.jsonl", [1, 2]), DataSection())
    assert data.ledger() == {"rows": 2, "accepted": 0, "duplicates": 0, "rejected": 2}


def test_rejected_rows_are_written(tmp_path: Path) -> None:
    data = loaded(tmp_path, [GOOD, chat(("user", "q\ud83d")), chat(("user", "只问"))])
    write.rows(tmp_path / "rejected.jsonl", (row.as_dict() for row in data.rejected))
    written = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["line"], row["code"]) for row in written] == [(2, "encoding"), (3, "no_answer")]
    assert "只问" in written[1]["excerpt"]


def test_inspect(tmp_path: Path) -> None:
    rows = [
        GOOD,
        GOOD,
        chat(("user", "q")),
        chat(("system", "s"), ("user", "q"), ("assistant", "<think>r</think>a"), k=1),
    ]
    seen = inspect(dump(tmp_path / "d.jsonl", rows), DataSection())
    assert json.loads(json.dumps(seen)) == seen
    assert (seen["rows"], seen["accepted"], seen["rejected"], seen["duplicates"]) == (4, 3, 1, 1)
    assert seen["roles"] == {"user": 3, "assistant": 3, "system": 1}
    assert (seen["format"], seen["columns"], seen["encoding"]) == ("messages", ["messages", "k"], "utf-8")
    assert (seen["thinking"], seen["turns"]["max"]) == (1, 3)
    assert seen["rejected_rows"][0]["line"] == 3


def broken_rows(draw: random.Random) -> tuple[str, str]:
    """A line of JSON and where its row must end."""
    word = str(draw.randrange(10**9))
    good = json.dumps(chat(("user", word), ("assistant", "a")))
    return draw.choice(
        [
            (good, "accepted"),
            (good, "accepted"),
            (good, "accepted"),
            (json.dumps(chat(("user", "same"), ("assistant", "a"))), "same"),
            (good[: draw.randrange(1, len(good))], "rejected"),
            (json.dumps(chat(("user", word))), "rejected"),
            (json.dumps(chat(("user", word), ("assistant", ""))), "rejected"),
            ("[]", "rejected"),
            (json.dumps({"instruction": "i", "output": "o"}), "rejected"),
        ]
    )


def test_every_row_ends_in_exactly_one_place(tmp_path: Path) -> None:
    draw = random.Random(11)
    for trial in range(300):
        rows = [(json.dumps(chat(("user", f"first {i}"), ("assistant", "a"))), "accepted") for i in range(10)]
        rows += [broken_rows(draw) for _ in range(draw.randrange(10))]
        draw.shuffle(rows)
        as_list = draw.random() < 0.5
        between = [draw.choice(["", "\n"]) for _ in rows]
        if as_list:
            text = "[\n" + ",\n".join(gap + line for gap, (line, _end) in zip(between, rows, strict=True)) + "\n]"
        else:
            text = "\n".join(gap + line for gap, (line, _end) in zip(between, rows, strict=True))
        path = tmp_path / f"{trial}.json{'' if as_list else 'l'}"
        path.write_text(text, encoding="utf-8")
        starts, at = [], 1 + as_list
        for gap in between:
            at += len(gap)
            starts.append(at)
            at += 1
        same = [i for i, (_line, end) in enumerate(rows) if end == "same"]
        data = load(path, DataSection())
        ledger = data.ledger()
        assert ledger["rows"] == len(rows) == ledger["accepted"] + ledger["duplicates"] + ledger["rejected"]
        assert [r.index for r in data.rejected] == [i for i, (_line, end) in enumerate(rows) if end == "rejected"]
        assert [d.conversation.index for d in data.duplicates] == same[1:]
        placed = [(c.index, c.origin) for c in data.conversations] + [(r.index, r.origin) for r in data.rejected]
        assert all(origin and origin.line == starts[index] for index, origin in placed)


FILES = [
    ("huanhuan/huanhuan.json", "alpaca", 3729, 112, {}),
    ("crosswoz/crosswoz.seed0.json", "conversation_pair", 600, 0, {}),
    ("crosswoz/crosswoz.sharegpt.json", "sharegpt", 300, 0, {}),
    ("ruff-defects/ruff_defects.json", "template", 1823, 0, TEMPLATES),
    ("ruff-defects/output", "template", 1823, 0, TEMPLATES),
    ("gsm8k/test.jsonl", "question_answer", 1319, 0, {}),
    ("gsm8k/gsm8k_think_1000.messages.jsonl", "messages", 1000, 0, {}),
    ("demos/alpaca_zh_demo.json", "alpaca", 1000, 8, {}),
    ("demos/alpaca_en_demo.json", "alpaca", 999, 14, {}),
    ("demos/identity.json", "alpaca", 91, 0, {}),
    ("demos/glaive_toolcall_en_demo.json", "sharegpt", 300, 35, {}),
    ("demos/glaive_toolcall_zh_demo.json", "sharegpt", 300, 43, {}),
    ("demos/reason_tool_use_demo_50.jsonl", "messages", 50, 0, {}),
    ("demos/v1_sft_demo.jsonl", "messages", 500, 1, {}),
]
real = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs {SHARED.name}/assets/data beside the checkout")


@real
@pytest.mark.parametrize(
    ("name", "format_name", "rows", "duplicates", "settings"), FILES, ids=[file[0] for file in FILES]
)
def test_real_files(name: str, format_name: str, rows: int, duplicates: int, settings: dict[str, str]) -> None:
    data = load(DATA / name, DataSection(**settings))
    assert data.format == format_name
    assert data.ledger() == {"rows": rows, "accepted": rows - duplicates, "duplicates": duplicates, "rejected": 0}
    text = "" if (DATA / name).is_dir() else (DATA / name).read_text(encoding="utf-8")
    for conversation in data.conversations if text else []:
        line = (
            text.split("\n", conversation.origin.line)[conversation.origin.line - 1] if conversation.index < 50 else "{"
        )
        assert line.lstrip().startswith("{")


@real
def test_real_thinking_tools_weights_and_columns() -> None:
    def first(name: str, **settings: str) -> Any:
        return load(DATA / name, DataSection(**settings)).conversations[0]

    service = first("crosswoz/crosswoz.seed0.json")
    assert service.messages[0].content == "你是一个北京旅游客服助手"
    assert service.messages[2].reasoning.startswith("告知餐馆的人均消费")
    assert service.meta == {
        "conversation_id": 11290, "key": "场景", "value": "不独立多领域", "场景": "不独立多领域", "split": "val",
    }  # fmt: skip
    defect = first("ruff-defects/ruff_defects.json", **TEMPLATES)
    assert (defect.meta["id"], defect.meta["subtype"]) == ("AIR002-bad", "Airflow")
    assert first("demos/v1_sft_demo.jsonl").messages[1].weight == 1.0
    tools = inspect(DATA / "demos/reason_tool_use_demo_50.jsonl", DataSection())
    assert (tools["thinking"], tools["tool_calls"], tools["tools"]) == (112, 68, 48)
    glaive = load(DATA / "demos/glaive_toolcall_en_demo.json", DataSection(drop_duplicates=False)).conversations
    calls = [call for c in glaive for m in c.messages for call in m.tool_calls]
    assert len(calls) == 211
    assert all(isinstance(call.arguments, dict) for call in calls)
