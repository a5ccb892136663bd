"""`check`, `preview`: what would happen, shown before it does. Nothing is trained.

Needs no torch, so that all of it is there in seconds.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.actions.base import make_encoder, window
from tunesmith.actions.during import exam
from tunesmith.actions.plan import forecast
from tunesmith.actions.prepare import SHOWN, Prepared, prepare
from tunesmith.actions.record import whole_paths
from tunesmith.actions.resume import taken
from tunesmith.actions.rows import data_files
from tunesmith.actions.voice import Voice
from tunesmith.data import dataset
from tunesmith.errors import ConfigError, DataError
from tunesmith.i18n import _
from tunesmith.tokens.pack import refusal
from tunesmith.tokens.page import html
from tunesmith.tokens.preview import Preview, pairs, probe
from tunesmith.tokens.preview import preview as view

if TYPE_CHECKING:
    from tunesmith.config.load import Loaded
    from tunesmith.config.schema import Config
    from tunesmith.conversation import Conversation
    from tunesmith.data.dataset import Dataset


def check(loaded: Loaded, voice: Voice) -> Prepared:
    """Settings (checked when they were loaded), data, template, labels and the base model's files."""
    prepared = prepare(loaded.config, voice)
    exam(loaded.config, prepared)
    say_ledger(prepared, voice)
    if prepared.parameters:
        trainable, total = prepared.parameters
        text = _("{trainable:,} of {total:,} parameters are trained ({share:.2f} %).")
        voice.say(text.format(trainable=trainable, total=total, share=100 * trainable / total))
    config = whole_paths(loaded.config)
    planned = forecast(config, prepared)
    for line in planned.lines() if planned else []:
        voice.say(line)
    run = config.training.output_dir
    found = taken(run) if run else None
    if found:
        voice.say(f"{run}  {found}")
    if planned:
        planned.refuse_too_little_disk()
    voice.say(_("Everything is ready. Nothing was trained."))
    return prepared


def say_ledger(prepared: Prepared, voice: Voice) -> None:
    """Where every row went, what was noticed, and how much of it is trained."""
    source, ledger, encoder = prepared.rows.source, prepared.ledger, prepared.encoder
    totals = ledger["totals"]
    said = [_("{n} rows of the format {format}").format(n=totals["rows"], format=source.format)]
    names = {
        "train": _("{n} for training"),
        "validation": _("{n} for validation"),
        "test": _("{n} for testing"),
        "duplicates": _("{n} duplicates"),
        "rejected": _("{n} rejected"),
    }
    said += [text.format(n=totals[name]) for name, text in names.items() if totals.get(name)]
    voice.say(_("{whole}: {parts}.").format(whole=said[0], parts=_(", ").join(said[1:])))
    for name, found in ledger["files"].items():
        text = _("{n} of {rows} rows of the file for {purpose} are used.")
        purpose = {"validation": _("validation"), "test": _("testing")}[name]
        voice.say(text.format(n=found["accepted"], rows=found["rows"], purpose=purpose))
    for notice in prepared.notices:
        voice.say(notice)
    for row in islice(prepared.rows.rejected(), SHOWN):
        voice.say(f"{row.origin}  {row.reason}")
    train = prepared.train
    voice.say(
        _(
            "{answers} answers, {trained:,} of {tokens:,} tokens trained ({share:.0%}), the longest row has {longest}."
        ).format(
            answers=train.answers,
            trained=train.trained_tokens,
            tokens=train.tokens,
            share=train.trained_tokens / train.tokens,
            longest=train.longest,
        )
    )
    part = ledger["parts"]["train"]
    if part["trimmed_answers"] or part["dropped_answers"]:
        voice.say(
            _("{trimmed} answers lost their oldest turns to fit, {dropped} answers did not fit.").format(
                trimmed=part["trimmed_answers"], dropped=part["dropped_answers"]
            )
        )
    voice.say(_("Chat template: {source}.").format(source=encoder.template.source))


def preview(
    config: Config, voice: Voice, *, row: int | None = None, line: str | None = None, find: str | None = None
) -> Preview:
    """One row of the data, by its number, by its line in the file or by a text in it, and what is trained of it."""
    if sum(each is not None for each in (row, line, find)) > 1:
        raise ConfigError(_("A row is found in one way: give one."), "--row, --line, --find")
    encoder = make_encoder(config.model, config.template)
    conversation = _row(config, voice, row, line, find)
    encoded = encoder.encode(conversation, config.data.max_length, config.data.overflow)
    _code, reason = refusal(encoded, config.data)
    if reason:
        raise DataError(reason, place=str(conversation.origin))
    return view(encoder, conversation, encoded, config.data.max_length, window(config.model))


def preview_html(config: Config, voice: Voice, out: Path, **chosen: Any) -> Path:
    """The same as a page of its own; `chosen` is how the row is found."""
    page = html(preview(config, voice, **chosen))
    _no_input(out, config)
    out.write_text(page, encoding="utf-8")
    return out


def template_probe(config: Config) -> tuple[str, str]:
    """Where the chat template comes from, and what it makes of a dialogue that names its own parts."""
    encoder = make_encoder(config.model, config.template)
    return encoder.template.source, probe(encoder)


def export_pairs(config: Config, out: Path, voice: Voice, *, ignore_index: int | None = None) -> int:
    """One JSON line for every trained answer, read back off the structure that is trained. Returns their number.

    With `ignore_index` each has `input_ids` and `labels` too, as other trainers want them.
    """
    encoder = make_encoder(config.model, config.template)
    source = _rows(config)
    _no_input(out, config)
    count = 0
    with out.open("w", encoding="utf-8") as file:
        for conversation in source.conversations:
            encoded = encoder.encode(conversation)
            if encoded.error:
                voice.say(f"{conversation.origin}  {encoded.error[1]}")
            for pair in pairs(conversation, encoded.answers):
                labels = {} if ignore_index is None else _labels(pair, ignore_index)
                file.write(json.dumps(pair | labels) + "\n")
                count += 1
    for row in source.rejected:
        voice.say(f"{row.origin}  {row.reason}")
    return count


def _labels(pair: dict[str, Any], ignored: int) -> dict[str, list[int]]:
    answer = [id if weight else ignored for id, weight in zip(pair["answer_ids"], pair["weights"], strict=True)]
    context = pair["context_ids"]
    return {"input_ids": context + pair["answer_ids"], "labels": [ignored] * len(context) + answer}


def _rows(config: Config) -> Dataset:
    """Every row of the training files, the repeated ones too: what is shown goes by the row's number."""
    if config.data.train is None:
        raise DataError(_("There is no data. Name a file."))
    return dataset.load(config.data.train, config.data.model_copy(update={"drop_duplicates": False}))


def _row(config: Config, voice: Voice, row: int | None, line: str | None, find: str | None) -> Conversation:
    source = _rows(config)
    row = row or 0
    if line is not None:
        row = _row_on(line, source)
    if find is not None:
        rows = [c.index for c in source.conversations if _holds(c, find)]
        if not rows:
            raise DataError(_("No row holds this text."), place=find)
        row = rows[0]
        text = _("Rows that hold this text: {rows}.")
        voice.say(text.format(rows=", ".join([*map(str, rows[:SHOWN]), *(["..."] if len(rows) > SHOWN else [])])))
    found = next((c for c in source.conversations if c.index == row), None)
    if found is not None:
        return found
    refused = next((r for r in source.rejected if r.index == row), None)
    if refused is not None:
        raise DataError(refused.reason, place=str(refused.origin))
    raise DataError(_("There is no row {row}; the rows are 0 to {last}.").format(row=row, last=source.rows - 1))


def _row_on(place: str, source: Dataset) -> int:
    """The row that stands on a line, `17` or `data.jsonl:17`; without a name, in the first file."""
    file, _colon, number = place.rpartition(":")
    every = [(c.index, c.origin) for c in source.conversations if c.origin is not None]
    every = sorted(every + [(rejected.index, rejected.origin) for rejected in source.rejected])
    named = [(index, at) for index, at in every if Path(file).name in ("", Path(at.file).name)]
    begun = [i for i, at in named if at.file == named[0][1].file and number.isdigit() and at.line <= int(number)]
    if not begun:
        raise DataError(_("No row stands there. Give a line such as 17, or data.jsonl:17."), place=place)
    return begun[-1]


def _holds(conversation: Conversation, text: str) -> bool:
    return any(text in message.content or text in (message.reasoning or "") for message in conversation.messages)


def _no_input(out: Path, config: Config) -> None:
    if out.resolve() in [path.resolve() for path in data_files(config.data)]:
        raise DataError(_("This is the data itself. Give another name."), place=str(out))
