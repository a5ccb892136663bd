"""The commands and their words. Each finds its settings, calls one action, and shows what comes back."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith import __version__
from tunesmith.cli.terminal import Terminal, show_turns, table
from tunesmith.errors import ConfigError, RunError
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.actions.after import Opened
    from tunesmith.config.load import Loaded

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

SETTING = re.compile(r"[A-Za-z_][\w.]*=")
terminal = Terminal()

Words = Annotated[list[str] | None, typer.Argument(metavar="[DATA | run.yaml] [key=value ...]", show_default=False)]
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help=_("A YAML file of settings."))]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help=_("Base model: hub id, folder, GGUF file."))]
TokenizerOption = Annotated[str | None, typer.Option("--tokenizer", help=_("Tokenizer folder."))]
OutOption = Annotated[Path | None, typer.Option("-o", "--output", help=_("Where the result goes."))]
Overwrite = Annotated[bool, typer.Option("--overwrite", help=_("Replace a result that is there."))]
Run = Annotated[str | None, typer.Argument(metavar="RUN", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", show_default=False)]
Checkpoint = Annotated[str, typer.Option("--checkpoint", help=_("best, last, or a step."))]
Base = Annotated[bool, typer.Option("--base", help=_("The base model, without what was trained."))]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help=_("Show the version."))] = False) -> None:
    if version:
        print(f"tunesmith {__version__}")
        raise typer.Exit


def _settings(words: Sequence[str] | None, config: Path | None = None, **values: Any) -> Loaded:
    """Positional words sorted out: a YAML file, data files, key=value. Bare, it is ./run.yaml."""
    from tunesmith.config.load import load

    words = list(words or [])
    overrides = [word for word in words if SETTING.match(word)]
    files = [word for word in words if not SETTING.match(word)]
    yamls = [word for word in files if word.endswith((".yaml", ".yml"))]
    data = [word for word in files if word not in yamls]
    if len(yamls) + (config is not None) > 1:
        raise ConfigError(_("Give one YAML file of settings."), place=", ".join(yamls))
    path = config or (Path(yamls[0]) if yamls else None)
    if path is None and not data and not any(values.values()) and Path("run.yaml").exists():
        path = Path("run.yaml")
    given: dict[str, Any] = {"data.train": data[0] if len(data) == 1 else data or None}
    given |= {name.replace("__", "."): str(v) if isinstance(v, Path) else v for name, v in values.items()}
    return load(path, overrides, given)


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

    loaded = _settings(words, config, model__name_or_path=model, training__output_dir=output)
    run = action(loaded, terminal, resume=resume, overwrite=overwrite)
    terminal.say(_("Done: {run}. Try it: tunesmith chat {run}").format(run=run))


@app.command(help=_("Check settings, data, template, labels and model: all problems at once, nothing is trained."))
def check(words: Words = None, config: ConfigOption = None, model: ModelOption = None) -> None:
    from tunesmith.actions.check import check as action

    action(_settings(words, config, model__name_or_path=model), terminal)


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
    settings = _settings(words, config, **values).config
    if export is not None:
        count = actions.export_pairs(settings, export, terminal)
        terminal.say(_("{n} answers written to {path}.").format(n=count, path=export))
    elif page is not None:
        terminal.say(_("Written to {path}.").format(path=actions.preview_html(settings, terminal, page, row=row)))
    else:
        conversation, shown = actions.preview(settings, terminal, row=row)
        terminal.say(f"{conversation.origin}")
        show_turns(shown)


@app.command(help=_("Write a starter file of settings."))
def init(
    path: Annotated[Path, typer.Argument(show_default=True)] = Path("run.yaml"),
    preset: Annotated[str | None, typer.Option("--preset", help=_("Begin with a shipped preset."))] = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.config.write import draft

    if path.exists() and not overwrite:
        raise RunError(_("The file exists. Replace it with --overwrite."), place=str(path))
    path.write_text(draft(preset), encoding="utf-8")
    terminal.say(_("Written to {path}. Next: tunesmith check {path}").format(path=path))


def _open(
    run: str | None,
    words: Sequence[str] | None,
    checkpoint: str = "best",
    base: bool = False,
    model: str | None = None,
    tokenizer: str | None = None,
) -> Opened:
    from tunesmith.actions.after import open_run

    words = list(words or [])
    if run is not None and SETTING.match(run):
        words, run = [run, *words], None
    odd = [word for word in words if not SETTING.match(word)]
    if odd:
        raise ConfigError(_("is not of the form key=value."), place=odd[0])
    given: dict[str, Any] = {"checkpoint": checkpoint, "base": base, "model": model, "tokenizer": tokenizer}
    return open_run(run or _choose_run(), terminal, overrides=words, **given)


def _choose_run() -> str:
    """The only run there is, or the one that the user picks."""
    from tunesmith import rundir

    found = rundir.runs(Path())
    if not found:
        raise RunError(_("There is no run here. Name one, or train one: tunesmith train DATA --model M"))
    if len(found) == 1:
        return str(found[0])
    for i, path in enumerate(found, start=1):
        terminal.say(f"{i:3}  {path}")
    if not sys.stdin.isatty():
        raise RunError(_("Name one of these runs."))
    chosen = typer.prompt(_("Which run"), type=int, default=1)
    if not 1 <= chosen <= len(found):
        raise RunError(_("There is no run {n}.").format(n=chosen))
    return str(found[chosen - 1])


@app.command(help=_("Chat with a RUN, streaming. An empty line is skipped, q leaves."))
def chat(
    run: Run = None,
    words: Overrides = None,
    checkpoint: Checkpoint = "best",
    base: Base = False,
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    system: Annotated[str | None, typer.Option("--system", help=_("System prompt."))] = None,
) -> None:
    from tunesmith.actions.after import chat as action

    session = action(_open(run, words, checkpoint, base, model, tokenizer), system)
    terminal.say(_("Write, and press Enter. q leaves."))
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            break
        if text.lower() == "q":
            break
        if not text:
            continue
        for piece in session.ask(text):
            print(piece, end="", flush=True)
        print()
    terminal.say(_("Goodbye."))


@app.command(help=_("Answer every row of a file: RUN IN -o OUT."))
def batch(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    source: Annotated[Path, typer.Argument(metavar="IN")],
    output: Annotated[Path, typer.Option("-o", "--output", help=_("Where the answers go: .json or .jsonl."))],
    words: Overrides = None,
    checkpoint: Checkpoint = "best",
    base: Base = False,
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.after import batch as action

    opened = _open(run, words, checkpoint, base, model, tokenizer)
    count = action(opened, source, output, terminal, overwrite=overwrite)
    terminal.say(_("{n} answers written to {path}.").format(n=count, path=output))


@app.command(name="eval", help=_("Answer the test rows and score the answers, over all and by group."))
def evaluate(
    run: Run = None,
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

    words = [*(words or []), *([f"evaluation.limit={limit}"] if limit else [])]
    opened = _open(run, words, checkpoint, base, model, tokenizer)
    report, folder = action(opened, terminal, data=data, out=output, overwrite=overwrite)
    groups = report.totals["groups"]
    if groups:
        rows = [[name, f"{g['accuracy']:.1%}", f"{g['correct']}/{g['n']}"] for name, g in groups.items()]
        table([_("Group"), _("Accuracy"), _("Rows")], rows)
    low, high = report.totals["interval"]
    text = _("Accuracy {share:.1%} ({correct} of {n}; 95 % interval {low:.0%} to {high:.0%}). Results: {folder}")
    totals = report.totals
    terminal.say(
        text.format(share=report.accuracy, correct=totals["correct"], n=totals["n"], low=low, high=high, folder=folder)
    )


@app.command(help=_("Make one model folder of base and adapter, proved to be equal."))
def merge(
    run: Run = None,
    checkpoint: Checkpoint = "best",
    model: ModelOption = None,
    output: OutOption = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.after import merge as action

    opened = _open(run, [], checkpoint, model=model)
    for line in action(opened, output, overwrite=overwrite).describe():
        terminal.say(line)


@app.command(help=_("Every run here, its checkpoints and their numbers."))
def runs(root: Annotated[Path, typer.Argument()] = Path()) -> None:
    from tunesmith.actions.after import runs as action

    rows = []
    for run in action(root):
        for checkpoint in run.checkpoints:
            step = checkpoint.step
            marks = _("best") if step == run.best else ""
            numbers = [_number(checkpoint.loss), _number(checkpoint.eval_loss)]
            accuracy = f"{run.accuracy[step]:.1%}" if step in run.accuracy else "-"
            rows.append([str(run.path), str(step), *numbers, accuracy, marks])
        if not run.checkpoints:
            rows.append([str(run.path), "-", "-", "-", "-", ""])
    if not rows:
        raise RunError(_("There is no run here. Train one: tunesmith train DATA --model M"), place=str(root))
    table([_("Run"), _("Step"), _("Loss"), _("Evaluation loss"), _("Accuracy"), ""], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


@data_app.command(help=_("What is in a file: format, rows, columns, roles, and what is wrong with it."))
def inspect(
    path: Annotated[Path, typer.Argument()],
    words: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help=_("One JSON object on standard output."))] = False,
) -> None:
    from tunesmith.actions.check import inspect as action

    found = action(path, _settings(words).config)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    table(["", ""], [[key, json.dumps(value, ensure_ascii=False, default=str)] for key, value in found.items()])


@model_app.command(name="check", help=_("Is a model folder whole, known and loadable?"))
def model_check(
    path: Annotated[str, typer.Argument()],
    deep: Annotated[bool, typer.Option("--deep", help=_("Load it and compute with it too."))] = False,
) -> None:
    from tunesmith.errors import ModelError, Problem
    from tunesmith.model.check import check_model

    report = check_model(path, deep=deep)
    terminal.say(report.describe())
    for note in report.notes:
        terminal.say(note)
    if report.problems:
        raise ModelError([Problem("", problem) for problem in report.problems])
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
