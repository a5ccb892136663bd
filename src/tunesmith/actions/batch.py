"""`batch`: a file of rows in, the same rows with answers out. What is done is kept, whatever happens to the rest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.actions.after import identity
from tunesmith.actions.opening import Opened, supply_system
from tunesmith.actions.voice import Voice
from tunesmith.errors import ConfigError, RunError, TemplateError
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.data.prompts import Prompt
    from tunesmith.generate.engine import Generated

LINES = (".jsonl", ".ndjson")


def batch(
    opened: Opened, source: Path, out: Path, voice: Voice, *, system: str | None = None, overwrite: bool = False
) -> tuple[int, int]:
    """Answers every row of `source` into `out`, in order. Returns (rows, those of them that could not be asked).

    Each answer goes to OUT.partial as it comes; the same command goes on behind the last. `system` stands for the rows'
    own system prompts; None leaves those, and gives the others what the run was trained with.
    """
    from tunesmith.data.prompts import read_prompts

    as_lines = _as_lines(source, out)
    if out.exists() and not overwrite:
        raise RunError(_("The file exists. Replace it with --overwrite."), place=str(out))
    if out.resolve() == source.resolve():
        raise RunError(_("This is the file that is read. Give another name."), place=str(out))
    prompts, notices = read_prompts(source, opened.config.data)
    for notice in notices:
        voice.say(notice)
    prompts = [_checked(opened, prompt) for prompt in _under(opened, prompts, system, voice)]
    partial = Partial(out, _key(opened, source, system), overwrite)
    _answer(opened, prompts, partial, voice)
    records = [_record(prompt, partial.answers.get(i)) for i, prompt in enumerate(prompts)]
    _write_records(out, records, as_lines)
    partial.path.unlink()
    opened.note(f"answered {len(records)} rows of {source} ({opened.target.why}) into {out}")
    return len(records), sum(prompt.conversation is None for prompt in prompts)


class Partial:
    """Answers by row, on the disk as soon as they are there. RunError where those of another batch lie there."""

    def __init__(self, out: Path, key: str, overwrite: bool) -> None:
        self.path = out.with_name(f"{out.name}.partial")
        self.answers: dict[int, dict[str, Any]] = {}
        if self.path.exists() and not overwrite:
            head, *lines = _whole_lines(self.path) or [None]
            if head != {"key": key}:
                text = _(
                    "Answers of another batch, broken off, lie here: other rows, model or settings. Go on with that"
                    " command, give another name, or drop them with --overwrite."
                )
                raise RunError(text, place=str(self.path))
            self.answers = {line.pop("row"): line for line in lines}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", encoding="utf-8", errors="replace") as file:  # anew: a line may have been cut short
            for line in [{"key": key}, *({"row": row} | answer for row, answer in self.answers.items())]:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def add(self, row: int, answer: dict[str, Any]) -> None:
        self.answers[row] = answer
        with self.path.open("a", encoding="utf-8", errors="replace") as file:
            file.write(json.dumps({"row": row} | answer, ensure_ascii=False) + "\n")


def _whole_lines(path: Path) -> list[Any]:
    """The lines of a file of JSON lines, up to the one in which it was broken off."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _key(opened: Opened, source: Path, system: str | None) -> str:
    """What decides the answers: rows, model, template, generation, system prompt."""
    from tunesmith import rundir

    known = [
        rundir.digest(source),
        identity(opened),
        opened.config.data.model_dump(mode="json"),
        opened.systems,
        system,
    ]
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


def _answer(opened: Opened, prompts: list[Prompt], partial: Partial, voice: Voice) -> None:
    """Asks every row that has no answer yet, in the company in which all rows would be asked."""
    from tunesmith.generate.engine import as_done

    asked = [(i, p.conversation) for i, p in enumerate(prompts) if p.conversation]
    total, first = len(asked), next((k for k, (i, _c) in enumerate(asked) if i not in partial.answers), None)
    if partial.answers:
        voice.say(_("Going on: {n} of {total} answers are there.").format(n=len(partial.answers), total=total))
    if first is None:
        return
    model = opened.model()
    try:
        with voice.progress(_("Answering")) as advance:
            conversations, section = [c for _row, c in asked], opened.config.generation
            for i, answer in as_done(model, opened.encoder, conversations, section, first=first):
                if asked[i][0] not in partial.answers:
                    partial.add(asked[i][0], _said(answer))
                    advance(len(partial.answers), total, "")
    except KeyboardInterrupt:
        text = _("{n} of {total} answers are kept in {path}. The same command goes on.")
        voice.say(text.format(n=len(partial.answers), total=total, path=partial.path))
        raise


def _said(answer: Generated) -> dict[str, Any]:
    from tunesmith.evaluate.run import text

    said = {"prediction": text(answer.message)}
    return said | ({"prediction_thinking": answer.message.reasoning} if answer.message.reasoning else {})


def _as_lines(source: Path, out: Path) -> bool:
    """Whether the answers are one JSON object a line: by the name of `out`, else as `source` is."""
    suffix = out.suffix.lower()
    if suffix not in ("", ".json", *LINES):
        raise ConfigError(_("Answers are written as .json or .jsonl. Give a name that ends so."), place=str(out))
    return (suffix or source.suffix.lower()) != ".json"


def _under(opened: Opened, prompts: list[Prompt], system: str | None, voice: Voice) -> list[Prompt]:
    """The prompts under the system prompt of the command; else under their own, or what the training had."""
    asked = [prompt.conversation for prompt in prompts if prompt.conversation]
    if system is None:
        asked = supply_system(opened, asked, voice)
    else:
        opened.encoder.ready.system = None
        asked = [conversation.with_system(system) for conversation in asked]
    given = iter(asked)
    return [replace(prompt, conversation=next(given)) if prompt.conversation else prompt for prompt in prompts]


def _checked(opened: Opened, prompt: Prompt) -> Prompt:
    """The prompt, without its conversation where that can't be asked."""
    if prompt.conversation is None:
        return prompt
    try:
        refused = opened.refusal(prompt.conversation)
    except TemplateError as error:
        refused = str(error)
    if refused:
        return replace(prompt, conversation=None, error=f"{prompt.conversation.origin}  {refused}")
    return prompt


def _record(prompt: Prompt, answer: dict[str, Any] | None) -> dict[str, Any]:
    from tunesmith.evaluate.run import text

    record = dict(prompt.value)
    if prompt.reference is not None:
        record["reference"] = text(prompt.reference)
    return record | (answer or {"prediction": None, "error": prompt.error})


def _write_records(out: Path, records: list[dict[str, Any]], as_lines: bool) -> None:
    """Whole or not at all: under another name first, then renamed."""
    unfinished = out.with_name(f".{out.name}.unfinished")
    with unfinished.open("w", encoding="utf-8", errors="replace") as file:
        if as_lines:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        else:
            json.dump(records, file, ensure_ascii=False, indent=1)
            file.write("\n")
    unfinished.replace(out)
