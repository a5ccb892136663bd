"""Tables and Parquet files: cells too many or too long, quotes, columns that stand twice, files that unpack far."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hostile import ACCEPTED, GOOD, REFUSED, REPORTED, Case
from hostile.data import TEXT, file

TABLE = "question,answer\nOne?,No.\nTwo?,Yes.\n"


def tables() -> Iterator[Case]:
    def table(name: str, text: str | bytes, ends: str, says: str = "", called: str = "rows.csv") -> Case:
        return file(name, text, ends, says, called)

    yield table("a cell too many", TABLE + "Three?,No.,Maybe.\n", REPORTED, "rows.csv:4  The row has 3 cells")
    yield table("a cell too few", TABLE + "Three?\n", REPORTED, "rows.csv:4  The row has 1 cells")
    yield table("a quote that never ends", TABLE + '"Three?,No.\n', REPORTED, "rows.csv:4  ")
    yield table("text behind a quote", TABLE + '"Three?"x,No.\nFour?,No.\n', REPORTED, "rows.csv:4  This is not a row")
    yield table("a zero in a cell", TABLE + "Thr\x00ee?,No.\n", ACCEPTED)
    yield table("a column that stands twice", "question,answer,answer\nOne?,No.,Yes.\n", REFUSED, "answer stands twice")
    yield table("a column without a name", "question,,answer\nOne?,x,No.\n", ACCEPTED)
    yield table("a cell that begins a formula", TABLE + "\"=cmd|' /C calc'!A0\",@SUM(1)\n", ACCEPTED)
    yield table("a bad byte", TABLE.encode() + b"\xff?,No.\n", REPORTED, "rows.csv:4  The row holds a broken")
    yield table("a cell that is too long", TABLE + "a" * 16_100_000 + ",No.\n", REPORTED, "rows.csv:4  ")
    yield table("a table with line ends of an old Mac", TABLE.replace("\n", "\r"), ACCEPTED)
    yield table("tabs and a mark", b"\xef\xbb\xbf" + TABLE.replace(",", "\t").encode(), ACCEPTED, "", "rows.tsv")
    yield table("utf-16", TABLE.encode("utf-16"), ACCEPTED, "was read as utf-16")
    yield table(
        "a broken row behind a long one", TABLE + '"Three\n\n?",No.\nFour?\n', REPORTED, "rows.csv:7  The row has"
    )
    yield table("three thousand columns", ",".join(f"c{i}" for i in range(3000)) + "\n", REFUSED, "rows.csv")


def parquet() -> Iterator[Case]:
    def one(name: str, content: bytes | Callable[[], bytes], ends: str, says: str = "") -> Case:
        return file(name, content, ends, says, "rows.parquet")

    whole = _table({name: [row[name] for row in GOOD] for name in GOOD[0]})
    yield one("whole parquet", whole, ACCEPTED)
    yield one("parquet cut short", whole[: len(whole) // 2], REFUSED, "This is not a Parquet file")
    yield one("parquet with junk inside", whole[:20] + b"\xff" * 60 + whole[80:], REFUSED, "rows.parquet")
    yield one("parquet whose footer lies", whole[:-8] + b"\xff\xff\xff\x7fPAR1", REFUSED, "This is not a Parquet file")
    yield one("empty parquet", b"", REFUSED, "This is not a Parquet file")
    yield one("parquet without rows", _table({"question": [], "answer": []}), REFUSED, "There are no rows")
    yield one("text called parquet", TEXT.encode(), REFUSED, "This is not a Parquet file")
    yield file("parquet called jsonl", whole, REFUSED, "packed by Parquet")
    cell = lambda: _table({"question": ["a?", "b?"], "answer": ["x" * 17_000_000, "c"]})  # noqa: E731
    yield one("parquet with a long cell", cell, REPORTED, "rows.parquet:1  The row is longer")
    yield one("parquet that means one long cell in every row", lambda: _repeated(60), REFUSED, "60 of 60 rows")
    yield one("parquet that unpacks without end", lambda: _grown(60), REFUSED, "would unpack to 1 GB")


def _table(columns: dict[str, Any], **how: Any) -> bytes:
    import pyarrow
    import pyarrow.parquet

    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), stream, **how)
    return stream.getvalue()


def _repeated(rows: int) -> bytes:
    """A long cell that is stored once."""
    import pyarrow

    cells = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows), pyarrow.array(["x" * 17_000_000]))
    return _table({"question": [f"{i}?" for i in range(rows)], "answer": cells}, store_schema=False)


def _grown(times: int) -> bytes:
    """Ten million equal characters, again and again, in a few kilobytes."""
    import pyarrow
    import pyarrow.parquet

    stream, piece = io.BytesIO(), pyarrow.table({"question": ["a?"], "answer": ["x" * 10_000_000]})
    with pyarrow.parquet.ParquetWriter(stream, piece.schema, compression="zstd", use_dictionary=False) as writer:
        for _again in range(times):
            writer.write_table(piece)
    return stream.getvalue()


def cases() -> Sequence[Case]:
    return [*tables(), *parquet()]
