"""trackio: a database on this machine, in the folder that the library keeps for it; nothing is sent unless its own
environment variables name a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.i18n import _
from tunesmith.train.trackers import Traced

PACKAGE, MODULE = "trackio", "trackio"


class Tracker:
    def start(self, run: Traced) -> str:
        import trackio

        self._run: Any = trackio.init(
            project=run.project, name=run.experiment, config=dict(run.settings), resume="allow", embed=False
        )
        return _("look with: {command}").format(command=f'trackio show --project "{run.project}"')

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def finish(self) -> None:
        self._run.finish()
