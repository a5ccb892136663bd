"""A checkpoint on disk: written whole under another name, then renamed; read back to the last bit.

Every file is on the disk and in the manifest before the folder gets its name, so a folder with a name is complete.
Optimizer and random state are safetensors and JSON: nothing is unpickled. Knows no questions to a run; see rundir.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tunesmith import rundir
from tunesmith.errors import RunError
from tunesmith.i18n import _

STATE = "state"


def save(
    run: Path,
    step: int,
    model: Any,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    write_extra: Callable[[Path], None],
) -> Path:
    """Writes RUN/checkpoint-STEP and returns it. `state` is the loop's own, as JSON; `write_extra` adds files."""
    final = run / f"checkpoint-{step}"
    temporary = run / f".checkpoint-{step}.tmp-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / STATE).mkdir(parents=True)
    model.save_pretrained(temporary, safe_serialization=True)
    (temporary / "README.md").unlink(missing_ok=True)  # peft's model card with nothing filled in
    write_extra(temporary)
    save_file(_optimizer_tensors(model, optimizer), temporary / STATE / "optimizer.safetensors")
    save_file(_random_state(), temporary / STATE / "random.safetensors")
    _write(temporary / STATE / "loop.json", json.dumps(state, indent=1))
    _write_manifest(temporary, step, state)
    if final.exists():  # the same step again, after a resume: the new one replaces it
        shutil.rmtree(final)
    os.rename(temporary, final)
    _sync(run)
    return final


def load(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Puts optimizer and random state back (weights are loaded with the model); returns the loop's state."""
    tensors = load_file(checkpoint / STATE / "optimizer.safetensors")
    names = {id(p): name for name, p in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            keys = [k for k in tensors if k.rpartition("::")[0] == name]
            optimizer.state[parameter] = {
                k.rpartition("::")[2]: tensors[k].to(parameter.device) if tensors[k].ndim else tensors[k] for k in keys
            }
    random = load_file(checkpoint / STATE / "random.safetensors")
    torch.set_rng_state(random["cpu"])
    for i in range(torch.cuda.device_count()):
        torch.cuda.set_rng_state(random[f"cuda{i}"], i)
    return json.loads((checkpoint / STATE / "loop.json").read_text(encoding="utf-8"))


def rotate(run: Path, limit: int | None, written: set[int]) -> None:
    """Removes the oldest checkpoints of this run beyond `limit`; the best and the newest always stay."""
    if limit is None:
        return
    found = rundir.checkpoints(run)
    best, latest = rundir.best(run), rundir.latest(run)
    keep = {c.step for c in (best, latest) if c is not None}
    spare = [c for c in found if c.step in written and c.step not in keep]
    for checkpoint in spare[: max(0, len(found) - max(limit, len(keep)))]:
        doomed = run / f".trash-{checkpoint.step}-{os.getpid()}"
        os.rename(checkpoint.path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def clear_leftovers(run: Path) -> None:
    """Removes half-written and half-removed checkpoints of a run that died."""
    for pattern in (".checkpoint-*.tmp-*", ".trash-*"):
        for path in run.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{names[id(parameter)]}::{key}": torch.as_tensor(value).detach().cpu().clone()
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }


def _random_state() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | {f"cuda{i}": torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())}


def _write_manifest(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        _sync(path)
        files[path.relative_to(folder).as_posix()] = rundir.digest(path)
    manifest = {"format": 1, "step": step, "files": files}
    manifest |= {key: state.get(key) for key in ("epoch", "loss", "eval_loss")}
    _write(folder / rundir.MANIFEST, json.dumps(manifest, indent=1))
    for path in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
        _sync(path)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(_("The file can't be written: {why}.").format(why=error.strerror), place=str(path)) from None
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
