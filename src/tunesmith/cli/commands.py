"""The commands. Each finds its settings or its RUN, calls one action, and shows what comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith import __version__
from tunesmith.cli.terminal import Terminal, number, show_inspection, show_preview, table
from tunesmith.cli.words import (
    Base,
    Checkpoint,
    ConfigOption,
    ModelOption,
    OutOption,
    Overrides,
    Overwrite,
    RunWord,
    TokenizerOption,
    Words,
    open_run,
    settings,
)
from tunesmith.errors import ConfigError, ModelError, Problem, RunError
from tunesmith.i18n import _

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=_("From a file of conversations to a fine-tuned language model, with proof of what was done."),
)
data_app = typer.Typer(help=_("Look at data and prepare it."), no_args_is_help=True, rich_markup_mode=None)
model_app = typer.Typer(help=_("Look at a model."), no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
app.add_typer(model_app, name="model")

terminal = Terminal()


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help=_("Show the version."))] = False) -> None:
    if version:
        print(f"tunesmith {__version__}")
        raise typer.Exit


@app.command(help=_("Train on DATA, or by run.yaml; settings as key=value."))
def train(
    words: Words = None,
    config: ConfigOption = None,
    model: ModelOption = None,
    output: OutOption = None,
    resume: Annotated[bool, typer.Option("--resume", help=_("Go on with the run in the folder."))] = False,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.train import train as action

    if resume and overwrite:
        raise ConfigError(_("One goes on with a run, the other replaces it: give one."), "--resume, --overwrite")
    loaded = settings(words, config, model__name_or_path=model, training__output_dir=output)
    run = action(loaded, terminal, resume=resume, overwrite=overwrite)
    terminal.say(_("Done: {run}. Try it: tunesmith chat {run}").format(run=run))


@app.command(help=_("Check settings, data, template, labels and model: all problems at once, nothing is trained."))
def check(words: Words = None, config: ConfigOption = None, model: ModelOption = None) -> None:
    from tunesmith.actions.check import check as action

    action(settings(words, config, model__name_or_path=model), terminal)


@app.command(help=_("Show the exact tokens of a row, coloured by what is trained."))
def preview(
    words: Words = None,
    config: ConfigOption = None,
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    thinking: Annotated[str | None, typer.Option("--thinking", help=_("keep or strip the reasoning."))] = None,
    row: Annotated[int, typer.Option("--row", help=_("Which row, from 0."))] = 0,
    page: Annotated[Path | None, typer.Option("--html", help=_("Write a page instead."))] = None,
    export: Annotated[
        Path | None, typer.Option("--export", help=_("Write every answer's ids, one JSON a line."))
    ] = None,
) -> None:
    from tunesmith.actions import check as actions

    values = {"model__name_or_path": model, "model__tokenizer": tokenizer, "template__thinking": thinking}
    config_found = settings(words, config, **values).config
    if export is not None:
        count = actions.export_pairs(config_found, export, terminal)
        terminal.say(_("{n} answers written to {path}.").format(n=count, path=export))
    if page is not None:
        terminal.say(_("Written to {path}.").format(path=actions.preview_html(config_found, terminal, page, row=row)))
    if export is None and page is None:
        show_preview(*actions.preview(config_found, terminal, row=row))


@app.command(help=_("Write a starter file of settings."))
def init(
    path: Annotated[Path, typer.Argument(show_default=True)] = Path("run.yaml"),
    preset: Annotated[str | None, typer.Option("--preset", help=_("Begin with a shipped preset."))] = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.config.write import draft

    text = draft(preset)
    if path.exists() and not overwrite:
        raise RunError(_("The file exists. Replace it with --overwrite."), place=str(path))
    path.write_text(text, encoding="utf-8")
    terminal.say(_("Written to {path}. Next: tunesmith check {path}").format(path=path))


@app.command(help=_("Chat with a RUN, streaming. Ctrl-C stops an answer, q leaves."))
def chat(
    run: RunWord = None,
    words: Overrides = None,
    checkpoint: Checkpoint = "best",
    base: Base = False,
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    system: Annotated[str | None, typer.Option("--system", help=_("System prompt; an empty text is none."))] = None,
) -> None:
    from tunesmith.actions.after import chat as action

    opened = open_run(run, words, terminal, checkpoint=checkpoint, base=base, model=model, tokenizer=tokenizer)
    terminal.converse(action(opened, system))


@app.command(help=_("Answer every row of a file: RUN IN -o OUT."))
def batch(
    run: Annotated[str, typer.Argument(metavar="RUN", help=_("What answers; see chat --help."))],
    source: Annotated[Path, typer.Argument(metavar="IN", help=_("Rows as for training, or bare prompts."))],
    output: Annotated[Path, typer.Option("-o", "--output", help=_("Where the answers go: .json or .jsonl."))],
    words: Overrides = None,
    checkpoint: Checkpoint = "best",
    base: Base = False,
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.batch import batch as action

    opened = open_run(run, words, terminal, checkpoint=checkpoint, base=base, model=model, tokenizer=tokenizer)
    rows, broken = action(opened, source, output, terminal, overwrite=overwrite)
    terminal.say(_("{n} answers written to {path}.").format(n=rows - broken, path=output))
    if broken:
        terminal.say(_("{n} rows could not be asked; their column error says why.").format(n=broken))


@app.command(name="eval", help=_("Answer the test rows and score the answers, over all and by group."))
def evaluate(
    run: RunWord = None,
    words: Overrides = None,
    data: Annotated[Path | None, typer.Option("--data", help=_("Test rows; by default the run's own."))] = None,
    checkpoint: Checkpoint = "best",
    base: Base = False,
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    limit: Annotated[int | None, typer.Option("--limit", help=_("Only so many rows."))] = None,
    output: OutOption = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.after import evaluate as action

    words = [*(words or []), *([f"evaluation.limit={limit}"] if limit is not None else [])]
    opened = open_run(run, words, terminal, checkpoint=checkpoint, base=base, model=model, tokenizer=tokenizer)
    report, folder = action(opened, terminal, data=data, out=output, overwrite=overwrite)
    totals = report.totals
    if totals["groups"]:
        rows = [[name, f"{g['accuracy']:.1%}", f"{g['correct']}/{g['n']}"] for name, g in totals["groups"].items()]
        table([_("Group"), _("Accuracy"), _("Rows")], rows)
    low, high = totals["interval"]
    text = _("Accuracy {share:.1%} ({correct} of {n}; 95 % interval {low:.0%} to {high:.0%}). Results: {folder}")
    terminal.say(
        text.format(share=report.accuracy, correct=totals["correct"], n=totals["n"], low=low, high=high, folder=folder)
    )


@app.command(help=_("Make one model folder of base and adapter, proved to be equal."))
def merge(
    run: RunWord = None,
    checkpoint: Checkpoint = "best",
    model: ModelOption = None,
    output: OutOption = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.after import merge as action

    opened = open_run(run, [], terminal, checkpoint=checkpoint, model=model)
    for line in action(opened, output, overwrite=overwrite).describe():
        terminal.say(line)


@app.command(help=_("Every run here, its checkpoints and their numbers."))
def runs(root: Annotated[Path, typer.Argument(help=_("Where to look."))] = Path()) -> None:
    from tunesmith.actions.after import runs as action

    rows = []
    for run in action(root):
        for checkpoint in run.checkpoints:
            step = checkpoint.step
            accuracy = f"{run.accuracy[step]:.1%}" if step in run.accuracy else "-"
            kind = _("newest") if checkpoint.eval_loss is None else _("best")
            marks = kind if step == run.best else ""
            rows.append(
                [str(run.path), str(step), number(checkpoint.loss), number(checkpoint.eval_loss), accuracy, marks]
            )
        if not run.finished:
            rows.append([str(run.path), "-", "-", "-", "-", _("unfinished")])
    if not rows:
        raise RunError(_("There is no run here. Train one: tunesmith train DATA --model M"), place=str(root))
    table([_("Run"), _("Step"), _("Loss"), _("Evaluation loss"), _("Accuracy"), ""], rows)


@data_app.command(help=_("What is in a file: format, rows, columns, roles, and what is wrong with it."))
def inspect(
    path: Annotated[Path, typer.Argument(help=_("A file of rows, or a folder of them."))],
    words: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help=_("One JSON object on standard output."))] = False,
) -> None:
    from tunesmith.actions.check import inspect as action
    from tunesmith.config.load import load

    found = action(path, load(overrides=words or []).config)
    if as_json:
        text = json.dumps(found, ensure_ascii=False)
        print(text.encode(errors="backslashreplace").decode())  # broken characters, spelled as JSON spells them
        return
    show_inspection(found)


@model_app.command(name="check", help=_("Is a model folder whole, known and loadable?"))
def model_check(
    path: Annotated[str, typer.Argument(help=_("A model folder or a GGUF file."))],
    deep: Annotated[bool, typer.Option("--deep", help=_("Load it and compute with it too."))] = False,
) -> None:
    from tunesmith.model.check import check_model

    report = check_model(path, deep=deep)
    if report.parameters:
        terminal.say(report.describe())
    for note in report.notes:
        terminal.say(note)
    if report.problems:
        summary = _("The model can't be used as it is: {n} problems.").format(n=len(report.problems))
        raise ModelError([*(Problem("", problem) for problem in report.problems), Problem("", summary)])
    terminal.say(_("The model is in order."))


@app.command(help=_("The whole way on a small real model, in minutes on a CPU."))
def demo(
    words: Overrides = None,
    output: Annotated[Path, typer.Option("-o", "--output", help=_("Folder for all of it."))] = Path("demo"),
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.demo.run import demo as action

    summary = action(output, terminal, overwrite=overwrite, overrides=tuple(words or ()))
    terminal.say("")
    for line in summary.lines():
        terminal.say(line)
    terminal.say(_("Talk to it: tunesmith chat {run}").format(run=output / "run"))
