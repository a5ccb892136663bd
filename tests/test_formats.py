"""What a row means: every format, the turns' many spellings, templates over nested rows and back."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tunesmith.conversation import Message, ToolCall
from tunesmith.data import formats
from tunesmith.data.fields import fill, find, parse_answer, parse_mapping, parse_templates
from tunesmith.data.row import RowError
from tunesmith.errors import DataError

DIALOGUE = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": DIALOGUE, "scene": "x"},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "conversation_pair": {"conversation_pair": DIALOGUE, "system_prompt": "s"},
    "text": {"text": DIALOGUE, "subtype": "t"},
    "input_output": {"input": "q", "output": "a"},
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
    "alpaca_response": {"instruction": "q", "input": "", "response": "a"},
    "prompt_completion": {"prompt": "q", "completion": "a"},
    "question_answer": {"question": "q", "answer": "a"},
}
NESTED = {
    "id": 7,
    "instruction": [{"subtype": "x"}],
    "input": {"task": "T", "event": "E", "note": "kept"},
    "output": {"judgement": "J", "reason": "R"},
}


def refused(name: str, row: dict[str, Any]) -> RowError:
    with pytest.raises(RowError) as caught:
        formats.get(name).parse(row)
    return caught.value


def turn(**item: Any) -> Any:
    return formats.get("messages").parse({"messages": [{"role": "assistant", **item}]}).messages[0]


def test_every_format_has_a_row_here_and_only_it_detects_the_row() -> None:
    assert set(formats.names()) == set(ROWS)
    for name, row in ROWS.items():
        assert [other for other in formats.names() if formats.get(other).detect(row)] == [name]
        messages = formats.get(name).parse(row).messages
        assert [(m.role, m.content) for m in messages] == [("user", "q"), ("assistant", "a")]


def test_types_decide_and_not_names() -> None:
    stringly = {"messages": "no list", "text": "raw", "conversations": ["a", "b"]}
    for row in (NESTED, stringly, {"input": {"a": 1}, "output": "x"}, {"prompt": 1, "completion": "x"}):
        assert not [name for name in formats.names() if formats.get(name).detect(row)]


def test_alpaca() -> None:
    parse = formats.get("alpaca").parse
    row = {"instruction": "do", "input": "this", "output": "done", "history": [["q1", "a1"]]}
    assert [m.content for m in parse(row).messages] == ["q1", "a1", "do\nthis", "done"]
    assert refused("alpaca", {"instruction": "do", "output": None}).code == "content_type"
    assert refused("alpaca", {"instruction": "do"}).code == "missing_column"
    assert refused("alpaca", {"instruction": " ", "input": "", "output": "x"}).code == "empty_prompt"
    assert refused("alpaca", {**row, "history": "q1"}).code == "history"


def test_roles() -> None:
    words = ["system", "human", "bot", "observation"]
    row = {"conversations": [{"from": word, "value": "x"} for word in words]}
    assert [m.role for m in formats.get("sharegpt").parse(row).messages] == ["system", "user", "assistant", "tool"]
    error = refused("messages", {"messages": [*DIALOGUE, {"role": "bot", "content": "x"}]})
    assert error.code == "unknown_role"
    assert error.reason == "messages[2].role is 'bot'; expected system, user, assistant or tool."


@pytest.mark.parametrize("key", ["thinking", "reasoning_content", "reasoning"])
def test_reasoning_under_its_names(key: str) -> None:
    assert turn(content="a", **{key: "because"}).reasoning == "because"
    assert turn(content="a", **{key: ""}).reasoning is None


def test_reasoning_inline_and_in_parts() -> None:
    message = turn(content="<think>\nbecause\n</think>\n\na")
    assert (message.reasoning, message.content) == ("because", "a")
    message = turn(content=[{"type": "reasoning", "value": "because"}, {"type": "text", "text": "a"}, "b"])
    assert (message.reasoning, message.content) == ("because", "ab")
    assert turn(content="say <think>").content == "say <think>"
    assert refused("messages", {"messages": [{"role": "assistant", "content": "<think>a"}]}).code == "unclosed_think"
    assert refused("messages", {"messages": [{"role": "user", "content": "a", "thinking": "b"}]}).code == "role"


@pytest.mark.parametrize("name", ["alpaca", "alpaca_response", "input_output", "prompt_completion", "question_answer"])
def test_reasoning_inline_in_formats_of_one_answer(name: str) -> None:
    column = list(ROWS[name])[-1]

    def answer(text: str) -> Message:
        return formats.get(name).parse(ROWS[name] | {column: text}).messages[-1]

    assert answer("<think>\nbecause\n</think>\n\na") == Message("assistant", "a", reasoning="because")
    assert answer("<think>\n\n</think>\n\na") == Message("assistant", "a")
    assert answer("say <think>") == Message("assistant", "say <think>")
    error = refused(name, ROWS[name] | {column: "<think>a"})
    assert (error.code, error.reason.split()[0]) == ("unclosed_think", column)


def test_reasoning_inline_in_templates_mappings_and_history() -> None:
    row = {"q": "q", "a": "<think>because</think>a"}
    expected = [Message("user", "q"), Message("assistant", "a", reasoning="because")]
    assert list(parse_templates(row, "{q}", "{a}").messages) == expected
    assert list(parse_mapping(row, {"user": "q", "assistant": "a"}).messages) == expected
    alpaca = {"instruction": "r", "output": "b", "history": [list(row.values())]}
    assert list(formats.get("alpaca").parse(alpaca).messages[:2]) == expected


@pytest.mark.parametrize("arguments", [{"x": 1}, '{"x": 1}'])
def test_tool_calls(arguments: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    assert turn(content=None, tool_calls=[call]).tool_calls == (ToolCall("f", {"x": 1}, "c1"),)
    part = {"type": "tool_call", "value": {"name": "f", "arguments": arguments}}
    assert turn(content=[part]).tool_calls == (ToolCall("f", {"x": 1}),)
    row = {
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": "9"},
        ]
    }
    messages = formats.get("sharegpt").parse(row).messages
    assert (messages[1].role, messages[1].content) == ("assistant", "")
    assert messages[1].tool_calls == (ToolCall("f", {"x": 1}),)
    assert messages[2].role == "tool"


def test_tool_arguments_that_are_no_object_stay_text() -> None:
    assert turn(tool_calls=[{"name": "f", "arguments": "[1"}]).tool_calls == (ToolCall("f", "[1"),)
    for call in ("no", {"arguments": {}}, {"name": "f", "arguments": [1]}):
        assert refused("messages", {"messages": [{"role": "assistant", "tool_calls": [call]}]}).code == "tool_call"


def test_tool_results_keep_name_and_id() -> None:
    row = {"messages": [{"role": "tool", "name": "f", "tool_call_id": "c1", "content": "9"}]}
    message = formats.get("messages").parse(row).messages[0]
    assert (message.role, message.name, message.tool_call_id) == ("tool", "f", "c1")


def test_weights() -> None:
    for item, weight in [
        ({"loss_weight": 0.5}, 0.5),
        ({"loss_scale": 2}, 2.0),
        ({"weight": 0.0}, 0.0),
        ({"train": False}, 0.0),
        ({"loss": True, "weight": 0.5}, 0.5),
        ({"weight": None}, None),
    ]:
        assert turn(content="a", **item).weight == weight
    for wrong in (-1, "1", float("nan"), float("inf")):
        assert (
            refused("messages", {"messages": [{"role": "assistant", "content": "a", "weight": wrong}]}).code == "weight"
        )


@pytest.mark.parametrize("content", [{"a": 1}, 3, None, [{"type": "text", "text": 3}]])
def test_content_must_be_text(content: Any) -> None:
    assert refused("messages", {"messages": [{"role": "user", "content": content}]}).code == "content_type"
    assert refused("messages", {"messages": [DIALOGUE[0], "x"]}).code == "content_type"


def test_pictures_are_refused() -> None:
    row = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}
    assert refused("messages", row).code == "content_part"


def test_templates_over_a_nested_row() -> None:
    parsed = parse_templates(
        NESTED, "任务：{task}\n{{{input.event}}}\n{instruction[0].subtype}", "判断:{judgement} {reason}"
    )
    assert [m.content for m in parsed.messages] == ["任务：T\n{E}\nx", "判断:J R"]
    assert parsed.claimed >= {"input", "output", "instruction"}
    assert parsed.meta == {"note": "kept"}
    assert parse_templates(NESTED, "{task}", "{reason}").meta["subtype"] == "x"


def test_a_backslash_and_an_n_from_the_command_line() -> None:
    assert fill(r"{task}\n{event}", NESTED)[0] == "T\nE"


def test_fields_that_are_missing_or_ambiguous() -> None:
    row = {"a": {"name": "1"}, "b": {"name": "2"}, "c": None, "d": [{"name": "3"}], "yes": True, "n": 4}
    for field, code, said in [
        ("name", "ambiguous_field", "a.name, b.name, d[0].name"),
        ("other", "missing_field", "a.name"),
        ("c", "missing_field", "c is empty"),
        ("a", "missing_field", "a.name"),
    ]:
        with pytest.raises(RowError) as caught:
            find(row, field)
        assert caught.value.code == code
        assert said in caught.value.reason
    assert [find(row, field)[1] for field in ("b.name", "d[0].name", "yes", "n")] == ["2", "3", "true", "4"]


@pytest.mark.parametrize("template", ["{", "{}", "{a!r}", "{a:3}", "a}"])
def test_malformed_templates(template: str) -> None:
    with pytest.raises(DataError, match="template"):
        fill(template, {"a": "1"})


ANSWER = "判断:{judgement}\n\n原因：{reason}"


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("判断:有\n\n原因：因为", ("有", "因为")),
        ("判断：有\n原因:因为：甲\n乙 ", ("有", "因为：甲\n乙")),
        ("  判断： 有（Ａ）\n\n\n原因：", ("有（Ａ）", "")),
        ("判断:有", None),
        ("我认为判断:有\n\n原因：因为", None),
        ("", None),
    ],
)
def test_answers_are_read_back(text: str, fields: tuple[str, str] | None) -> None:
    assert parse_answer(ANSWER, text) == (fields and dict(zip(("judgement", "reason"), fields, strict=True)))


def test_what_a_template_wrote_it_reads() -> None:
    draw = random.Random(3)
    for template in (
        ANSWER,
        "{judgement} {reason}",
        "<{judgement}> {{because}} {reason} ok",
        "Label: {judgement}. {reason}",
    ):
        for _ in range(100):
            row = {key: "".join(draw.choices("ab\uff0cＣ７㍿é🙂", k=5)) for key in ("judgement", "reason")}
            assert parse_answer(template, fill(template, row)[0]) == row
