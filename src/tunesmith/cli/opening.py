"""A RUN on the command line: the options that chat, batch, eval and merge share, and the menu where none is named."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.app import terminal
from tunesmith.cli.terminal import number, table
from tunesmith.cli.words import SETTING, Base, ModelOption, Overrides, RunWord, TokenizerOption
from tunesmith.cli.words import Checkpoint as CheckpointOption
from tunesmith.errors import ConfigError, Problem, RunError
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.actions.after import RunSummary
    from tunesmith.rundir import Checkpoint

NewTokens = Annotated[int | None, typer.Option("--max-new-tokens", help=_("Longest answer, in tokens."))]
Sample = Annotated[bool | None, typer.Option("--do-sample/--no-do-sample", help=_("Draw tokens by chance, or not."))]
Temperature = Annotated[float | None, typer.Option("--temperature", help=_("Flatten or sharpen the draw."))]
TopP = Annotated[float | None, typer.Option("--top-p", help=_("Draw from the likeliest with this mass."))]
TopK = Annotated[int | None, typer.Option("--top-k", help=_("Draw from so many likeliest tokens."))]
Seed = Annotated[int | None, typer.Option("--seed", help=_("Seed of the draws."))]
Thinking = Annotated[
    bool | None, typer.Option("--thinking/--no-thinking", help=_("Reasoning on or off, by default as in training."))
]


def with_run(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with the options that say which model answers, and how; it is given the opened RUN as `opened`."""

    @functools.wraps(command)
    def door(**given: Any) -> None:
        own = {name: given.pop(name) for name in inspect.signature(command).parameters if name != "opened"}
        command(opened=open_run(**given), **own)

    own = inspect.signature(command, eval_str=True).parameters
    shared = inspect.signature(open_run, eval_str=True).parameters
    run, *rest = shared.values()
    kept = [parameter for name, parameter in own.items() if name != "opened"]
    firsts = [parameter for parameter in kept if parameter.default is inspect.Parameter.empty]
    lasts = [parameter for parameter in kept if parameter.default is not inspect.Parameter.empty]
    if firsts:  # words that must be there come behind a RUN that must be there too
        run = run.replace(default=inspect.Parameter.empty, annotation=Annotated[str, *run.annotation.__metadata__])
    signature = inspect.Signature([run, *firsts, *rest, *lasts])
    door.__signature__ = signature  # type: ignore[attr-defined]
    door.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return door


def open_run(
    run: RunWord = None,
    words: Overrides = None,
    checkpoint: CheckpointOption = "best",
    base: Base = False,
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    max_new_tokens: NewTokens = None,
    do_sample: Sample = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    thinking: Thinking = None,
) -> Any:
    """The RUN of these options, opened (actions.opening.Opened)."""
    from tunesmith.actions.opening import open_run as action

    words = list(words or [])
    if run is not None and SETTING.match(run):
        words, run = [run, *words], None
    odd = [word for word in words if not SETTING.match(word)]
    if odd:
        text = _("is not a setting. Settings are written key=value, such as generation.max_new_tokens=64.")
        raise ConfigError([Problem(word, text) for word in odd])
    draws = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    if do_sample is None and any(value is not None for value in draws.values()):
        do_sample = True  # who names a temperature wants to draw
    flags = {"max_new_tokens": max_new_tokens, "do_sample": do_sample, "seed": seed, **draws}
    words += [f"generation.{name}={str(value).lower()}" for name, value in flags.items() if value is not None]
    words += [f"template.enable_thinking={str(thinking).lower()}"] if thinking is not None else []
    if run is None:
        run, checkpoint = choose(checkpoint)
    given: dict[str, Any] = {"checkpoint": checkpoint, "base": base, "model": model, "tokenizer": tokenizer}
    opened = action(run, terminal, overrides=words, **given)
    terminal.typing_delay = opened.config.logging.typing_delay
    return opened


def choose(checkpoint: str) -> tuple[str, str]:
    """(run, checkpoint): the only one that there is, or what the user picks from a menu of all."""
    from tunesmith.actions.after import runs

    found = [run for run in runs(Path()) if run.checkpoints]
    if not found:
        raise RunError(_("There is no run here. Name one, or train one: tunesmith train DATA --model M"))
    if len(found) == 1 and (checkpoint != "best" or len(found[0].checkpoints) == 1 or not sys.stdin.isatty()):
        return str(found[0].path), checkpoint
    if not sys.stdin.isatty():
        listed = [Problem("", _("There is the run {run}.").format(run=run.path)) for run in found]
        raise RunError([Problem("", _("Name one of these runs.")), *listed])
    offered = [(run, kept) for run in found for kept in run.asked(checkpoint)]
    show_runs(offered, numbered=True)
    run, kept = offered[pick(len(offered)) - 1]
    return str(run.path), "best" if kept.step == run.best else str(kept.step)


def show_runs(lines: Sequence[tuple[RunSummary, Checkpoint | None]], *, numbered: bool = False) -> None:
    """A line for each checkpoint with its numbers; a run's name, base and day stand on its first. None: it has none.

    Numbered it is a question to the user, on standard error; else it is a result.
    """
    rows, shown = [], None
    for place, (run, kept) in enumerate(lines, start=1):
        name = ["", "", ""] if run is shown else [str(run.path), Path(run.base).name, run.started]
        rows.append([*([str(place)] if numbered else []), *name, *_numbers(run, kept)])
        shown = run
    headings = [_("Run"), _("Model"), _("Started"), _("Step"), _("Loss"), _("Evaluation loss"), _("Accuracy"), ""]
    table([*([""] if numbered else []), *headings], rows, error=numbered)


def _numbers(run: RunSummary, kept: Checkpoint | None) -> list[str]:
    if kept is None:
        return ["-", "-", "-", "-", _("damaged") if run.damage else _("unfinished")]
    measured = run.accuracy.get(kept.step)
    best = _("best") if kept.metric == "eval_loss" else _("best {figure} {value:.3f}")
    chosen = kept.step == run.best and kept.value is not None
    marks = [best.format(figure=kept.figure, value=kept.value)] if chosen else []
    marks += [_("newest")] if kept is run.checkpoints[-1] else []
    marks += [_("unfinished")] if kept is run.checkpoints[-1] and not run.finished else []
    accuracy = "-" if measured is None else f"{measured:.1%}"
    return [str(kept.step), number(kept.loss), number(kept.eval_loss), accuracy, ", ".join(marks)]


def pick(count: int) -> int:
    """The number that the user chooses from a list of `count`; Enter is the first."""
    chosen = typer.prompt(_("Which one"), type=int, default=1, err=True)
    if not 1 <= chosen <= count:
        raise RunError(_("There is no number {n} in the list.").format(n=chosen))
    return int(chosen)
