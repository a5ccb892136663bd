"""Writes tests/kept/VERSION: a run that was broken off, as this version leaves it; all later ones must go on with it.

Run it once for a release: `python tests/kept/make.py`. Files of a release are never written again.
"""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
WORK = Path("/tmp/tunesmith-kept")  # a path without a meaning: it stays in the files


def main() -> None:
    sys.path.insert(0, str(HERE.parents[1] / "chaos"))
    import scenes

    from tunesmith import rundir
    from tunesmith.cli import main as tunesmith

    shutil.rmtree(WORK, ignore_errors=True)
    scenes.make(WORK, hidden_size=32, intermediate_size=48, num_hidden_layers=1)
    (WORK / "dialogues.jsonl").unlink()
    steps = ["training.max_steps=6", "training.save_steps=2", "training.save_total_limit=null"]
    words = [str(WORK / "rows.jsonl"), "--model", str(WORK / "model"), "-o", str(WORK / "run"), *steps]
    more = ["lora.r=2", "lora.lora_dropout=0.1", "data.validation_ratio=0.2", "model.dtype=float32"]
    assert tunesmith(["train", *words, *more]) == 0
    run = WORK / "run"
    shutil.rmtree(run / "checkpoint-6")  # as a kill behind step 5 leaves it
    for name in (rundir.LOG, "loss.png"):
        (run / name).unlink()
    rundir.write_json(run / rundir.RUN, rundir.record(run) | {"finished": False})
    shutil.copytree(WORK, HERE / version("tunesmith"))
    shutil.rmtree(WORK)


if __name__ == "__main__":
    main()
