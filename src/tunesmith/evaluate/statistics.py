"""How far a figure can be trusted: intervals of a share and of a paired difference; whether a change may be chance.

Closed formulas where there are counts; for all other figures the rows are drawn again. Knows nothing of models, files,
or what the numbers are. numpy is loaded by the first draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy import ndarray

Z = 1.959963984540054  # 95 % of the normal curve lie within that many standard deviations
LEVEL = 0.05  # a p below this counts as more than chance
DRAWS = 2000


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927): honest also for few rows and near 0 and 1."""
    if n == 0:
        return 0.0, 1.0
    share, spread = correct / n, Z * math.sqrt(correct * (n - correct) / n + Z * Z / 4) / (n + Z * Z)
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    return max(0.0, min(share, centre - spread)), min(1.0, max(share, centre + spread))


def paired_interval(both: int, broken: int, fixed: int, neither: int) -> tuple[float, float]:
    """The 95 % interval of the gain in accuracy, from -1 to 1, on rows that two models answered.

    `both` rows are right in both, `broken` in the first alone, `fixed` in the second alone. Newcombe 1998, Statistics
    in Medicine 17:2635, method 10: the two Wilson intervals, joined by the correlation of the answers. Drawing the rows
    again (a bootstrap) gives an interval without width where no row changed, however few there are; this one does not.
    """
    n = both + broken + fixed + neither
    if n == 0:
        return -1.0, 1.0
    before, after = (both + broken) / n, (both + fixed) / n
    (low_before, high_before), (low_after, high_after) = wilson(both + broken, n), wilson(both + fixed, n)
    margins = (both + broken) * (fixed + neither) * (both + fixed) * (broken + neither)
    agreement = float(both * neither - broken * fixed)
    if agreement > 0:
        agreement = max(agreement - n / 2, 0)
    correlation = agreement / math.sqrt(margins) if margins else 0.0

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * correlation * one * other + other * other))

    gain = after - before
    low = gain - reach(after - low_after, high_before - before)
    high = gain + reach(high_after - after, before - low_before)
    return max(-1.0, low), min(1.0, high)


def mcnemar(broken: int, fixed: int) -> float:
    """How likely chance alone divides the changed rows at least so unevenly: the exact two-sided test, McNemar 1947."""
    changed = broken + fixed
    tail, ways = 0, 1  # whole numbers of any size, so nothing is rounded before the end
    for k in range(min(broken, fixed) + 1):
        tail += ways
        ways = ways * (changed - k) // (k + 1)
    return min(1.0, 2 * tail / 2**changed)


def holm(values: Sequence[float]) -> list[float]:
    """p values of several questions, raised so that one false alarm among all stays as rare as with one (Holm 1979)."""
    raised = [0.0] * len(values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        raised[place] = highest
    return raised


def redrawn(table: Sequence[Sequence[float]], draws: int = DRAWS, seed: int = 0) -> ndarray[Any, Any]:
    """Sums of the columns over as many rows, drawn from `table` with replacement (bootstrap, Efron 1979) -> [draws,
    columns]. What stands in a row stays together, so that figures of two models over the same rows stay paired."""
    import numpy

    values = numpy.asarray(table, dtype=float)
    chance = numpy.random.default_rng(seed)
    n = len(values)
    return numpy.stack([numpy.bincount(chance.integers(0, n, n), minlength=n) @ values for _draw in range(draws)])


def middle(values: Sequence[float] | ndarray[Any, Any]) -> tuple[float, float]:
    """Between which 95 % of the values lie."""
    import numpy

    low, high = numpy.percentile(values, [2.5, 97.5])
    return float(low), float(high)
