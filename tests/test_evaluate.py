"""Evaluation: metrics, figures with their intervals, results that go on where they stopped, pictures, the page."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from tunesmith.conversation import Conversation, Message, Origin, ToolCall
from tunesmith.errors import ConfigError, DataError, RunError
from tunesmith.evaluate import plot, report
from tunesmith.evaluate.metrics import MetricContext, fold, load, names
from tunesmith.evaluate.results import OTHER, RESULTS, UNREAD, Report, totals
from tunesmith.evaluate.run import PARTIAL, evaluate
from tunesmith.evaluate.statistics import wilson
from tunesmith.generate.engine import Generated

TEMPLATE = "Judgement: {judgement}\nReason: {reason}"
CHINESE = "判断：{judgement}\n\n原因：{reason}"


def row(index: int, label: str, group: str = "seal", prompt: str = "What is it?") -> Conversation:
    gold = TEMPLATE.format(judgement=label, reason="it is so.")
    messages = (Message("system", "Judge."), Message("user", f"{prompt} {index}"), Message("assistant", gold))
    return Conversation(
        messages, meta={"subtype": group, "id": f"r{index}"}, origin=Origin("t.jsonl", index + 1), index=index
    )


ROWS = [row(i, "DEFECT" if i % 2 else "NORMAL", "seal" if i < 6 else "door") for i in range(10)]


class Model:
    """Answers by a function of the row's number, and remembers what it was asked."""

    def __init__(self, answer, stop_after: int | None = None) -> None:
        self.answer, self.stop_after = answer, stop_after
        self.asked: list[Conversation] = []

    def __call__(self, prompts: Sequence[Conversation]) -> Iterator[Generated]:
        for prompt in prompts:
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(prompt)
            message = Message("assistant", self.answer(prompt.index))
            yield Generated(message=message, ids=[1, 2, 3], tokens=3, seconds=0.25, finished=prompt.index != 9)


def right(index: int) -> str:
    return f"Judgement:  {'defect' if index % 2 else 'normal'}.\nReason: because."


def run(out: Path, model=None, rows: Iterable[Conversation] = ROWS, **settings) -> Report:
    settings = {"answer_template": TEMPLATE, "group_by": "subtype", "settings": {"checkpoint": "best"}} | settings
    return evaluate(list(rows), model or Model(right), out=out, **settings)


# metrics


def test_every_file_is_a_metric():
    folder = Path(load.__code__.co_filename).parent
    assert names() == sorted(file.stem for file in folder.glob("*.py") if file.stem != "__init__")
    assert {"contains", "exact", "label", "bleu", "rouge", "perplexity"} <= {*names()}
    assert all(load(name).score or load(name).measure for name in names())


@pytest.mark.parametrize(
    ("gold", "answer", "exact", "contains"),
    [
        ("Paris", " Paris\n", True, True),
        ("Paris", "It is PARIS.", False, True),
        ("ＡＢＣ", "abc", False, True),
        ("Paris", "", False, False),
        ("甄嬛", "我是甄嬛。", False, True),
    ],
)
def test_exact_and_contains(gold, answer, exact, contains):
    assert load("exact")(gold, answer, MetricContext())["correct"] is exact
    assert load("contains")(gold, answer, MetricContext())["correct"] is contains


@pytest.mark.parametrize(
    ("answer", "label", "correct"),
    [
        ("判断：有缺陷\n\n原因：漏水", "有缺陷", True),
        ("判断:  有缺陷。\n原因:漏水", "有缺陷。", True),
        ("判断：无缺陷\n\n原因：漏水", "无缺陷", False),
        ("有缺陷", None, False),
        ("", None, False),
    ],
)
def test_label_reads_the_answer_by_its_template(answer, label, correct):
    score = load("label")("判断：有缺陷\n\n原因：有裂纹", answer, MetricContext(CHINESE))
    assert (score["label"], score["correct"], score["expected"]) == (label, correct, "有缺陷")


def test_another_field_may_decide():
    gold, answer = "Judgement: A\nReason: worn", "Judgement: B\nReason: Worn."
    assert load("label")(gold, answer, MetricContext(TEMPLATE, "reason"))["correct"]
    assert not load("label")(gold, answer, MetricContext(TEMPLATE))["correct"]
    with pytest.raises(ConfigError, match="judgement, reason"):
        load("label")(gold, answer, MetricContext(TEMPLATE, "colour"))


def test_folding_is_stable_on_random_text():
    draw = random.Random(0)
    for _round in range(500):
        text = "".join(draw.choice("aB 。.，ＡＢ１ß\tİﬁ é!") for _character in range(draw.randrange(12)))
        assert fold(fold(text)) == fold(text)
        assert fold(f" \n{text.upper()}！ ") == fold(text.upper())


def test_a_metric_of_ones_own(tmp_path):
    own = tmp_path / "short.py"
    own.write_text(
        "def score(gold, answer, context):\n    return {'correct': len(answer) < 9, 'length': len(answer)}\n"
    )
    report = run(tmp_path / "out", metrics=[str(own), "label"])
    assert report.accuracy == 0
    assert report.totals["scores"]["label"]["accuracy"] == 1
    assert report.rows[0]["scores"][str(own)]["length"] == len(right(0))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("exakt", "Did you mean exact"),
        ("zzz", "bleu, choice, chrf, contains"),
        ("./none.py", "none.py"),
        ("json.tool", "score"),
    ],
)
def test_a_metric_that_is_none(name, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        load(name)


@pytest.mark.parametrize("body", ["return {'correct': 1}", "return True", "return {}"])
def test_a_metric_that_returns_something_else_is_found_before_the_first_answer(tmp_path, body):
    own, model = tmp_path / "own.py", Model(right)
    own.write_text(f"def score(gold, answer, context):\n    {body}\n")
    with pytest.raises(ConfigError, match="must return a dict"):
        run(tmp_path / "out", model, metrics=[str(own)])
    own.write_text("def score(gold, answer, context):\n    return 1 / 0\n")
    with pytest.raises(DataError, match="ZeroDivisionError"):
        run(tmp_path / "out", model, metrics=[str(own)])
    assert model.asked == []


# figures


def test_wilson_against_published_values():
    """Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29."""
    for (correct, n), (low, high) in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0000, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert wilson(correct, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(0, 0) == (0, 1)


def test_intervals_hold_their_share():
    for n in range(1, 60):
        for correct in range(n + 1):
            low, high = wilson(correct, n)
            assert 0 <= low <= correct / n <= high <= 1
            assert wilson(n - correct, n) == pytest.approx((1 - high, 1 - low))


def test_totals_add_up(tmp_path):
    odd = {1: "Judgement: normal\nReason: x", 2: "no idea", 3: "", 4: "Judgement: maybe\nReason: x"}
    report = run(tmp_path, Model(lambda i: odd.get(i) if i in odd else right(i)))
    found = report.totals
    assert (found["n"], found["correct"], report.accuracy) == (10, 6, 0.6)
    assert {name: (g["correct"], g["n"]) for name, g in found["groups"].items()} == {"door": (4, 4), "seal": (2, 6)}
    assert found["macro_accuracy"] == pytest.approx((1 + 1 / 3) / 2)
    assert found["confusion"] == {
        "DEFECT": {"DEFECT": 3, "NORMAL": 1, UNREAD: 1},
        "NORMAL": {"NORMAL": 3, OTHER: 1, UNREAD: 1},
    }
    assert sum(sum(counts.values()) for counts in found["confusion"].values()) == found["n"]
    assert (found["empty"], found["unparsed"], found["unfinished"], found["tokens"]) == (1, 2, 1, 30)
    assert found["interval"] == list(wilson(6, 10))


# the run


def test_the_model_sees_the_prompt_and_never_the_expected_answer(tmp_path):
    model = Model(right)
    run(tmp_path, model)
    assert [prompt.messages for prompt in model.asked] == [row.messages[:-1] for row in ROWS]


def test_what_is_written_is_what_is_returned(tmp_path):
    report = run(tmp_path)
    assert Report.read(tmp_path) == report
    assert [path.name for path in tmp_path.iterdir()] == [RESULTS]
    first = report.rows[0]
    assert (first["id"], first["origin"], first["group"], first["index"]) == ("r0", "t.jsonl:1", "seal", 0)
    assert first["prompt"] == [{"role": "system", "content": "Judge."}, {"role": "user", "content": "What is it? 0"}]
    assert first["scores"]["label"]["fields"] == {"judgement": "normal.", "reason": "because."}
    assert report.settings == {"metrics": ["label", "rouge"], "group_by": "subtype", "checkpoint": "best"}


def test_calls_of_tools_are_part_of_the_answer(tmp_path):
    gold = Message("assistant", tool_calls=(ToolCall("look", {"b": 1, "a": 2}),))
    rows = [Conversation((Message("user", "?"), gold))]
    report = run(tmp_path, Model(lambda i: ""), rows, answer_template=None, group_by=None)
    assert report.rows[0]["gold"] == '{"arguments": {"a": 2, "b": 1}, "id": null, "name": "look"}'
    assert (report.accuracy, report.totals["groups"], report.totals["confusion"]) == (0, {}, None)


def test_results_are_not_replaced_without_being_told_to(tmp_path):
    run(tmp_path)
    before, model = (tmp_path / RESULTS).read_bytes(), Model(lambda i: "no")
    with pytest.raises(RunError, match="--overwrite"):
        run(tmp_path, model)
    assert model.asked == []
    assert (tmp_path / RESULTS).read_bytes() == before
    assert run(tmp_path, model, overwrite=True).accuracy == 0
    assert Report.read(tmp_path).accuracy == 0


@pytest.mark.parametrize("cut", [0, 7])
def test_a_killed_evaluation_goes_on_where_it_stopped(tmp_path, cut):
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Model(right, stop_after=4))
    assert not (tmp_path / RESULTS).exists()
    partial = tmp_path / PARTIAL
    partial.write_bytes(partial.read_bytes()[: -cut or None])
    model, seen = Model(right), []
    assert run(tmp_path, model, progress=lambda done, n: seen.append((done, n))) == whole
    kept = 3 if cut else 4
    assert [prompt.index for prompt in model.asked] == list(range(kept, 10))
    assert seen == [(done, 10) for done in range(kept + 1, 11)]
    assert not partial.exists()


def test_answers_of_another_evaluation_are_not_used(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Model(right, stop_after=4))
    model = Model(right)
    run(tmp_path, model, settings={"checkpoint": "last"})
    assert len(model.asked) == 10


def test_other_metrics_judge_the_same_answers(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Model(right, stop_after=4))
    model = Model(right)
    assert run(tmp_path, model, metrics=["exact"]).accuracy == 0
    assert len(model.asked) == 6


def test_everything_wrong_with_the_rows_is_told_at_once_and_before_the_first_answer(tmp_path):
    model = Model(right)
    bad = [
        ROWS[0],
        Conversation(ROWS[1].messages[:2], meta=ROWS[1].meta, origin=Origin("t.jsonl", 2), index=1),
        Conversation(
            (*ROWS[2].messages[:2], Message("assistant", "Yes")), meta={}, origin=Origin("t.jsonl", 3), index=2
        ),
    ]
    with pytest.raises(DataError) as caught:
        run(tmp_path, model, bad)
    assert [problem.place for problem in caught.value.problems] == ["t.jsonl:2", "t.jsonl:3"]
    with pytest.raises(ConfigError, match="id, subtype"):
        run(tmp_path, model, group_by="scene")
    with pytest.raises(DataError, match="no rows"):
        run(tmp_path, model, [])
    assert model.asked == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{}", '{"version": 99, "totals": {}, "settings": {}, "rows": []}', "[]"])
def test_unreadable_results_say_so(tmp_path, content):
    (tmp_path / RESULTS).write_text(content)
    with pytest.raises(RunError, match=r"evaluation_results\.json"):
        Report.read(tmp_path)


# pictures and the page


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


@pytest.mark.filterwarnings("error")
def test_pictures_are_drawn_without_boxes_for_chinese(tmp_path):
    pytest.importorskip("pylopdf_fonts_zh_cn", reason="the package with the Chinese font is not installed")
    rows = [row(i, "DEFECT" if i % 2 else "NORMAL", "密封缺陷" if i < 6 else "护门") for i in range(10)]
    tuned = run(tmp_path / "tuned", rows=rows)
    assert is_picture(plot.subtype_accuracy(tuned, tmp_path / "pictures" / "accuracy.png"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "metrics",
    [
        [],
        [{"step": 1, "loss": 2.0}],
        [{"step": i, "loss": 3 / i, "learning_rate": 1e-4 / i} for i in range(1, 50)]
        + [{"step": 20, "eval_loss": 1.0}],
        [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": None, "eval_loss": 0.5}],
    ],
)
def test_the_loss_is_drawn_from_whatever_was_recorded(tmp_path, metrics):
    assert is_picture(plot.loss_curve(metrics, tmp_path / "loss.png"))


def test_a_report_without_groups_is_one_bar(tmp_path):
    assert is_picture(plot.subtype_accuracy(run(tmp_path / "out", group_by=None), tmp_path / "accuracy.png"))


def test_the_smoothed_loss_keeps_a_straight_line_and_does_not_lag():
    line = [0.5 * i for i in range(100)]
    assert plot._smooth(line) == pytest.approx(line)


def test_the_page_shows_what_is_wrong_and_escapes_everything(tmp_path):
    rows = [row(0, "NORMAL", "<i>seal</i>", "<script>alert(1)</script>"), row(1, "DEFECT", "door")]
    found = run(tmp_path / "out", Model(lambda i: "<b>no</b>" if i == 0 else right(i)), rows)
    page = report.write(found, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "50 % of 2 answers are right" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;i&gt;seal&lt;/i&gt;" in page
    assert not re.search(r"<script|<b>no|<i>seal|src=|href=|@import|url\(", page)
    assert page.count("<details") == 1
    assert "t.jsonl:1" in page
    assert "t.jsonl:2" not in page


def test_totals_of_nothing_are_a_report_too():
    assert json.loads(json.dumps(totals([])))["accuracy"] == 0
