"""People as judges: finds the answers that a user points at, keeps every vote, and says what the votes say.

Asks nobody: which key was pressed is the door's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import rundir
from tunesmith.actions.compare import results_file, sides_of
from tunesmith.errors import RunError
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.evaluate.abtest import Duel
    from tunesmith.evaluate.rating import Sheet
    from tunesmith.evaluate.votes import Votes

VOTES, ABTEST = "votes.jsonl", "abtest.json"
RATINGS, RATING = "ratings.jsonl", "rating.json"


@dataclass(frozen=True)
class Abtest:
    """A blind test of two results: every row of one voter, and the votes of all."""

    names: Sequence[str]
    rows: Sequence[Duel]
    same: int
    voter: str
    votes: Votes

    def given(self) -> Mapping[str, Any]:
        return self.votes.of(self.voter)

    def add(self, place: int, said: str) -> None:
        duel = self.rows[place]
        self.votes.add(self.voter, duel.row, said=said, swapped=duel.swapped, winner=duel.winner(said))

    def lines(self) -> list[str]:
        """The verdict so far; written to abtest.json too."""
        from tunesmith.evaluate.abtest import verdict

        rows = [duel.row for duel in self.rows]
        found = verdict(self.names, self.votes.on(rows), self.same)
        rundir.write_json(self.votes.path.with_name(ABTEST), found.record())
        return [*found.lines(), *_strangers(self.votes, rows)]


def abtest(words: Sequence[Path], voter: str, *, out: Path | None = None, limit: int | None = None) -> Abtest:
    """Two results, or a run against its base, as `compare` takes them. Votes are kept in `out`, by default `abtest`
    beside the last result. RunError: no results there, other questions, nothing to choose between."""
    from tunesmith.evaluate.abtest import duels
    from tunesmith.evaluate.compare_rows import align
    from tunesmith.evaluate.votes import Votes

    sides = sides_of(words)
    if len(sides) > 2:
        raise RunError(_("A blind test takes two results."))
    pairs = align(sides)
    every, votes = duels(pairs, voter), Votes((out or Path(sides[-1].place).parent / "abtest") / VOTES)
    if not every:
        raise RunError(_("Both gave the same answer to every question: there is nothing to choose."))
    rows = duels(pairs, voter, limit)
    return Abtest([side.name for side in sides], rows, len(pairs) - len(every), voter, votes)


@dataclass(frozen=True)
class Rating:
    """One model's answers to be marked: every row, and the marks of all voters."""

    rows: Sequence[Sheet]
    points: bool
    voter: str
    votes: Votes

    def given(self) -> Mapping[str, Any]:
        return self.votes.of(self.voter)

    def add(self, place: int, mark: bool | int | None, note: str) -> None:
        """`mark` None: the row is skipped."""
        self.votes.add(self.voter, self.rows[place].row, mark=mark, **({"note": note} if note else {}))

    def lines(self) -> list[str]:
        """The verdict so far; written to rating.json too."""
        from tunesmith.evaluate.rating import marks

        rows = [sheet.row for sheet in self.rows]
        found = marks(self.rows, self.votes.on(rows), points=self.points)
        rundir.write_json(self.votes.path.with_name(RATING), found.record())
        return [*found.lines(), *_strangers(self.votes, rows)]


def rate(word: Path, voter: str, *, out: Path | None = None, limit: int | None = None, points: bool = False) -> Rating:
    """The results that a run, a checkpoint, a folder or a file means. Marks are kept in `out`, by default beside them.

    RunError: there are none.
    """
    from tunesmith.evaluate.compare_rows import Side, align
    from tunesmith.evaluate.rating import sheets
    from tunesmith.evaluate.results import Report
    from tunesmith.evaluate.votes import Votes

    file = results_file(word)
    rows = [row for (row,) in align([Side(file.parent.name, str(file), Report.read(file))])]
    return Rating(sheets(rows, limit, points=points), points, voter, Votes((out or file.parent) / RATINGS))


def _strangers(votes: Votes, rows: Sequence[str]) -> list[str]:
    n = votes.elsewhere(rows)
    return [_("{n} votes in the file are on other rows or answers and do not count here.").format(n=n)] if n else []
