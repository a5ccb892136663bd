"""Several processes: they train what one trains, by every engine, and end together. Ranks are forks of this process."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

import worlds
from tunesmith import rundir
from tunesmith.cli import main
from tunesmith.config.deepspeed import Known, filled, shipped
from tunesmith.config.load import load
from tunesmith.config.schema import TrainingSection
from tunesmith.errors import ConfigError
from tunesmith.model import spread
from tunesmith.model.plan import How, Load, Price, Shape
from tunesmith.tokens.forest import grow
from tunesmith.train import world as worlds_module
from tunesmith.train.deal import deal
from tunesmith.train.spawn import count, without
from tunesmith.train.world import World

needs_deepspeed = pytest.mark.skipif(
    not any((Path(folder) / "deepspeed").is_dir() for folder in sys.path), reason="DeepSpeed is not installed"
)
BIN = Path(sys.executable).parent
PATIENCE = 600.0  # seconds: of a machine that others use too


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Ranks:
    """Forks of this process that find a launcher's environment; what they print lies in `folder`."""

    def __init__(self, size: int, work: Callable[[], int | None], folder: Path) -> None:
        port, self.folder, self.pids = free_port(), folder, []
        for rank in range(size):
            pid = os.fork()
            if pid == 0:
                told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
                told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
                os.environ.update({name: str(value) for name, value in told.items()})
                self._run(rank, work)
            self.pids.append(pid)

    def _run(self, rank: int, work: Callable[[], int | None]) -> None:
        code = 1
        with (self.folder / f"rank{rank}.log").open("w", encoding="utf-8") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            sys.stdout = sys.stderr = log
            try:
                code = work() or 0
            except SystemExit as left:
                code = int(left.code or 0)
            except BaseException:
                traceback.print_exc()
            log.flush()
            os._exit(code)

    def codes(self, patience: float = PATIENCE) -> list[int]:
        """The exit codes, when all have ended; negative ones are signals."""
        codes: dict[int, int] = {}
        until = time.monotonic() + patience
        while len(codes) < len(self.pids) and time.monotonic() < until:
            for pid in self.pids:
                if pid not in codes and (found := os.waitpid(pid, os.WNOHANG))[0]:
                    codes[pid] = os.waitstatus_to_exitcode(found[1])
            time.sleep(0.02)
        for pid in self.pids:
            if pid not in codes:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                codes[pid] = -99
        return [codes[pid] for pid in self.pids]

    def said(self, rank: int) -> str:
        return (self.folder / f"rank{rank}.log").read_text(encoding="utf-8", errors="replace")


def succeed(size: int, work: Callable[[], int | None], folder: Path) -> Ranks:
    folder.mkdir(parents=True, exist_ok=True)
    ranks = Ranks(size, work, folder)
    codes = ranks.codes()
    assert codes == [0] * size, "\n".join(ranks.said(rank)[-3000:] for rank in range(size))
    return ranks


# --- one process and several train the same ---------------------------------------------------------------------------


def trainings(cases: list[str], folder: Path) -> Callable[[], None]:
    def work() -> None:
        here = World.of_environment()
        here.join(120)
        for case in cases:
            worlds.train(case, folder, here)
            torch.distributed.barrier()

    return work


def weights(run: Path, step: int = worlds.STEPS) -> dict[str, torch.Tensor]:
    return load_file(next((run / f"checkpoint-{step}").glob("*model.safetensors")))


def assert_same(run: Path, other: Path, step: int = worlds.STEPS) -> None:
    """Losses step by step, and the weights in the end, within 1e-5."""
    assert worlds.losses(run) == pytest.approx(worlds.losses(other), rel=1e-5, abs=1e-5)
    found, wanted = weights(run, step), weights(other, step)
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert (found[name] - wanted[name]).abs().max() <= 1e-5, name


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Callable[[str], Path]:
    """One process's training, made once."""
    folder, known = tmp_path_factory.mktemp("alone"), {}

    def run(case: str) -> Path:
        if case not in known:
            known[case] = worlds.train(case, folder, World())
        return known[case]

    return run


ENGINES = {
    "ddp": "ddp DistributedDataParallel",
    "fsdp": "fsdp FSDPTrainee",
    "zero2": "zero2 DeepSpeedEngine",
    "zero3": "zero3 DeepSpeedEngine",
}
LONG = [
    pytest.param(engine, method, times, marks=[pytest.mark.long, *([needs_deepspeed] if "zero" in engine else [])])
    for engine in ENGINES
    for method in ("lora", "full")
    for times in (1, 4)
    if (engine, method, times) != ("ddp", "lora", 1)
]


@pytest.mark.parametrize(("engine", "method", "times"), [("ddp", "lora", 1), *LONG])
def test_two_processes_train_what_one_trains(alone, tmp_path, engine, method, times):
    case = f"{engine}:{method}:{times}"
    succeed(2, trainings([case], tmp_path), tmp_path)
    run = tmp_path / case.replace(":", "-")
    assert (run / "engine").read_text(encoding="utf-8") == ENGINES[engine]  # and nothing else in its place
    assert_same(run, alone(f"alone:{method}:{times}"))
    if method == "full":
        assert_holds_what_is_planned(run, engine)


def assert_holds_what_is_planned(run: Path, engine: str) -> None:
    """Weights, moments and float32 copies of one process, against the arithmetic of `tunesmith plan`."""
    way = next(
        way for way in spread.WAYS if way.name == {"fsdp": "FSDP2", "ddp": "DDP"}.get(engine, f"ZeRO-{engine[4:]}")
    )
    count = sum(p.numel() for p in worlds.model("full").parameters())
    shape = Shape(2, 32, 64, 4, 32, 16, 64, count, count, fused=False, head_norms=False)
    planned = dict(zip(("weights", "optimizer"), spread.own(shape, How(True, count, 4.0, 4, False), way), strict=True))
    planned["optimizer"] -= spread.GRADIENT * count  # thrown away behind each step
    found = json.loads((run / "held.json").read_text(encoding="utf-8"))
    for name, whole in planned.items():
        assert found[name] == pytest.approx(whole / (2 if name in way.divided else 1), rel=0.02), name


@pytest.mark.long
def test_a_smaller_or_larger_world_goes_on_with_a_run(alone, tmp_path):
    """2 -> 1 and 1 -> 2: the same conversations a step, the weights of a run that one process made."""
    straight = alone("alone:lora:1")
    succeed(2, trainings(["ddp:lora:1:10"], tmp_path), tmp_path)
    half, behind = tmp_path / "ddp-lora-1-10", "ddp-lora-1-10/checkpoint-10"
    assert worlds.losses(half) == pytest.approx(worlds.losses(straight)[:10], rel=1e-5)
    run = worlds.train(f"alone:lora:2:20:{behind}", tmp_path, World())
    assert worlds.losses(run) == pytest.approx(worlds.losses(straight)[10:], rel=1e-5)
    found, wanted = weights(run), weights(straight)
    assert all((found[name] - wanted[name]).abs().max() <= 1e-5 for name in wanted)


@pytest.mark.long
@needs_deepspeed
@pytest.mark.parametrize(
    ("first", "then", "method"),
    [
        ("alone", "ddp", "full"),
        ("zero2", "alone", "lora"),
        ("alone", "zero2", "full"),
        ("zero3", "fsdp", "lora"),
        ("fsdp", "zero3", "full"),
        ("zero3", "alone", "full"),
        ("fsdp", "alone", "full"),
    ],
)
def test_any_engine_goes_on_behind_any_other(alone, tmp_path, first, then, method):
    case = f"{first}:{method}:1:10"
    if first == "alone":
        worlds.train(case, tmp_path, World())
    else:
        succeed(2, trainings([case], tmp_path), tmp_path)
    behind = f"{case.replace(':', '-')}/checkpoint-10"
    size = 1 if then == "alone" else 2
    succeed(size, trainings([f"{then}:{method}:1:20:{behind}"], tmp_path), tmp_path)
    run = next(tmp_path.glob(f"{then}-{method}-1-20-*"))
    straight = alone(f"alone:{method}:1")
    assert worlds.losses(run) == pytest.approx(worlds.losses(straight)[10:], rel=1e-5)
    found, wanted = weights(run), weights(straight)
    assert all((found[name] - wanted[name]).abs().max() <= 1e-5 for name in wanted)


@pytest.mark.long
def test_two_processes_and_then_four(alone, tmp_path):
    succeed(2, trainings(["ddp:lora:2:10"], tmp_path), tmp_path)
    succeed(4, trainings(["ddp:lora:1:20:ddp-lora-2-10/checkpoint-10"], tmp_path), tmp_path)
    run = next(tmp_path.glob("ddp-lora-1-20-*"))
    assert worlds.losses(run) == pytest.approx(worlds.losses(alone("alone:lora:1"))[10:], rel=1e-5)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, tiny_folder, monkeypatch) -> list[str]:
    """A training of eight steps of four conversations, with validation rows; encoded rows are kept beside it."""
    rng = random.Random(0)
    lines = [
        {
            "question": f"Is pump {i} faulty? " + "Look at it. " * rng.randint(0, 9),
            "answer": f"Yes: replace gasket {i}.",
        }
        for i in range(40)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "kept"))
    return [
        *("train", str(data), "--model", str(tiny_folder), "data.validation_ratio=0.1", "training.max_steps=6"),
        *("training.save_steps=3", "training.lr_scheduler_type=constant", "training.learning_rate=0.01"),
        *("training.per_device_train_batch_size=2", "model.dtype=float32", "lora.r=4", "training.warmup_ratio=0"),
    ]


def test_the_command_in_two_processes_is_the_command_in_one(command, tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    command += ["evaluation.samples=3", "evaluation.during_training=3", "generation.max_new_tokens=6"]
    assert main([*command, "-o", str(one), "training.gradient_accumulation_steps=2"]) == 0
    capsys.readouterr()
    ranks = succeed(2, lambda: main(["--local_rank=1", *command, "-o", str(two)]), tmp_path)
    assert "Done: " in ranks.said(0)
    assert ranks.said(1) == ""  # the first one speaks and writes
    assert worlds.losses(two) == pytest.approx(worlds.losses(one), rel=1e-4)
    evaluated = [[r["eval_loss"] for r in rundir.metrics(run) if "eval_loss" in r] for run in (one, two)]
    assert evaluated[1] == pytest.approx(evaluated[0], rel=1e-4)
    samples = [(run / rundir.SAMPLES).read_text(encoding="utf-8") for run in (one, two)]
    assert samples[0] == samples[1]  # the processes answered in turn
    assert len(samples[0].splitlines()) == 6
    assert rundir.record(two)["world"] == 2
    assert len(list((tmp_path / "kept" / "tokens").glob("*/meta.json"))) == 1  # encoded once, for both
    found, wanted = (load_file(run / "checkpoint-6" / "adapter_model.safetensors") for run in (two, one))
    assert all((found[name] - wanted[name]).abs().max() <= 1e-5 for name in wanted)

    # one process goes on with it: twice the accumulation, the same step
    assert main([*command, "-o", str(two), "training.max_steps=8", "--resume"]) == 0
    assert "a step stays 4 conversations, with training.gradient_accumulation_steps=2" in capsys.readouterr().err
    assert len(worlds.losses(two)) == 8
    assert (
        main([*command, "-o", str(one), "training.max_steps=8", "training.gradient_accumulation_steps=2", "--resume"])
        == 0
    )
    assert worlds.losses(two) == pytest.approx(worlds.losses(one), rel=1e-4)
    capsys.readouterr()


def test_a_world_in_which_a_step_does_not_divide_is_refused(command, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    assert main([*command, "-o", str(run)]) == 0
    rundir.write_json(run / rundir.RUN, rundir.record(run) | {"world": 3})  # as if three processes had begun it
    capsys.readouterr()
    again = [*command, "-o", str(run), "training.max_steps=8", "--resume"]
    assert main([*again, "training.per_device_train_batch_size=4"]) == 2
    said = capsys.readouterr().err
    assert "A step holds 6 conversations, and 1 processes with 4 each do not come out even." in said


def test_an_error_comes_once(command, tmp_path):
    tmp_path.joinpath("data.jsonl").write_text('{"nothing": 1}\n', encoding="utf-8")
    ranks = Ranks(2, lambda: main([*command, "-o", str(tmp_path / "run")]), tmp_path)
    codes = ranks.codes()
    assert codes[0] == 2
    assert codes[1] != 0
    assert "data.jsonl" in ranks.said(0)
    assert ranks.said(1) == ""


def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on(command, tmp_path, monkeypatch):
    run, log = tmp_path / "run", tmp_path / "said"
    settings = [*command, "-o", str(run), "training.max_steps=400"]
    ranks = Ranks(2, lambda: main(settings), tmp_path)
    wait_for(lambda: (run / "checkpoint-3").is_dir())
    os.kill(ranks.pids[1], signal.SIGKILL)
    assert ranks.codes(60)[1] == -signal.SIGKILL
    assert "Traceback" not in ranks.said(0)
    reached = rundir.latest(run).step
    again = [*command, "-o", str(run), f"training.max_steps={reached + 1}", "--resume"]
    ranks = succeed(2, lambda: main(again), log)
    assert f"Going on behind checkpoint-{reached}" in ranks.said(0)


def wait_for(what: Callable[[], bool], patience: float = PATIENCE) -> None:
    until = time.monotonic() + patience
    while not what():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


def reached(run: Path, step: int) -> bool:
    return not step or (run / f"checkpoint-{step}").is_dir()


@pytest.mark.long
def test_a_process_that_hangs_is_named_and_ends_all(command, tmp_path, monkeypatch):
    monkeypatch.setattr(worlds_module, "SILENCE", 6.0)
    monkeypatch.setattr(worlds_module, "BEAT", 0.5)
    run = tmp_path / "run"
    ranks = Ranks(2, lambda: main([*command, "-o", str(run), "training.max_steps=400"]), tmp_path)
    wait_for(lambda: (run / "checkpoint-3").is_dir())
    os.kill(ranks.pids[1], signal.SIGSTOP)
    wait_for(lambda: "process 1 (of 0 to 1)" in ranks.said(0), 60)
    os.kill(ranks.pids[1], signal.SIGKILL)  # as the launcher does
    assert 1 in ranks.codes(60)


@pytest.mark.long
def test_the_launcher_of_its_own_trains_and_names_who_was_killed(command, tmp_path, capfd):
    """`--nproc 2`: the processes are started anew, one is killed from outside."""
    run = tmp_path / "run"
    launcher = os.fork()
    if launcher == 0:
        os._exit(main([*command, "-o", str(run), "training.max_steps=400", "--nproc", "2"]))
    with contextlib.suppress(AssertionError):
        wait_for(lambda: (run / "checkpoint-3").is_dir())
    workers = psutil.Process(launcher).children()
    assert len(workers) == 2
    workers[1].kill()
    code = os.waitstatus_to_exitcode(os.waitpid(launcher, 0)[1])
    said = capfd.readouterr().err
    assert code == 1
    assert "Process 1 of 0 to 1 was ended from outside (SIGKILL)" in said
    assert "Traceback" not in said
    assert not any(worker.is_running() for worker in workers)


# --- launchers, as the pages write them -------------------------------------------------------------------------------


def launch(words: list[str], *, wait: bool = True) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen([str(BIN / words[0]), *words[1:]], env=environment, start_new_session=True, **pipes)
    if wait:
        said, _none = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said[-3000:]
    return process


def lines() -> dict[str, list[str]]:
    """Launcher -> the line by which the page starts four processes."""
    page = (Path(__file__).parents[1] / "docs" / "several-gpus.md").read_text(encoding="utf-8")
    block = page.split("```bash\n")[1].split("```")[0]
    return {words[0]: words for line in block.splitlines() if (words := shlex.split(line, comments=True))}


@pytest.mark.long
@pytest.mark.parametrize(
    "launcher", ["tunesmith", "torchrun", "accelerate", pytest.param("deepspeed", marks=needs_deepspeed)]
)
def test_every_launcher_starts_the_command(command, tmp_path, launcher):
    """The lines of the page, with two processes in place of four and this training in place of run.yaml."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*command, "-o", str(one), "training.gradient_accumulation_steps=2"]) == 0
    words = [word.replace("=4", "=2") if word != "4" else "2" for word in lines()[launcher]]
    place = words.index("train")
    assert words[place + 1] == "run.yaml"
    words[place : place + 2] = [*command, "-o", str(two)]
    if launcher == "accelerate":  # which starts one process where it finds no GPU
        words[2:2] = ["--multi_gpu", "--num_machines=1"]
    launch(words)
    assert rundir.record(two)["world"] == 2
    assert worlds.losses(two) == pytest.approx(worlds.losses(one), rel=1e-4)


@pytest.mark.long
def test_two_machines_meet(command, tmp_path):
    """Two torchruns on two addresses of this machine, one process each."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*command, "-o", str(one), "training.gradient_accumulation_steps=2"]) == 0
    meeting = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", "--rdzv_id=t"]
    meeting += [f"--rdzv_endpoint=127.0.0.1:{free_port()}"]
    machines = [
        launch(
            ["torchrun", *meeting, f"--local_addr=127.0.0.{i}", "-m", "tunesmith", *command, "-o", str(two)], wait=False
        )
        for i in (1, 2)
    ]
    said = [machine.communicate(timeout=PATIENCE)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert worlds.losses(two) == pytest.approx(worlds.losses(one), rel=1e-4)


@pytest.mark.long
def test_torchrun_restarts_a_training_and_it_goes_on(command, tmp_path):
    run = tmp_path / "run"
    words = ["torchrun", "--standalone", "--nproc_per_node=2", "--max-restarts=2", "-m", "tunesmith", *command]
    process = launch([*words, "training.max_steps=60", "-o", str(run)], wait=False)
    wait_for(lambda: (run / "checkpoint-3").is_dir())
    workers = [child for child in psutil.Process(process.pid).children() if "tunesmith" in " ".join(child.cmdline())]
    workers[1].kill()
    said, _none = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert "Going on behind checkpoint-" in said
    assert [record["step"] for record in rundir.metrics(run)] == list(range(1, 61))


@pytest.mark.long
def test_twenty_deaths_at_random_moments(command, tmp_path):
    """Each ends all processes cleanly, and the same command goes on; the weights in the end are those of no death."""
    straight, run, rng = tmp_path / "straight", tmp_path / "run", random.Random(0)
    settings = [*command, "training.max_steps=45", "training.save_steps=1", "training.save_total_limit=2"]
    succeed(2, lambda: main([*settings, "-o", str(straight)]), tmp_path / "logs")
    for death in range(20):
        folder = tmp_path / f"death{death}"
        folder.mkdir()
        before = rundir.latest(run).step if run.exists() and rundir.checkpoints(run) else 0
        ranks = Ranks(2, lambda: main([*settings, "-o", str(run)]), folder)
        target = before + rng.choice((0, 1, 2))
        wait_for(partial(reached, run, target))
        time.sleep(rng.random())
        os.kill(ranks.pids[victim := rng.randrange(2)], signal.SIGKILL)
        time.sleep(rng.random())
        with contextlib.suppress(ProcessLookupError):
            os.kill(ranks.pids[1 - victim], signal.SIGTERM)  # as every launcher does
        codes = ranks.codes(60)
        assert codes[victim] == -signal.SIGKILL
        assert codes[1 - victim] in (1, -signal.SIGTERM), ranks.said(1 - victim)
        assert "Traceback" not in ranks.said(1 - victim)
    succeed(2, lambda: main([*settings, "-o", str(run)]), tmp_path / "end")
    found, wanted = (load_file(each / "checkpoint-45" / "adapter_model.safetensors") for each in (run, straight))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


# --- dealing out ------------------------------------------------------------------------------------------------------


def cost(rows, price: Price) -> float:
    """Of what a rank computes, counted on its forest."""
    grown = grow([answer for row in rows for answer in row.answers])
    return price.token * len(grown) + price.pair * grown.pairs + price.target * len(grown.target)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_finish_together(ranks):
    """Less than 5 % are lost by waiting over an epoch, where a step holds eight conversations and more for each two."""
    price, data = Price(1.0, 0.002, 0.3), worlds.rows(400)
    slowest = mean = plain = 0.0
    for start in range(0, 400, 4 * ranks):
        step = data[start : start + 4 * ranks]
        hands = deal(step, ranks, price)
        assert sorted(row.place for hand in hands for row in hand) == sorted(row.place for row in step)
        costs = [cost(hand, price) for hand in hands]
        slowest, mean = slowest + max(costs), mean + sum(costs) / ranks
        plain += max(cost(step[rank::ranks], price) for rank in range(ranks))
    assert slowest / mean < 1.05
    assert plain / mean > 1.1  # dealt without a look at the cost


def test_a_large_step_is_dealt_fast_and_evenly():
    price, data = Price(), worlds.rows(512)
    started = time.monotonic()
    hands = deal(data, 8, price)
    assert time.monotonic() - started < 5
    costs = [cost(hand, price) for hand in hands]
    assert max(costs) / (sum(costs) / 8) < 1.02


def test_more_ranks_than_rows():
    hands = deal(worlds.rows(3), 5, Price())
    assert sorted(map(len, hands)) == [0, 0, 1, 1, 1]


# --- settings ---------------------------------------------------------------------------------------------------------


def known(**settings) -> Known:
    return Known(TrainingSection(**settings), world=2, hidden=64)


@pytest.mark.parametrize("name", ["zero2", "zero3", "zero3-offload", "ds_config.json", "ds_config_zero3.json"])
def test_shipped_deepspeed_settings_are_filled_from_ours(name):
    found = filled(Path(name), known(per_device_train_batch_size=3, gradient_accumulation_steps=5, max_grad_norm=0.7))
    assert "auto" not in json.dumps(found)
    assert found["train_batch_size"] == 30
    assert found["train_micro_batch_size_per_gpu"] == 3
    assert found["gradient_clipping"] == 0.7
    assert found["zero_optimization"]["stage"] == (3 if "zero3" in name else 2)
    assert shipped(Path("deepspeed/ds_config_lora.json")) == shipped(Path("zero2"))


def test_every_contradiction_of_deepspeeds_settings_is_told_at_once(tmp_path):
    file = tmp_path / "ds.json"
    given = {
        "train_batch_size": 7,
        "optimizer": {"type": "SGD", "params": {"lr": 0.5}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 10}},
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 5},
        "comms": {"size": "auto"},
    }
    file.write_text(json.dumps(given), encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        filled(file, known(bf16=False, learning_rate=1e-4))
    places = [problem.place.partition(": ")[2] for problem in refused.value.problems]
    assert places == [
        *("train_batch_size", "optimizer.type", "optimizer.params.lr", "scheduler.type"),
        *("scheduler.params.warmup_num_steps", "bf16.enabled", "comms.size", "zero_optimization.stage"),
    ]


def test_deepspeeds_settings_that_agree_pass(tmp_path):
    file = tmp_path / "ds.json"
    given = {
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "betas": "auto", "eps": 1e-8, "weight_decay": 0}},
        "scheduler": {"type": "WarmupCosineLR", "params": {"total_num_steps": "auto"}},
        "zero_optimization": {"stage": 1},
    }
    file.write_text(json.dumps(given), encoding="utf-8")
    found = filled(file, known())
    assert not found.keys() & {"optimizer", "scheduler"}  # the loop's own


def test_a_deepspeed_file_is_found_beside_the_settings_or_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.json").write_text("{}", encoding="utf-8")
    yaml = tmp_path / "sub" / "run.yaml"
    for written, found in (("mine.json", tmp_path / "sub" / "mine.json"), ("ds_config.json", Path("ds_config.json"))):
        yaml.write_text(f"training: {{deepspeed: {written}}}\n", encoding="utf-8")
        assert load(yaml).config.training.deepspeed == found
    yaml.write_text("training: {deepspeed: other.json}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="there is no file or folder other.json"):
        load(yaml)


def test_how_many_processes():
    assert count("4") == 4
    assert count("auto") == max(1, torch.cuda.device_count())
    for wrong in ("0", "many"):
        with pytest.raises(ConfigError, match="number of processes"):
            count(wrong)
    assert without("--nproc", ["train", "--nproc", "2", "d", "--nproc=3", "-o", "x"]) == ["train", "d", "-o", "x"]


def test_many_processes_hold_what_the_plan_divides():
    """The plan's table against arithmetic by hand: Qwen2.5-72B's shape, an adapter, all weights."""
    shape = Shape(
        80, 8192, 29568, 64, 8192, 1024, 152064, 72_700_000_000, 70_200_000_000, fused=False, head_norms=False
    )
    load = Load(2048, 2048 * 2049 // 2, 1024)
    lora, full = How(False, spread.adapter(shape, 8), 2.0, 2, True), How(True, shape.parameters, 4.0, 2, True)
    ways = {way.name: way for way in spread.WAYS}
    eight = spread.held(shape, lora, load, ways["ZeRO-3"], 8)
    assert eight.weights == shape.parameters * 2 / 8
    assert eight.total < 45e9 < 80e9 < spread.held(shape, lora, load, ways["DDP"], 8).total
    assert spread.held(shape, full, load, ways["FSDP2"], 8).optimizer == shape.parameters * 12 / 8
    assert spread.held(shape, full, load, ways["ZeRO-2"], 8).weights == shape.parameters * 2
    totals = [spread.held(shape, full, load, ways["ZeRO-3"], n).total for n in (8, 16, 64, 512)]
    assert totals == sorted(totals, reverse=True)


def test_the_command_prints_the_table(tiny_folder, capsys):
    assert main(["plan", "--model", str(tiny_folder), "--memory", "24"]) == 0
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == [
        "GPUs",
        "DDP",
        "ZeRO-2",
        "ZeRO-3",
        "FSDP2",
        "ZeRO-3,",
    ]
    assert "DDP fits on 1 x 24 GB" in printed.err
