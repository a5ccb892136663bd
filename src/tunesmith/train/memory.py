"""How much memory the process held, and what it looks like when there is no more. Knows nothing of what a batch is."""

from __future__ import annotations

import sys

import psutil
import torch

from tunesmith.errors import RunError


class Full(RunError):
    """A machine out of memory, in whatever way the libraries say it."""


def ran_out(error: Exception) -> bool:
    """Whether this is what Python, torch or a GPU's driver raise when memory does not suffice."""
    said = str(error).lower()
    known = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or any(words in said for words in known)


def peak(device: torch.device) -> int:
    """The most memory [bytes] that this process had so far, or that it took of the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
