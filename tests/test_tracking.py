"""Trackers show what metrics.jsonl holds, read back by their own libraries. Keys stay out, failures stop nothing."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from tunesmith import rundir
from tunesmith.cli import main
from tunesmith.config.load import load
from tunesmith.config.schema import Traced as Known
from tunesmith.errors import ConfigError
from tunesmith.train.trackers import Traced, Trackers, names

SECRET = "5ec2e7a9d4c0ffee5ec2e7a9d4c0ffee5ec2e7a9"
KEYS = ("WANDB_API_KEY", "SWANLAB_API_KEY", "HF_TOKEN", "MLFLOW_TRACKING_TOKEN")
PROJECT = "valves"
RECORDS = [
    {"step": 1, "epoch": 0.5, "loss": 1.1234567890123, "learning_rate": 1e-4, "tokens": 7},
    {"step": 2, "epoch": 1.0, "loss": 0.9876543210987, "learning_rate": 3e-5, "tokens": 9, "eval_loss": 0.75},
]
Curves = dict[str, dict[int, float]]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, no account on this machine, and databases that begin empty."""
    monkeypatch.chdir(tmp_path)
    for name in (*KEYS, "WANDB_MODE", "SWANLAB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("SWANLAB_ROOT", str(tmp_path / "swanlab-home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its database takes seconds to make; see the long proof
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


def curves(records: list[dict[str, Any]]) -> Curves:
    """Metric -> step -> value."""
    found: Curves = {}
    for record in records:
        for name, value in record.items():
            if name != "step":
                found.setdefault(name, {})[record["step"]] = value
    return found


def of_tensorboard(folder: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {name: {event.step: event.value for event in found.Scalars(name)} for name in found.Tags()["scalars"]}


def of_wandb(folder: Path) -> Curves:
    import wandb

    wandb.teardown()  # its own process may still be writing the end of the file
    records = []
    for file in folder.glob("wandb/*/*.wandb"):
        for record in wandb_records(file.read_bytes()):
            if record.WhichOneof("record_type") == "history":
                items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                records.append({"step": items["_step"], **{k: v for k, v in items.items() if k[0] != "_"}})
    return curves(records)


def wandb_records(data: bytes) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format, blocks of 32 KiB, each record a protobuf of W&B's own."""
    from wandb.proto.wandb_internal_pb2 import Record

    place, record = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _sum, length, kind = struct.unpack("<IHB", data[place : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(record)
            record = b""


def of_swanlab(folder: Path) -> Curves:
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    found: Curves = {}
    for file in folder.glob("swanlab/run-*/run-*.swanlab"):
        reader = DataStoreReader()
        reader.open(file)
        for record in map(Record.FromString, reader):
            if record.HasField("scalar") and not record.scalar.key.startswith("__swanlab__"):
                found.setdefault(record.scalar.key, {})[record.scalar.step] = record.scalar.value.number
        reader.close()
    return found


def of_mlflow(folder: Path) -> Curves:
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name(PROJECT).experiment_id])
    return {
        name: {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}
        for name in run.data.metrics
    }


def of_trackio(folder: Path) -> Curves:
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs(PROJECT)
    found = SQLiteStorage.get_logs(PROJECT, run)
    return curves([{key: value for key, value in record.items() if key != "timestamp"} for record in found])


def single(found: Curves) -> Curves:
    """Each value as TensorBoard keeps it, in single precision."""
    return {name: {step: float(np.float32(value)) for step, value in curve.items()} for name, curve in found.items()}


def must_show(name: str, folder: Path, records: list[dict[str, Any]]) -> None:
    wanted = curves(records)
    assert READERS[name](folder) == (single(wanted) if name == "tensorboard" else wanted), name


READERS: dict[str, Callable[[Path], Curves]] = {
    "tensorboard": of_tensorboard,
    "wandb": of_wandb,
    "swanlab": of_swanlab,
    "mlflow": of_mlflow,
    "trackio": of_trackio,
}
LOOK = {
    "tensorboard": "tensorboard --logdir",
    "wandb": "offline, nothing leaves this machine. Send it later: wandb sync",
    "swanlab": "offline, nothing leaves this machine.",
    "mlflow": "mlflow ui --backend-store-uri",
    "trackio": 'trackio show --project "valves"',
}


def traced(folder: Path, done: int = 0) -> Traced:
    return Traced(folder, PROJECT, "first", "0123456789abcdef", {"lora": {"r": 8}, "method": "lora"}, done)


def test_every_tracker_is_a_file_whose_name_is_its_setting():
    assert names() == sorted(get_args(Known)) == sorted(READERS)


@pytest.mark.parametrize("name", READERS)
def test_numbers_are_read_back_by_the_trackers_own_library(name, tmp_path):
    pytest.importorskip(name)
    said: list[str] = []
    trackers = Trackers([name], traced(tmp_path / "tracking"), said.append)
    for record in RECORDS:
        trackers.log(record)
    trackers.finish()
    must_show(name, tmp_path / "tracking", RECORDS)
    assert len(said) == 1
    assert said[0].startswith(f"{name}: ")
    assert LOOK[name] in said[0]


def test_tensorboard_is_readable_while_training_runs(tmp_path):
    pytest.importorskip("tensorboard")
    trackers = Trackers(["tensorboard"], traced(tmp_path), lambda line: None)
    trackers.log(RECORDS[0])
    must_show("tensorboard", tmp_path, RECORDS[:1])
    trackers.finish()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_run_that_goes_on_is_one_run(name, tmp_path):
    pytest.importorskip(name)
    for done, records in ((0, RECORDS), (1, [RECORDS[1] | {"loss": 0.5}])):
        trackers = Trackers([name], traced(tmp_path, done), lambda line: None)
        for record in records:
            trackers.log(record)
        trackers.finish()
    again = [RECORDS[0], RECORDS[1] | {"loss": 0.5}]
    must_show(name, tmp_path, again)  # MLflow's reader fails on a second run


def test_a_tracker_that_fails_is_told_of_once_without_keys(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("WANDB_API_KEY", "in-the-way")
    (tmp_path / "in-the-way").write_text("a file where a folder should be", encoding="utf-8")
    said: list[str] = []
    trackers = Trackers(["tensorboard"], traced(tmp_path / "in-the-way"), said.append)
    trackers.log(RECORDS[0])
    trackers.finish()
    assert len(said) == 1
    assert said[0].startswith("tensorboard failed and is left out; training goes on: ")
    assert "in-the-way" not in said[0]
    assert "***" in said[0]


# --- through the settings and the command line ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "trace"),
    [
        ([], []),
        (["tracking.trace=none"], []),
        (["tracking.trace=swanlab"], ["swanlab"]),
        (["tracking.trace=wandb, mlflow"], ["wandb", "mlflow"]),
        (["tracking.trace=[tensorboard, trackio]"], ["tensorboard", "trackio"]),
    ],
)
def test_the_setting_takes_one_name_several_or_none(words, trace):
    assert load(overrides=words).config.tracking.trace == trace


def test_an_unknown_tracker_is_answered_by_the_nearest():
    with pytest.raises(ConfigError, match=r"tracking.trace is 'swanlb'.* Did you mean swanlab\?"):
        load(overrides=["tracking.trace=swanlb"])


@pytest.mark.parametrize("name", READERS)
def test_a_missing_package_is_answered_by_the_line_to_type(name, data, tiny_folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    words = ["train", str(data), "--model", str(tiny_folder), "-o", "run", "--trace", name, "data.stratify_by=nothing"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert f"tracking.trace  {name} is not installed. Type: pip install {name}\n" in told
    assert not Path("run").exists()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.jsonl"
    rows = [{"input": f"Is valve {i} leaking?", "output": f"Valve {i} is tight."} for i in range(10)]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


SHORT = ("data.test_ratio=0.2", "training.max_steps=4", "training.eval_steps=2", "training.save_steps=4")


def test_a_training_is_tracked_and_no_key_reaches_the_run_folder(data, tiny_folder, monkeypatch, capsys):
    installed = [name for name in ("tensorboard", "wandb", "swanlab") if _installed(name)]
    for key in KEYS:
        monkeypatch.setenv(key, SECRET)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    yaml = Path("run.yaml")
    text = f"tracking: {{trace: none, project: {PROJECT}}}\nlogging: {{level: debug}}\n"
    yaml.write_text(text + f"model: {{name_or_path: {tiny_folder}}}\ndata: {{train: {data}}}\n", encoding="utf-8")
    assert main(["train", "run.yaml", "-o", "run", *SHORT, "--trace", ",".join(installed) or "none"]) == 0
    told = capsys.readouterr().err
    assert [name for name in installed if f"{name}: " in told] == installed
    for name in installed:
        must_show(name, Path("run/tracking"), rundir.metrics(Path("run")))
    files = [file for file in Path("run").rglob("*") if file.is_file()]
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []
    assert SECRET not in yaml.read_text(encoding="utf-8")


def test_metrics_hold_every_number_of_a_training(data, tiny_folder):
    assert main(["train", str(data), "--model", str(tiny_folder), "-o", "run", *SHORT]) == 0
    records = rundir.metrics(Path("run"))
    every = {"step", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_second", "seconds", "memory_gb"}
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert all(every <= record.keys() for record in records)
    assert [record["step"] for record in records if "eval_loss" in record] == [2, 4]
    assert all(record["memory_gb"] > 0 for record in records)
    seconds = [record["seconds"] for record in records]
    assert seconds == sorted(seconds)
    assert not Path("run/tracking").exists()


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


@pytest.mark.long
def test_one_real_training_is_read_back_by_every_tracker(data, tmp_path, monkeypatch):
    """SmolLM2, each tracker that is installed at once, MLflow with its own database."""
    model = Path.home() / ".cache" / "tunesmith" / "SmolLM2-135M-Instruct"
    if not model.exists():
        pytest.skip("needs the model of `tunesmith demo`, converted once")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    installed = [name for name in READERS if _installed(name)]
    words = ["train", str(data), "--model", str(model), "-o", "run", f"tracking.project={PROJECT}", *SHORT]
    assert main([*words, "--trace", ",".join(installed)]) == 0
    records = rundir.metrics(Path("run"))
    assert records[-1]["loss"] < records[0]["loss"]
    for name in installed:
        must_show(name, Path("run/tracking"), records)
