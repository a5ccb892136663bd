"""People as judges: blind votes on two results, marks on one, every one of them kept, and what they say together."""

from __future__ import annotations

import io
import json
import math
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tunesmith.cli import main
from tunesmith.evaluate.abtest import FIRST, SECOND, SKIP, TIE, Tally, duels, verdict
from tunesmith.evaluate.results import RESULTS, Report, totals
from tunesmith.evaluate.votes import Votes

ROWS = 12


def record(i: int, answer: str, *, correct: bool = True) -> dict[str, Any]:
    return {
        "index": i, "id": f"r{i}", "origin": f"t.jsonl:{i + 1}", "group": None, "type": None,
        "prompt": [{"role": "system", "content": "Judge."}, {"role": "user", "content": f"What is row {i}?"}],
        "gold": f"It is {i}.", "answer": answer, "reasoning": None, "tokens": 4, "seconds": 0.1, "finished": True,
        "correct": correct, "scores": {"exact": {"correct": correct}},
    }  # fmt: skip


def results(folder: Path, answers: Sequence[str], verdicts: Sequence[bool] | None = None) -> Path:
    rows = [record(i, answer, correct=verdicts[i] if verdicts else True) for i, answer in enumerate(answers)]
    Report(rows, totals(rows), {"metrics": ["exact"]}).write(folder / RESULTS)
    return folder


class Screen(io.StringIO):
    """Standard output; `row` is what stands on it since the last row began."""

    @property
    def row(self) -> str:
        return self.getvalue().rpartition("\n--- ")[2]


class Person(io.StringIO):
    """Standard input of somebody who looks at the screen before each line."""

    def __init__(self, screen: Screen, decide: Callable[[str], str]) -> None:
        super().__init__()
        self.screen, self.decide = screen, decide

    def readline(self, *_size: int) -> str:
        return self.decide(self.screen.row)


def tunesmith(*words: str | Path, person: Callable[[str], str] = lambda row: "") -> tuple[int, str, str]:
    out, err = Screen(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "stdin", Person(out, person))
        code = main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


def prefers(word: str) -> Callable[[str], str]:
    """Votes for the answer with the word in it; a tie where both or none have it."""

    def decide(row: str) -> str:
        _question, first, second = row.split("\nAnswer ")
        return {(True, False): "1\n", (False, True): "2\n"}.get((word in first, word in second), "t\n")

    return decide


def keys(*pressed: str) -> Callable[[str], str]:
    waiting = list(pressed)
    return lambda row: waiting.pop(0) + "\n" if waiting else ""


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Twelve rows: the second is good in eight of them, the first in two, and two answers are equal."""
    first = ["good 1" if i in (0, 1) else "the same" if i in (2, 3) else "bad" for i in range(ROWS)]
    second = ["the same" if i in (2, 3) else "poor" if i in (0, 1) else "good" for i in range(ROWS)]
    return results(tmp_path / "one", first), results(tmp_path / "two", second)


def kept(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "votes.jsonl").read_text(encoding="utf-8").splitlines()]


# the blind test


def test_the_order_tells_nothing_and_stays_the_same(two):
    pairs = [(record(i, "a"), record(i, "b")) for i in range(400)]
    found = duels(pairs, "ann")
    assert found == duels(list(reversed(pairs)), "ann")
    swapped = sum(duel.swapped for duel in found)
    assert 160 < swapped < 240
    assert all(duel.answers == (("b", "a") if duel.swapped else ("a", "b")) for duel in found)
    other = duels(pairs, "ben")
    assert [d.row for d in other] != [d.row for d in found]
    assert 100 < sum(a.swapped != b.swapped for a, b in zip(
        sorted(found, key=lambda d: d.row), sorted(other, key=lambda d: d.row), strict=True
    )) < 300  # fmt: skip
    few = duels(pairs, "ann", 20)
    assert {d.row for d in few} == {d.row for d in duels(pairs, "ben", 20)}
    assert {d.expected for d in few} != {f"It is {i}." for i in range(20)}, "not the first of the file alone"


@pytest.mark.parametrize("swapped", [True, False])
def test_a_vote_is_for_the_side_that_stood_there(swapped):
    pairs = [(record(i, "a"), record(i, "b")) for i in range(40)]
    duel = next(duel for duel in duels(pairs, "ann") if duel.swapped == swapped)
    assert duel.winner(FIRST) == ("b" if swapped else "a") == duel.answers[0]
    assert duel.winner(SECOND) == ("a" if swapped else "b") == duel.answers[1]
    assert (duel.winner(TIE), duel.winner(SKIP)) == (TIE, None)


def test_a_person_who_knows_what_is_good_finds_the_better_one(two, tmp_path):
    code, out, err = tunesmith("abtest", *two, "-o", tmp_path / "ab", person=prefers("good"))
    assert code == 0
    assert "No preference beyond chance: two in 8 of 10 decided rows (95 % interval 49 % to 94 %); ties: 0." in err
    assert "Rows on which both answered the same, never asked: 2." in err
    assert out.count("\n--- ") == 10
    blind, _end, _verdict = err.partition("No preference")
    assert not {"one", "two"} & set((out + blind).replace("/", " ").split()), "a name on the screen"
    found = json.loads((tmp_path / "ab" / "abtest.json").read_text(encoding="utf-8"))
    assert (found["a"], found["b"], found["ties"], found["same"]) == (2, 8, 0, 2)
    assert found["p"] == pytest.approx(2 * sum(math.comb(10, k) for k in range(3)) / 2**10)
    for bound in found["interval"]:  # what Wilson's interval is: the shares that 8 of 10 lies two deviations from
        assert abs(0.8 - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / 10), rel=1e-5)


def test_a_clear_preference_is_said(tmp_path):
    one, two = results(tmp_path / "one", ["bad"] * 30), results(tmp_path / "two", ["good"] * 30)
    _code, _out, err = tunesmith("abtest", one, two, person=prefers("good"))
    assert "two is preferred to one: in 30 of 30 decided rows" in err
    assert (two / "abtest" / "votes.jsonl").exists(), "beside the last result"
    _code, _out, err = tunesmith("abtest", one, two, "--voter", "ben", person=prefers("bad"))
    assert "No row was decided; ties: 30." in err, "two voters against each other"
    assert "Two voters on one row agree in 0 of 30 cases (0 %)." in err


def test_every_way_to_answer(two, tmp_path):
    pressed = ["1", "x", "", "2", "t", "s", "b", "1", "q"]  # the skipped one is asked again and decided
    code, out, err = tunesmith("abtest", *two, "-o", tmp_path / "ab", person=keys(*pressed))
    assert code == 0
    votes = kept(tmp_path / "ab")
    assert [vote["said"] for vote in votes] == [FIRST, SECOND, TIE, SKIP, FIRST]
    assert votes[3]["row"] == votes[4]["row"]
    assert "6 of 10 rows are left. The same command goes on." in err
    assert "prefer" not in err, "nothing is said of who is ahead before the end"
    code, out, err = tunesmith("abtest", *two, "-o", tmp_path / "ab", "--show")
    assert out == ""
    assert "ties: 1" in err
    code, _out, err = tunesmith("abtest", *two, "-o", tmp_path / "ab", person=prefers("good"))
    assert code == 0
    assert len({vote["row"] for vote in kept(tmp_path / "ab")}) == 10


def test_a_test_that_was_broken_off_goes_on_as_it_began(two, tmp_path):
    tunesmith("abtest", *two, "-o", tmp_path / "straight", person=prefers("good"))
    for stop in (1, 4, 7):
        shown = len(kept(tmp_path / "ab")) if stop > 1 else 0
        waiting = [prefers("good")] * (stop - shown)
        person = lambda row, waiting=waiting: waiting.pop()(row) if waiting else ""  # noqa: E731
        tunesmith("abtest", *two, "-o", tmp_path / "ab", person=person)
        assert len(kept(tmp_path / "ab")) == stop
    with (tmp_path / "ab" / "votes.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"voter": "me", "row": "cut')  # the line in which the machine died
    tunesmith("abtest", *two, "-o", tmp_path / "ab", person=prefers("good"))
    found = [json.loads((tmp_path / name / "abtest.json").read_text(encoding="utf-8")) for name in ("ab", "straight")]
    assert found[0] == found[1]
    said = Votes(tmp_path / "ab" / "votes.jsonl").of("me")
    straight = Votes(tmp_path / "straight" / "votes.jsonl").of("me")
    assert list(said) == list(straight)
    assert [v["winner"] for v in said.values()] == [v["winner"] for v in straight.values()]


def test_a_vote_is_on_the_disk_before_the_next_question(two, tmp_path):
    """A process that is killed as soon as it asks again; no vote is lost."""
    words = [sys.executable, "-m", "tunesmith", "abtest", *map(str, two), "-o", str(tmp_path / "ab")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(words, **pipes, env=os.environ | {"PYTHONUNBUFFERED": "1"}) as process:
        assert process.stdin
        assert process.stdout
        for said in ("1\n", "2\n", "t\n", ""):
            while not process.stdout.readline().startswith("--- "):
                pass
            process.stdin.write(said)
            process.stdin.flush()
        process.send_signal(signal.SIGKILL)
    assert [vote["said"] for vote in kept(tmp_path / "ab")] == [FIRST, SECOND, TIE]


def test_votes_on_other_answers_do_not_count(two, tmp_path):
    tunesmith("abtest", *two, "-o", tmp_path / "ab", person=prefers("good"))
    again = results(tmp_path / "two", ["better and good"] * ROWS)
    code, out, _err = tunesmith("abtest", two[0], again, "-o", tmp_path / "ab", "--limit", "3", person=keys("q"))
    assert code == 0
    assert "--- 1/3 ---" in out
    code, _out, err = tunesmith("abtest", two[0], again, "-o", tmp_path / "ab", "--show")
    assert "No row was decided; ties: 0." in err
    assert "10 votes in the file are on other rows or answers" in err


def test_answers_are_shown_as_text(tmp_path):
    one = results(tmp_path / "one", ["\x1b[2J\x1b]0;owned\x07 \u202egnp"])
    two = results(tmp_path / "two", ["fine\nin two lines"])
    _code, out, _err = tunesmith("abtest", one, two, person=keys("q"))
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "\\x1b[2J" in out
    assert "fine\nin two lines" in out


def test_what_can_t_be_tested(two, tmp_path):
    def refused(*words: str | Path) -> str:
        code, out, err = tunesmith("abtest", *words)
        assert (code, out) == (2, "")
        return err

    same = results(tmp_path / "copy", [r["answer"] for r in Report.read(two[0]).rows])
    assert "there is nothing to choose" in refused(two[0], same)
    assert "takes two results" in refused(*two, same)
    assert "no results here" in refused(two[0], tmp_path / "nothing")
    assert "have no counterpart" in refused(two[0], results(tmp_path / "short", ["x"] * 3))
    assert "A voter needs a name." in refused(*two, "--voter", " ")


def test_the_verdict_counts_the_majority_of_each_row():
    draw = random.Random(2)
    for _round in range(100):
        said = {
            voter: {f"row{i}": {"winner": draw.choice(["a", "b", TIE, None])} for i in range(9) if draw.random() < 0.8}
            for voter in ("ann", "ben", "cid")
        }
        found = verdict(["one", "two"], said, 0)
        expected, alike, pairs = Counter(), 0, 0
        for row in {row for votes in said.values() for row in votes}:
            winners = [votes[row]["winner"] for votes in said.values() if row in votes]
            a, b, ties = (winners.count(side) for side in ("a", "b", TIE))
            best = max(a, b, ties)
            if best == 0:
                expected["skips"] += 1
            else:
                expected["a" if a == best > max(b, ties) else "b" if b == best > max(a, ties) else "ties"] += 1
            counted = [w for w in winners if w]
            pairs += len(counted) * (len(counted) - 1) // 2
            alike += sum(counted[i] == counted[j] for i in range(len(counted)) for j in range(i))
        whole = found.whole
        assert Counter(a=whole.a, b=whole.b, ties=whole.ties, skips=whole.skips) == expected
        assert found.agreement == (alike, pairs)


def test_sides_turned_round_turn_the_verdict_round():
    tally, other = Tally(9, 1, 2, 0), Tally(1, 9, 2, 0)
    assert tally.p == other.p < 0.05
    assert tally.sentence(["x", "y"]) == other.sentence(["y", "x"])
    assert tally.interval == pytest.approx([1 - bound for bound in reversed(other.interval)])


# marks on one model's answers


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """Six answers; the metric took the even ones for right."""
    return results(tmp_path / "run", [f"answer {i}" for i in range(6)], [i % 2 == 0 for i in range(6)])


def by_number(low: str, high: str) -> Callable[[str], str]:
    return lambda row: f"{high if int(row.rpartition('answer ')[2]) >= 2 else low}\n"


def test_answers_are_marked_right_or_wrong(one):
    code, out, err = tunesmith("rate", one, person=by_number("w", "r"))
    assert code == 0
    assert out.count("\n--- ") == 6
    assert "Marked right: 4 of 6 rows (67 %, 95 % interval 30 % to 90 %)." in err
    assert "The metric says the same on 3 of these 6 rows." in err
    found = json.loads((one / "rating.json").read_text(encoding="utf-8"))
    assert (found["n"], found["correct"], found["marks"]) == (6, 4, {"False": 2, "True": 4})
    code, out, again = tunesmith("rate", one)
    assert out == "", "all are marked"
    assert again == err[err.index("Marked right") :]


def test_points_notes_and_going_back(one):
    pressed = ["5", "3", "n", "much too long", "2", "9", "4", "s", "b", "n", "mended", "1", "5"]
    code, _out, err = tunesmith("rate", one, "--points", person=keys(*pressed))
    assert code == 0
    marks = [5, 3, 2, 4, 1, 5]
    assert f"{sum(marks) / 6:.2f} points on average over 6 rows" in err
    assert "How often each was given: 1: 1, 2: 1, 3: 1, 4: 1, 5: 2." in err
    assert "me noted: much too long" in err
    assert "me noted: mended" in err
    lines = (one / "ratings.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line).get("mark") for line in lines] == [5, 3, 2, 4, None, 1, 5]
    found = json.loads((one / "rating.json").read_text(encoding="utf-8"))
    assert found["mean"] == pytest.approx(sum(marks) / 6)
    low, high = found["interval"]
    assert 1 < low < found["mean"] < high < 5


def test_marks_of_several_and_of_another_scale(one):
    tunesmith("rate", one, "--voter", "ann", person=by_number("w", "r"))
    tunesmith("rate", one, "--voter", "ben", person=lambda row: "r\n")
    _code, _out, err = tunesmith("rate", one, "--voter", "cid", "--show")
    assert "Marked right: 4 of 4 rows" in err, "rows on which the voters are divided do not count"
    _code, out, err = tunesmith("rate", one, "--points", "--limit", "2", person=keys("4", "5"))
    assert "--- 2/2 ---" in out
    assert "4.50 points on average over 2 rows" in err
    assert "12 votes in the file are on other rows or answers" in err


def test_a_run_without_results_says_how_to_get_them(tmp_path):
    code, _out, err = tunesmith("rate", tmp_path)
    assert code == 2
    assert "tunesmith eval" in err
