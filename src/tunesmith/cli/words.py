"""The words of a command line that several commands share, and what they stand for: settings, or a RUN.

Knows how words are told apart; what a setting means, and what a RUN holds, is asked elsewhere.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith import rundir
from tunesmith.cli.terminal import Terminal
from tunesmith.errors import ConfigError, Problem, RunError
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.actions.after import Opened
    from tunesmith.config.load import Loaded

SETTING = re.compile(r"[A-Za-z_][\w.]*=")

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[DATA | run.yaml] [key=value ...]",
        help=_("Data, or a YAML file of settings (by default ./run.yaml), and settings such as lora.r=8."),
        show_default=False,
    ),
]
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help=_("A YAML file of settings."))]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help=_("Base model: hub id, folder, GGUF file."))]
TokenizerOption = Annotated[str | None, typer.Option("--tokenizer", help=_("Tokenizer folder."))]
OutOption = Annotated[Path | None, typer.Option("-o", "--output", help=_("Where the result goes."))]
Overwrite = Annotated[bool, typer.Option("--overwrite", help=_("Replace a result that is there."))]
RunWord = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help=_("A run folder, a checkpoint, an adapter, a model folder, a hub id or a GGUF file."),
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[key=value ...]", help=_("Settings such as generation.max_new_tokens=64."), show_default=False
    ),
]
Checkpoint = Annotated[str, typer.Option("--checkpoint", help=_("best, last, or a step."))]
Base = Annotated[bool, typer.Option("--base", help=_("The base model, without what was trained."))]


def settings(words: Sequence[str] | None, config: Path | None = None, **values: Any) -> Loaded:
    """Words sorted out: a YAML file, data files, key=value. A run folder stands for its settings; bare, ./run.yaml."""
    from tunesmith.config.load import load

    overrides = [word for word in words or [] if SETTING.match(word)]
    files = [word for word in words or [] if not SETTING.match(word)]
    runs = [Path(word) for word in files if (Path(word) / rundir.RUN).is_file()]
    yamls = [Path(word) for word in files if word.endswith((".yaml", ".yml"))]
    yamls += [run / "config.yaml" for run in runs] + ([config] if config else [])
    data = [word for word in files if Path(word) not in (*yamls, *runs)]
    if len(yamls) > 1:
        raise ConfigError(_("Give one YAML file of settings."), place=", ".join(map(str, yamls)))
    if not yamls and not data and Path("run.yaml").exists():
        yamls = [Path("run.yaml")]
    given: dict[str, Any] = {"data.train": data[0] if len(data) == 1 else data or None}
    given |= {name.replace("__", "."): value for name, value in values.items()}
    if runs and not given.get("training.output_dir"):
        given["training.output_dir"] = runs[0]
    return load(yamls[0] if yamls else None, overrides, given)


def open_run(
    run: str | None,
    words: Sequence[str] | None,
    terminal: Terminal,
    *,
    checkpoint: str = "best",
    base: bool = False,
    model: str | None = None,
    tokenizer: str | None = None,
) -> Opened:
    from tunesmith.actions.after import open_run as action

    words = list(words or [])
    if run is not None and SETTING.match(run):
        words, run = [run, *words], None
    odd = [word for word in words if not SETTING.match(word)]
    if odd:
        text = _("is not a setting. Settings are written key=value, such as generation.max_new_tokens=64.")
        raise ConfigError([Problem(word, text) for word in odd])
    given: dict[str, Any] = {"checkpoint": checkpoint, "base": base, "model": model, "tokenizer": tokenizer}
    return action(run or _choose_run(terminal), terminal, overrides=words, **given)


def _choose_run(terminal: Terminal) -> str:
    """The only run there is, or the one that the user picks."""
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
