"""Several checks, each of which may fail, and one error with all that they found: the reader mends it at once."""

from __future__ import annotations

from tunesmith.errors import TunesmithError


class Findings:
    """Each `with findings:` block may raise TunesmithError; `raise_all` raises all of it, as the first kind."""

    def __init__(self) -> None:
        self._errors: list[TunesmithError] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, TunesmithError):
            self._errors.append(error)
            return True
        return False

    def raise_all(self) -> None:
        if self._errors:
            raise type(self._errors[0])(dict.fromkeys(p for error in self._errors for p in error.problems))
