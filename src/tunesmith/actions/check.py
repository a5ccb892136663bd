"""`check`, `preview`, `data inspect`, `model check`: what would happen, shown before it does. Nothing is trained.

Needs no torch, so that all of it is there in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.actions.prepare import Prepared, make_encoder, prepare, rejected_rows
from tunesmith.actions.voice import Voice
from tunesmith.data import dataset
from tunesmith.errors import DataError, ModelError
from tunesmith.i18n import _
from tunesmith.tokens.preview import Turn, html, pairs, turns

if TYPE_CHECKING:
    from tunesmith.config.load import Loaded
    from tunesmith.config.schema import Config

SHOWN = 5


def check(loaded: Loaded, voice: Voice) -> Prepared:
    """Settings (checked when they were loaded), data, template, labels and the base model's files."""
    prepared = prepare(loaded.config, voice)
    say_ledger(prepared, voice)
    parameters = _parameters(loaded.config, prepared)
    if parameters:
        trainable, total = parameters
        voice.say(
            _("{trainable:,} of {total:,} parameters are trained ({share:.2f} %).").format(
                trainable=trainable, total=total, share=100 * trainable / total
            )
        )
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
    for notice in prepared.notices:
        voice.say(notice)
    for row in rejected_rows(prepared)[:SHOWN]:
        voice.say(f"{row.origin}  {row.reason}")
    if "test" not in ledger["parts"] and "validation" not in ledger["parts"]:
        voice.say(_("Nothing is split off for testing; data.test_ratio=0.2 would do it."))
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


def _parameters(config: Config, prepared: Prepared) -> tuple[int, int] | None:
    """(trainable, all), read off the weights' file headers; None where the weights are not here."""
    from tunesmith.model.shapes import adapter_parameters, all_parameters

    folder = Path(str(config.model.name_or_path)).expanduser()
    folder = folder if folder.is_dir() else prepared.encoder.tokenizer.folder
    try:
        total = all_parameters(folder)
        if config.method == "full":
            return total, total
        added = adapter_parameters(folder, config.lora.r, config.lora.target_modules)
    except ModelError:
        return None
    return added, total + added


def preview(config: Config, voice: Voice, *, row: int = 0) -> tuple[Any, list[Turn]]:
    """Row `row` of the data: the conversation as read, and its tokens with what is trained of them."""
    encoder = make_encoder(config.model, config.template)
    conversation = _row(config, row)
    encoded = encoder.encode(conversation, config.data.max_length, config.data.overflow)
    if encoded.error:
        raise DataError(encoded.error[1], place=str(conversation.origin))
    return conversation, turns(encoder, encoded.answers)


def preview_html(config: Config, voice: Voice, out: Path, *, row: int = 0) -> Path:
    conversation, found = preview(config, voice, row=row)
    out.write_text(html(conversation, found), encoding="utf-8")
    return out


def export_pairs(config: Config, out: Path, voice: Voice) -> int:
    """One JSON line for every trained answer, read back off the structure that is trained. Returns their number."""
    encoder = make_encoder(config.model, config.template)
    source = dataset.load(_paths(config), config.data.model_copy(update={"drop_duplicates": False}))
    count = 0
    with out.open("w", encoding="utf-8") as file:
        for conversation in source.conversations:
            encoded = encoder.encode(conversation)
            if encoded.error:
                voice.say(f"{conversation.origin}  {encoded.error[1]}")
            for pair in pairs(conversation, encoded.answers):
                file.write(json.dumps(pair) + "\n")
                count += 1
    return count


def inspect(path: Path, config: Config) -> dict[str, Any]:
    return dataset.inspect(path, config.data)


def _row(config: Config, row: int) -> Any:
    source = dataset.load(_paths(config), config.data.model_copy(update={"drop_duplicates": False}))
    found = next((c for c in source.conversations if c.index == row), None)
    if found is not None:
        return found
    refused = next((r for r in source.rejected if r.index == row), None)
    if refused is not None:
        raise DataError(refused.reason, place=str(refused.origin))
    raise DataError(_("There is no row {row}; the rows are 0 to {last}.").format(row=row, last=source.rows - 1))


def _paths(config: Config) -> Sequence[Path]:
    train = config.data.train
    if train is None:
        raise DataError(_("There is no data. Name a file."))
    return train if isinstance(train, list) else [train]
