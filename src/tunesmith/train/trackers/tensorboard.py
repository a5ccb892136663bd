"""TensorBoard: event files in the run folder, readable while training runs. Needs no account and no network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tunesmith.i18n import _
from tunesmith.train.trackers import Traced

PACKAGE, MODULE = "tensorboard", "tensorboard"


class Tracker:
    def start(self, run: Traced) -> str:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        purge = run.done + 1 if run.done else None  # of steps that are taken again, the later value is shown
        self._writer: Any = SummaryWriter(str(folder), purge_step=purge)
        self._writer.add_text("settings", f"<pre>{json.dumps(run.settings, indent=2, ensure_ascii=False)}</pre>")
        self._writer.flush()
        return _("look with: {command}").format(command=f"tensorboard --logdir {folder}")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # whoever looks sees the newest step, and a killed run loses none

    def finish(self) -> None:
        self._writer.close()
