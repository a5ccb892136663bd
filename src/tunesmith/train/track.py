"""Where a run's numbers go: metrics.jsonl, one JSON object a line, whole or not there; and what the machine gives."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import psutil
import torch

from tunesmith import rundir
from tunesmith.durable import write_text


def write(run: Path, record: dict[str, Any]) -> None:
    """A figure that is no finite number is null: JSON has no other word for it."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    with (run / rundir.METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite) + "\n")


def drop_after(run: Path, step: int) -> None:
    """Records of steps that a resume takes again are cut off, and with them a line that a crash left half."""
    for name in (rundir.METRICS, rundir.SAMPLES):
        kept = [record for record in rundir.metrics(run, name) if record.get("step", 0) <= step]
        if (run / name).exists():
            lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in kept]
            write_text(run / name, "".join(lines))


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
