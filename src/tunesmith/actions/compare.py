"""Results side by side: finds them where a user points, compares them, and writes pictures, page and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import rundir
from tunesmith.actions.judge import judge
from tunesmith.actions.voice import Voice
from tunesmith.endpoint import Endpoint
from tunesmith.errors import Problem, RunError
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.evaluate.compare import Comparison, Side

COMPARISON = "comparison.json"
EVALUATION = "evaluation"  # in a run folder
MOST = 6  # results: as many colours can be told apart


@dataclass(frozen=True, slots=True)
class Compared:
    """Every result against the first, and where page and pictures are."""

    comparisons: list[Comparison]
    folder: Path
    judged: Sequence[str] = ()

    def shares(self) -> list[tuple[str, dict[str, Any]]]:
        """Each result's name and its share of right answers."""
        first = self.comparisons[0]
        found = [(first.first.name, first.whole.shares[0])]
        return found + [(other.second.name, other.whole.shares[1]) for other in self.comparisons]

    def lines(self) -> list[str]:
        said = [line for found in self.comparisons for line in (found.sentence(), *found.by_group())] + [*self.judged]
        return [*said, _("Page, pictures and figures: {folder}").format(folder=self.folder)]


def compare(
    words: Sequence[str | Path],
    *,
    out: Path | None = None,
    overwrite: bool = False,
    server: Endpoint | None = None,
    voice: Voice | None = None,
) -> Compared:
    """Results, runs, checkpoints or folders of an evaluation, each against the first; a run alone against its base.

    Writes comparison.json, report.html and the pictures into `out`, by default `comparison` beside the last result.
    RunError: no results there, other questions, another metric, something there already.
    """
    from tunesmith.evaluate import compare_page, plot_compare
    from tunesmith.evaluate.compare import compare as compare_sides
    from tunesmith.evaluate.compare import record

    sides = sides_of([Path(word) for word in words])
    folder = out or Path(sides[-1].place).parent / "comparison"
    if (folder / COMPARISON).exists() and not overwrite:
        raise RunError(_("Results are already there. Replace them with --overwrite."), place=str(folder / COMPARISON))
    comparisons = compare_sides(sides)
    folder.mkdir(parents=True, exist_ok=True)
    judged = judge(comparisons, server, folder, voice or Voice()) if server else []
    plot_compare.draw(comparisons, folder)
    compare_page.write(comparisons, folder / "report.html")
    rundir.write_json(folder / COMPARISON, record(sides, comparisons))
    return Compared(comparisons, folder, judged)


def sides_of(paths: Sequence[Path]) -> list[Side]:
    """The results that the words mean. RunError for every word that leads to none."""
    from tunesmith.evaluate.compare import Side
    from tunesmith.evaluate.results import Report

    if len(paths) == 1 and (paths[0] / rundir.RUN).is_file():
        paths = [paths[0] / EVALUATION / "base", *paths]
    if not 2 <= len(paths) <= MOST:
        text = _("Name two results, or up to {most}, or a run that is compared with its base.")
        raise RunError(text.format(most=MOST))
    found: dict[Path, Report] = {}
    problems = []
    for path in paths:
        try:
            file = results_file(path)
            found[file] = Report.read(file)
        except RunError as error:
            problems += error.problems
    if not problems and len({file.resolve() for file in found}) < len(paths):
        problems = [Problem("", _("The same results were named twice."))]
    if problems:
        raise RunError(problems)
    return [Side(name, str(file), found[file]) for name, file in zip(_names(list(found)), found, strict=True)]


def results_file(path: Path) -> Path:
    """The results that a word means: of a run those of its best checkpoint."""
    from tunesmith.evaluate.results import RESULTS

    if path.is_file():
        return path
    folder = path
    if (path / rundir.RUN).is_file():
        best = rundir.best(path)
        if best is None:
            raise RunError(_("The run has no checkpoint."), place=str(path))
        folder = path / EVALUATION / best.path.name
    elif (path / rundir.MANIFEST).is_file():
        folder = path.parent / EVALUATION / path.name
    if not (folder / RESULTS).is_file():
        command = f"tunesmith eval {_run_of(folder)}" + (" --base" if folder.name == "base" else "")
        text = _("There are no results here yet. Make them with: {command}")
        raise RunError(text.format(command=command), place=str(path))
    return folder / RESULTS


def _run_of(folder: Path) -> str:
    return str(folder.parent.parent) if folder.parent.name == EVALUATION else "RUN"


def _names(files: Sequence[Path]) -> list[str]:
    """Short names that tell the files apart: their paths without what they share."""
    from tunesmith.evaluate.results import RESULTS

    paths = [file.resolve() for file in files]
    parts = [list(path.parent.parts if path.name == RESULTS else path.with_suffix("").parts) for path in paths]
    while len({each[0] for each in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [each[1:] for each in parts]
    return ["/".join(part for part in each if part != EVALUATION) for each in parts]
