"""From settings to all that training needs, checked: rows, labels, base model, and where every row went.

What `check` and `train` have in common: whatever can be wrong is found here, before any weight is read.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from tunesmith.actions.base import check_output, count_parameters, make_encoder, window
from tunesmith.actions.findings import Findings
from tunesmith.actions.rows import Part, Rows, data_files, digest, open_sources, read_rows
from tunesmith.actions.voice import Voice
from tunesmith.errors import DataError, Problem
from tunesmith.i18n import _
from tunesmith.tokens.encode import Encoder
from tunesmith.train.trackers import refuse_missing

if TYPE_CHECKING:
    from tunesmith.config.schema import Config, DataSection, ModelSection

SHOWN = 5  # rejected rows that an error names


@dataclass
class Prepared:
    """All that training needs of data and base. `ledger` adds up to the rows of the files.

    `chooser` names the part whose loss chooses the best checkpoint, if there is one; `parameters` are (trainable, all)
    of the model, None where its files do not tell.
    """

    encoder: Encoder
    rows: Rows
    train: Part
    validation: Part
    test: Part
    chooser: str | None
    ledger: dict[str, Any]
    notices: list[str]
    data_sha256: str
    parameters: tuple[int, int] | None


def prepare(config: Config, voice: Voice) -> Prepared:
    """Everything about data, template, labels and base model, or all that is wrong with them: ConfigError, DataError,
    TemplateError, ModelError."""
    findings = Findings()
    with findings:
        check_output(config)
    with findings:
        refuse_missing(config.tracking.trace)
    encoder = None
    with findings:
        encoder = make_encoder(config.model, config.template)
    with findings:
        sources = open_sources(config, encoder, voice)
    with findings:
        parameters = count_parameters(config)
    findings.raise_all()
    assert encoder is not None
    rows, section = read_rows(config, sources, voice), config.data
    parts = rows.parts
    _refuse_losses(rows, section)
    if not parts["train"].answers:
        raise DataError(_("Not one answer is left to train."), place=str(data_files(section)[0]))
    chooser = next((name for name in ("validation", "test") if len(parts[name])), None)
    return Prepared(
        encoder,
        rows,
        **parts,
        chooser=chooser,
        ledger=_ledger(rows),
        notices=encoder.notices + rows.notices + _remarks(section, parts, chooser) + _beyond(config.model, parts),
        data_sha256=digest(data_files(section)),
        parameters=parameters,
    )


def _refuse_losses(rows: Rows, section: DataSection) -> None:
    """Stops where more rows are lost than the settings allow, naming the first of them."""
    kinds = Counter(row.code for row in rows.rejected())
    lost, count = kinds.total(), sum(len(source.store) for source in rows.repeats)
    if section.overflow == "error" and kinds["too_long"]:
        raise DataError([Problem(str(r.origin), r.reason) for r in rows.rejected() if r.code == "too_long"])
    if lost <= section.max_dropped * count:
        _refuse_lost_answers(rows, section)
        return
    said = [Problem(str(row.origin), row.reason) for row in islice(rows.rejected(), SHOWN)]
    summary = _(
        "{n} of {rows} rows ({share:.0%}) can't be trained: {kinds}. Mend them, or allow it with"
        " data.max_dropped={allowed:.2f}."
    )
    text = summary.format(
        n=lost,
        rows=count,
        share=lost / count,
        kinds=", ".join(f"{code} {n}" for code, n in kinds.most_common()),
        allowed=math.ceil(100 * lost / count) / 100,
    )
    raise DataError([*said, Problem("", text)])


def _refuse_lost_answers(rows: Rows, section: DataSection) -> None:
    """Stops where dialogues that stay lose more of their answers than the settings allow."""
    dropped = sum(part.dropped for part in rows.parts.values())
    answers = dropped + sum(part.answers for part in rows.parts.values())
    if dropped > section.max_dropped * answers:
        text = _(
            "{n} of {answers} answers are longer with their question than data.max_length ({length} tokens). Raise"
            " it, or allow it with data.max_dropped={allowed:.2f}."
        )
        allowed = math.ceil(100 * dropped / answers) / 100
        raise DataError(text.format(n=dropped, answers=answers, length=section.max_length, allowed=allowed))


def _remarks(section: DataSection, parts: dict[str, Part], chooser: str | None) -> list[str]:
    """What measures the run, where a user might believe something else."""
    if not (section.test or section.test_ratio):
        return [_("Nothing is split off for testing; data.test_ratio=0.2 would do it.")]
    if not len(parts["test"]):
        return [_("No row is left for testing: there are too few. Raise data.test_ratio, or name a file in data.test.")]
    if chooser == "test":
        return [
            _("No validation rows: the test rows choose the best checkpoint, so its test result flatters a little.")
        ]
    return []


def _beyond(model: ModelSection, parts: dict[str, Part]) -> list[str]:
    """Answers that the model may not be able to follow to their end."""
    limit = window(model)
    beyond = sum(part.longer_than(limit) for part in parts.values()) if limit else 0
    text = _("{n} answers are longer with their context than the model was made for ({limit} tokens): lower {setting}.")
    return [text.format(n=beyond, limit=limit, setting="data.max_length")] if beyond else []


def _ledger(rows: Rows) -> dict[str, Any]:
    """Where every row of the training files went; files of their own for validation and test stand beside."""
    own = {name: part for name, part in rows.parts.items() if name not in rows.files}
    counts = rows.counts(rows.source)
    totals = {
        "rows": counts["rows"],
        **{name: len(part) for name, part in own.items()},
        "duplicates": counts["duplicates"],
        "rejected": counts["rejected"],
    }
    assert totals["rows"] == sum(n for name, n in totals.items() if name != "rows"), totals
    return {
        "totals": totals,
        "rejected": dict(Counter(row.code for row in rows.rejected(rows.source))),
        "parts": {name: part.ledger() for name, part in rows.parts.items() if len(part)},
        "files": {name: rows.counts(source) for name, source in rows.files.items()},
    }
