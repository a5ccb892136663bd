"""`data split`, `convert`, `clean`, `balance`: files of rows made into other files of rows.

What is written is claimed first, so that nothing is computed in vain and no result is replaced unasked. Rows that did
not exist before are made in more_data.py; looking at rows is inspect.py's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tunesmith.actions.voice import Voice
from tunesmith.data import write
from tunesmith.data.balance import balance as balanced
from tunesmith.data.clean import clean as clean_rows
from tunesmith.data.convert import convert as convert_rows
from tunesmith.data.convert import refusal
from tunesmith.data.dataset import Dataset, recognise
from tunesmith.data.fields import short
from tunesmith.data.formats import writer
from tunesmith.data.intake import ALL, Rejected
from tunesmith.data.read import Reading, read
from tunesmith.data.row import Row
from tunesmith.data.split import Split
from tunesmith.data.split import split as divided
from tunesmith.errors import DataError, Problem
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.config.load import Loaded
    from tunesmith.config.schema import DataSection
    from tunesmith.conversation import Conversation

PARTS = ("converted_data.jsonl", "train.jsonl", "test.jsonl")
TEST_RATIO = 0.2  # where no setting says another
SHOWN = 5  # rejected rows that are shown; the list in the file has all


class Source(NamedTuple):
    """Rows as they stand in the files, and what they say; conversation `index` is row `index`."""

    reading: Reading
    dataset: Dataset
    section: DataSection

    def value(self, index: int) -> dict[str, Any]:
        row = self.reading.rows[index]
        assert isinstance(row, Row)
        return row.value


def open_source(source: Path, loaded: Loaded, voice: Voice, **changes: Any) -> Source:
    """Reads and recognises the rows, and says what was noticed. Where no format fits, a preset's templates may."""
    section = loaded.config.data.model_copy(update={"drop_duplicates": False, **changes})
    reading = read(source)
    try:
        dataset = recognise(reading, section, str(source))
    except DataError as refused:
        section, dataset = _by_preset(reading, section, loaded, voice, refused)
    for notice in dataset.notices:
        voice.say(notice)
    for row in dataset.rejected[:SHOWN]:
        voice.say(f"{row.origin}  {row.reason}")
    if not dataset.conversations:
        raise DataError(_("No row can be used."), place=str(source))
    return Source(reading, dataset, section)


def _by_preset(
    reading: Reading, section: DataSection, loaded: Loaded, voice: Voice, refused: DataError
) -> tuple[DataSection, Dataset]:
    """The rows by the templates of the one shipped preset that fit all of them; otherwise the refusal stands."""
    from tunesmith.config.layers import presets
    from tunesmith.config.load import load

    if section.format or section.mapping or section.prompt_template:
        raise refused
    found = []
    for name in presets():
        shipped = load(overrides=[f"preset={name}"]).config.data
        if not (shipped.prompt_template and shipped.answer_template):
            continue
        templates = {"prompt_template": shipped.prompt_template, "answer_template": shipped.answer_template}
        changed = section.model_copy(update=templates)
        dataset = recognise(reading, changed, "")
        if not dataset.rejected:
            found.append((name, changed, dataset))
    if len(found) != 1:
        raise refused
    name, section, dataset = found[0]
    text = _("The rows have the fields of the preset {name}; its prompt_template and answer_template are used.")
    voice.say(text.format(name=name))
    return section, dataset


def split(source: Path, folder: Path, loaded: Loaded, voice: Voice, *, keep: Sequence[str], overwrite: bool) -> None:
    """Writes PARTS into the folder: all rows as dialogues under `text`, those to train and those to test.

    Beside the text stand the column that stratifies and the columns to `keep`. Raises DataError, RunError.
    """
    paths = [folder / name for name in PARTS]
    write.claim(paths, [source], overwrite)
    opened = open_source(source, loaded, voice)
    rows, section = opened.dataset.conversations, opened.section
    columns = _kept(rows, section.stratify_by, keep)
    parts = divided(
        rows,
        section.test_ratio or TEST_RATIO,
        stratify_by=section.stratify_by,
        split_by=section.split_by,
        split_pattern=section.split_pattern,
        singletons=section.singletons,
        seed=loaded.config.training.seed,
    )
    for notice in [*parts.notices, *_left_out(rows, columns)]:
        voice.say(notice)
    for path, part in zip(paths, (rows, parts.train, parts.held), strict=True):
        narrow = [replace(c, meta={short(name): c.meta[name] for name in columns if name in c.meta}) for c in part]
        made = convert_rows(narrow, "text")
        first = [short(name) for name in columns]
        write.rows(path, ({**{name: row[name] for name in first if name in row}, **row} for row in made.rows))
    list_removed(paths[0], opened.dataset.rejected, voice)
    _say_parts(parts, section.stratify_by, folder, voice)


def _kept(rows: Sequence[Conversation], stratify_by: str | None, keep: Sequence[str]) -> list[str]:
    """The columns that stay beside the text. DataError for one to keep that no row has."""
    there = dict.fromkeys(name for conversation in rows for name in conversation.meta)
    absent = [name for name in keep if name not in there]
    if absent:
        text = _("No row has a column {column}. The columns are: {there}.")
        shown = ", ".join(there) or _("none")
        raise DataError([Problem("--keep", text.format(column=name, there=shown)) for name in absent])
    grouping = [stratify_by, ALL.format(column=stratify_by)] if stratify_by else []
    return [name for name in dict.fromkeys([*grouping, *keep]) if name in there]


def _left_out(rows: Sequence[Conversation], columns: Sequence[str]) -> list[str]:
    written = {*columns, *map(short, columns)}
    left = dict.fromkeys(name for conversation in rows for name in conversation.meta if name not in written)
    if not left:
        return []
    text = _("Columns that are not written: {names}. Keep one with --keep NAME.")
    return [text.format(names=", ".join(left))]


def _say_parts(parts: Split, stratify_by: str | None, folder: Path, voice: Voice) -> None:
    text = _("{train} rows to train and {test} to test written to {folder}.")
    voice.say(text.format(train=len(parts.train), test=len(parts.held), folder=folder))
    if stratify_by:
        values = [{str(c.meta.get(stratify_by)) for c in part} for part in (parts.train, parts.held)]
        text = _("Values of {column}: {n} in all, {train} in the training rows, {test} in the test rows.")
        both = len(values[0] | values[1])
        voice.say(text.format(column=stratify_by, n=both, train=len(values[0]), test=len(values[1])))


def list_removed(path: Path, removed: Sequence[Rejected], voice: Voice) -> None:
    ledger = write.removed(path, removed)
    if ledger:
        text = _("{n} rows were left out; {path} says which and why.")
        voice.say(text.format(n=len(removed), path=ledger))


def convert(source: Path, out: Path, name: str, loaded: Loaded, voice: Voice, *, overwrite: bool) -> None:
    """Every row in the format `name`; what the format has no place for is said and counted. DataError, RunError."""
    writer(name)
    write.claim([out], [source], overwrite)
    opened = open_source(source, loaded, voice)
    made = convert_rows(opened.dataset.conversations, name)
    for notice in made.notices(name):
        voice.say(notice)
    write.rows(out, made.rows)
    list_removed(out, [*opened.dataset.rejected, *made.refused], voice)
    said = _("{n} rows of the format {before} written to {path} in the format {after}.")
    voice.say(said.format(n=len(made.rows), before=opened.dataset.format, path=out, after=name))


def clean(source: Path, out: Path, loaded: Loaded, voice: Voice, *, overwrite: bool) -> None:
    """The rows that are worth training, as they stood; the others are listed with line and reason."""
    write.claim([out], [source], overwrite)
    opened = open_source(source, loaded, voice)
    found = clean_rows(opened.dataset.conversations, loaded.config.clean)
    write.rows(out, (opened.value(conversation.index) for conversation in found.kept))
    removed = [*opened.dataset.rejected, *found.removed]
    for code, n in Counter(row.code for row in removed).most_common():
        voice.say(_("Removed as {code}: {n}.").format(code=code, n=n))
    list_removed(out, removed, voice)
    voice.say(_("{n} of {rows} rows written to {path}.").format(n=len(found.kept), rows=opened.dataset.rows, path=out))


def balance(source: Path, out: Path, by: str, to: str, loaded: Loaded, voice: Voice, *, overwrite: bool) -> None:
    """As many rows of each value of the column `by` as `to` says, as they stood."""
    write.claim([out], [source], overwrite)
    opened = open_source(source, loaded, voice, stratify_by=by)
    with_value = [c for c in opened.dataset.conversations if by in c.meta]
    if not with_value:
        raise DataError(_("No row has a column {column}.").format(column=by), place="--by")
    found = balanced([str(c.meta[by]) for c in with_value], to, loaded.config.training.seed)
    write.rows(out, (opened.value(with_value[i].index) for i in found.kept))
    for value, (before, after) in found.sizes.items():
        if before != after:
            text = _("{value}: {before} before, {after} after.")
            voice.say(text.format(value=value, before=before, after=after))
    without = [c for c in opened.dataset.conversations if by not in c.meta]
    removed = [refusal(c, "no_value", _("The row has no column {column}.").format(column=by)) for c in without]
    removed += [refusal(with_value[i], "balance", _("Its value has more rows than wanted.")) for i in found.left_out]
    list_removed(out, [*opened.dataset.rejected, *removed], voice)
    repeated = len(found.kept) - len(set(found.kept))
    if repeated:
        text = _("{n} rows repeat others. Training drops such rows unless data.drop_duplicates=false.")
        voice.say(text.format(n=repeated))
    voice.say(_("{n} of {rows} rows written to {path}.").format(n=len(found.kept), rows=opened.dataset.rows, path=out))
