"""`batch`: a file of rows in, the same rows with answers out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.actions.after import Opened, respond
from tunesmith.actions.voice import Voice
from tunesmith.errors import ConfigError, RunError, TemplateError
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.data.prompts import Prompt
    from tunesmith.generate.engine import Generated
    from tunesmith.tokens.encode import Encoder

LINES = (".jsonl", ".ndjson")


def batch(opened: Opened, source: Path, out: Path, voice: Voice, *, overwrite: bool = False) -> tuple[int, int]:
    """Answers every row of `source` into `out`, in order. Returns (rows, those of them that could not be asked)."""
    from tunesmith.data.prompts import read_prompts

    as_lines = _as_lines(source, out)
    if out.exists() and not overwrite:
        raise RunError(_("The file exists. Replace it with --overwrite."), place=str(out))
    if out.resolve() == source.resolve():
        raise RunError(_("This is the file that is read. Give another name."), place=str(out))
    prompts, notices = read_prompts(source, opened.config.data)
    for notice in notices:
        voice.say(notice)
    prompts = [_asked(opened.encoder, prompt) for prompt in prompts]
    answers = iter(respond(opened, voice)([p.conversation for p in prompts if p.conversation]))
    records = [_record(prompt, next(answers) if prompt.conversation else None) for prompt in prompts]
    _write_records(out, records, as_lines)
    return len(records), sum(prompt.conversation is None for prompt in prompts)


def _as_lines(source: Path, out: Path) -> bool:
    """Whether the answers are one JSON object a line: by the name of `out`, else as `source` is."""
    suffix = out.suffix.lower()
    if suffix not in ("", ".json", *LINES):
        raise ConfigError(_("Answers are written as .json or .jsonl. Give a name that ends so."), place=str(out))
    return (suffix or source.suffix.lower()) != ".json"


def _asked(encoder: Encoder, prompt: Prompt) -> Prompt:
    """The prompt, without its conversation where the chat template refuses that."""
    if prompt.conversation is None:
        return prompt
    try:
        encoder.context(prompt.conversation)
    except TemplateError as error:
        return replace(prompt, conversation=None, error=f"{prompt.conversation.origin}  {error}")
    return prompt


def _record(prompt: Prompt, answer: Generated | None) -> dict[str, Any]:
    from tunesmith.evaluate.run import text

    record = dict(prompt.value)
    if prompt.reference is not None:
        record["reference"] = text(prompt.reference)
    if answer is None:
        return record | {"prediction": None, "error": prompt.error}
    record["prediction"] = text(answer.message)
    if answer.message.reasoning:
        record["prediction_thinking"] = answer.message.reasoning
    return record


def _write_records(out: Path, records: list[dict[str, Any]], as_lines: bool) -> None:
    """Whole or not at all: under another name first, then renamed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.unfinished")
    with unfinished.open("w", encoding="utf-8", errors="replace") as file:
        if as_lines:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        else:
            json.dump(records, file, ensure_ascii=False, indent=1)
            file.write("\n")
    unfinished.replace(out)
