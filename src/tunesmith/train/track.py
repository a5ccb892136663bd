"""Where a run's numbers go: metrics.jsonl, one JSON object a line, whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith import rundir


def write(run: Path, record: dict[str, Any]) -> None:
    with (run / rundir.METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def drop_after(run: Path, step: int) -> None:
    """Records of steps that a resume takes again are cut off, and with them a line that a crash left half."""
    kept = [record for record in rundir.metrics(run) if record.get("step", 0) <= step]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    (run / rundir.METRICS).write_text(text, encoding="utf-8")
