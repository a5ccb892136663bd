"""Text that was read in the wrong encoding, told from its characters alone. Knows text and nothing else."""

from __future__ import annotations

import re

_BROKEN = re.compile("[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]|锟斤拷|烫烫烫|屯屯屯")
# What the bytes of UTF-8 look like in Windows' Western encoding: a lead byte, then as many others as it asks for.
_REST = "[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
_WESTERN = re.compile(f"[\xc2\xc3\xd0\xd1]{_REST}|[\xe2-\xef]{_REST}{{2}}|\xf0{_REST}{{3}}")
_RUN = re.compile(r"[^\x00-\x7f]{3,}")


def garbled(text: str) -> str:
    """The garbled piece of the text, or "": replacement and control characters, UTF-8 read as Windows-1252 or GBK."""
    broken = _BROKEN.search(text)
    if broken:
        return repr(text[max(0, broken.start() - 10) : broken.end() + 10])
    western = _WESTERN.findall(text)
    # One alone may be meant: «CAFÉ».
    if len(western) > 1 or any(len(piece) > 2 for piece in western):
        return repr("".join(western)[:20])
    return next((repr(run[:20]) for run in _RUN.findall(text) if _gbk(run)), "")


def _gbk(run: str) -> bool:
    """Whether the run's bytes in GBK are Chinese in UTF-8 instead, but for a few that got lost."""
    try:
        # Windows writes the lone byte 0x80 as a euro sign; Python's codec does not know it.
        meant = b"\x80".join(part.encode("gbk") for part in run.split("€")).decode("utf-8", "replace")
    except UnicodeEncodeError:
        return False
    chinese = sum("\u4e00" <= character <= "\u9fff" for character in meant)
    return chinese >= 2 and meant.count("\ufffd") <= 0.3 * len(meant)
