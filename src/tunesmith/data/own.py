"""A format of the user's own: a Python file or a module with one function, `parse(row)`.

What `parse` returns is read like a row of the format `messages`, so that it needs to import nothing of ours. Whatever
goes wrong in the user's code is told with its file and line, and never with a traceback.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from tunesmith.data import formats, weights
from tunesmith.data.detect import SYSTEMS
from tunesmith.data.formats import Parsed, with_system
from tunesmith.data.formats.messages import turns
from tunesmith.data.intake import TOOLS, system_of, tools_of
from tunesmith.data.row import RowError, kind
from tunesmith.errors import DataError
from tunesmith.i18n import _


@dataclass(frozen=True, slots=True)
class Own:
    """The `parse` of a user's file or module; `file` is where it stands, for a person."""

    call: Callable[[dict[str, Any]], Any]
    file: str

    def parse(self, row: dict[str, Any]) -> Parsed:
        """What the user's function makes of a copy of the row: a list of messages, an object with `messages`, or
        Parsed. RowError for what it raises and for anything else that it returns."""
        try:
            found = self.call(copy.deepcopy(row))
        except RowError:
            raise
        except Exception as error:
            text = _("parse fails at {place}: {error}")
            place = _place(self.file, error)
            raise RowError("format_failed", text.format(place=place, error=_said(error))) from error
        if isinstance(found, Parsed):
            return found
        row_found = {"messages": found} if isinstance(found, list) else found
        if not isinstance(row_found, dict) or not isinstance(row_found.get("messages"), list):
            text = _("parse of {file} returns {kind}; expected a list of messages, or an object with messages.")
            raise RowError("format_failed", text.format(file=self.file, kind=kind(found)))
        return _parsed(row_found, row)


def _parsed(found: dict[str, Any], row: dict[str, Any]) -> Parsed:
    """The row that the user's function returned. The input's own columns stay beside it where they are plain values."""
    claimed = {"messages"}
    messages = with_system(turns(found["messages"], "messages"), system_of(found, claimed))
    tools, weight = tools_of(found, claimed), weights.of_row(found, claimed)
    used = {column for column, value in row.items() if isinstance(value, list | dict)}
    return Parsed(
        messages,
        tools,
        claimed=used | {*SYSTEMS, *TOOLS, *weights.ROW_WEIGHTS},
        meta={column: value for column, value in found.items() if column not in claimed},
        weight=weight,
    )


def load(name: str) -> Own:
    """The format in a Python file (`./mine.py`) or a dotted module. DataError with the place of what is wrong."""
    file = name
    try:
        if name.endswith(".py"):
            module = _from_file(name, Path(name).stat().st_mtime_ns)
        else:
            with _importable(Path()):
                module = importlib.import_module(name)
            file = module.__file__ or name
        call = getattr(module, "parse", None)
    except OSError as error:
        raise DataError(_("This can't be read or written: {why}.").format(why=error.strerror), name) from None
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise _unknown(name) from None
        text = _("The format can't be loaded: {error}")
        raise DataError(text.format(error=_said(error)), _place(file, error)) from error
    if not callable(call):
        raise DataError(_("The format {name} has no function {function}.").format(name=name, function="parse"), name)
    return Own(call, file)


@lru_cache(maxsize=8)
def _from_file(path: str, _changed: int) -> ModuleType:
    spec = importlib.util.spec_from_file_location("tunesmith_user_format", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    with _importable(Path(path).parent):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """What lies in the folder can be imported, as it can by a script that is started there."""
    place = str(folder.absolute())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


def _place(file: str, error: BaseException) -> str:
    """File and line of the user's code where an error arose: the deepest line of the file that he named."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{error.filename if error.filename and not _same(error.filename, file) else file}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _same(frame.filename, file)]
    return f"{file}:{own[-1].lineno}" if own else file


def _same(one: str, other: str) -> bool:
    return Path(one).absolute() == Path(other).absolute()


def _said(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _unknown(name: str) -> DataError:
    near = "".join(get_close_matches(name, formats.names(), 1))
    hint = _("Did you mean {name}?").format(name=near) if near else ", ".join(formats.names())
    text = _("There is no format {name}, and no Python module of that name. {hint}")
    return DataError(text.format(name=name, hint=hint), "data.format")
