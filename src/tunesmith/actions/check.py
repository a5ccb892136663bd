"""`check`, `preview`, `data inspect`: what would happen, shown before it does. Nothing is trained.

Needs no torch, so that all of it is there in seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.actions.base import make_encoder
from tunesmith.actions.prepare import SHOWN, Prepared, prepare, rejected_rows
from tunesmith.actions.rows import data_files, refusal
from tunesmith.actions.voice import Voice
from tunesmith.data import dataset
from tunesmith.errors import DataError
from tunesmith.i18n import _
from tunesmith.tokens.preview import Turn, html, pairs, turns

if TYPE_CHECKING:
    from tunesmith.config.load import Loaded
    from tunesmith.config.schema import Config
    from tunesmith.conversation import Conversation
    from tunesmith.data.dataset import Dataset


def check(loaded: Loaded, voice: Voice) -> Prepared:
    """Settings (checked when they were loaded), data, template, labels and the base model's files."""
    prepared = prepare(loaded.config, voice)
    say_ledger(prepared, voice)
    if prepared.parameters:
        trainable, total = prepared.parameters
        text = _("{trainable:,} of {total:,} parameters are trained ({share:.2f} %).")
        voice.say(text.format(trainable=trainable, total=total, share=100 * trainable / total))
    voice.say(_("Everything is ready. Nothing was trained."))
    return prepared


def say_ledger(prepared: Prepared, voice: Voice) -> None:
    """Where every row went, what was noticed, and how much of it is trained."""
    source, ledger, encoder = prepared.source, prepared.ledger, prepared.encoder
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
    voice.say(said[0] + ": " + ", ".join(said[1:]) + ".")
    for name, found in ledger["files"].items():
        text = _("{n} of {rows} rows of the file for {purpose} are used.")
        purpose = {"validation": _("validation"), "test": _("testing")}[name]
        voice.say(text.format(n=found["accepted"], rows=found["rows"], purpose=purpose))
    for notice in prepared.notices:
        voice.say(notice)
    for row in rejected_rows(prepared)[:SHOWN]:
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


def preview(config: Config, voice: Voice, *, row: int = 0) -> tuple[Conversation, str, list[Turn]]:
    """Row `row` of the data: the conversation as read, as rendered, and its tokens with what is trained of them."""
    encoder = make_encoder(config.model, config.template)
    conversation = _row(config, row)
    encoded = encoder.encode(conversation, config.data.max_length, config.data.overflow)
    _code, reason = refusal(encoded, config.data)
    if reason:
        raise DataError(reason, place=str(conversation.origin))
    return conversation, encoder.rendered(conversation), turns(encoder, encoded.answers)


def preview_html(config: Config, voice: Voice, out: Path, *, row: int = 0) -> Path:
    page = html(*preview(config, voice, row=row))
    _no_input(out, config)
    out.write_text(page, encoding="utf-8")
    return out


def export_pairs(config: Config, out: Path, voice: Voice) -> int:
    """One JSON line for every trained answer, read back off the structure that is trained. Returns their number."""
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
                file.write(json.dumps(pair) + "\n")
                count += 1
    for row in source.rejected:
        voice.say(f"{row.origin}  {row.reason}")
    return count


def inspect(path: Path, config: Config) -> dict[str, Any]:
    return dataset.inspect(path, config.data)


def _rows(config: Config) -> Dataset:
    """Every row of the training files, the repeated ones too: what is shown goes by the row's number."""
    if config.data.train is None:
        raise DataError(_("There is no data. Name a file."))
    return dataset.load(config.data.train, config.data.model_copy(update={"drop_duplicates": False}))


def _row(config: Config, row: int) -> Conversation:
    source = _rows(config)
    found = next((c for c in source.conversations if c.index == row), None)
    if found is not None:
        return found
    refused = next((r for r in source.rejected if r.index == row), None)
    if refused is not None:
        raise DataError(refused.reason, place=str(refused.origin))
    raise DataError(_("There is no row {row}; the rows are 0 to {last}.").format(row=row, last=source.rows - 1))


def _no_input(out: Path, config: Config) -> None:
    if out.resolve() in [path.resolve() for path in data_files(config.data)]:
        raise DataError(_("This is the data itself. Give another name."), place=str(out))
