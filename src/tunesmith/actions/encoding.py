"""The encoded rows of some data files: those of an earlier start where nothing changed, else made now.

Knows what the result depends on, and says what changed. Which rows are trained is decided in rows.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from tunesmith.actions.voice import Voice
from tunesmith.conversation import Conversation
from tunesmith.data import formats, own
from tunesmith.data.glance import Glance, glance
from tunesmith.data.intake import Intake
from tunesmith.data.read import Files
from tunesmith.errors import DataError
from tunesmith.i18n import _, language
from tunesmith.tokens.cache import Store, Writer, make_room, opened, stores, used
from tunesmith.tokens.encode import Encoder
from tunesmith.tokens.pack import Recipe
from tunesmith.tokens.workers import WORTH, chunks, processes

if TYPE_CHECKING:
    from tunesmith.config.schema import Config, DataSection

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
TEMPLATE = ("thinking", "system", "enable_thinking", "kwargs")
DATA = (
    *("format", "mapping", "prompt_template", "answer_template", "weights", "max_length", "overflow"),
    *("stratify_by", "split_by"),
)


class Source:
    """Data files on their way to a Store. Raises DataError for files in which nothing can be recognised.

    Without an encoder, which could not be made, the rows are only looked at.
    """

    store: Store

    def __init__(self, paths: Path | Sequence[Path], config: Config, encoder: Encoder | None, voice: Voice) -> None:
        self._paths, self._config, self._encoder = paths, config, encoder
        self.files = Files(paths)
        self.size = sum(file.stat().st_size for file in self.files.found)
        self._key = _key(self.files.found, config, encoder) if encoder else {}
        self._root = _root(config.data, self.size)
        self._folder = self._root / hashlib.sha256(repr(self._key).encode()).hexdigest()[:32] if self._root else None
        found = _kept(self._folder, self._key, voice) if self._folder and encoder else None
        self._glance: Glance | None = None
        if found:
            self._take(found)
        else:
            self._glance = glance(self.files, config.data, _place(paths))

    @property
    def format(self) -> str:
        return self.store.told["format"]

    def encode(self, voice: Voice) -> None:
        """Makes the store, unless it is there. Raises TemplateError, DataError."""
        seen, section, encoder = self._glance, self._config.data, self._encoder
        if seen is None or encoder is None:
            return
        template = self._config.template.model_copy(update={"date": encoder.template.date})
        recipe = Recipe(encoder.tokenizer.folder, encoder.template.text, template, section, seen.format)
        with Writer(self._folder or self._passing() / "rows") as writer:
            with voice.progress(_("Encoding")) as advance:
                for chunk in chunks(self.files, recipe, processes(section.num_proc, self.size)):
                    writer.add(chunk)
                    advance(writer.rows, seen.rows, "")
            if _hashes(self.files.found) != self._key["files"]:
                text = _("The data changed while they were read. Start again when they stay as they are.")
                raise DataError(text, _place(self._paths))
            intake = Intake.known(seen.format, section)
            intake.seen = writer.seen
            told = {
                "format": seen.format,
                "files": list(map(str, self.files.found)),
                "notices": [*self.files.notices, *intake.notices()],
            }
            self._take(writer.close(self._key, told))
        if self._root:
            make_room(self._root)

    def _passing(self) -> Path:
        """A folder for rows that nobody keeps; it goes with this object."""
        folder = Path(tempfile.mkdtemp(prefix="tunesmith-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _take(self, store: Store) -> None:
        """Rows that were encoded before name their files as they were called then."""
        store.files = dict(zip(store.told["files"], map(str, self.files.found), strict=True))
        self.store = store

    def conversations(self, rows: npt.NDArray) -> Iterator[Conversation]:
        """What these rows say, read anew; they are in order."""
        intake, wanted = Intake.known(self.format, self._config.data), iter(rows.tolist())
        following = next(wanted, None)
        for index, row in enumerate(self.files):
            if following is None:
                return
            if index == following:
                taken = intake.take(row, index)
                assert isinstance(taken, Conversation)
                yield taken
                following = next(wanted, None)


def _place(paths: Path | Sequence[Path]) -> str:
    return str(paths) if isinstance(paths, str | Path) else ", ".join(map(str, paths))


def _root(section: DataSection, size: int) -> Path | None:
    """Where encoded rows are kept; None where they are not: small data are encoded again in no time."""
    if section.cache == "off" or (section.cache == "auto" and size < WORTH):
        return None
    if section.cache != "auto":
        return Path(section.cache).expanduser()
    return usual_place()


def usual_place() -> Path:
    """Where encoded rows of large data are kept, and all that several processes share."""
    return Path(os.environ.get("TUNESMITH_CACHE") or Path.home() / ".cache" / "tunesmith") / "tokens"


def _kept(folder: Path, key: dict[str, Any], voice: Voice) -> Store | None:
    """The rows that were encoded before, if nothing changed that they depend on; else it is said what did."""
    found = opened(folder)
    if found and found.whole():
        used(found)
        voice.say(_("The rows were encoded before; nothing changed ({folder}).").format(folder=folder))
        return found
    if folder.exists():
        voice.say(_("The encoded rows in {folder} are damaged and are made anew.").format(folder=folder))
        return None
    before = next((store.key for store in stores(folder.parent) if _names(store.key) == _names(key)), None)
    if before:
        changed = "; ".join(_changes(before, key))
        voice.say(_("The rows are encoded anew, since this changed: {changes}.").format(changes=changed))
    return None


def _names(key: dict[str, Any]) -> list[str]:
    return [file[0] for file in key.get("files", [])]


def _changes(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """In words where the values are hashes, else with both values."""
    words = {
        "files": _("the data"),
        "tokenizer": _("the tokenizer"),
        "template": _("the chat template"),
        "format": _("the file of data.format"),
        "code": _("tunesmith itself"),
    }
    for name in now:
        if before.get(name) != now[name]:
            yield words.get(name) or f"{name} {before.get(name)!r} -> {now[name]!r}"


def _key(files: Sequence[Path], config: Config, encoder: Encoder) -> dict[str, Any]:
    """Everything on which the encoded rows depend, in JSON's types."""
    template, data = config.template.model_dump(mode="json"), config.data.model_dump(mode="json")
    today = encoder.template.date or os.environ.get("SOURCE_DATE_EPOCH") or f"{date.today():%Y-%m-%d}"
    return {
        "files": _hashes(files),
        "tokenizer": [file_sha256(f) for name in TOKENIZER if (f := encoder.tokenizer.folder / name).is_file()],
        "template": encoder.template.sha256,
        **{f"template.{name}": template[name] for name in TEMPLATE},
        "template.date": today if "strftime_now" in encoder.template.text else None,
        **{f"data.{name}": data[name] for name in DATA},
        "format": _own_format(config.data.format),
        "language": language(),  # of the reasons for which rows are rejected
        "code": [code_sha256(), version("tokenizers"), version("jinja2")],
    }


def _hashes(files: Sequence[Path]) -> list[list[str]]:
    return [[str(file.resolve()), file_sha256(file)] for file in files]


def _own_format(name: str | None) -> str | None:
    """What a format of the user's own says: of its file alone, as far as a file is known."""
    if not name or name in formats.names():
        return None
    file = own.load(name).file
    return file_sha256(Path(file)) if Path(file).is_file() else None


def code_sha256(house: Path = Path(__file__).parents[1]) -> str:
    """Over the source of all that has to do with rows: another version of it may make others."""
    total = hashlib.sha256()
    for file in sorted([*house.glob("data/**/*.py"), *house.glob("tokens/**/*.py"), house / "conversation.py"]):
        total.update(file.read_bytes())
    return total.hexdigest()


def file_sha256(path: Path) -> str:
    """Over the file's bytes, which are read once while it stays as it is."""
    stat = path.stat()
    return _hashed(path, stat.st_size, stat.st_mtime_ns)


@cache
def _hashed(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
