"""Texts that nearly repeat an earlier one: MinHash finds candidates, the true overlap of their pieces decides.

Broder, "On the resemblance and containment of documents" (1997); bands of signatures as in Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", chapter 3. numpy is loaded with the first text. Knows no rows.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

PIECE = 5  # characters
BANDS, ROWS = 16, 4  # texts that share 80 % of their pieces meet in a band with a probability of 0.9998
SLACK = 0.2  # by how much the estimate from 64 values may be too low


def plain(text: str) -> str:
    """The text without what makes no difference: width, case, white space."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def pieces(text: str) -> frozenset[str]:
    """All runs of PIECE characters; a shorter text is its own."""
    return frozenset(text[i : i + PIECE] for i in range(max(1, len(text) - PIECE + 1)))


def overlap(first: frozenset[str], second: frozenset[str]) -> float:
    """Shared pieces among all pieces of both, from 0 to 1 (Jaccard)."""
    return len(first & second) / len(first | second)


class Near:
    """Remembers texts of several parts. Two are near if each part overlaps by `share` or more."""

    def __init__(self, share: float) -> None:
        import numpy

        self._share = share
        draw = numpy.random.default_rng(0)
        self._factors, self._terms = draw.integers(0, 2**63, (2, BANDS * ROWS, 1), dtype=numpy.uint64)
        self._factors |= numpy.uint64(1)
        self._parts: list[tuple[frozenset[str], ...]] = []
        self._signatures: list[numpy.ndarray] = []
        self._bands: list[dict[bytes, list[int]]] = [defaultdict(list) for _band in range(BANDS)]

    def add(self, *texts: str) -> int | None:
        """The number of an earlier text that this one nearly repeats; otherwise None, and the text is remembered."""
        parts = tuple(pieces(plain(text)) for text in texts)
        signature = self._signature(frozenset().union(*parts))
        keys = [signature[i * ROWS : (i + 1) * ROWS].tobytes() for i in range(BANDS)]
        met = sorted({number for band, key in zip(self._bands, keys, strict=True) for number in band.get(key, ())})
        for number in self._alike(signature, met):
            if all(overlap(a, b) >= self._share for a, b in zip(parts, self._parts[number], strict=True)):
                return number
        for band, key in zip(self._bands, keys, strict=True):
            band[key].append(len(self._parts))
        self._parts.append(parts)
        self._signatures.append(signature)
        return None

    def _signature(self, found: frozenset[str]) -> numpy.ndarray:
        """For each of 64 hash functions the smallest value over all pieces (multiply and shift)."""
        import numpy

        codes = numpy.array([zlib.crc32(piece.encode("utf-8", "replace")) for piece in found], dtype=numpy.uint64)
        values: numpy.ndarray = (self._factors * codes + self._terms) >> numpy.uint64(32)
        return values.min(axis=1)

    def _alike(self, signature: numpy.ndarray, met: list[int]) -> list[int]:
        """Those of the texts that met whose signatures let expect enough overlap."""
        import numpy

        if not met:
            return []
        same = (numpy.stack([self._signatures[number] for number in met]) == signature).mean(axis=1)
        return [number for number, share in zip(met, same, strict=True) if share >= self._share - SLACK]
