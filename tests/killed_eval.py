"""Evaluations killed (SIGKILL) at random moments, each begun again by the same command: run by test_evaluate.

    python killed_eval.py KILLS SEED FOLDER WORDS...

WORDS is an `eval` without -o. FOLDER/straight is one that nothing disturbs; the others go to FOLDER/0, FOLDER/1 and so
on until KILLS kills have hit a process that was at work; the last is let through. Prints the number of evaluations. The
libraries are loaded once: what is killed is a copy of this process that has done nothing yet but that.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from tunesmith.cli import main
from tunesmith.evaluate.results import RESULTS


def begin(words: list[str]) -> int:
    process = os.fork()
    if process == 0:
        os._exit(main(words))
    return process


def killing(kills: int, seed: int, folder: Path, words: list[str]) -> int:
    chance = random.Random(seed)
    command = ["eval", *words, "-o"]
    main([*command, str(folder / "straight")])  # loads all libraries here
    began = time.monotonic()
    os.waitpid(begin([*command, str(folder / "timed")]), 0)
    lasts = time.monotonic() - began
    evaluations = hits = 0
    while hits < kills:
        out = folder / str(evaluations)
        process = begin([*command, str(out)])
        time.sleep(chance.uniform(0, lasts))
        os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        assert os.WIFSIGNALED(status) or status == 0, "the evaluation failed"
        hits += os.WIFSIGNALED(status)
        evaluations += (out / RESULTS).exists()
    if not (folder / str(evaluations) / RESULTS).exists():
        os.waitpid(begin([*command, str(folder / str(evaluations))]), 0)
        evaluations += 1
    return evaluations


if __name__ == "__main__":
    print("evaluations", killing(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]))
