"""Ways to damage the files of a model, an adapter or a run: what comes back is done to a folder when its turn comes."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile import Place, pickled

Change = Callable[[Path, Place], object]


def text(name: str, content: str | bytes) -> Change:
    def change(folder: Path, place: Place) -> None:
        (folder / name).unlink(missing_ok=True)
        raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        (folder / name).write_bytes(raw)

    return change


def fields(name: str, **values: Any) -> Change:
    """JSON's top names set; None takes one away."""

    def change(folder: Path, place: Place) -> None:
        found = json.loads((folder / name).read_text("utf-8")) | values
        found = {key: value for key, value in found.items() if value != "absent"}
        (folder / name).write_text(json.dumps(found))

    return change


def cut(name: str, keep: float = 0.5) -> Change:
    def change(folder: Path, place: Place) -> None:
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[: int(len(raw) * keep)])

    return change


def gone(name: str) -> Change:
    return lambda folder, place: (folder / name).unlink()


def linked(name: str, target: str) -> Change:
    def change(folder: Path, place: Place) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return change


def folder_instead(name: str) -> Change:
    def change(folder: Path, place: Place) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def pipe(name: str) -> Change:
    def change(folder: Path, place: Place) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def both(*changes: Change) -> Change:
    return lambda folder, place: [change(folder, place) for change in changes]


def header(name: str, alter: Callable[[dict[str, Any]], None]) -> Change:
    """A safetensors file with another header and the same bytes behind it."""

    def change(folder: Path, place: Place) -> None:
        raw = (folder / name).read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        found = json.loads(raw[8 : 8 + size])
        alter(found)
        written = json.dumps(found).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(written)) + written + raw[8 + size :])

    return change


def entry(**values: Any) -> Callable[[dict[str, Any]], None]:
    """The first tensor's entry with other values."""

    def alter(found: dict[str, Any]) -> None:
        name = next(name for name in found if name != "__metadata__")
        found[name] = found[name] | values

    return alter


def filled(name: str, value: float) -> Change:
    """Every number of the file another one."""

    def change(folder: Path, place: Place) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / name)
        save_file({key: tensor.fill_(value) for key, tensor in tensors.items()}, folder / name, {"format": "pt"})

    return change


def tensors(name: str, alter: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    def change(folder: Path, place: Place) -> None:
        from safetensors.torch import load_file, save_file

        save_file(alter(load_file(folder / name)), folder / name, {"format": "pt"})

    return change


def torch_archive(folder: Path, place: Place) -> None:
    """pytorch_model.bin as torch writes it, its pickle another one."""
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickled(place.canary))
        archive.writestr("archive/version", "3\n")


def code(name: str) -> Change:
    return lambda folder, place: (folder / name).write_text(f"open({str(place.canary)!r}, 'w').close()\n")
