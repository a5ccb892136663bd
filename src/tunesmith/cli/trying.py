"""The commands that follow training. Each takes a RUN, calls one action, and shows what comes back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.app import app, terminal
from tunesmith.cli.opening import open_run, show_runs, with_run
from tunesmith.cli.terminal import table
from tunesmith.cli.words import (
    Checkpoint,
    ConfigOption,
    ModelOption,
    OutOption,
    Overwrite,
    RunWord,
    TokenizerOption,
    Words,
    settings,
)
from tunesmith.errors import ConfigError
from tunesmith.i18n import _

System = Annotated[
    str | None,
    typer.Option("--system", help=_("System prompt in place of the training's and the rows' own; empty: none.")),
]


@app.command(help=_("Chat with a RUN, streaming, typed or from a script. Ctrl-C stops an answer, q leaves."))
@with_run
def chat(
    opened: Any,
    system: System = None,
    compare_base: Annotated[
        bool, typer.Option("--compare-base", help=_("The base model's answer beside each answer."))
    ] = False,
    script: Annotated[
        Path | None, typer.Option("--script", help=_("Play the questions of a file, in any format of data."))
    ] = None,
    gold_history: Annotated[
        bool, typer.Option("--gold-history", help=_("In a script, go on from the file's answers."))
    ] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help=_("Where the transcript goes: .jsonl."))] = None,
) -> None:
    from tunesmith.actions import chat as actions
    from tunesmith.actions.opening import supply_system
    from tunesmith.cli import talking
    from tunesmith.conversation import Conversation

    if script is not None:
        dialogues = actions.read_script(script, opened, system, terminal)
        kept = output or actions.free_name(opened, script)
        talk = actions.chat(opened, system, compare_base=compare_base, transcript=kept)
        talking.play(talk, dialogues, gold_history=gold_history)
        return
    if gold_history:
        raise ConfigError(_("It goes with --script."), "--gold-history")
    if system is None and opened.lacks_system(empty := Conversation(())):
        if len(opened.systems) > 1 and sys.stdin.isatty():
            system = talking.choose_system(opened.systems)
        else:
            system = next((m.content for m in supply_system(opened, [empty], terminal)[0].messages), None)
    talking.converse(actions.chat(opened, system, compare_base=compare_base, transcript=output))


@app.command(help=_("Answer every row of a file: RUN IN -o OUT. Broken off, the same command goes on."))
@with_run
def batch(
    opened: Any,
    source: Annotated[
        Path, typer.Argument(metavar="IN", help=_("Rows in any format of data, or bare prompts."), show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help=_("Where the answers go: .json or .jsonl."), show_default=False)
    ],
    system: System = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.batch import batch as action

    rows, broken = action(opened, source, output, terminal, system=system, overwrite=overwrite)
    terminal.say(_("{n} answers written to {path}.").format(n=rows - broken, path=output))
    if broken:
        terminal.say(_("{n} rows could not be asked; their column error says why.").format(n=broken))


@app.command(name="eval", help=_("Answer the test rows and score the answers, over all and by group."))
@with_run
def evaluate(
    opened: Any,
    data: Annotated[Path | None, typer.Option("--data", help=_("Test rows; by default the run's own."))] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help=_("Only so many rows."))] = None,
    output: OutOption = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.after import evaluate as action
    from tunesmith.evaluate.measures import figures

    opened.config.evaluation.limit = limit or opened.config.evaluation.limit
    report, folder = action(opened, terminal, data=data, out=output, overwrite=overwrite)
    totals = report.totals
    if totals["groups"]:
        rows = [[name, f"{g['accuracy']:.1%}", f"{g['correct']}/{g['n']}"] for name, g in totals["groups"].items()]
        table([_("Group"), _("Accuracy"), _("Rows")], rows)
    others = [[*line] for line in figures(totals["scores"])]
    if len(others) > 1:
        table([_("Metric"), _("Figure"), _("Value")], others)
    low, high = totals["interval"]
    text = _("Accuracy {share:.1%} ({correct} of {n}; 95 % interval {low:.0%} to {high:.0%}). Results: {folder}")
    terminal.say(
        text.format(share=report.accuracy, correct=totals["correct"], n=totals["n"], low=low, high=high, folder=folder)
    )


@app.command(help=_("Results side by side: what got better, what broke, and whether it could be chance."))
def compare(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B ...",
            help=_("Runs, checkpoints, folders or files of results; a run alone is compared with its base."),
            show_default=False,
        ),
    ],
    judge: Annotated[
        str | None, typer.Option("--judge", help=_("A server with OpenAI's chat protocol, whose model judges too."))
    ] = None,
    judge_model: Annotated[str, typer.Option("--judge-model", help=_("The model that the server is to use."))] = "",
    output: OutOption = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.compare import compare as action
    from tunesmith.endpoint import Endpoint

    if bool(judge) != bool(judge_model):
        raise ConfigError(_("A server needs a model and a model a server: give both."), "--judge, --judge-model")
    server = Endpoint(judge, judge_model, place="--judge") if judge else None
    found = action(results, out=output, overwrite=overwrite, server=server, voice=terminal)
    rows = []
    for name, each in found.shares():
        low, high = each["interval"]
        rows.append([name, f"{each['accuracy']:.1%}", f"{each['correct']}/{each['n']}", f"{low:.0%} – {high:.0%}"])
    table([_("Results"), _("Accuracy"), _("Rows"), _("95 % interval")], rows)
    for other in found.comparisons:
        if other.scores:
            heads = [_("Figure"), other.first.name, other.second.name, _("Difference"), _("95 % interval")]
            numbers = [[f"{v:.4g}" for v in (*score.values, score.gain)] for score in other.scores]
            lasts = ["{:.4g} – {:.4g}".format(*score.interval) for score in other.scores]
            table(heads, [[s.name, *n, last] for s, n, last in zip(other.scores, numbers, lasts, strict=True)])
    for line in found.lines():
        terminal.say(line)


@app.command(help=_("Make one model folder of base and adapter, proved to be equal."))
def merge(
    run: RunWord = None,
    checkpoint: Checkpoint = "best",
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    output: OutOption = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.after import merge as action

    opened = open_run(run, checkpoint=checkpoint, model=model, tokenizer=tokenizer)
    for line in action(opened, output, overwrite=overwrite).describe():
        terminal.say(line)


@app.command(help=_("Every run here, its checkpoints and their numbers."))
def runs(root: Annotated[Path, typer.Argument(help=_("Where to look."))] = Path()) -> None:
    from tunesmith.actions.after import runs as action

    found = action(root)
    if not found:
        terminal.say(
            _("There is no run here yet. Train one: tunesmith train DATA --model M. Or see it all: tunesmith demo")
        )
        return
    show_runs([(run, kept) for run in found for kept in run.checkpoints or (None,)])
    for run in found:
        if run.damage:
            terminal.say(run.damage)


@app.command(name="all", help=_("Train by run.yaml, evaluate base and result, draw, merge; goes on where it broke."))
def everything(
    words: Words = None,
    config: ConfigOption = None,
    model: ModelOption = None,
    output: OutOption = None,
) -> None:
    from tunesmith.actions.all import everything as action

    summary = action(settings(words, config, model__name_or_path=model, training__output_dir=output), terminal)
    for line in summary.lines():
        terminal.say(line)
