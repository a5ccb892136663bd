"""A user's own format: `data.format` names a file or module with `parse(row)`, and its weights reach the tokens."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tunesmith.config.schema import DataSection
from tunesmith.conversation import Span
from tunesmith.data import dataset
from tunesmith.data.prompts import read_prompts
from tunesmith.errors import DataError

DOCS = Path(__file__).parents[1] / "docs"


def documented(page: str) -> list[str]:
    """The Python of a page: a reader of service dialogues, and one with labels of its own."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


SERVICE, LABELS = documented("own-format.md")
SERVICE_ROW: dict[str, Any] = {
    "conversation_id": 1,
    "system_prompt": "你是客服。",
    "场景": "退货",
    "conversation_pair": [
        {"role": "user", "content": "能退吗？"},
        {"role": "assistant", "thinking": "先看日期", "content": "七天内可以。"},
    ],
}
DEFECT_ROW = {
    "instruction": [{"subtype": "密封"}],
    "input": {"task": "判断缺陷", "event": "阀门漏水", "output_format": "判断、原因"},
    "output": {"judgement": "缺陷", "reason": "压力过低"},
}


def written(folder: Path, source: str, name: str = "mine.py") -> str:
    (folder / name).write_text(source, encoding="utf-8")
    return str(folder / name)


def loaded(folder: Path, form: str, *rows: dict[str, Any]) -> dataset.Dataset:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return dataset.load(path, DataSection(format=form))


def test_a_file_with_parse_alone_returns_plain_messages(tmp_path: Path) -> None:
    (found,) = loaded(tmp_path, written(tmp_path, SERVICE), SERVICE_ROW).conversations
    assert [m.role for m in found.messages] == ["system", "user", "assistant"]
    assert found.messages[0].content == "你是客服。当前场景：退货"
    assert found.messages[2].reasoning == "先看日期"
    assert found.meta == {"conversation_id": 1, "场景": "退货"}


def test_labels_of_ones_own(tmp_path: Path) -> None:
    (found,) = loaded(tmp_path, written(tmp_path, LABELS), DEFECT_ROW).conversations
    assert found.messages[1].content == "判断:缺陷\n\n原因：压力过低"
    assert found.messages[1].spans == (Span(0, 3, 0.0), Span(3, 5, 5.0), Span(7, 10, 0.0))
    assert found.messages[0].content == "任务：判断缺陷\n\n事件：\n阀门漏水\n\n输出格式：\n判断、原因"
    assert found.meta["subtype"] == "密封"


def test_the_weight_of_a_whole_row(tmp_path: Path) -> None:
    source = LABELS.replace('"subtype": row', '"loss_weight": 0.5, "subtype": row')
    (found,) = loaded(tmp_path, written(tmp_path, source), DEFECT_ROW).conversations
    assert found.weight == 0.5
    assert "loss_weight" not in found.meta


def test_both_languages_document_the_same() -> None:
    assert documented("own-format.zh-CN.md") == [SERVICE, LABELS]


def test_a_module_beside_the_work_goes_by_its_dotted_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_package").mkdir()
    written(tmp_path, "PREFIX = 'Q: '", "own_package/words.py")
    source = "from own_package.words import PREFIX\n" + SERVICE.replace('turn["content"],', 'PREFIX + turn["content"],')
    written(tmp_path, source, "own_package/service.py")
    before = list(sys.path)
    (found,) = loaded(tmp_path, "own_package.service", SERVICE_ROW).conversations
    assert found.messages[1].content == "Q: 能退吗？"
    assert sys.path == before


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    written(tmp_path, "SYSTEM = 'be brief'", "beside_mine.py")
    source = "from beside_mine import SYSTEM\ndef parse(row): return {**row, 'system': SYSTEM}"
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (found,) = loaded(tmp_path, written(tmp_path, source), row).conversations
    assert [m.content for m in found.messages] == ["be brief", "q", "a"]


def test_the_row_itself_is_not_changed(tmp_path: Path) -> None:
    source = "def parse(row):\n    row.pop('id')\n    row['m'].append(1)\n    return row['m'][:2]"
    row = {"id": 7, "m": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    assert loaded(tmp_path, written(tmp_path, source), row).conversations[0].meta == {"id": 7}


def test_what_goes_wrong_in_a_row_names_file_line_and_row(tmp_path: Path) -> None:
    source = """def parse(row):
    q = row["q"]
    return [{"role": "user", "content": q}, {"role": "assistant", "content": answer(row)}]
def answer(row):
    if not row["a"]:
        raise ValueError("no answer")
    return row["a"]
"""
    path = written(tmp_path, source)
    found = loaded(tmp_path, path, {"q": "1", "a": "2"}, {"a": "2"}, {"q": "1", "a": ""}, {"q": "1", "a": 3})
    assert len(found.conversations) == 1
    assert [(r.origin.line, r.code) for r in found.rejected] == [
        (2, "format_failed"),
        (3, "format_failed"),
        (4, "content_type"),
    ]
    reasons = [r.reason for r in found.rejected]
    assert f"{path}:2: KeyError: 'q'" in reasons[0]
    assert f"{path}:6: ValueError: no answer" in reasons[1]
    assert "messages[1].content is a number; expected text" in reasons[2]


@pytest.mark.parametrize("returned", ["None", "'text'", "{}", "{'messages': 'x'}", "3"])
def test_what_is_no_conversation_is_said(tmp_path: Path, returned: str) -> None:
    found = loaded(tmp_path, written(tmp_path, f"def parse(row): return {returned}"), {"a": 1})
    assert "expected a list of messages" in found.rejected[0].reason


@pytest.mark.parametrize(
    ("source", "place", "said"),
    [
        ("def parse(row)\n    pass\n", ":1", "SyntaxError"),
        ("x = 1\nimport no_such_module_at_all\n", ":2", "ModuleNotFoundError"),
        ("x = 1\n\nx / 0\n", ":3", "ZeroDivisionError"),
        ("raise SystemExit(3)\n", ":1", "SystemExit: 3"),
        ("def detect(row): return True\n", "", "no function parse"),
    ],
)
def test_a_file_that_cannot_be_loaded_names_its_line(tmp_path: Path, source: str, place: str, said: str) -> None:
    path = written(tmp_path, source)
    with pytest.raises(DataError) as error:
        loaded(tmp_path, path, {"a": 1})
    assert error.value.problems[0].place == path + place
    assert said in error.value.problems[0].message


def test_names_that_are_no_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean alpaca"):
        loaded(tmp_path, "alpacca", {"a": 1})
    with pytest.raises(DataError, match=r"none\.py"):
        loaded(tmp_path, str(tmp_path / "none.py"), {"a": 1})


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    import os

    path = written(tmp_path, SERVICE)
    loaded(tmp_path, path, SERVICE_ROW)
    written(tmp_path, SERVICE.replace("当前场景：", "场景："))
    os.utime(path, (1, 1))
    assert loaded(tmp_path, path, SERVICE_ROW).conversations[0].messages[0].content == "你是客服。场景：退货"


def test_prompts_without_an_answer_go_through_it_too(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    asked = {**SERVICE_ROW, "conversation_pair": SERVICE_ROW["conversation_pair"][:1]}
    path.write_text(json.dumps(asked, ensure_ascii=False) + "\n" + json.dumps({"a": 1}), encoding="utf-8")
    prompts, _notices = read_prompts(path, DataSection(format=written(tmp_path, SERVICE)))
    assert prompts[0].conversation is not None
    assert prompts[0].conversation.messages[0].content == "你是客服。当前场景：退货"
    assert prompts[1].error is not None
    assert "KeyError: 'system_prompt'" in prompts[1].error
