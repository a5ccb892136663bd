"""What goes wrong, said to a person: place, what, what to do. One root; the doors turn it into lines and exit code 2.

TunesmithError
 ├─ ConfigError     a setting, a file of settings, or a command line
 ├─ DataError       rows, files, formats
 ├─ TemplateError   rendering and encoding
 ├─ ModelError      weights, adapters, tokenizers
 └─ RunError        run folders, checkpoints, results
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend. `place` is file:line (or a setting's name); `message` says what is wrong and what to do."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}  {self.message}" if self.place else self.message


class TunesmithError(Exception):
    """An error that a user can act on. Carries one or more problems; its text is one line a problem."""

    exit_code = 2

    def __init__(self, problems: str | Problem | Iterable[Problem], place: str = "") -> None:
        if isinstance(problems, str):
            problems = [Problem(place, problems)]
        elif isinstance(problems, Problem):
            problems = [problems]
        self.problems: list[Problem] = list(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type[TunesmithError], tuple[list[Problem]]]:
        return type(self), (self.problems,)  # on its way from another process


class ConfigError(TunesmithError):
    pass


class DataError(TunesmithError):
    pass


class TemplateError(TunesmithError):
    pass


class ModelError(TunesmithError):
    pass


class RunError(TunesmithError):
    pass


class Stopped(BaseException):
    """A training that ended early because somebody asked for it, and that kept what it had; `exit_code` says who."""

    def __init__(self, exit_code: int = 130) -> None:
        self.exit_code = exit_code
        super().__init__(exit_code)
