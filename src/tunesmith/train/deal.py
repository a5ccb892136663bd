"""Who computes which of a step's rows, so that all processes are done at about the same time.

Counts what the rows of one process cost together: what they begin with in common is computed once. Every process deals
alike, from the same rows, so nobody has to be told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.model.plan import Price
from tunesmith.tokens.answer import Answer
from tunesmith.train.plan import Row

NEAR = 0.01  # of the mean: ranks that are so near to each other are left alone
FEW = 24  # rows of a rank up to which single rows are exchanged; more of them even out by themselves

Ints = npt.NDArray[np.int64]


def nothing(token: int) -> Row:
    """A row that weighs nothing, for a process that has no more to compute than this."""
    return Row((Answer(0, [token], [token], [0.0]),))


def deal(rows: Sequence[Row], ranks: int, price: Price, *, forest: bool = True) -> list[list[Row]]:
    """The rows of each of `ranks`, about equally dear.

    The dearest first, each to the rank that is cheapest with it (Graham, 1969); then rows are moved and exchanged
    between the dearest and the cheapest rank while that helps.
    """
    hands = _Costs(rows, price, forest=forest).hands(ranks)
    return [[rows[i] for i in sorted(hand)] for hand in hands]


class _Costs:
    """What rows cost alone, and what two of them share, in tokens from their beginning."""

    def __init__(self, rows: Sequence[Row], price: Price, *, forest: bool) -> None:
        self.price = price
        ids = [np.asarray(_path(row), dtype=np.int64) for row in rows]
        self.order = sorted(range(len(rows)), key=lambda i: ids[i].astype(">u4").tobytes())
        self.place = {row: place for place, row in enumerate(self.order)}
        self.alone = np.array([self._alone(row, forest) for row in rows])
        near = [_shared(ids[a], ids[b]) if forest else 0 for a, b in pairwise(self.order)]
        self.shared = np.zeros((len(rows), len(rows)), dtype=np.int32)
        for place, row in enumerate(self.order[:-1]):  # what two share, all in between share
            others = self.order[place + 1 :]
            self.shared[row, others] = self.shared[others, row] = np.minimum.accumulate(near[place:])

    def _alone(self, row: Row, forest: bool) -> float:
        total: Any = 0.0
        before = np.empty(0, dtype=np.int64)
        for answer in row.answers:
            ids = np.asarray(answer.context_ids + answer.answer_ids[:-1], dtype=np.int64)
            total += self.depth(len(ids)) - (self.depth(_shared(before, ids)) if forest else 0)
            total += self.price.target * len(answer.answer_ids)
            before = ids
        return float(total)

    def depth(self, tokens: float | npt.NDArray) -> npt.NDArray:
        """Of so many tokens in a row."""
        count = np.asarray(tokens, dtype=np.float64)
        return self.price.token * count + self.price.pair * count * (count + 1) / 2

    def together(self, hand: Iterable[int]) -> float:
        found = sorted(hand, key=self.place.__getitem__)
        common = self.shared[found[:-1], found[1:]] if len(found) > 1 else np.zeros(0)
        return float(self.alone[found].sum() - self.depth(common).sum()) if found else 0.0

    def hands(self, ranks: int) -> list[set[int]]:
        hands: list[set[int]] = [set() for _rank in range(ranks)]
        cost, nearest = np.zeros(ranks), np.zeros((ranks, len(self.alone)))
        for row in np.argsort(-self.alone, kind="stable").tolist():
            more = cost + self.alone[row] - self.depth(nearest[:, row])
            rank = int(more.argmin())
            cost[rank] = more[rank]
            hands[rank].add(row)
            nearest[rank] = np.maximum(nearest[rank], self.shared[row])
        for _round in range(2 * len(self.alone)):
            if not self._even_out(hands):
                break
        return hands

    def _even_out(self, hands: list[set[int]]) -> bool:
        """Moves one row from the dearest to the cheapest hand, or exchanges two; whether that helped."""
        costs = [self.together(hand) for hand in hands]
        dear, cheap = hands[int(np.argmax(costs))], hands[int(np.argmin(costs))]
        if max(costs) - min(costs) <= NEAR * np.mean(costs) or max(len(dear), len(cheap)) > FEW:
            return False
        best, found = max(costs) * (1 - NEAR / 10), None
        for out in sorted(dear):
            for back in [set[int](), *({each} for each in sorted(cheap))]:
                one, two = dear - {out} | back, cheap - back | {out}
                worst = max(self.together(one), self.together(two))
                if worst < best:
                    best, found = worst, (one, two)
        if found is None:
            return False
        hands[hands.index(dear)], hands[hands.index(cheap)] = found
        return True


def _path(row: Row) -> list[int]:
    first = row.answers[0]
    return first.context_ids + first.answer_ids[:-1]


def _shared(a: Ints, b: Ints) -> int:
    shorter = min(len(a), len(b))
    different = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(different[0]) if len(different) else shorter
