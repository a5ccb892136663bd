"""Files that a crash never leaves half: brought to disk, replaced whole, summed; and a lock that dies with its holder.

Knows bytes and names. What the files mean, and which of them make a run, is rundir's.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from tunesmith.errors import RunError
from tunesmith.i18n import _

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # what a system says where no more bytes go in

_TEMPORARY, _OLD, _GONE = ".tmp-", ".old-", ".gone-"  # in names: not there yet, giving way, there no more
_held: set[Path] = set()  # a process is let through its own locks


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk. Windows opens no folder and needs no such call."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Puts a file in place of an older one: a reader, or a crash, meets the one or the other, never half of one."""
    temporary = _beside(path, _TEMPORARY)
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # as JSON writes a lone surrogate
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def digest(file: Path) -> dict[str, Any]:
    """What a manifest records of a file: its size in bytes and its sha256."""
    with file.open("rb") as stream:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder beside `final` that takes its name, and its place, if all went well; else nothing of it stays.

    What the block wrote is on the disk before the name is. An older `final` gives way in the last moment, and is
    there again after a crash in just that moment (see `clear`).
    """
    clear(final)
    made = _beside(final, _TEMPORARY)
    made.mkdir(parents=True)
    try:
        yield made
        for path in (*sorted(made.rglob("*")), made):
            sync(path)
        if final.exists():
            final.rename(_beside(final, _OLD))
        made.rename(final)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    sync(final.parent)
    clear(final)


def remove_folder(folder: Path) -> None:
    """Takes the folder's name first: what a crash leaves of it is no longer taken for the whole."""
    gone = _beside(folder, _GONE)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def clear(final: Path) -> None:
    """Ends what a crash broke off: an older `final` whose successor did not come is back, other remains are gone."""
    for old in _remains(final, _OLD):
        if not final.exists():
            old.rename(final)
    for kind in (_TEMPORARY, _OLD, _GONE):
        for path in _remains(final, kind):
            shutil.rmtree(path, ignore_errors=True)


def _remains(final: Path, kind: str) -> list[Path]:
    begin = f".{final.name}{kind}"
    found = final.parent.glob(f"{escape(begin)}*")
    return [path for path in found if re.fullmatch(r"\d+-[0-9a-f]+", path.name.removeprefix(begin))]


def _beside(path: Path, kind: str) -> Path:
    """A name on the same disk that nobody else has, and that a leading dot keeps out of sight."""
    return path.with_name(f".{path.name}{kind}{os.getpid()}-{secrets.token_hex(3)}")


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Holds the lock file `file` while the block runs. The system lets go of it when the process ends, however it ends.

    Raises RunError, which names the holder, where another process has it. A file system that knows no locks (some
    networks' do not) grants all of them.
    """
    file = file.absolute()
    descriptor = None if file in _held else _open_locked(file)
    if descriptor is None:
        with suppress(OSError):
            who = file.read_text(encoding="utf-8").strip()
            text = _("Process {who} is writing here at this moment. Wait until it ends, or choose another folder.")
            raise RunError(text.format(who=who or "?"), place=str(file.parent))
        raise RunError(_("Another process is writing here at this moment."), place=str(file.parent))
    _held.add(file)
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        _held.discard(file)
        with suppress(OSError):  # Windows deletes no open file
            file.unlink()
        os.close(descriptor)


def _open_locked(file: Path) -> int | None:
    """An open descriptor that has the lock; None where another process has it."""
    own = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)  # a link would lead to a file of somebody else's
    while True:
        try:
            descriptor = os.open(file, own, 0o666)
        except OSError as error:
            text = _("The file can't be opened: {why}.").format(why=error.strerror)
            raise RunError(text, place=str(file)) from None
        if not _lock(descriptor):
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):
            if os.name == "nt" or os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        os.close(descriptor)  # the holder before us took the file away between our opening and our locking it


def _lock(descriptor: int) -> bool:
    """Record locks, not flock's: those would live on in the processes that a dead one had started."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True
