"""A blind comparison by people: two answers to a question in an order that tells nothing, and what the votes say.

Order of rows and sides come from the voter's name and the row, so a test that was broken off goes on as it began.
Knows no terminal and no files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tunesmith.evaluate.compare_rows import Row
from tunesmith.evaluate.results import percent
from tunesmith.evaluate.statistics import LEVEL, mcnemar, wilson
from tunesmith.evaluate.votes import Vote, name_of
from tunesmith.i18n import _

FIRST, SECOND, TIE, SKIP = "first", "second", "tie", "skip"  # what a voter says of the answers as they stand there
SIDES = ("a", "b")
ENOUGH = 2  # voters of a row from which they can agree


@dataclass(frozen=True, slots=True)
class Duel:
    """Two answers to one question as one voter sees them; `swapped`: the second side's stands first."""

    row: str
    prompt: list[dict[str, str]]
    expected: str
    answers: tuple[str, str]
    swapped: bool

    def winner(self, said: str) -> str | None:
        """The side that a vote is for: a, b, or tie; None for a skip."""
        if said not in (FIRST, SECOND):
            return TIE if said == TIE else None
        return SIDES[(said == SECOND) != self.swapped]


def duels(pairs: Sequence[tuple[Row, ...]], voter: str, limit: int | None = None) -> list[Duel]:
    """The rows whose answers differ, in this voter's order; with a limit the same rows for every voter."""
    named = {name_of(a["id"], a["prompt"], a["gold"], a["answer"], b["answer"]): (a, b) for a, b in pairs}
    differing = [name for name, (a, b) in named.items() if a["answer"].strip() != b["answer"].strip()]
    chosen = sorted(differing)[:limit]
    found = []
    for name in sorted(chosen, key=lambda name: name_of(voter, name)):
        a, b = named[name]
        swapped = int(name_of(voter, "sides", name), 16) % 2 == 1
        answers = (b["answer"], a["answer"]) if swapped else (a["answer"], b["answer"])
        found.append(Duel(name, a["prompt"], a["gold"], answers, swapped))
    return found


@dataclass(frozen=True, slots=True)
class Tally:
    """Rows that voters gave to a, to b, or to neither, and those that they skipped. Of several voters on one row the
    majority counts."""

    a: int
    b: int
    ties: int
    skips: int

    @classmethod
    def of(cls, winners: Sequence[Sequence[str | None]]) -> Tally:
        """`winners` are, row by row, what its voters said."""
        counts = Counter(_majority(row) for row in winners)
        return cls(counts["a"], counts["b"], counts[TIE], counts[None])

    @property
    def decided(self) -> int:
        return self.a + self.b

    @property
    def interval(self) -> tuple[float, float]:
        """Of the share of decided rows that went to b."""
        return wilson(self.b, self.decided)

    @property
    def p(self) -> float:
        """The sign test: how likely chance alone divides the decided rows at least so unevenly."""
        return mcnemar(self.a, self.b)

    def sentence(self, names: Sequence[str]) -> str:
        """The verdict, names being those of a and b."""
        if not self.decided:
            return _("No row was decided; ties: {ties}.").format(ties=self.ties)
        ahead = self.b > self.a
        low, high = self.interval if ahead else wilson(self.a, self.decided)
        told = {
            "winner": names[ahead], "loser": names[not ahead], "wins": max(self.a, self.b), "n": self.decided,
            "low": percent(low), "high": percent(high), "ties": self.ties,
        }  # fmt: skip
        if self.p < LEVEL:
            text = _(
                "{winner} is preferred to {loser}: in {wins} of {n} decided rows (95 % interval {low} to {high}); "
                "ties: {ties}."
            )
        else:
            text = _(
                "No preference beyond chance: {winner} in {wins} of {n} decided rows (95 % interval {low} to {high}); "
                "ties: {ties}."
            )
        return text.format(**told)

    def record(self) -> dict[str, Any]:
        share = self.b / self.decided if self.decided else None
        counts = {"a": self.a, "b": self.b, "ties": self.ties, "skips": self.skips}
        return {**counts, "share_of_b": share, "interval": list(self.interval), "p": self.p}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all voters said together and each on their own; `agreement` is (pairs of votes that agree, pairs of votes
    on one row)."""

    names: Sequence[str]
    whole: Tally
    voters: dict[str, Tally]
    agreement: tuple[int, int]
    same: int

    def lines(self) -> list[str]:
        said = [self.whole.sentence(self.names)]
        if self.same:
            said.append(_("Rows on which both answered the same, never asked: {n}.").format(n=self.same))
        alike, pairs = self.agreement
        if pairs:
            text = _("Two voters on one row agree in {alike} of {pairs} cases ({share}).")
            said.append(text.format(alike=alike, pairs=pairs, share=percent(alike / pairs)))
        return said

    def record(self) -> dict[str, Any]:
        whole = {"a_is": self.names[0], "b_is": self.names[1], "sentence": self.whole.sentence(self.names)}
        voters = {name: tally.record() for name, tally in self.voters.items()}
        alike, pairs = self.agreement
        return {**whole, **self.whole.record(), "same": self.same, "agree": alike, "pairs": pairs, "voters": voters}


def verdict(names: Sequence[str], votes: Mapping[str, Mapping[str, Vote]], same: int) -> Verdict:
    """`votes` are voter -> row -> vote, `same` the number of rows whose answers do not differ."""
    by_row: dict[str, list[str | None]] = {}
    for said in votes.values():
        for row, vote in said.items():
            by_row.setdefault(row, []).append(vote.get("winner"))
    alone = {voter: Tally.of([[vote.get("winner")] for vote in said.values()]) for voter, said in votes.items()}
    pairs = [pair for row in by_row.values() for pair in combinations([w for w in row if w], ENOUGH)]
    agreement = (sum(one == other for one, other in pairs), len(pairs))
    return Verdict(names, Tally.of(list(by_row.values())), alone, agreement, same)


def _majority(winners: Sequence[str | None]) -> str | None:
    """Of one row; None where everybody skipped it."""
    counts = Counter(winners)
    if counts["a"] == counts["b"]:
        return TIE if counts["a"] or counts[TIE] else None
    side = max(SIDES, key=counts.__getitem__)
    return side if counts[side] > counts[TIE] else TIE
