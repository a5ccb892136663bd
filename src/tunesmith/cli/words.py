"""The words of a command line that several commands share, and what they stand for: settings, or a RUN.

Knows how words are told apart; what a setting means, and what a RUN holds, is asked elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith import rundir
from tunesmith.cli.app import terminal
from tunesmith.errors import ConfigError
from tunesmith.i18n import _

if TYPE_CHECKING:
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
    loaded = load(yamls[0] if yamls else None, overrides, given)
    terminal.typing_delay = loaded.config.logging.typing_delay
    return loaded
