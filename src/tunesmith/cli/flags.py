"""Flags of older scripts: which setting, word or command says today what `--learning_rate` or `--mode chat` said.

Knows options and where words stand; what a setting is called, config/names.py knows.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

from tunesmith.config.names import explain, named, suggest
from tunesmith.config.settings import settings
from tunesmith.i18n import _

_RANK = ("--local_rank", "--local-rank")
_RUN = ("lora_path", "mode_path", "model_id", "model_name", "model_name_or_path", "model_path")
_ROWS = ("data_path", "test_data", "test_data_path", "test_dataset_path")
_OPTIONS = {
    **dict.fromkeys(_ROWS, "--data"),
    **dict.fromkeys(("output_dir", "output_path", "save_model_path"), "--output"),
    "system_prompt": "--system",
    "tokenizer_path": "--tokenizer",
}


def without_rank(words: list[str]) -> list[str]:
    """The words without the `--local_rank N` that launchers add: the same number stands in their environment."""
    left: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, _value = word.partition("=")
        if name not in _RANK:
            left.append(word)
        elif not equals and not re.fullmatch(r"-?\d+", value := next(rest, "0")):
            left.append(value)
    return left


def answers(words: list[str], error: Any) -> list[str]:
    """A sentence for each flag that the command does not have and that a table knows; `error` is the parser's.

    Where none knows the flag that stopped the parser, one for what it is most like, if anything.
    """
    context, flags = error.ctx, list(_flags(words))
    if context is None:
        return []
    mode = next((value for key, _option, value in flags if key == "mode"), None)
    if mode is not None:
        return [_mode(mode, {key: value for key, _option, value in flags})]
    known = {name for parameter in context.command.params for name in parameter.opts}
    foreign = [flag for flag in flags if flag[1] not in known]
    said = [said for flag in foreign if (said := _answer(*flag, known, context))]
    stopped = next((flag for flag in foreign if flag[1] == error.option_name), None)
    if said or stopped is None or getattr(error, "possibilities", None):
        return said
    near = suggest(stopped[0])
    return [_setting(stopped[1], near, stopped[2])] if near in settings() else []


def _flags(words: list[str]) -> Iterator[tuple[str, str, str]]:
    """(name with underscores, the option as written, its value) of every word that is an option."""
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        option, equals, value = word.partition("=")
        if re.match("--[A-Za-z]", option):
            value = value if equals else "true" if following.startswith("--") else following
            yield option[2:].replace("-", "_").lower(), option, shlex.quote(value)


def _answer(key: str, option: str, value: str, known: set[str], context: Any) -> str | None:
    """What the table says instead of one flag, None where it does not know it."""
    command, names = context.command_path, [parameter.name for parameter in context.command.params]
    if " " not in command:
        text = _("{option} stands before the command. Begin with one, such as tunesmith train.")
        return text.format(option=option)
    if "run" in names and key in _RUN:
        text = _("{option} is not an option. What answers comes first: {command} {value}")
        return text.format(option=option, command=command, value=value)
    if "source" in names and key in _ROWS:
        text = _("{option} is not an option. The rows come behind what answers: {command} RUN {value}")
        return text.format(option=option, command=command, value=value)
    if (new := _OPTIONS.get(key)) in known:
        return _("{option} is called {new}: {new} {value}").format(option=option, new=new, value=value)
    if sentence := explain(key):
        return _("{option} is not an option.").format(option=option) + " " + sentence
    setting = named(key)
    return _setting(option, setting, value) if setting in settings() else None


def _setting(option: str, setting: str | None, value: str) -> str:
    text = _("{option} is not an option. Settings are written without dashes, such as {setting}={value}")
    return text.format(option=option, setting=setting, value=value)


def _mode(mode: str, given: dict[str, str]) -> str:
    """The whole command for `--mode chat` or `--mode batch`, with what stood beside it."""
    run = next((given[key] for key in _RUN if key in given), "RUN")
    line = f"tunesmith {mode} {run}"
    if mode == "batch":
        rows = next((given[key] for key in _ROWS if key in given), "IN")
        line += f" {rows} -o {given.get('output_path', 'OUT')}"
    if "system_prompt" in given:
        line += f" --system {given['system_prompt']}"
    return _("The mode is the command: {line}").format(line=line)
