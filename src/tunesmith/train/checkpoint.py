"""A checkpoint on disk: written whole under another name, then renamed; read back to the last bit.

Every file is in the manifest and on the disk before the folder gets its name, so a folder with a name is complete.
Optimizer and random state are safetensors and JSON: nothing is unpickled. Knows no questions to a run; see rundir.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tunesmith import rundir
from tunesmith.durable import digest, new_folder, remove_folder
from tunesmith.errors import Problem, RunError
from tunesmith.i18n import _
from tunesmith.model.quiet import quiet

FORMAT = 1  # of the manifest and the state


def save(
    run: Path,
    step: int,
    model: Any,
    moments: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    write_extra: Callable[[Path], None],
    weights: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Writes RUN/checkpoint-STEP and returns it. `moments` is the optimizer's state as `parameter::key`, `state` the
    loop's own, as JSON; `write_extra` adds files; `weights` are the model's where it does not hold them whole.

    Raises RunError where it can't be written: then nothing of it stays, and the older ones are as they were.
    """
    final = run / f"checkpoint-{step}"
    try:
        with new_folder(final) as folder:
            (folder / rundir.STATE).mkdir()
            model.create_or_update_model_card = _no_card
            with quiet():
                model.save_pretrained(folder, safe_serialization=True, state_dict=weights)
            write_extra(folder)
            save_file(dict(moments), folder / rundir.STATE / "optimizer.safetensors")
            save_file(_random_state(), folder / rundir.STATE / "random.safetensors")
            _write_json(folder / rundir.STATE / "loop.json", dict(state))
            _write_manifest(folder, step, state)
    except (OSError, SafetensorError) as error:
        written = 1.5 * sum(tensor.nbytes for tensor in moments.values())  # AdamW's two moments, and the weights
        raise _not_written(final, error, written) from error
    return final


def _no_card(_folder: str) -> None:
    """In place of peft's card, which has nothing filled in and takes as long as all the rest of a small adapter."""


def _not_written(final: Path, error: Exception, needed: float) -> RunError:
    free = shutil.disk_usage(final.parent).free
    last = rundir.latest(final.parent)
    text = _(
        "{checkpoint} can't be written: {why}. It takes about {needed:.3f} GB, and {free:.3f} GB are free. Kept as it"
        " was: {last}. Make room, then type the same command again."
    )
    why = getattr(error, "strerror", None) or str(error).strip().rstrip(".")
    told = {"checkpoint": final.name, "why": why, "last": last.path.name if last else _("none")}
    return RunError(text.format(needed=needed / 1e9, free=free / 1e9, **told), place=str(final.parent))


def load(checkpoint: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Puts the random state back; returns the optimizer's and the loop's (weights are loaded with the model)."""
    random = load_file(checkpoint / rundir.STATE / "random.safetensors")
    torch.set_rng_state(random["cpu"])
    for i in range(torch.cuda.device_count()):
        torch.cuda.set_rng_state(random[f"cuda{i}"], i)
    moments = load_file(checkpoint / rundir.STATE / "optimizer.safetensors")
    return moments, json.loads((checkpoint / rundir.STATE / "loop.json").read_text(encoding="utf-8"))


def rotate(run: Path, limit: int | None, written: set[int]) -> None:
    """Removes the oldest checkpoints of this run beyond `limit`; the best and the newest always stay.

    The newest is read back first. Raises RunError where the disk does not give back what was written to it: the older
    ones stay then.
    """
    found, best, latest = rundir.checkpoints(run), rundir.best(run), rundir.latest(run)
    keep = {c.step for c in (best, latest) if c is not None}
    spare = [c for c in found if c.step in written and c.step not in keep]
    doomed = spare[: max(0, len(found) - max(limit or len(found), len(keep)))]
    if doomed and latest is not None and (problems := latest.verify()):
        text = _("The disk does not give back what was written to it. The older checkpoints are kept.")
        raise RunError([*(Problem("", problem) for problem in problems), Problem("", text)])
    for checkpoint in doomed:
        remove_folder(checkpoint.path)


def _random_state() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | {f"cuda{i}": torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())}


def _write_manifest(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        files[path.relative_to(folder).as_posix()] = digest(path)
    manifest = {"format": FORMAT, "step": step, "files": files}
    told = ("epoch", "loss", "eval_loss", "metric", "greater_is_better", "value")
    manifest |= {key: state.get(key) for key in told}
    _write_json(folder / rundir.MANIFEST, manifest | {"sha256": rundir.seal(manifest)})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
