"""Files to rows: places, encodings, and what happens to everything that is broken."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tunesmith.data.read import read
from tunesmith.data.row import BadRow, Row
from tunesmith.errors import DataError


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(path: Path) -> list[int]:
    return [row.origin.line for row in read(path).rows]


def values(path: Path) -> list[dict]:
    return [row.value for row in read(path).rows if isinstance(row, Row)]


def codes(path: Path) -> list[str]:
    return [row.code if isinstance(row, BadRow) else "" for row in read(path).rows]


@pytest.mark.parametrize("indent", [None, 0, 1, 4])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_json_list_has_the_exact_line_of_every_row(tmp_path: Path, indent: int | None, newline: str) -> None:
    rows = [{"a": "x\ny", "n": [{"b": i}]} for i in range(5)]
    text = json.dumps(rows, indent=indent)
    path = write(tmp_path / "d.json", text.replace("\n", newline))
    assert values(path) == rows
    # With indent 0 the nested object begins a line too; rows are those that open with the column a.
    expected = [
        text[: i + 1].count("\n") + 1
        for i in range(len(text))
        if text[i:].lstrip("{ \n").startswith('"a"') and text[i] == "{"
    ]
    assert lines(path) == expected


@pytest.mark.parametrize("key", ["data", "train", "rows"])
def test_object_around_a_list(tmp_path: Path, key: str) -> None:
    path = write(
        tmp_path / "d.json", json.dumps({"version": {"n": [1]}, key: [{"a": 1}, {"a": 2}], "end": 1}, indent=2)
    )
    assert values(path) == [{"a": 1}, {"a": 2}]
    assert lines(path) == [8, 11]
    assert key in read(path).notices[0]


def test_single_objects(tmp_path: Path) -> None:
    row = {"data": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    assert values(write(tmp_path / "one.json", json.dumps(row, indent=1))) == [row]
    two = write(tmp_path / "two.json", '{\n "a": 1\n}\n{\n "a": 2\n}\n')
    assert values(two) == [{"a": 1}, {"a": 2}]
    assert lines(two) == [1, 4]


def test_bare_dialogues_are_rows(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert values(write(tmp_path / "a.json", json.dumps(turns))) == [{"messages": turns}]
    assert values(write(tmp_path / "b.json", json.dumps([turns, turns]))) == [{"messages": turns}] * 2
    assert values(write(tmp_path / "c.jsonl", f"{json.dumps(turns)}\n{json.dumps(turns)}")) == [{"messages": turns}] * 2


def test_trailing_commas_are_read_and_said(tmp_path: Path) -> None:
    text = '[\n {\n  "a": "x, ]",\n  "b": [\n   1,\n  ],\n },\n {"a": "y,}"},\n]\n'
    path = write(tmp_path / "d.json", text)
    assert values(path) == [{"a": "x, ]", "b": [1]}, {"a": "y,}"}]
    (notice,) = read(path).notices
    assert all(f"{path}:{line}" in notice for line in (5, 6, 8))


def test_one_broken_element_costs_one_row(tmp_path: Path) -> None:
    for broken in ('{"a": tru}', '{"a": "open}', '{"a": 1', '{"a" 1}', "oops", '{"a": "\\ud83d"}'):
        path = write(tmp_path / "d.json", f'[\n  {{"a": 1}},\n  {broken},\n  {{"a": 3}}\n]')
        bad = [row for row in read(path).rows if isinstance(row, BadRow)]
        assert values(path) == [{"a": 1}, {"a": 3}], broken
        assert [row.origin.line for row in bad] == [3], broken
    assert (
        "line 3, column 10"
        in read(write(tmp_path / "d.json", '[\n {"a": 1},\n {"a": 2 tru},\n {"a": 3}]')).rows[1].reason
    )


def test_a_list_that_is_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "d.json", '[\n {"a": 1},\n {"a": "hal')
    assert values(path) == [{"a": 1}]
    assert lines(path) == [2, 3]
    assert "cut off" in read(path).notices[0]


def test_json_lines(tmp_path: Path) -> None:
    text = '{"a": "one\u2028two"}\n\n{"a": 2,,}\n[1]\n"x"\n{"a": 3} {"a": 4}\n{"a": 5}'
    path = write(tmp_path / "d.jsonl", text)
    assert codes(path) == ["", "not_json", "not_object", "not_object", "not_json", ""]
    assert lines(path) == [1, 3, 4, 5, 6, 7]
    rows = read(path).rows
    assert "column 9" in rows[1].reason
    assert "column 10" in rows[4].reason
    assert rows[1].excerpt == '{"a": 2,,}'


def test_names_do_not_decide(tmp_path: Path) -> None:
    path = write(tmp_path / "d.json", '{"a": 1}\n{"a": \n{"a": 3}\n')
    assert codes(path) == ["", "not_json", ""]
    assert "one object a line" in read(path).notices[0]
    assert values(write(tmp_path / "d.jsonl", '[\n {"a": 1},\n {"a": 2}\n]')) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("name", ["d.json", "d.jsonl"])
def test_too_deep_and_too_many_digits(tmp_path: Path, name: str) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    path = write(tmp_path / name, f'{{"a": 1}}\n{{"a": {deep}}}\n{{"a": {"9" * 5000}}}\n{{"a": 4}}\n')
    assert codes(path) == ["", "too_deep", "not_json", ""]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gbk", "gb18030"])
@pytest.mark.parametrize("name", ["d.json", "d.jsonl", "d.csv"])
def test_encodings(tmp_path: Path, encoding: str, name: str) -> None:
    row = {"question": "你好，多少钱？", "answer": "您好，现在有活动。"}
    text = ",".join(row) + "\n" + ",".join(row.values()) if name == "d.csv" else json.dumps(row, ensure_ascii=False)
    path = write(tmp_path / name, text.encode(encoding))
    assert values(path) == [row]
    assert bool(read(path).notices) == (not encoding.startswith("utf-8"))


def test_one_wrong_byte_does_not_turn_the_file_into_another_encoding(tmp_path: Path) -> None:
    good = json.dumps({"a": "你好世界" * 20}, ensure_ascii=False).encode()
    path = write(tmp_path / "d.jsonl", good + b"\n" + good.replace("世".encode(), b"\xe4\xb8", 1) + b"\n" + good)
    assert codes(path) == ["", "encoding", ""]
    assert values(path)[1]["a"].startswith("你好世界")


def test_tables(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", 'question,answer\n"two\nlines",a\n\nonly one\nq,"say ""x"""\n')
    assert values(path) == [{"question": "two\nlines", "answer": "a"}, {"question": "q", "answer": 'say "x"'}]
    assert lines(path) == [2, 5, 6]
    assert codes(path) == ["", "cells", ""]
    assert values(write(tmp_path / "d.tsv", "a\tb\n1\t2")) == [{"a": "1", "b": "2"}]
    assert values(write(tmp_path / "s.csv", "a;b\n1,5;2")) == [{"a": "1,5", "b": "2"}]
    assert codes(write(tmp_path / "o.csv", 'a,b\n1,"open\n')) == ["not_csv"]
    turns = [{"role": "user", "content": "q"}]
    cell = json.dumps(turns).replace('"', '""')
    assert values(write(tmp_path / "m.csv", f'messages,a\n"{cell}","[1]"')) == [{"messages": turns, "a": "[1]"}]


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"messages": [{"role": "user", "content": "q"}], "n": 1}, {"messages": [], "n": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    assert values(tmp_path / "d.parquet") == rows
    assert lines(tmp_path / "d.parquet") == [1, 2]
    with pytest.raises(DataError, match="Parquet"):
        read(write(tmp_path / "x.parquet", "no"))


def test_a_folder_in_order_of_names(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.json", "c.csv"):
        write(tmp_path / name, "k\nc" if name == "c.csv" else json.dumps({"k": name}))
    write(tmp_path / "LICENSE", "free")
    reading = read(tmp_path)
    assert [row.value["k"] for row in reading.rows] == ["a.json", "b.jsonl", "c"]
    assert "LICENSE" in reading.notices[0]


def test_all_files_that_cannot_be_read_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        read(
            [
                tmp_path / "none.json",
                write(tmp_path / "a.docx", "x"),
                tmp_path / "empty",
                write(tmp_path / "u.json", b"\xff\xfe["),
            ]
        )
    assert len(caught.value.problems) == 4


def test_damage_costs_the_rows_it_touches(tmp_path: Path) -> None:
    """Whatever is done inside one row of a file, the rows before it and all but the next one behind it are read."""
    draw = random.Random(5)
    rows = [{"a": f"row {i}", "b": [{"c": i}]} for i in range(6)]
    good = json.dumps(rows, indent=2)
    starts = [i + 3 for i in range(len(good)) if good.startswith("\n  {", i)]
    for trial in range(300):
        touched = draw.randrange(6)
        at = starts[touched] + draw.randrange(1, 35)
        text = good[:at] + draw.choice(['"', "{", "}", "[", "]", ",", "\n", "x", ""]) + good[at + draw.randrange(3) :]
        path = write(tmp_path / f"{trial}.json", text)
        assert all(1 <= line <= text.count("\n") + 1 for line in lines(path))
        kept = [row for i, row in enumerate(rows) if not touched <= i <= touched + 1]
        assert [row for row in kept if row in values(path)] == kept, text
