"""Writes tests/kept/VERSION: a run that was broken off, as this version leaves it; all later ones must go on with it.

Run it once for a release: `python tests/kept/make.py`. Files of a release are never written again.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent


def main() -> None:
    sys.path.insert(0, str(HERE.parents[1] / "chaos"))
    import scenes

    from tunesmith import rundir
    from tunesmith.cli import main as tunesmith

    with TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        scenes.make(work, hidden_size=32, intermediate_size=48, num_hidden_layers=1)
        (work / "dialogues.jsonl").unlink()
        steps = ["training.max_steps=6", "training.save_steps=2", "training.save_total_limit=null"]
        words = [str(work / "rows.jsonl"), "--model", str(work / "model"), "-o", str(work / "run"), *steps]
        more = ["lora.r=2", "lora.lora_dropout=0.1", "data.validation_ratio=0.2", "model.dtype=float32"]
        assert tunesmith(["train", *words, *more]) == 0
        run = work / "run"
        shutil.rmtree(run / "checkpoint-6")  # as a kill behind step 5 leaves it
        for name in (rundir.LOG, "loss.png"):
            (run / name).unlink()
        rundir.write_json(run / rundir.RUN, rundir.record(run) | {"finished": False})
        leave_out(work, run)
        shutil.copytree(work, HERE / version("tunesmith"))


def leave_out(work: Path, run: Path) -> None:
    """Takes the place where this was made out of the run's files, and sums its checkpoints anew."""
    from tunesmith import rundir

    for path in (path for kind in ("*.json", "*.yaml") for path in run.rglob(kind)):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(f"{work}/", ""), encoding="utf-8")
    for checkpoint in rundir.checkpoints(run):
        file = checkpoint.path / rundir.MANIFEST
        manifest = json.loads(file.read_text(encoding="utf-8"))
        manifest["files"] = {name: rundir.digest(checkpoint.path / name) for name in manifest["files"]}
        rundir.write_json(file, manifest | {"sha256": rundir.seal(manifest)})


if __name__ == "__main__":
    main()
