"""The commands before and around training. Each finds its settings, calls one action, and shows what comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.app import app, model_app, terminal
from tunesmith.cli.preview import show_preview
from tunesmith.cli.words import (
    ConfigOption,
    ModelOption,
    OutOption,
    Overrides,
    Overwrite,
    TokenizerOption,
    Words,
    settings,
)
from tunesmith.errors import ConfigError, ModelError, Problem
from tunesmith.i18n import _
from tunesmith.log import escape


@app.command(help=_("Train on DATA, or by run.yaml; settings as key=value."))
def train(
    context: typer.Context,
    words: Words = None,
    config: ConfigOption = None,
    model: ModelOption = None,
    output: OutOption = None,
    resume: Annotated[bool, typer.Option("--resume", help=_("Go on with the run in the folder."))] = False,
    overwrite: Overwrite = False,
    allow_changed: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-changed",
            metavar="KEY",
            help=_("Go on although this is not as it was: a setting, data, template or base."),
        ),
    ] = None,
    trace: Annotated[
        str | None, typer.Option("--trace", help=_("Show the numbers in tensorboard, wandb, swanlab, ... or none."))
    ] = None,
    deepspeed: Annotated[
        str | None, typer.Option("--deepspeed", help=_("Train by DeepSpeed, with its file of settings, or zero2, ..."))
    ] = None,
    nproc: Annotated[
        str | None, typer.Option("--nproc", help=_("Processes on this machine that train together, or auto."))
    ] = None,
) -> None:
    from tunesmith.actions.train import train as action
    from tunesmith.train.spawn import count, spawn, without
    from tunesmith.train.world import World

    if nproc is not None and (number := count(nproc)) > 1:
        raise typer.Exit(spawn(number, without("--nproc", context.obj), terminal.say))
    if resume and overwrite:
        raise ConfigError(_("One goes on with a run, the other replaces it: give one."), "--resume, --overwrite")
    values = {"model__name_or_path": model, "training__output_dir": output, "tracking__trace": trace}
    loaded = settings(words, config, training__deepspeed=deepspeed, **values)
    run = action(loaded, terminal, resume=resume, overwrite=overwrite, allow_changed=allow_changed or ())
    if World.of_environment().first:
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
    row: Annotated[int | None, typer.Option("--row", help=_("Which row, from 0; by default the first."))] = None,
    line: Annotated[str | None, typer.Option("--line", help=_("The row on this line: 17, or data.jsonl:17."))] = None,
    find: Annotated[str | None, typer.Option("--find", help=_("The first row that holds this text."))] = None,
    template: Annotated[bool, typer.Option("--template", help=_("Only what the chat template writes."))] = False,
    page: Annotated[Path | None, typer.Option("--html", help=_("Write a page instead."))] = None,
    export: Annotated[
        Path | None, typer.Option("--export", help=_("Write every answer's ids, one JSON a line."))
    ] = None,
) -> None:
    from tunesmith.actions import check as actions

    values = {"model__name_or_path": model, "model__tokenizer": tokenizer, "template__thinking": thinking}
    config_found = settings(words, config, **values).config
    chosen: dict[str, Any] = {"row": row, "line": line, "find": find}
    if template:
        source, text = actions.template_probe(config_found)
        terminal.say(_("Chat template: {source}.").format(source=source))
        print(escape(text, keep="\n"))
    if export is not None:
        count = actions.export_pairs(config_found, export, terminal)
        terminal.say(_("{n} answers written to {path}.").format(n=count, path=export))
    if page is not None:
        written = actions.preview_html(config_found, terminal, page, **chosen)
        terminal.say(_("Written to {path}.").format(path=written))
    if not template and export is None and page is None:
        show_preview(actions.preview(config_found, terminal, **chosen))


@app.command(help=_("Write a starter file of settings."))
def init(
    path: Annotated[Path, typer.Argument(show_default=True)] = Path("run.yaml"),
    preset: Annotated[str | None, typer.Option("--preset", help=_("Begin with a shipped preset."))] = None,
    style: Annotated[str, typer.Option("--style", help=_("short, medical, or reference: all settings."))] = "short",
    deepspeed: Annotated[
        str | None, typer.Option("--deepspeed", help=_("Write DeepSpeed's file too: zero2, zero3 or zero3-offload."))
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.start import init as action

    for file in action(path, preset=preset, style=style, deepspeed=deepspeed, overwrite=overwrite)[1:]:
        terminal.say(_("Written to {path}. Train with it: --deepspeed {path}").format(path=file))
    terminal.say(_("Written to {path}. Next: tunesmith check {path}").format(path=path))


@model_app.command(name="check", help=_("Is a model folder whole, known and loadable?"))
def model_check(
    path: Annotated[str, typer.Argument(help=_("A model folder, an adapter, a GGUF file or a hub id."))],
    deep: Annotated[bool, typer.Option("--deep", help=_("Load it and compute with it too."))] = False,
) -> None:
    from tunesmith.actions.model import check_model

    found = check_model(path, deep=deep)
    report = found.report
    if report.parameters:
        terminal.say(report.describe())
    for note in report.notes:
        terminal.say(note)
    if report.problems:
        summary = _("The model can't be used as it is: {n} problems.").format(n=len(report.problems))
        raise ModelError([*(Problem("", problem) for problem in report.problems), Problem("", summary)])
    if found.rendered:
        text = _("Family {family}. Chat template: {source}. It writes:")
        terminal.say(text.format(family=report.family, source=found.template))
        terminal.say(found.rendered)
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


@app.command(help=_("How much memory each of several GPUs needs, by every way to share a model."))
def plan(
    words: Words = None,
    config: ConfigOption = None,
    model: ModelOption = None,
    memory: Annotated[float, typer.Option("--memory", help=_("What a GPU has, in GB."))] = 80.0,
) -> None:
    from tunesmith.actions.plan import size
    from tunesmith.actions.worlds import worlds
    from tunesmith.cli.terminal import table

    found = worlds(settings(words, config, model__name_or_path=model).config, room=memory * 1e9)
    table([_("GPUs"), *map(str, found.devices)], [[w.name, *(size(h.total) for h in held)] for w, held in found.rows])
    for way, number, held in found.first:
        text = _("{way} fits on {number} x {room:.0f} GB: {each} each{host}.")
        host = _(", and {host} of the machine's memory for each").format(host=size(held.host)) if held.host else ""
        terminal.say(text.format(way=way.name, number=number, room=memory, each=size(held.total), host=host))
    terminal.say(
        _("Nothing of it was measured on GPUs: what is divided is exact, the rest is what the engines document.")
    )
