"""SwanLab: online where `swanlab login` or SWANLAB_API_KEY is found, else into the run folder, for its own local board
where that is installed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from tunesmith.i18n import _
from tunesmith.train.trackers import Traced

PACKAGE, MODULE = "swanlab", "swanlab"


class Tracker:
    def start(self, run: Traced) -> str:
        import swanlab

        folder = run.folder / "swanlab"
        folder.mkdir(parents=True, exist_ok=True)
        found = swanlab.Settings(terminal={"proxy_type": "none"}, interactive=False)  # the terminal is ours
        unsent = "local" if find_spec("swanboard") else "offline"
        mode: Any = os.environ.get("SWANLAB_MODE") or ("online" if found.api_key else unsent)
        online = {"id": run.id, "resume": "allow"} if mode in ("online", "cloud") else {}
        self._run: Any = swanlab.init(
            project=run.project,
            name=run.experiment,
            config=dict(run.settings),
            log_dir=str(folder),
            mode=mode,
            settings=found,
            **online,
        )
        if online:
            return str(self._run.url)
        if mode == "local":
            command = f"swanlab watch {folder}"
            return _("offline, nothing leaves this machine. Look with: {command}").format(command=command)
        return _("offline, nothing leaves this machine. Send it later: {command}").format(
            command=f"swanlab sync {folder}{os.sep}run-*"
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def finish(self) -> None:
        self._run.finish()
