"""`tunesmith data ...`: looking at rows and preparing them. Each command is a door on one action."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.app import data_app, terminal
from tunesmith.cli.terminal import table
from tunesmith.cli.words import ConfigOption, ModelOption, Overrides, Overwrite, TokenizerOption
from tunesmith.errors import ConfigError
from tunesmith.i18n import _
from tunesmith.log import escape

if TYPE_CHECKING:
    from tunesmith.config.load import Loaded

Raw = Annotated[Path, typer.Argument(metavar="RAW", help=_("A file of rows, or a folder of them."))]
Out = Annotated[Path, typer.Option("-o", "--output", help=_("The file to write: .jsonl or .json."))]
CleanWords = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key=value ...]", help=_("Settings such as clean.max_repeat=10."), show_default=False),
]
Seed = Annotated[int | None, typer.Option("--seed", help=_("Another draw by chance; by default training.seed."))]


def _load(config: Path | None, words: list[str] | None, **values: Any) -> Loaded:
    from tunesmith.config.load import load

    return load(config, words or [], {name.replace("__", "."): value for name, value in values.items()})


@data_app.command(help=_("Convert rows and split them: converted_data.jsonl, train.jsonl, test.jsonl."))
def split(
    raw: Raw,
    folder: Annotated[Path, typer.Option("-o", "--output", help=_("The folder for the three files."))],
    words: Overrides = None,
    config: ConfigOption = None,
    stratify_by: Annotated[
        str | None, typer.Option("--stratify-by", help=_("Column whose every value must reach the test rows."))
    ] = None,
    test_ratio: Annotated[
        float | None, typer.Option("--test-ratio", help=_("Share of the rows to test; by default 0.2."))
    ] = None,
    singletons: Annotated[
        str | None,
        typer.Option("--singletons", help=_("Values with one row: test (the default), train or error.")),
    ] = None,
    group_by: Annotated[
        str | None, typer.Option("--group-by", help=_("Column whose equal values stay on one side."))
    ] = None,
    group_pattern: Annotated[
        str | None,
        typer.Option("--group-pattern", help=_("Part of these values that groups: '(.*)-(bad|good)' pairs them.")),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help=_("A column to write beside the text; may be repeated."))
    ] = None,
    seed: Seed = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.data import split as action

    given = {"stratify_by": stratify_by, "test_ratio": test_ratio, "singletons": singletons}
    given |= {"split_by": group_by, "split_pattern": group_pattern}
    values = {f"data.{name}": value for name, value in given.items()} | {"training.seed": seed}
    action(raw, folder, _load(config, words, **values), terminal, keep=keep or [], overwrite=overwrite)


@data_app.command(help=_("Write rows in another format; what it has no place for is counted."))
def convert(
    raw: Raw,
    output: Out,
    to: Annotated[str, typer.Option("--to", help=_("The format to write, such as messages or sharegpt."))],
    words: Overrides = None,
    config: ConfigOption = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.data import convert as action

    action(raw, output, to, _load(config, words), terminal, overwrite=overwrite)


@data_app.command(help=_("Remove rows that teach nothing or teach wrongly; each is listed with its reason."))
def clean(
    raw: Raw,
    output: Out,
    words: CleanWords = None,
    config: ConfigOption = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.data import clean as action

    action(raw, output, _load(config, words), terminal, overwrite=overwrite)


@data_app.command(help=_("Leave out or repeat rows, so that every value of a column has equally many."))
def balance(
    raw: Raw,
    output: Out,
    by: Annotated[str, typer.Option("--by", help=_("The column, such as subtype."))],
    to: Annotated[str, typer.Option("--to", help=_("Rows of each value: smallest, median, largest, or a number."))],
    words: Overrides = None,
    config: ConfigOption = None,
    seed: Seed = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.data import balance as action

    action(raw, output, by, to, _load(config, words, training__seed=seed), terminal, overwrite=overwrite)


@data_app.command(help=_("Add rows whose question is said otherwise and whose answer stays true."))
def augment(
    raw: Raw,
    output: Out,
    words: Overrides = None,
    config: ConfigOption = None,
    ways: Annotated[
        str | None, typer.Option("--with", help=_("Of wrap, punctuation, whitespace, case, typo; by default all."))
    ] = None,
    system: Annotated[
        list[str] | None, typer.Option("--system", help=_("A system prompt to try; may be repeated."))
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help=_("A server with OpenAI's chat protocol, to rewrite questions."))
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help=_("The model that the server is to use."))] = "",
    copies: Annotated[int, typer.Option("--copies", min=1, help=_("New rows for each row, at most."))] = 1,
    seed: Seed = None,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.more_data import Plan
    from tunesmith.actions.more_data import augment as action
    from tunesmith.data.paraphrase import Paraphraser
    from tunesmith.endpoint import Endpoint

    loaded = _load(config, words, training__seed=seed)
    if bool(endpoint) != bool(model):
        raise ConfigError(_("A server needs a model and a model a server: give both."), "--endpoint, --model")
    server = Paraphraser(Endpoint(endpoint, model), loaded.config.training.seed) if endpoint else None
    names = [name.strip() for name in ways.split(",")] if ways else []
    plan = Plan(names, system or [], server, copies)
    action(raw, output, plan, loaded, terminal, overwrite=overwrite)


@data_app.command(help=_("Write a small file of rows to begin with."))
def example(
    output: Out,
    name: Annotated[str, typer.Option("--format", help=_("The format, such as messages or alpaca."))] = "messages",
    rows: Annotated[int, typer.Option("--rows", min=1, help=_("How many rows."))] = 20,
    seed: Annotated[int, typer.Option("--seed", help=_("Other rows by chance."))] = 42,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.more_data import example as action

    action(output, name, rows, seed, terminal, overwrite=overwrite)


@data_app.command(help=_("What is in a file: rows, format, lengths, roles, languages, groups, and what is wrong."))
def inspect(
    path: Raw,
    words: Overrides = None,
    config: ConfigOption = None,
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    by: Annotated[str | None, typer.Option("--by", help=_("A column whose values are counted."))] = None,
    picture: Annotated[Path | None, typer.Option("--png", help=_("Draw lengths and groups into this file."))] = None,
    as_json: Annotated[bool, typer.Option("--json", help=_("One JSON object on standard output."))] = False,
    overwrite: Overwrite = False,
) -> None:
    from tunesmith.actions.inspect import inspect as action

    given = {"model.name_or_path": model, "model.tokenizer": tokenizer, "data.stratify_by": by}
    found = action(path, _load(config, words, **given).config, terminal, picture=picture, overwrite=overwrite)
    if as_json:
        text = json.dumps(found, ensure_ascii=False)
        print(text.encode(errors="backslashreplace").decode())  # broken characters, spelled as JSON spells them
    else:
        _show(found)
    if picture is not None:
        terminal.say(_("Written to {path}.").format(path=picture))


def _show(found: dict[str, Any]) -> None:
    """Totals and properties as a table, the groups as another, then a line for each notice and each rejected row."""
    labels = {
        "rows": _("rows"),
        "accepted": _("accepted"),
        "rejected": _("rejected"),
        "duplicates": _("duplicates"),
        "format": _("format"),
        "encoding": _("encoding"),
        "columns": _("columns"),
        "roles": _("messages by role"),
        "turns": _("messages in a row"),
        "thinking": _("answers with reasoning"),
        "tools": _("rows with tools"),
        "tool_calls": _("calls of tools"),
        "weighted": _("answers with a weight"),
        "languages": _("languages"),
        "characters": _("characters in a row"),
        "tokens": _("tokens in a row"),
        "over_max_length": _("longer than data.max_length"),
    }
    table(["", ""], [[label, _in_words(found[key])] for key, label in labels.items() if _in_words(found.get(key, ""))])
    if "groups" in found:
        rows = [[name or _("(none)"), str(n), f"{n / found['accepted']:.1%}"] for name, n in found["groups"].items()]
        table([_("Group"), _("Rows"), _("Share")], rows)
    rejected = found["rejected_rows"]
    for line in [*found["notices"], *(f"{row['file']}:{row['line']}  {row['reason']}" for row in rejected)]:
        print(escape(line))
    if found["rejected"] > len(rejected):
        print(_("... and {n} more rejected rows.").format(n=found["rejected"] - len(rejected)))


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        names = {"min": _("least"), "mean": _("mean"), "median": _("median"), "p95": _("95 % up to"), "max": _("most")}
        return ", ".join(f"{names.get(key, key)} {inner}" for key, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
