"""JSON and JSON Lines as rows with the exact line on which each begins, whatever else in the file is broken.

A value that Python's parser takes is left as it is; only one that it refuses is looked at again, for commas too many.
Knows text; knows nothing of encodings, paths or what a row means.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tunesmith.conversation import ROLES, Origin
from tunesmith.data.row import EXCERPT, BadRow, Row, is_dialogue, is_message
from tunesmith.i18n import _

LONGEST_ROW = 16_000_000  # characters
WRAPPERS = (
    *("data", "train", "rows", "examples", "items", "records", "samples", "instances", "entries", "dataset"),
    *("conversations", "dialogs", "dialogues", "test", "validation"),
)


class _NotJson(ValueError):
    """What Python's parser would take, and JSON has not or means two ways."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _value in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _NotJson(_("The name {name} stands twice in one object. Keep one.").format(name=twice[:EXCERPT]))
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _NotJson(_("The number {digits} is too large.").format(digits=digits[:EXCERPT]))
    return value


def _no_constant(word: str) -> Any:
    raise _NotJson(_("{word} is not JSON. Write null where there is no number.").format(word=word))


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_float=_finite, parse_constant=_no_constant)
_SPACE = re.compile(r"[\s\ufeff]*")
# A string ends with its line at the latest, so that a missing quote spoils one line and not the rest of the file.
_STRING = r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"?'
_BRACKET = re.compile(rf"{_STRING}|[\[\]{{}}]")
_COMMA = re.compile(rf"({_STRING})|,(?=\s*[\]}}])")
_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")


def read_json(text: str, file: str, notices: list[str]) -> list[Row | BadRow]:
    """Rows of a JSON file: a list of them, an object around such a list, or one object after another."""
    scan = _Scan(text, file)
    start = scan.skip(0)
    rows: list[Row | BadRow]
    if text.startswith("[", start):
        rows = list(scan.values(start + 1, "]"))
        if (end := scan.skip(scan.end)) < len(text):
            reason = _("More text follows the end of the list.")
            rows.append(BadRow(scan.origin(end), "not_json", reason, text[end : end + EXCERPT]))
    elif wrapped := _wrapped(text, file, start):
        rows, scan = wrapped
    else:
        rows = list(scan.values(start, ""))
    # A file that is one dialogue: its elements are the turns, not rows.
    if len(rows) > 1 and all(isinstance(row, Row) and row.value.get("role") in ROLES for row in rows):
        turns = [row.value for row in rows if isinstance(row, Row)]
        rows = [Row({"messages": turns}, rows[0].origin)]
    notices += scan.notices + _comma_notice(scan.commas)
    return rows


def read_lines(lines: Iterable[str], file: str, notices: list[str]) -> Iterator[Row | BadRow]:
    """Rows of a JSON Lines file. Lines end at a line feed only: other separators may stand inside JSON strings."""
    commas: list[str] = []
    for number, ended in enumerate(lines, 1):
        line = ended.removesuffix("\n")
        scan = _Scan(line, file, number)
        start = scan.skip(0)
        if start == len(line):
            continue
        row, end = scan.value(start)
        rest = scan.skip(end)
        if isinstance(row, Row) and rest < len(line):
            reason = _("More text follows the end of the object, at column {column}.").format(column=rest + 1)
            row = BadRow(row.origin, "not_json", reason, line[:EXCERPT])
        yield row
        commas += scan.commas
    notices += _comma_notice(commas)


def holds_lines(text: str, named_lines: bool) -> bool:
    """Whether the text is JSON Lines rather than JSON; the file's name (`named_lines`) decides where both could be."""
    lines = [stripped for line in text.split("\n", 50)[:50] if (stripped := line.strip())]
    if len(lines) < 2:
        return False
    first = lines[0]
    if named_lines:
        return first not in ("[", "{") and not (first.startswith("[") and first.endswith(","))
    closed = sum(line[0] in "{[" and line[-1] in "}]" for line in lines)
    return len(first) > 1 and first[0] in "{[" and closed * 2 > len(lines)


def _wrapped(text: str, file: str, start: int) -> tuple[list[Row | BadRow], _Scan] | None:
    """The rows of `{"data": [...]}`; None if this is an object of another sort."""
    scan = _Scan(text, file)
    try:
        position = start + 1
        while True:
            key, position = _DECODER.raw_decode(text, scan.skip(position))
            position = scan.skip(scan.skip(position) + 1)
            if key in WRAPPERS and text.startswith("[", position):
                break
            position = scan.skip(scan.skip(_DECODER.raw_decode(text, position)[1]) + 1)
    except (ValueError, RecursionError):
        return None
    rows = list(scan.values(position + 1, "]"))
    if all(isinstance(row, Row) and is_message(row.value) for row in rows):
        return None
    scan.notices.append(_("{file}: the rows were read from {key}.").format(file=file, key=key))
    return rows, scan


def _comma_notice(places: list[str]) -> list[str]:
    if not places:
        return []
    shown = ", ".join(places[:5]) + (", ..." if len(places) > 5 else "")
    return [_("Commas too many, read past: {n} ({places}).").format(n=len(places), places=shown)]


class _Scan:
    """Goes through a text from front to back. `line` is the number of the text's first line."""

    def __init__(self, text: str, file: str, line: int = 1) -> None:
        self.text = text
        self.file = file
        self.commas: list[str] = []
        self.notices: list[str] = []
        self.end = 0
        self._first = self._line = line
        self._counted = 0
        self._opened = 0

    def skip(self, position: int) -> int:
        match = _SPACE.match(self.text, position)
        return match.end() if match else position

    def origin(self, position: int) -> Origin:
        """Place of a position that is not before the last one asked for."""
        self._line += self.text.count("\n", self._counted, position)
        self._counted = max(self._counted, position)
        return Origin(self.file, self._line)

    def values(self, position: int, closer: str) -> Iterator[Row | BadRow]:
        """Values from here to the closing bracket; with no bracket, to the end of the text."""
        position = self.skip(position)
        while position < len(self.text) and self.text[position] != closer:
            row, end = self.value(position)
            yield row
            position = self.skip(end)
            if self.text.startswith(",", position):
                comma, position = position, self.skip(position + 1)
                if self.text[position : position + 1] == closer:
                    self.commas.append(str(self.origin(comma)))
        self.end = position + 1
        if closer and position == len(self.text):
            self.notices.append(_("{file} ends before its list does; it may be cut off.").format(file=self.file))

    def value(self, position: int) -> tuple[Row | BadRow, int]:
        """The row that begins here, and where it ends."""
        origin = self.origin(position)
        value: Any = None
        code = reason = ""
        if self.text[position] in "[{":
            self._opened = position
        try:
            value, end = _DECODER.raw_decode(self.text, position)
        except RecursionError:
            end = self._extent(position)
            code, reason = "too_deep", _("Lists and objects are nested too deeply.")
        except ValueError as error:
            end = self._extent(position)
            value = self._without_commas(position, end)
            if value is None:
                code, reason = "not_json", self._explain(error)
        raw = slice(position, end)
        if not code:
            code, reason = _refusal(value, self.text, raw)
        if code:
            return BadRow(origin, code, reason, self.text[raw][:EXCERPT]), end
        return Row(value if isinstance(value, dict) else {"messages": value}, origin), end

    def _explain(self, error: ValueError) -> str:
        if isinstance(error, _NotJson):
            return str(error)
        if not isinstance(error, json.JSONDecodeError):
            return _("A number has too many digits.")
        line = self._first + error.lineno - 1
        text = _("This is not JSON at line {line}, column {column}: {why}.")
        return text.format(line=line, column=error.colno, why=error.msg.rstrip("."))

    def _without_commas(self, position: int, end: int) -> Any:
        """The value without its trailing commas, or None. A space for a comma keeps every place where it was."""
        raw = self.text[position:end]
        mended = _COMMA.sub(lambda match: match[1] or " ", raw)
        try:
            value, rest = _DECODER.raw_decode(mended)
        except (ValueError, RecursionError):
            return None
        if mended[rest:].strip() not in ("", ","):
            return None
        for match in _COMMA.finditer(raw):
            if match[1] is None:
                self.commas.append(str(self.origin(position + match.start())))
        return value

    def _extent(self, position: int) -> int:
        """Where a value that does not parse ends: before the line on which its like begins, or at its bracket."""
        opened = self._opened
        indent = self.text[max(0, opened - 200) : opened].rpartition("\n")[2]
        alone = self.text[opened + 1 : opened + 3].lstrip("\r").startswith("\n")
        # Brackets alone on unindented lines may be anybody's; otherwise the next one this far in is the next row's.
        if not indent.strip() and (indent or not alone):
            sibling = re.compile(rf"\n{indent}(?=[\[{{])").search(self.text, position)
            if sibling:
                return sibling.start()
        if self.text[position] not in "[{":
            end = re.compile(r"[,\]\n]").search(self.text, position + 1)
            return end.start() if end else len(self.text)
        depth = 0
        for token in _BRACKET.finditer(self.text, position):
            depth += (token[0] in "[{") - (token[0] in "]}")
            if depth == 0:
                return token.end()
        return len(self.text)


def _refusal(value: Any, text: str, raw: slice) -> tuple[str, str]:
    """Code and reason why a parsed value can't be a row; empty if it can."""
    if raw.stop - raw.start > LONGEST_ROW:
        return "too_long", _("The row is longer than {n} characters.").format(n=LONGEST_ROW)
    if _HALF_CHARACTER.search(text, raw.start, raw.stop):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return "encoding", _("The row holds a broken character.")
    if not isinstance(value, dict) and not is_dialogue(value):
        return "not_object", _("A row must be an object with columns, or a list of messages.")
    return "", ""
