"""Weights & Biases: online where a login or WANDB_API_KEY is found, else offline into the run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tunesmith.i18n import _
from tunesmith.train.trackers import Traced

PACKAGE, MODULE = "wandb", "wandb"
HOST = "https://api.wandb.ai"


class Tracker:
    def start(self, run: Traced) -> str:
        import wandb

        run.folder.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=run.project,
            name=run.experiment,
            id=run.id,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.settings),
            mode=os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline"),  # type: ignore[arg-type]
            settings=wandb.Settings(console="off", silent=True),  # the terminal is ours, its copy is tunesmith.log
        )
        if not self._run.offline:
            return str(self._run.url)
        return _("offline, nothing leaves this machine. Send it later: {command}").format(
            command=f"wandb sync {os.path.dirname(self._run.dir)}"
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def finish(self) -> None:
        self._run.finish()


def _logged_in() -> bool:
    from requests.utils import get_netrc_auth

    return bool(
        os.environ.get("WANDB_API_KEY") or get_netrc_auth(os.environ.get("WANDB_BASE_URL", HOST), raise_errors=False)
    )
