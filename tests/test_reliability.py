"""Nothing lost: checkpoints, resume, locks, signals, full disks, numbers. Most of it through the real command line."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tunesmith import durable, rundir
from tunesmith.errors import RunError
from typed import tunesmith

HOME = Path(__file__).parents[1]
KEPT = Path(__file__).parent / "kept"
TIMED = ("tokens_per_second", "seconds", "memory_gb")
SETTINGS = {
    "max_steps": 6,
    "save_steps": 2,
    "save_total_limit": "null",
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def write_rows(path: Path, n: int = 16) -> Path:
    rows = [{"question": f"Is pump {i} faulty?", "answer": "Yes." if i % 3 else "No, it is not."} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def command(folder: Path, model: Path, *more: str, run: Path | None = None) -> list[str]:
    data = folder / "rows.jsonl"
    if not data.exists():
        write_rows(data)
    settings = [f"training.{name}={value}" for name, value in SETTINGS.items()]
    words = ["train", str(data), "--model", str(model), "-o", str(run or folder / "run"), *settings]
    return [*words, "lora.r=2", "lora.lora_dropout=0.2", "data.validation_ratio=0.25", "model.dtype=float32", *more]


@pytest.fixture(scope="session")
def straight(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that nobody disturbed, with its data beside it. Read it, never change it."""
    folder = tmp_path_factory.mktemp("straight")
    code, lines = tunesmith(*command(folder, tiny_folder))
    assert code == 0, lines
    return folder / "run"


@pytest.fixture
def broken_off(straight: Path, tmp_path: Path) -> Path:
    """The same run as a kill behind step 4 leaves it."""
    run = Path(shutil.copytree(straight, tmp_path / "run"))
    shutil.copy(straight.parent / "rows.jsonl", tmp_path)
    shutil.rmtree(run / "checkpoint-6")
    record = rundir.record(run)
    rundir.write_json(run / "run.json", {name: value for name, value in record.items() if name != "finished"})
    return run


def weights(run: Path, step: int = 6) -> list[bytes]:
    return [file.read_bytes() for file in sorted((run / f"checkpoint-{step}").rglob("*.safetensors"))]


def log(run: Path) -> list[dict[str, object]]:
    return [{k: v for k, v in record.items() if k not in TIMED} for record in rundir.metrics(run)]


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_folder_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    final = tmp_path / "model"
    for text in ("old", "new"):
        with durable.new_folder(final) as folder:
            (folder / "weights").write_text(text)
    with pytest.raises(ZeroDivisionError), durable.new_folder(final) as folder:
        (folder / "weights").write_text(str(1 / 0))
    assert (final / "weights").read_text() == "new"
    assert list(tmp_path.iterdir()) == [final]


def test_a_crash_between_two_names_gives_the_older_folder_back(tmp_path: Path) -> None:
    final = tmp_path / "model"
    final.mkdir()
    (tmp_path / ".model.tmp-7-ab").mkdir()
    final.rename(tmp_path / ".model.old-7-cd")
    (tmp_path / ".model.gone-7-ef").mkdir()
    (tmp_path / ".models.tmp-7-ab").mkdir()
    durable.clear(final)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".models.tmp-7-ab", "model"]


@pytest.fixture(autouse=True)
def _foreground() -> Iterator[None]:
    """Ctrl-C as in a terminal, also where these tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def another_process(work: Callable[[], None]) -> Iterator[int]:
    """Another process that has done `work` and lives on, until it is killed here at the latest."""
    told, tell = os.pipe()
    pid = os.fork()
    if not pid:
        work()
        os.write(tell, b"!")
        signal.pause()
    os.read(told, 1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_lock_ends_with_its_process_and_names_it(tmp_path: Path, tiny_folder: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    lock = durable.locked(run / rundir.LOCK)
    with another_process(lambda: lock.__enter__()) as pid:
        code, lines = tunesmith(*command(tmp_path, tiny_folder))
        assert code == 2
        assert f"Process {pid} is writing here" in lines[-1]
        assert [path.name for path in run.iterdir()] == [rundir.LOCK]
    with durable.locked(run / rundir.LOCK), pytest.raises(RunError), durable.locked(run / rundir.LOCK):
        pass
    assert not list(run.iterdir())


def test_every_file_is_on_the_disk_before_a_checkpoint_has_its_name(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    """The order of the calls themselves: fsync of every file and of the folder, rename, fsync of the run folder."""
    calls: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename
    link = lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: E731
    monkeypatch.setattr(os, "fsync", lambda d: (calls.append(("fsync", link(d))), fsync(d))[1])
    monkeypatch.setattr(os, "rename", lambda a, b: (calls.append((str(a), str(b))), rename(a, b))[1])
    shutil.copy(straight.parent / "rows.jsonl", tmp_path)
    assert tunesmith(*command(tmp_path, tiny_folder, "training.max_steps=1"))[0] == 0
    run = tmp_path / "run"
    at = next(i for i, (_from, to) in enumerate(calls) if to == str(run / "checkpoint-1"))
    temporary = calls[at][0]
    synced = {path for call, path in calls[:at] if call == "fsync"}
    files = [*(run / "checkpoint-1").rglob("*"), run / "checkpoint-1"]
    assert {str(path).replace(str(run / "checkpoint-1"), temporary) for path in files} <= synced
    assert ("fsync", str(run)) in calls[at:]


# --- damage -----------------------------------------------------------------------------------------------------------


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[random.Random(len(data)).randrange(len(data))] ^= 4
    file.write_bytes(bytes(data))


HARM: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "emptied": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "one bit": _flip,
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_checkpoint_is_never_used_unseen(harm: str, straight: Path, tmp_path: Path) -> None:
    """Every file of the newest checkpoint in turn, the manifest too."""
    files = [f.relative_to(straight / "checkpoint-6") for f in (straight / "checkpoint-6").rglob("*") if f.is_file()]
    assert len(files) > 8
    for i, name in enumerate(files):
        run = Path(shutil.copytree(straight, tmp_path / str(i)))
        HARM[harm](run / "checkpoint-6" / name)
        newest = rundir.latest(run)
        assert newest is not None
        assert newest.step == 4 or newest.verify(), name
        if "state" not in name.parts:
            target = rundir.find(str(run), checkpoint="last")
            assert target.step == 4, name
            assert newest.step == 4 or "checkpoint-6 is damaged and passed over" in target.why
            if newest.step == 6:
                with pytest.raises(RunError, match=r"checkpoint-6"):
                    rundir.find(str(run), checkpoint="6")


def test_swapped_and_half_checkpoints_count_for_nothing(broken_off: Path) -> None:
    run = broken_off
    (run / "checkpoint-4").rename(run / "checkpoint-9")
    (run / "checkpoint-8").mkdir()
    (run / "checkpoint-7").write_text("a file")
    (run / ".checkpoint-6.tmp-1-ab").mkdir()
    code, lines = tunesmith("train", run)
    assert code == 0, lines
    assert "checkpoint-9 is damaged and passed over." in lines
    assert "Going on behind checkpoint-2." in lines
    assert not list(run.glob(".*"))


def test_rotation_keeps_what_is_not_its_own_and_reads_the_new_one_back_first(straight: Path, tmp_path: Path) -> None:
    from tunesmith.train.checkpoint import rotate

    run = Path(shutil.copytree(straight, tmp_path / "run"))
    (run / "checkpoint-best").mkdir()
    (run / "notes.txt").write_text("mine")
    newest = run / "checkpoint-6" / "adapter_model.safetensors"
    whole = newest.read_bytes()
    _flip(newest)
    with pytest.raises(RunError, match="does not give back"):
        rotate(run, 1, {2, 4, 6})
    assert [c.step for c in rundir.checkpoints(run)] == [2, 4, 6]
    newest.write_bytes(whole)
    best = rundir.best(run)
    rotate(run, 1, {4, 6})  # checkpoint-2 is another's
    assert best is not None
    assert {c.step for c in rundir.checkpoints(run)} == {2, 6, best.step}
    assert (run / "checkpoint-best").is_dir()
    assert (run / "notes.txt").read_text() == "mine"


# --- resume -----------------------------------------------------------------------------------------------------------


def test_the_same_command_goes_on_to_the_same_bits(broken_off: Path, straight: Path, tiny_folder: Path) -> None:
    shutil.rmtree(broken_off / "checkpoint-4")
    with (broken_off / rundir.METRICS).open("a") as file:
        file.write('{"step": 7, "lo')  # a line that the kill cut short
    words = [
        word.replace(str(straight.parent), str(broken_off.parent)) for word in command(straight.parent, tiny_folder)
    ]
    code, lines = tunesmith(*words)
    assert code == 0, lines
    assert "Going on behind checkpoint-2." in lines
    assert weights(broken_off) == weights(straight)
    assert log(broken_off) == log(straight)
    code, lines = tunesmith(*words)
    assert code == 2
    assert "--overwrite" in lines[-1]
    assert "--resume" in lines[-1]


@pytest.mark.parametrize(
    "setting",
    [
        *("training.learning_rate=0.02", "training.seed=1", "training.weight_decay=0.1", "training.warmup_steps=2"),
        *("training.per_device_train_batch_size=4", "training.lr_scheduler_type=linear", "training.kernels=plain"),
        *("lora.r=4", "lora.lora_alpha=4", "lora.lora_dropout=0", "data.max_length=64", "data.validation_ratio=0.5"),
        *("template.system=Be short.", "training.max_grad_norm=0.5", "model.dtype=bfloat16"),
    ],
)
def test_a_setting_that_matters_is_named_before_anything_is_done(setting: str, broken_off: Path) -> None:
    from tunesmith.actions.record import whole_paths
    from tunesmith.actions.resume import changes
    from tunesmith.config.load import load

    config = load(broken_off / "config.yaml", [setting], {"training.output_dir": broken_off}).config
    assert [problem.place for problem in changes(broken_off, whole_paths(config))] == [setting.split("=")[0]]


def test_every_refusal_names_what_lets_it_through(broken_off: Path) -> None:
    """One row changed, one setting of the model, one of the length: the words at the end are the way on."""
    write_rows(broken_off.parent / "rows.jsonl", 15)
    before = {path: path.stat().st_mtime_ns for path in broken_off.rglob("*")}
    settings = [f"data.train={broken_off.parent / 'rows.jsonl'}", "lora.lora_dropout=0.1", "training.max_steps=7"]
    code, lines = tunesmith("train", broken_off, *settings)
    assert code == 2
    places = [line.split("  ")[0] for line in lines[-4:-1]]
    assert places == ["data", "lora.lora_dropout", "training.max_steps"]
    way = lines[-1].split("let it pass: ")[1].split()
    assert way == ["--resume", "--allow-changed", "data", "--allow-changed", "lora.lora_dropout"]
    assert {path: path.stat().st_mtime_ns for path in broken_off.rglob("*")} == before
    code, lines = tunesmith("train", broken_off, *settings, *way)
    assert code == 0, lines
    assert tunesmith("train", broken_off, *settings, "--allow-changed", "lora.lora_dropoot")[1][-1].endswith(
        "Did you mean lora.lora_dropout?"
    )


def test_another_base_and_another_template_are_noticed(
    broken_off: Path, tiny_folder: Path, tmp_path: Path, tiny_model: Callable[..., object]
) -> None:
    other = Path(shutil.copytree(tiny_folder, tmp_path / "other"))
    tiny_model("llama", seed=5).save_pretrained(other)  # type: ignore[attr-defined]
    told = json.loads((other / "tokenizer_config.json").read_text())
    told["chat_template"] = told["chat_template"].replace("<|im_end|>", " <|im_end|>")
    (other / "tokenizer_config.json").write_text(json.dumps(told))
    code, lines = tunesmith("train", broken_off, "--model", other)
    assert code == 2
    assert [line.split("  ")[0] for line in lines[-3:-1]] == ["base", "template"]
    way = lines[-1].split("let it pass: ")[1].split()
    code, lines = tunesmith("train", broken_off, "--model", other, *way)
    assert code == 0, lines


def test_the_same_step_cut_otherwise_is_the_same_run(broken_off: Path) -> None:
    settings = ["training.per_device_train_batch_size=1", "training.gradient_accumulation_steps=2"]
    code, lines = tunesmith("train", broken_off, *settings)
    assert code == 0, lines


def test_moved_and_talkative_runs_go_on(broken_off: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    moved = broken_off.rename(tmp_path / "elsewhere" / "run")
    data = (tmp_path / "rows.jsonl").rename(tmp_path / "elsewhere" / "rows.jsonl")
    code, lines = tunesmith("train", moved, f"data.train={data}", "logging.level=debug", "data.num_proc=1")
    assert code == 0, lines
    assert (moved / "checkpoint-6").is_dir()


def test_a_kill_behind_the_last_checkpoint_leaves_only_the_end_to_do(straight: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(straight, tmp_path / "run"))
    rundir.write_json(run / "run.json", rundir.record(run) | {"finished": False})
    code, lines = tunesmith("train", run, f"data.train={straight.parent / 'rows.jsonl'}")
    assert code == 0, lines
    assert rundir.record(run)["finished"]
    assert log(run) == log(straight)


def test_a_kill_before_the_first_checkpoint_costs_no_word(straight: Path, tmp_path: Path, tiny_folder: Path) -> None:
    shutil.copy(straight.parent / "rows.jsonl", tmp_path)
    run = tmp_path / "run"
    for left in ((".lock",), (".lock", ".run.json.tmp-1-ab")):  # what a start leaves before run.json is there
        run.mkdir()
        for name in left:
            (run / name).touch()
        code, lines = tunesmith(*command(tmp_path, tiny_folder, "training.max_steps=1"))
        assert code == 0, lines
        shutil.rmtree(run)
    shutil.copytree(straight, run, ignore=shutil.ignore_patterns("checkpoint-*", "ledger.json"))
    rundir.write_json(run / "run.json", rundir.record(run) | {"finished": False})
    code, lines = tunesmith(*command(tmp_path, tiny_folder))
    assert code == 0, lines
    assert any("broke off before its first checkpoint" in line for line in lines)
    assert weights(run) == weights(straight)


# --- stopping ---------------------------------------------------------------------------------------------------------


def _asked(how: str, run: Path) -> None:
    if how == "file":
        (run / rundir.STOP).touch()
    else:
        os.kill(os.getpid(), getattr(signal, how))


@pytest.mark.parametrize(("how", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("file", 130)])
def test_a_training_that_is_asked_to_end_saves_first(
    how: str, code: int, straight: Path, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked in the third of six steps: that step is saved, the exit code says who asked, the same command goes on."""
    from tunesmith.train import track

    shutil.copy(straight.parent / "rows.jsonl", tmp_path)
    run, write, words = tmp_path / "run", track.write, command(tmp_path, tiny_folder)

    def interrupting(folder: Path, record: dict[str, object]) -> None:
        write(folder, record)
        if record["step"] == 3:
            _asked(how, run)

    with monkeypatch.context() as patch:
        patch.setattr(track, "write", interrupting)
        ended, lines = tunesmith(*words)
    assert ended == code, lines
    assert f"checkpoint-3 is kept. Go on with: tunesmith train {run} --resume" in lines
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ended, lines = tunesmith(*words)
    assert ended == 0, lines
    assert "Going on behind checkpoint-3." in lines
    assert weights(run) == weights(straight)
    assert log(run) == log(straight)
    assert not (run / rundir.STOP).exists()


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    from tunesmith.train.stop import Stop

    said: list[str] = []
    with Stop(tmp_path, said.append) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # a group of processes often gets it twice
        assert stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.stopped().exit_code == 143
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert len(said) == 1


# --- a full disk ------------------------------------------------------------------------------------------------------


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file grows beyond `limit` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(broken_off: Path, straight: Path) -> None:
    with small_files(30_000):
        code, lines = tunesmith("train", broken_off)
    assert code == 2
    assert "checkpoint-6 can't be written" in lines[-1]
    assert "GB are free. Kept as it was: checkpoint-4." in lines[-1]
    assert [c.step for c in rundir.checkpoints(broken_off)] == [2, 4]
    assert not list(broken_off.glob(".*"))
    code, lines = tunesmith("train", broken_off)
    assert code == 0, lines
    assert weights(broken_off) == weights(straight)


def test_a_full_disk_before_the_first_step_is_one_line(tmp_path: Path, tiny_folder: Path) -> None:
    words = command(tmp_path, tiny_folder)
    with small_files(200):
        code, lines = tunesmith(*words)
    assert code == 2
    assert "No checkpoint was written yet" in lines[-1] or "can't be written" in lines[-1]
    assert errno.EFBIG in durable.FULL


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_weights_that_are_no_numbers_are_never_written(tmp_path: Path, tiny_folder: Path) -> None:
    """By the command with a rate of 1e10; and where a step itself broke them. The log stays JSON."""
    import torch
    from safetensors.torch import load_file

    from test_train import loop, settings

    tunesmith(*command(tmp_path, tiny_folder, "training.learning_rate=1e10", "training.save_steps=1"))
    for checkpoint in rundir.checkpoints(tmp_path / "run"):
        for file in checkpoint.path.glob("*.safetensors"):
            assert all(torch.isfinite(tensor).all() for tensor in load_file(file).values())
    for line in (tmp_path / "run" / rundir.METRICS).read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    made = loop(tmp_path / "loop", settings(save_steps=1, max_steps=2))
    broken = next(p for p in made.trainee.model.parameters() if p.requires_grad)
    made.optimizer.optimizer.register_step_post_hook(lambda *_given: broken.data.fill_(math.inf))
    with pytest.raises(RunError, match="Step 1 left weights that are not finite numbers"):
        made.train()
    assert not rundir.checkpoints(tmp_path / "loop")


def test_the_row_whose_loss_is_no_number_is_named(tiny_model: Callable[..., object], tmp_path: Path) -> None:
    """One token's embedding is broken: of four rows, the one that holds it is named and the step is not taken."""
    torch = pytest.importorskip("torch")
    from test_train import loop, settings
    from tunesmith.tokens.answer import Answer
    from tunesmith.train.plan import Row

    rows = [Row((Answer(0, [5, 6, 7 + i], [20, 21], [1.0, 1.0]),), f"rows.jsonl:{i + 1}") for i in range(4)]
    made = loop(tmp_path / "run", settings(), data=rows)
    embedding = made.trainee.model.get_input_embeddings()
    with torch.no_grad():
        embedding.weight[9] = math.nan
    with pytest.raises(RunError) as raised:
        made.train()
    assert "Rows: rows.jsonl:3." in str(raised.value)
    assert "Last good checkpoint: none" in str(raised.value)


def test_memory_that_does_not_suffice_names_the_batch_and_what_fits(
    broken_off: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocator itself refuses, in the second step that a resumed run takes."""
    import torch

    from tunesmith.train.loss import Trainee

    forward, seen = Trainee.forward, []

    def greedy(self: Trainee, *given: object) -> object:
        seen.append(torch.empty(1 << 55) if self.training and len(seen) == 2 else None)
        return forward(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainee, "forward", greedy)
    code, lines = tunesmith("train", broken_off)
    assert code == 2
    assert "does not fit into memory. Its rows: " in lines[-1]
    assert "rows.jsonl:" in lines[-1]
    assert "Last good checkpoint: checkpoint-4." in lines[-1]


def test_settings_that_need_less_do_the_same_step(broken_off: Path) -> None:
    """Where what was planned as fitting did not fit: smaller batches first, each as a line to type."""
    from dataclasses import replace

    from tunesmith.actions.plan import forecast, smaller
    from tunesmith.actions.prepare import prepare
    from tunesmith.actions.voice import Voice
    from tunesmith.config.load import load

    config = load(broken_off / "config.yaml").config
    prepared = prepare(config, Voice())
    planned = forecast(config, prepared)
    assert planned is not None
    assert smaller(config, prepared, planned) == []  # the libraries alone take most of it
    larger = replace(planned, memory=replace(planned.memory, weights=planned.memory.weights + 1e9))
    ways = smaller(config, prepared, larger)
    assert ways[0].startswith("training.per_device_train_batch_size=1 training.gradient_accumulation_steps=2 needs")


def test_a_loss_far_above_the_usual_is_marked() -> None:
    from tunesmith.train.watch import FEW, is_spike

    usual = [1.0 + 0.1 * math.sin(i) for i in range(FEW)]
    assert is_spike(usual, 2.5)
    assert not is_spike(usual, 1.3)
    assert not is_spike(usual[1:], 2.5)
    assert not is_spike([1.0, 3.0] * 8, 5.0)  # where losses scatter anyway


# --- what earlier versions wrote --------------------------------------------------------------------------------------


def test_other_versions_are_told_of(broken_off: Path) -> None:
    from tunesmith.actions.resume import other_versions

    assert other_versions(broken_off) is None
    record = rundir.record(broken_off)
    rundir.write_json(broken_off / "run.json", record | {"versions": record["versions"] | {"torch": "1.0"}})
    assert str(other_versions(broken_off)).startswith("Since the run began: torch 1.0 -> ")


def test_a_folder_of_somebody_else_stays_as_it_is(tmp_path: Path, tiny_folder: Path) -> None:
    """Names that look like what a crash leaves, where no run of ours is."""
    words = command(tmp_path, tiny_folder)
    mine = tmp_path / "run"
    (mine / ".checkpoint-3.old").mkdir(parents=True)
    (mine / ".notes.tmp-1").write_text("mine")
    before = sorted(path.name for path in mine.iterdir())
    code, lines = tunesmith(*words)
    assert code == 2
    assert "holds other files" in lines[-1]
    assert sorted(path.name for path in mine.iterdir()) == before


@pytest.mark.parametrize("version", sorted(path.name for path in KEPT.iterdir() if path.name[0].isdigit()))
def test_runs_of_every_version_are_read_and_go_on(version: str, tmp_path: Path) -> None:
    """A run that was broken off, as that version left it: base, data, settings, two checkpoints."""
    home = Path(shutil.copytree(KEPT / version, tmp_path / "kept"))
    run = home / "run"
    assert [(c.step, c.verify()) for c in rundir.checkpoints(run)] == [(2, []), (4, [])]
    assert all(math.isfinite(record["loss"]) for record in rundir.metrics(run))
    assert rundir.find(str(run)).adapter is not None
    code, lines = tunesmith("train", run, "--model", home / "model", f"data.train={home / 'rows.jsonl'}")
    assert code == 0, lines
    assert "Going on behind checkpoint-4." in lines
    assert [c.step for c in rundir.checkpoints(run)] == [2, 4, 6]
    assert [record["step"] for record in rundir.metrics(run)] == [1, 2, 3, 4, 5, 6]


# --- kills ------------------------------------------------------------------------------------------------------------


def chaos(*words: str, csv: Path) -> list[str]:
    """A run of the harness; the table that it ends with."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [sys.executable, str(HOME / "chaos" / "run.py"), "--csv", str(csv), *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.splitlines()


def test_killed_trainings_end_in_the_same_bits(tmp_path: Path) -> None:
    table = chaos("--kills", "2", "--only", "training", "--seed", "7", csv=tmp_path / "found.csv")
    assert table[-1].startswith("| kill | 2 |")
    assert table[-1].endswith("| 2 of 2 |")


@pytest.mark.long
def test_everything_that_can_break_off_ends_as_promised(tmp_path: Path) -> None:
    chaos("--kills", "40", "--seed", str(random.SystemRandom().randrange(10**6)), csv=tmp_path / "found.csv")


def test_the_page_says_what_the_record_says() -> None:
    """docs/reliability.md speaks of as many kills as chaos/results.csv holds, and of as many that ended well."""
    with (HOME / "chaos" / "results.csv").open(encoding="utf-8", newline="") as file:
        trials = list(csv.DictReader(file))
    kinds = {trial["what"] for trial in trials}
    for page in ("reliability.md", "reliability.zh-CN.md"):
        text = (HOME / "docs" / page).read_text(encoding="utf-8")
        for kind in kinds:
            found = [trial for trial in trials if trial["what"] == kind]
            good, kills = sum(not trial["wrong"] for trial in found), sum(int(trial["kills"]) for trial in found)
            assert f"| {len(found)} | {kills} | {good} of {len(found)} |" in text or (
                f"| {len(found)} | {kills} | {good} / {len(found)} |" in text
            ), (page, kind)
