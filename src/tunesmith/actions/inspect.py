"""`data inspect`: what is in files of rows, in numbers and as a picture. Changes nothing and needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.actions.base import make_encoder
from tunesmith.actions.voice import Voice
from tunesmith.data import survey
from tunesmith.data.dataset import load, summary
from tunesmith.errors import DataError, RunError
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.config.schema import Config
    from tunesmith.conversation import Conversation


def inspect(
    path: Path, config: Config, voice: Voice, *, picture: Path | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """What is in the data, in JSON's types. Lengths are tokens where the settings name a model or tokenizer, as
    data.max_length counts them, and characters otherwise. Groups are those of data.stratify_by."""
    if picture is not None and picture.exists() and not overwrite:
        raise RunError(_("The file exists. Replace it with --overwrite."), place=str(picture))
    section = config.data
    dataset = load(path, section)
    found = summary(dataset)
    rows = [*dataset.conversations, *(duplicate.conversation for duplicate in dataset.duplicates)]
    found["languages"] = survey.languages(rows)
    found["characters"] = survey.spread(lengths := list(map(survey.characters, rows)))
    unit, limit = _("characters"), 0
    if config.model.name_or_path or config.model.tokenizer:
        lengths, unit, limit = _tokens(rows, config, voice), _("tokens"), section.max_length
        found["tokens"] = survey.spread(lengths)
        found["over_max_length"] = sum(length > limit for length in lengths)
    if section.stratify_by:
        found["groups"] = survey.groups(rows, section.stratify_by)
        if set(found["groups"]) == {""}:
            raise DataError(_("No row has a column {column}.").format(column=section.stratify_by), "data.stratify_by")
    if picture is not None:
        from tunesmith.evaluate.plot_data import overview

        overview(lengths, unit, limit, found.get("groups", found["languages"]), picture)
    return found


def _tokens(rows: list[Conversation], config: Config, voice: Voice) -> list[int]:
    """Tokens of each row's longest context with its answer, whatever data.max_length allows; rows that the template
    refuses have none."""
    encoder = make_encoder(config.model, config.template)
    lengths = []
    with voice.progress(_("Counting tokens")) as advance:
        for done, conversation in enumerate(rows, 1):
            encoded = encoder.encode(conversation)
            lengths += [max(map(len, encoded.answers))] if encoded.answers else []
            advance(done, len(rows), "")
    return lengths
