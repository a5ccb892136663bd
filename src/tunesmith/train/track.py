"""Where a run's numbers go: metrics.jsonl, one JSON object a line, whole or not there; and what the machine gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import torch

from tunesmith import rundir


def write(run: Path, record: dict[str, Any]) -> None:
    with (run / rundir.METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def drop_after(run: Path, step: int) -> None:
    """Records of steps that a resume takes again are cut off, and with them a line that a crash left half."""
    kept = [record for record in rundir.metrics(run) if record.get("step", 0) <= step]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    (run / rundir.METRICS).write_text(text, encoding="utf-8")


def usage(device: torch.device) -> dict[str, float]:
    """Memory of this process now, in GB; on a GPU also its largest use of the GPU's memory, and how busy that is in %.

    A driver that does not tell how busy the GPU is leaves that out.
    """
    found = {"memory_gb": round(psutil.Process().memory_info().rss / 1e9, 3)}
    if device.type == "cuda":
        found["gpu_memory_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
        try:
            found["gpu_percent"] = float(torch.cuda.utilization(device))
        except (ModuleNotFoundError, RuntimeError):
            return found
    return found
