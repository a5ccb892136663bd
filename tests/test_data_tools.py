"""`data convert`, `clean`, `balance`, `augment`, `example`, `inspect`: what they promise, by the real command."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tunesmith.cli import main
from tunesmith.config.schema import CleanSection, DataSection
from tunesmith.conversation import Conversation, Message, Origin, Span, ToolCall
from tunesmith.data import dataset, formats
from tunesmith.data.augment import OPERATIONS, vary
from tunesmith.data.clean import clean
from tunesmith.data.convert import convert
from tunesmith.data.garbled import garbled
from tunesmith.data.near import Near

SINGLE = ("input_output", "question_answer")
TURNS = ("messages", "text", "conversation_pair")
WORDS = ["What", "is", "这是", "什么？", "valve\nleaks", "ok", '{"a": 1}', "密封圈", "0.5"]


def talk(*said: str, **meta: Any) -> Conversation:
    """A conversation of questions and answers in turn."""
    messages = [Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(said)]
    return Conversation(tuple(messages), meta=meta, origin=Origin("f", 1))


def text(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randrange(1, 5)))


def anything(draw: random.Random, turns: int = 3, rich: bool = True) -> Conversation:
    """A conversation by chance; a rich one may reason, call tools and have weights, names and a system prompt."""
    messages = [Message("system", text(draw))] if draw.random() < 0.5 else []
    for _turn in range(draw.randrange(1, turns + 1)):
        messages.append(Message("user", text(draw), name="Ann" if rich and draw.random() < 0.2 else None))
        if rich and draw.random() < 0.3:
            call = ToolCall("search", {"query": text(draw), "n": 2}, id="c1" if draw.random() < 0.5 else None)
            messages.append(Message("assistant", "", tool_calls=(call,)))
            messages.append(Message("tool", text(draw), tool_call_id=call.id))
        answer = text(draw)
        spans = (Span(0, 1, 2.0),) if rich and draw.random() < 0.2 else ()
        weight = draw.choice([None, 2.0]) if rich else None
        messages.append(Message("assistant", answer, draw.choice([None, "thought"]), weight=weight, spans=spans))
    tools = ({"type": "function", "function": {"name": "search"}},) if rich and draw.random() < 0.5 else ()
    return Conversation(tuple(messages), tools, {"scene": text(draw), "n": draw.randrange(9)}, Origin("f", 1))


def again(rows: list[dict[str, Any]], path: Path, name: str) -> list[Conversation]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = dataset.load(path, DataSection(format=name, drop_duplicates=False))
    assert not found.rejected
    return found.conversations


def same(before: Conversation, after: Conversation) -> bool:
    meta = {name: value for name, value in after.meta.items() if name in before.meta}
    return (before.messages, before.tools, before.meta) == (after.messages, after.tools, meta)


@pytest.mark.parametrize("name", TURNS)
def test_formats_of_turns_carry_everything(tmp_path, name):
    draw = random.Random(name)
    given = [anything(draw) for _row in range(150)]
    made = convert(given, name)
    assert not made.refused
    assert not +made.lost
    found = again(made.rows, tmp_path / "rows.jsonl", name)
    assert all(same(a, b) for a, b in zip(given, found, strict=True))


@pytest.mark.parametrize("name", formats.names())
def test_plain_dialogues_survive_every_format(tmp_path, name):
    draw = random.Random(name)
    given = [anything(draw, 1 if name in SINGLE else 3, rich=False) for _row in range(100)]
    made = convert(given, name)
    assert not made.refused
    assert not made.lost["messages"] + made.lost["reasoning"] + made.lost["columns"]
    found = again(made.rows, tmp_path / "rows.jsonl", name)
    assert all(same(a, b) for a, b in zip(given, found, strict=True))


@pytest.mark.parametrize("name", formats.names())
def test_what_a_format_cannot_carry_is_counted_and_never_silently_lost(tmp_path, name):
    """Whatever does not come back is either refused with a reason or counted under what was lost."""
    draw = random.Random(name)
    given = [replace(anything(draw), index=i) for i in range(150)]
    made = convert(given, name)
    refused = {row.index for row in made.refused}
    written = [c for c in given if c.index not in refused]
    found = again(made.rows, tmp_path / "rows.jsonl", name)
    changed = sum(not same(a, b) for a, b in zip(written, found, strict=True))
    del made.lost["unclear"]
    assert max(made.lost.values(), default=0) <= changed <= made.lost.total()
    assert all(row.reason for row in made.refused)
    assert len(made.notices(name)) == len(+made.lost)


def test_a_rows_weight_goes_into_its_messages() -> None:
    weighed = replace(talk("q", "a"), weight=0.5)
    made = convert([weighed], "messages")
    assert made.rows[0]["messages"][1]["loss_weight"] == 0.5
    assert not +made.lost


def test_convert_says_what_was_lost_and_lists_what_did_not_fit(tmp_path, capsys):
    given = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "loss_weight": 2}]},
        {"messages": [{"role": r, "content": "x"} for r in ("user", "assistant", "user", "assistant")]},
    ]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.json"
    source.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    words = ["data", "convert", str(source), "--to", "question_answer", "-o", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "lost weights in the format question_answer: 1" in said
    assert "1 rows were left out" in said
    assert json.loads(out.read_text(encoding="utf-8")) == [{"question": "q", "answer": "a"}]
    listed = json.loads((tmp_path / "out.removed.jsonl").read_text(encoding="utf-8"))
    assert (listed["line"], listed["code"]) == (2, "many_turns")
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words[:-1], str(source)]) == 2
    assert "data itself" in capsys.readouterr().err
    assert main([*words[:3], "--to", "sharegtp", "-o", str(out)]) == 2
    assert "Did you mean sharegpt?" in capsys.readouterr().err


BAD = {
    "too_short": talk("q", "ab"),
    "too_long": talk(" ".join(map(str, range(300))), "an answer"),
    "repeated": talk("q", "哈" * 40),
    "garbled": talk("q", "浣犲ソ锛屼笘鐣"),
    "refusal": talk("Book a flight.", "I'm sorry, but I can't help with that."),
    "copy": talk("Why does it leak here?", "why does it  leak here？"),
    "duplicate": talk("How are valves sealed?", "With a ring of rubber."),
    "near_duplicate": talk("How are all the valves sealed in this pump, do you know?", "With a ring of rubber. " * 3),
}
OFF = {
    "too_short": {"min_answer": 0},
    "too_long": {"max_chars": 10_000},
    "repeated": {"max_repeat": 0},
    "near_duplicate": {"near_duplicates": 0},
    "refusal": {"refusals": False},
    "copy": {"copies": False},
    "duplicate": {"duplicates": False, "near_duplicates": 0},
}
FIRST = [
    BAD["duplicate"],
    talk("How are all the valves sealed in this pump, do you know??", "With a ring of rubber. " * 3),
]


@pytest.mark.parametrize("code", BAD)
def test_each_fault_is_found_and_each_check_can_be_switched_off(code):
    strict = {"min_answer": 3, "max_chars": 500}
    given = [replace(c, index=i) for i, c in enumerate([*FIRST, BAD[code]])]
    found = clean(given, CleanSection(**strict))
    assert [row.code for row in found.removed] == [code]
    assert found.removed[0].reason
    assert len(found.kept) == 2
    assert not clean(given, CleanSection(**strict | OFF.get(code, {code: False}))).removed


def test_good_rows_stay():
    good = [
        talk("What is the status?", "Sorry for the delay: it was sent on Monday."),
        talk("画一条线", "-" * 80),
        talk("Hello", "Hello"),
        talk("判断是否违反 A1：x = 1", "判断:有缺陷"),
        talk("判断是否违反 A1：x = 1", "判断:无缺陷"),
        talk("Été à Paris ?", "« CAFÉ », naïve, Größe, “quoted” — l’été…"),
        talk("你好，请问怎么退票？", "您好，退票请到窗口办理。"),
    ]
    assert clean(good, CleanSection()).removed == []


@pytest.mark.parametrize("codec", ["cp1252", "gbk"])
def test_utf8_read_in_another_encoding_is_garbled(codec):
    meant = {"cp1252": "été à la mer — déjà", "gbk": "机器学习是人工智能的一个分支"}[codec]
    assert garbled(meant.encode().decode(codec, "replace"))
    assert not garbled(meant)


def test_near_repetition_depends_on_both_sides_and_on_the_share():
    question = "Which of these valves has to be closed before the pump is opened for inspection?"
    near = Near(0.8)
    assert near.add(question, "The red one.") is None
    assert near.add(question.replace("pump", "Pump") + "!", "the red one") == 0
    assert near.add(question, "The blue one.") is None
    assert Near(0.99).add(question, "x") is None


def test_clean_keeps_rows_as_they_stand_and_lists_the_others(tmp_path, capsys):
    given = [
        {"instruction": "q one", "input": "", "output": "a fine answer", "extra": {"a": 1}},
        {"instruction": "q two", "input": "", "output": ""},
        {"instruction": "q one", "input": "", "output": "a fine answer", "extra": {"a": 2}},
    ]
    source, out = tmp_path / "in.json", tmp_path / "out.jsonl"
    source.write_text(json.dumps(given, indent=1), encoding="utf-8")
    assert main(["data", "clean", str(source), "-o", str(out), "clean.min_answer=2"]) == 0
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] == given[:1]
    removed = (tmp_path / "out.removed.jsonl").read_text(encoding="utf-8").splitlines()
    assert [(row["code"], row["line"]) for row in map(json.loads, removed)] == [("empty_answer", 10), ("duplicate", 15)]
    assert "1 of 3 rows" in capsys.readouterr().err


@pytest.mark.parametrize(("to", "sizes"), [("smallest", 2), ("largest", 9), ("median", 4), ("5", 5)])
def test_balance_gives_every_value_equally_many_rows(tmp_path, capsys, to, sizes):
    counts = {"a": 9, "b": 4, "c": 2}
    given = [{"question": f"{k}{i}", "answer": "x", "tag": {"kind": k}} for k, n in counts.items() for i in range(n)]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    assert main(["data", "balance", str(source), "--by", "kind", "--to", to, "-o", str(out)]) == 0
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert Counter(row["tag"]["kind"] for row in found) == dict.fromkeys(counts, sizes)
    for kind, n in counts.items():
        rows = Counter(row["question"] for row in found if row["tag"]["kind"] == kind)
        assert max(rows.values()) - min(rows.values()) <= 1 if len(rows) == n else set(rows.values()) == {1}
    said = capsys.readouterr().err
    assert ("drop_duplicates=false" in said) == (sizes > 2)
    assert main(["data", "balance", str(source), "--by", "kind", "--to", "most", "-o", str(tmp_path / "no.jsonl")]) == 2


def test_offline_operations_keep_answers_and_leave_delicate_questions_alone():
    draw = random.Random(3)
    asked = talk("Which valve should be closed before the pump is opened?", "The red one.", scene="x")
    for name in OPERATIONS:
        made = vary(asked, name, draw)
        assert made is not None
        assert made.messages[1] == asked.messages[1]
        assert made.messages[0].content != asked.messages[0].content
    delicate = [
        "Translate this: hello",
        "What does `x` do",
        "Is 5 more than 3?",
        "line\nline",
        "把下面的句子翻译成英文",
    ]
    for question in delicate:
        for name in set(OPERATIONS) - {"wrap"}:
            assert vary(talk(question, "a"), name, draw) is None


def test_augmented_rows_name_their_source_and_split_with_it(tmp_path, capsys):
    given = [{"instruction": f"Where is the {k} valve kept", "output": f"On shelf {k}."} for k in "abcdefghij"]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    words = ["data", "augment", str(source), "--copies", "2", "--system", "Be brief.", "--with", "wrap,typo"]
    assert main([*words, "-o", str(out)]) == 0
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    new = [row for row in found if "augmented_by" in row]
    assert len(new) == 20
    assert {row["augmented_by"] for row in new} == {"wrap", "typo", "system"}
    assert all(row["output"] == given[row["augmented_from"]]["output"] for row in found)
    assert "data.split_by=augmented_from" in capsys.readouterr().err
    assert main([*words, "-o", str(tmp_path / "same.jsonl")]) == 0
    assert (tmp_path / "same.jsonl").read_bytes() == out.read_bytes()
    assert main(["data", "split", str(out), "--group-by", "augmented_from", "-o", str(tmp_path / "split")]) == 0
    assert main([*words[:3], "--with", "shout", "-o", str(tmp_path / "no.jsonl")]) == 2


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An endpoint that rewrites by a prefix, loses the number of one question and fails on another."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            question = body["messages"][-1]["content"]
            said = "no number left" if "7" in question else f"In other words: {question}"
            self.send_response(503 if "fail" in question else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": said}}]}).encode())

        def log_message(self, *_args: Any) -> None:
            pass

    served = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}/v1", asked
    served.shutdown()
    thread.join()
    served.server_close()


def test_questions_are_rewritten_by_an_endpoint(tmp_path, capsys, monkeypatch, server):
    url, asked = server
    monkeypatch.setenv("TUNESMITH_API_KEY", "secret-key")
    questions = ["Where is it kept?", "Are 7 valves enough?", "Does it fail?"]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"question": q, "answer": "a"}) + "\n" for q in questions), encoding="utf-8")
    words = ["data", "augment", str(source), "-o", str(out), "--endpoint", url]
    assert main(words) == 2
    assert main([*words, "--model", "writer"]) == 0
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["question"] for row in found if "augmented_by" in row] == ["In other words: Where is it kept?"]
    assert {(each["path"], each["key"], each["model"]) for each in asked} == {
        ("/v1/chat/completions", "Bearer secret-key", "writer")
    }
    said = capsys.readouterr().err
    assert "were no good: 4" in said
    assert "secret-key" not in said + out.read_text(encoding="utf-8")


def test_an_endpoint_that_is_gone_is_said_and_nothing_is_written(tmp_path, capsys):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = "".join(json.dumps({"question": f"q{i}", "answer": "a"}) + "\n" for i in range(5))
    source.write_text(rows, encoding="utf-8")
    words = ["data", "augment", str(source), "-o", str(out), "--model", "m", "--endpoint"]
    assert main([*words, "http://127.0.0.1:9/v1"]) == 2
    assert "The server does not answer" in capsys.readouterr().err
    assert main([*words, "file:///etc/passwd"]) == 2
    assert not out.exists()


@pytest.mark.parametrize("name", formats.names())
def test_an_example_of_every_format_is_recognised_and_true(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TUNESMITH_LANG", "zh")
    out = tmp_path / "rows.jsonl"
    assert main(["data", "example", "-o", str(out), "--format", name, "--rows", "12"]) == 0
    found = dataset.load(out, DataSection())
    assert (found.format, len(found.conversations), found.rejected) == (name, 12, [])
    sums = [m.content for c in found.conversations for m in c.messages if m.role == "assistant" and "加" in m.content]
    assert sums
    for said in sums:
        a, b, c = (int(part) for part in said.rstrip("。").replace("加", "等于").split("等于"))
        assert a + b == c


def test_inspect_counts_tokens_languages_groups_and_draws_them(tmp_path, capsys, tiny_tokenizer):
    given = [{"question": "阀门漏水了吗？", "answer": "是。", "kind": "密封"}] * 2
    given += [{"question": f"Is valve {i} faulty?", "answer": "Yes, it is.", "kind": "pump"} for i in range(8)]
    source, picture = tmp_path / "in.jsonl", tmp_path / "rows.png"
    source.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    words = ["data", "inspect", str(source), "--by", "kind", "--tokenizer", str(tiny_tokenizer), "--json"]
    assert main([*words, "--png", str(picture), "data.max_length=30"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["languages"] == {"Latin letters": 8, "Chinese": 2}
    assert found["groups"] == {"pump": 8, "密封": 2}
    assert (found["duplicates"], found["characters"]["min"]) == (1, 9)
    assert (found["over_max_length"] > 0) == (found["tokens"]["max"] > 30)
    assert 0 < found["tokens"]["min"] <= found["tokens"]["median"] <= found["tokens"]["max"]
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert main([*words, "--png", str(picture)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["data", "inspect", str(source), "--by", "sort"]) == 2
