"""In which encoding a file of text is written: its byte order mark, UTF-8, or the one of Chinese Windows.

Reads a file piece by piece, whatever its size. Knows bytes; nothing of rows.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from tunesmith.errors import DataError
from tunesmith.i18n import _

PIECE = 1 << 20  # bytes
MARK = "utf-8-sig"  # reads past the mark, if there is one
BROKEN = re.compile("[\udc80-\udcff]")  # what a byte becomes that no encoding explains
_BOMS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zX": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PAR1": "Parquet",
}
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def encoding_of(path: Path) -> str:
    """Python's name of the file's encoding. In UTF-8, bytes that can't be explained become lone surrogates; their rows
    are refused later. Raises DataError for a packed file and one that begins like an encoding and is not, OSError."""
    with path.open("rb") as file:
        head = file.read(4)
    packed = next((kind for sign, kind in _PACKED.items() if head.startswith(sign)), None)
    if packed:
        text = _("The file is packed by {kind} and not text. Unpack it, or give it the ending that says what it is.")
        raise DataError(text.format(kind=packed), str(path))
    name = next((name for bom, name in _BOMS if head.startswith(bom)), "")
    # Data begin with an ASCII character: a zero beside it is UTF-16 that came without its mark.
    if not name and len(head) > 1 and 0 in head[:2]:
        name = "utf-16-le" if head[1] == 0 else "utf-16-be"
    if name:
        wrong = _first_wrong(path, name)
        if wrong is not None:
            text = _("The file begins like {encoding} but is not: byte {n} is wrong.")
            raise DataError(text.format(encoding=name, n=wrong), str(path))
        return name
    # GB18030 also takes damaged UTF-8 and makes nonsense of it: where nearly all is UTF-8, it stays UTF-8.
    if _first_wrong(path, MARK) is not None and _mostly_wrong(path) and _first_wrong(path, "gb18030") is None:
        return "gb18030"
    return "utf-8"


def _first_wrong(path: Path, encoding: str) -> int | None:
    """The first byte that the encoding does not explain."""
    decoder, start = codecs.getincrementaldecoder(encoding)(), 0
    for piece in _ended(path):
        waiting = len(decoder.getstate()[0])
        try:
            decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            return start - waiting + error.start
        start += len(piece)
    return None


def _mostly_wrong(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder(MARK)("surrogateescape")
    wrong = others = 0
    for piece in _ended(path):
        text = decoder.decode(piece, final=not piece)
        wrong += len(BROKEN.findall(text))
        others += len(_NOT_ASCII.findall(text))
    return wrong * 10 > others


def _ended(path: Path) -> Iterator[bytes]:
    """The file's pieces, an empty one last."""
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece
    yield b""
