"""`make chaos N=200`: breaks real trainings off at random moments, and compares how they end with how they should.

Every trial is a line of the CSV, written as soon as it is over; the table at the end counts them. Exit code 1 where one
did not end as promised.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import nursery
import scenes
from trials import Result, Trials

SEEN = ("what", "scene", "kills", "aim", "moment", "found", "weights", "expected")
COLUMNS = ("trial", "seed", *SEEN, "seconds", "wrong")
SHARES = {  # how often each is tried, for one killed training
    "training": 1.0,
    "stopped": 0.1,
    "full_disk": 0.05,
    "two_writers": 0.05,
    "merging": 0.1,
    "evaluation": 0.05,
    "cache": 0.05,
    "clock": 0.025,
}


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--kills", type=int, default=200, help="trainings to kill; the rest is in proportion")
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--csv", type=Path, default=Path(__file__).with_name("results.csv"))
    asked.add_argument("--only", choices=[*SHARES], action="append", help="this kind of trial alone, or some of them")
    asked.add_argument("--first", type=int, default=1, help="number of the first trial: a long run may be dealt out")
    words = asked.parse_args()
    os.environ["TUNESMITH_LANG"], os.environ["HF_HUB_OFFLINE"] = "en", "1"
    nursery.load()
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        tempfile.tempdir = place
        found = _all(words, Path(place))
    return _summary(found)


def _all(words: argparse.Namespace, place: Path) -> dict[str, list[Result]]:
    scenes.make(place)
    trials, found, number = Trials(place), defaultdict(list), words.first - 1
    with words.csv.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for kind in words.only or SHARES:
            for _ in range(max(1, round(words.kills * SHARES[kind]))):
                number, started = number + 1, time.monotonic()
                seed = words.seed * 1_000_000 + number
                result = _tried(getattr(trials, kind), random.Random(seed))
                found[result.what].append(result)
                told = [getattr(result, name) for name in SEEN]
                seconds = round(time.monotonic() - started, 1)
                table.writerow([number, seed, *told, seconds, "; ".join(result.wrong)])
                file.flush()
                print(number, *told, *result.wrong, flush=True)
    return found


def _tried(trial: Callable[[random.Random], Result], rng: random.Random) -> Result:
    try:
        return trial(rng)
    except Exception as error:
        return Result(trial.__name__, "", wrong=[f"the trial itself broke off: {type(error).__name__}: {error}"])


def _summary(found: dict[str, list[Result]]) -> int:
    print("\n| broken off | trials | kills | ended as promised |\n|---|---|---|---|")
    for what, results in found.items():
        good = sum(not result.wrong for result in results)
        print(f"| {what} | {len(results)} | {sum(result.kills for result in results)} | {good} of {len(results)} |")
    return int(any(result.wrong for results in found.values() for result in results))


if __name__ == "__main__":
    sys.exit(main())
