"""What this machine gives, without torch: its rate in matrix products, its free memory and disk.

Measured where that takes a fraction of a second, else read from the system. Knows nothing of models and training.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# How much faster bfloat16 products are than float32 ones, by what the processor can do. The first was measured on an
# EPYC of 2023, the second is what its maker says.
BFLOAT16 = (("amx_bf16", 8.0), ("avx512_bf16", 2.1))
COMPUTES = {"avx512bw", "avx512vl", "avx512dq"}  # what torch wants of a processor before it computes in bfloat16
BURSTS, TRIES, PAUSE = 8, 4, 0.03  # of a measurement; seconds between its bursts
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Rates:
    """`product`: float32 operations a second in a matrix product; `bfloat16`: how many times faster that type is;
    `pass_`: seconds to read two float32 numbers and write one."""

    product: float
    bfloat16: float
    pass_: float


@cache
def rates(width: int, inner: int) -> Rates:
    """Of products [128, width] x [width, inner], a model's own shape, with as many threads as training will have.

    numpy's products run at the rate of torch's in float32; its library obeys the same OMP_NUM_THREADS. They are small
    enough to end before another program gets its turn.
    """
    import numpy as np

    rows = 128
    x, w = np.ones((rows, width), np.float32), np.ones((width, inner), np.float32)
    a, out = np.ones(4 * rows * inner, np.float32), np.empty(4 * rows * inner, np.float32)
    product = 2 * rows * width * inner / _best(lambda: x @ w)
    return Rates(product, _bfloat16(), _best(lambda: np.multiply(a, a, out=out)) / a.size)


def _best(work: Callable[[], object]) -> float:
    """Seconds of the quickest of many, spread out: what the machine does when nobody disturbs it. Behind a pause a
    program gets its turn at once, on all of its threads, however busy the machine is."""
    best = float("inf")
    for _burst in range(BURSTS):
        time.sleep(PAUSE)
        for _try in range(TRIES):
            started = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - started)
    return best


def _bfloat16() -> float:
    return next((factor for name, factor in BFLOAT16 if name in _flags()), 1.0)


def computes_bfloat16() -> bool:
    """Whether this processor trains in bfloat16 where the settings leave the type open."""
    return COMPUTES.issubset(_flags())


@cache
def _flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":")[1] for line in lines if line.startswith("flags")), "").split())


def free_memory() -> int:
    """Bytes that this process may still take: the machine's, or its container's where that has less."""
    import psutil

    free = psutil.virtual_memory().available
    try:
        limit, used = ((CGROUP / name).read_text(encoding="utf-8") for name in ("memory.max", "memory.current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no container, or one without a limit
        return free


def gpu_memory(device: str) -> int | None:
    """Free bytes of the GPU that `device` (auto, cuda, cuda:1) means; None where training will run on the CPU.

    Asks torch where that is loaded already, else the driver's own program.
    """
    index = int(device.partition(":")[2] or 0)
    if device not in ("auto", "cuda") and not device.startswith("cuda:"):
        return None
    if "torch" in sys.modules:
        import torch

        return torch.cuda.mem_get_info(index)[0] if torch.cuda.is_available() else None
    return _asked_of_driver(index)


@cache
def _asked_of_driver(index: int) -> int | None:
    question = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits", f"--id={index}"]
    try:
        answer = subprocess.run(question, capture_output=True, text=True, check=True, timeout=5).stdout  # noqa: S603
        return int(answer) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
