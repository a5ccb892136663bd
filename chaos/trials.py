"""One trial each: something is broken off at a drawn moment, the same command is typed again, and the end is compared
with an end that nobody disturbed. A trial answers with what it saw; what is wrong stands in words in its result."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nursery
import scenes
from nursery import Aim, Ended
from scenes import Scene

from tunesmith import rundir
from tunesmith.errors import RunError

PACE = [1] * 9 + [5]  # kills of one training before it is left in peace


@dataclass
class Result:
    """`moment` tells where the last blow fell, `found` what was left whole; `wrong` is empty if all is as promised."""

    what: str
    scene: str
    kills: int = 0
    aim: str = ""
    moment: str = ""
    found: str = ""
    weights: str = ""
    expected: str = ""
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reference:
    """What an undisturbed training leaves."""

    run: Path
    weights: str
    log: list[dict[str, object]]
    operations: int
    seconds: float

    @classmethod
    def of(cls, scene: Scene, place: Path) -> Reference:
        run = place / f"reference-{scene.name.replace(' ', '-')}"
        counted = nursery.run(scene.words(place, run), Aim("operation", run, 10**9))
        assert counted.code == 0, counted.said
        return cls(run, scenes.weights(run), scenes.log(run), counted.operations, counted.seconds)


class Trials:
    """The trials of one harness run, in folders of their own below `place`."""

    def __init__(self, place: Path) -> None:
        self.place, self.made = place, 0
        self._references: dict[str, Reference] = {}

    def reference(self, scene: Scene) -> Reference:
        """Made the first time that it is asked for."""
        if scene.name not in self._references:
            self._references[scene.name] = Reference.of(scene, self.place)
        return self._references[scene.name]

    def folder(self) -> Path:
        self.made += 1
        return self.place / f"trial-{self.made}"

    def training(self, rng: random.Random) -> Result:
        """SIGKILL, once or again and again, and the same command until it ends."""
        scene = rng.choice(scenes.SCENES)
        known, wanted = self.reference(scene), rng.choice(PACE)
        while True:
            run, found = self.folder(), Result("kill", scene.name, expected=known.weights[:16])
            words = scene.words(self.place, run)
            while found.kills < wanted:
                aim = nursery.draw(rng, run, known.operations, known.seconds)
                ended = nursery.run(words, aim)
                if ended.code != -signal.SIGKILL:
                    break
                found.kills += 1
                found.aim, found.moment = f"{aim.kind} {aim.number:.4g}", ended.moment
                found.wrong += _unusable(run)
                found.found = _newest(run)
            if found.kills:
                return self._ended(found, run, words, known)
            shutil.rmtree(run, ignore_errors=True)  # the aim lay behind the end: not a kill

    def stopped(self, rng: random.Random) -> Result:
        """Ctrl-C or SIGTERM: saved, left with the right code, and the same command goes on."""
        scene, number = rng.choice(scenes.SCENES), rng.choice([signal.SIGINT, signal.SIGTERM])
        known = self.reference(scene)
        while True:
            run, found = self.folder(), Result("stop", scene.name, 1, expected=known.weights[:16])
            words = scene.words(self.place, run)
            aim = Aim("time", run, rng.uniform(0.3, 1) * known.seconds, number)
            ended = nursery.run(words, aim)
            early = {128 + number, -number}  # before the first step a signal is simply obeyed
            if ended.code in early:
                break
            if ended.code:
                found.wrong.append(f"exit code {ended.code}")
                break
        found.aim, found.moment, found.found = number.name, f"{aim.number:.2f} s", _newest(run)
        return self._ended(found, run, words, known)

    def full_disk(self, rng: random.Random) -> Result:
        """Files that can't grow: a sentence, whole checkpoints, and the same end once there is room."""
        scene = rng.choice(scenes.SCENES)
        known, run = self.reference(scene), self.folder()
        largest = max(file.stat().st_size for file in known.run.glob("checkpoint-*/**/*.safetensors"))
        words, limit = scene.words(self.place, run), rng.randint(2_000, largest - 1)
        ended = nursery.run(words, before=nursery.small_files(limit))
        found = Result("full disk", scene.name, 1, f"{limit} bytes a file", expected=known.weights[:16])
        if ended.code not in (0, 2) or "Traceback" in ended.said:
            found.wrong.append(f"exit code {ended.code}")
        found.moment = next((line for line in reversed(ended.said.splitlines()) if "can't be written" in line), "")
        found.moment = found.moment.replace(str(run), "RUN")[:120]
        found.wrong += _unusable(run)
        found.found = _newest(run)
        return self._ended(found, run, words, known)

    def two_writers(self, rng: random.Random) -> Result:
        """Two of the same command at once: one trains, the other is refused and changes nothing."""
        scene = rng.choice(scenes.SCENES)
        known, run = self.reference(scene), self.folder()
        words = scene.words(self.place, run)
        first = nursery.start(words)
        time.sleep(rng.uniform(0, known.seconds / 2))
        second = nursery.start(words)
        ends = [first.wait(), second.wait()]
        found = Result("two writers", scene.name, expected=known.weights[:16], found=_newest(run))
        codes = sorted(end.code for end in ends)
        found.moment = f"exit codes {codes}"
        refused = any("is writing here" in end.said or "There is a run already" in end.said for end in ends)
        if codes != [0, 2] or not refused:
            found.wrong.append(found.moment)
        return self._compared(found, run, known)

    def clock(self, rng: random.Random) -> Result:
        """A clock that was set back between a kill and the resume, with files that lie in its future."""
        scene = rng.choice(scenes.SCENES)
        known, run = self.reference(scene), self.folder()
        words, found = scene.words(self.place, run), Result("clock", scene.name, 1, expected=known.weights[:16])
        ended = nursery.run(words, Aim("operation", run, known.operations // 2))
        found.moment, found.found = ended.moment, _newest(run)
        for path in run.rglob("*"):
            os.utime(path, (4e9, 4e9 + rng.randint(-1000, 1000)))
        return self._ended(found, run, words, known, before=nursery.years_ago(5))

    def merging(self, rng: random.Random) -> Result:
        """A merge, killed: no half model under the name, and the same command writes the same one."""
        run, place = self.reference(scenes.SCENES[0]).run, self.folder()
        place.mkdir()
        words = ["merge", str(run), "-o", str(place / "merged"), "--overwrite"]
        expected, operations = self._once("merge", lambda: self._merged(run))
        found = Result("kill in merge", "lora", 1, expected=expected[:16])
        if rng.random() < 0.5:  # over an older one, which must never be lost
            nursery.run(words)
        aim = Aim("operation", place, rng.randint(1, operations))
        ended = nursery.run(words, aim)
        found.aim, found.moment = f"operation {aim.number}", ended.moment
        if (place / "merged").exists() and scenes.tensors(place / "merged") != expected:
            found.wrong.append("half a model under its name")
        again = nursery.run(words)
        found.wrong += [f"exit code {again.code}"] if again.code else []
        found.weights = scenes.tensors(place / "merged")[:16]
        return _judged(found, scenes.remains(place))

    def evaluation(self, rng: random.Random) -> Result:
        """An evaluation, killed: the same command goes on, to the same answers."""
        run, words = self.folder(), ["--limit", "4", "generation.max_new_tokens=4"]
        data = str(self.place / "rows.jsonl")
        shutil.copytree(self.reference(scenes.SCENES[0]).run, run)
        expected, operations = self._once("eval", lambda: self._evaluated(words, data))
        aim = Aim("operation", run / "evaluation", rng.randint(1, operations))
        found = Result("kill in eval", "lora", 1, f"operation {aim.number}", expected=expected[:16])
        found.moment = nursery.run(["eval", str(run), "--data", data, *words], aim).moment
        again = nursery.run(["eval", str(run), "--data", data, *words])
        if again.code and "--overwrite" not in again.said:
            found.wrong.append(f"exit code {again.code}: {again.said[-200:]}")
        found.weights = scenes.answers(run)[:16]
        return _judged(found, scenes.remains(run))

    def cache(self, rng: random.Random) -> Result:
        """Encoded rows, killed while they are written: made anew, and the half ones are gone."""
        kept, data = self.folder(), str(self.place / "rows.jsonl")
        words = ["check", data, "--model", str(self.place / "model"), f"data.cache={kept}"]
        expected, operations = self._once("cache", lambda: self._cached(data))
        aim = Aim("operation", kept, rng.randint(1, operations))
        found = Result("kill in cache", "", 1, f"operation {aim.number}", expected=expected[:16])
        found.moment = nursery.run(words, aim).moment
        for path in [kept, *kept.rglob("*")] if kept.exists() else []:
            os.utime(path, (1e9, 1e9))  # hours later: whoever wrote here is certainly gone
        again = nursery.run(words)
        found.wrong += [f"exit code {again.code}"] if again.code else []
        found.weights = scenes.files(kept)[:16]
        return _judged(found, scenes.remains(kept))

    # --- what is compared -----------------------------------------------------------------------------------------

    def _ended(
        self, found: Result, run: Path, words: list[str], known: Reference, *, before: Callable[[], None] = lambda: None
    ) -> Result:
        ended = nursery.run(words, before=before)
        if ended.code and not (ended.code == 2 and "There is a run already" in ended.said):  # it was over before
            found.wrong.append(f"the same command ends with {ended.code}: {ended.said[-300:]}")
        return self._compared(found, run, known)

    def _compared(self, found: Result, run: Path, known: Reference) -> Result:
        try:
            found.weights = scenes.weights(run)[:16]
            if scenes.log(run) != known.log:
                found.wrong.append("another log")
            if not rundir.record(run).get("finished"):
                found.wrong.append("not finished")
        except (OSError, ValueError, RunError) as error:
            found.wrong.append(f"{type(error).__name__}: {error}"[:300])
        _judged(found, scenes.remains(run))
        if not found.wrong:
            shutil.rmtree(run)
        return found

    def _once(self, name: str, make: Callable[[], tuple[str, int]]) -> tuple[str, int]:
        """What an undisturbed command leaves and how many changes of files it makes, found out the first time."""
        file = self.place / f"reference-{name}.json"
        if not file.exists():
            file.write_text(json.dumps(make()), encoding="utf-8")
        expected, operations = json.loads(file.read_text(encoding="utf-8"))
        return expected, operations

    def _merged(self, run: Path) -> tuple[str, int]:
        place = self.folder()
        place.mkdir()
        words = ["merge", str(run), "-o", str(place / "merged")]
        ended = _undisturbed(words, place)
        return scenes.tensors(place / "merged"), ended.operations

    def _evaluated(self, words: list[str], data: str) -> tuple[str, int]:
        run = self.folder()
        shutil.copytree(self.reference(scenes.SCENES[0]).run, run)
        ended = _undisturbed(["eval", str(run), "--data", data, *words], run / "evaluation")
        return scenes.answers(run), ended.operations

    def _cached(self, data: str) -> tuple[str, int]:
        kept = self.folder()
        ended = _undisturbed(["check", data, "--model", str(self.place / "model"), f"data.cache={kept}"], kept)
        return scenes.files(kept), ended.operations


def _undisturbed(words: list[str], folder: Path) -> Ended:
    ended = nursery.run(words, Aim("operation", folder, 10**9))
    assert ended.code == 0, ended.said
    return ended


def _judged(found: Result, remains: list[str]) -> Result:
    found.wrong += ["other weights"] if found.weights != found.expected else []
    found.wrong += [f"remains: {', '.join(remains)}"] if remains else []
    return found


def _unusable(run: Path) -> list[str]:
    """What is wrong with the folder as a kill left it: every checkpoint with a name must be whole."""
    try:
        if (run / rundir.RUN).exists():
            rundir.record(run)
        return [problem for checkpoint in rundir.checkpoints(run) for problem in checkpoint.verify()]
    except RunError as error:
        return [str(error)]


def _newest(run: Path) -> str:
    last = rundir.latest(run)
    return last.path.name if last else "none"
