"""Keeps what the process holds near what it uses, and reads how much that was.

On a CPU a batch leaves holes in the C library's heap, which the next batch, of other sizes, fills only in part. Knows
nothing of what a batch is.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

import psutil
import torch


def give_back(device: torch.device) -> None:
    """Returns unused pages of the heap to the system, which takes milliseconds; a GPU's memory is torch's business."""
    if device.type == "cpu":
        _trim()(0)


@cache
def _trim() -> Callable[[int], object]:
    """glibc's malloc_trim; other C libraries return memory by themselves."""
    library = ctypes.CDLL(None) if sys.platform != "win32" else None
    return getattr(library, "malloc_trim", lambda padding: None)


def peak(device: torch.device) -> int:
    """The most memory [bytes] that this process had so far, or that it took of the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
