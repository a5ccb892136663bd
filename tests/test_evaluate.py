"""Evaluation: metrics, figures with their intervals, results that go on where they stopped, pictures, the page."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

import recompute
from tunesmith.cli import main
from tunesmith.config.schema import GenerationSection, TemplateSection
from tunesmith.conversation import Conversation, Message, Origin, ToolCall
from tunesmith.errors import ConfigError, DataError, RunError
from tunesmith.evaluate import plot, report
from tunesmith.evaluate.metrics import MetricContext, fold, load, names
from tunesmith.evaluate.results import OTHER, RESULTS, UNREAD, Report, totals
from tunesmith.evaluate.run import PARTIAL, evaluate
from tunesmith.evaluate.statistics import wilson
from tunesmith.generate.engine import Generated, generate
from tunesmith.tokens.encode import Encoder

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

    def __call__(self, prompts: Sequence[Conversation], first: int) -> Iterator[Generated]:
        for prompt in prompts[first:]:
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
    assert found["classes"] == {
        "DEFECT": {"n": 5, "precision": 1.0, "recall": 0.6, "f1": 6 / 8},
        "NORMAL": {"n": 5, "precision": 0.75, "recall": 0.6, "f1": 6 / 9},
    }
    assert found["macro_f1"] == pytest.approx((6 / 8 + 6 / 9) / 2)
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
    assert first["parsed"] == {
        "gold": {"judgement": "NORMAL", "reason": "it is so."},
        "answer": {"judgement": "normal.", "reason": "because."},
    }
    assert first["meta"] == {"subtype": "seal", "id": "r0"}
    asked = {"group_by": "subtype", "rows_sha256": report.settings["rows_sha256"], "checkpoint": "best"}
    assert report.settings == {"metrics": ["label", "rouge"], "answer_template": TEMPLATE, "label": None, **asked}
    assert run(tmp_path / "less", rows=ROWS[:9]).settings["rows_sha256"] != asked["rows_sha256"]


def test_calls_of_tools_are_part_of_the_answer(tmp_path):
    gold = Message("assistant", tool_calls=(ToolCall("look", {"b": 1, "a": 2}),))
    rows = [Conversation((Message("user", "?"), gold))]
    report = run(tmp_path, Model(lambda i: ""), rows, answer_template=None, group_by=None)
    assert report.rows[0]["gold"] == '{"arguments": {"a": 2, "b": 1}, "id": null, "name": "look"}'
    assert report.settings["metrics"] == ["tool_call"], "a call is no mere object, whose id would count"
    assert (report.accuracy, report.totals["groups"]) == (0, {})
    assert report.totals["confusion"] == {"look": {"(other)": 1}}


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


def test_whatever_an_answer_says_it_is_one_record(tmp_path):
    """Separators that Python takes for line ends, half a surrogate pair, control characters."""
    odd = "a\u2028b\x85c\ud800d\x00\n{"
    whole = run(tmp_path / "whole", Model(lambda i: odd))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Model(lambda i: odd, stop_after=4))
    model = Model(lambda i: odd)
    assert run(tmp_path, model) == whole == Report.read(tmp_path)
    assert len(model.asked) == 6
    assert whole.rows[0]["answer"] == odd


def test_what_is_shown_is_there_before_the_results(tmp_path):
    """So results mean that pictures and page are there as well."""
    seen = []
    run(tmp_path, show=lambda found: seen.append((found.accuracy, (tmp_path / RESULTS).exists())))
    assert seen == [(1.0, False)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("drawn", [False, True])
def test_answers_from_the_middle_on_are_those_among_all(tiny_model, tiny_tokenizer, dtype, drawn):
    """Rows are in work together 32 at a time here; what begins in the middle keeps company and draws."""
    import torch

    model, encoder = tiny_model().to(getattr(torch, dtype)), Encoder.load(tiny_tokenizer, TemplateSection())
    draw = random.Random(1)
    asked = [Conversation((Message("user", "Is the valve " * draw.randrange(1, 9) + f"{i}?"),)) for i in range(70)]
    section = GenerationSection(max_new_tokens=6, batch_size=2, do_sample=drawn, temperature=2.0)
    whole = [answer.ids for answer in generate(model, encoder, asked, section)]
    assert len({tuple(ids) for ids in whole}) > 1
    for first in (31, 33, 69):
        seen: list[int] = []
        found = generate(model, encoder, asked, section, first=first, progress=seen.append)
        assert [answer.ids for answer in found] == whole[first:]
        assert seen == list(range(first - first % 32 + 1, 71))


def small_test(folder: Path, rows: int) -> list[str]:
    """The words of an `eval` of so many rows, in groups, with answers of different length."""
    data = folder / "test.jsonl"
    lines = [
        {"id": f"r{i}", "instruction": "Is the valve " * (i % 7) + f"{i}?", "output": f"{i % 3}", "kind": "ab"[i % 2]}
        for i in range(rows)
    ]
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    settings = {"evaluation.metrics": "[exact, length]", "evaluation.group_by": "kind", "model.dtype": "bfloat16"}
    settings |= {"generation.max_new_tokens": 8, "generation.batch_size": 2}
    return ["--data", str(data), *(f"{name}={value}" for name, value in settings.items())]


def check_killed(model: Path, folder: Path, rows: int, kills: int) -> int:
    """Evaluations killed at random moments end with every row once, in order, with the answers of one undisturbed."""
    words = [str(kills), "7", str(folder), str(model), *small_test(folder, rows)]
    script = Path(__file__).with_name("killed_eval.py")
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TUNESMITH_LANG": "en"}
    ran = subprocess.run(
        [sys.executable, str(script), *words], env=os.environ | quiet, text=True, capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    count = int(ran.stdout.split()[-1])
    wanted = [row | {"seconds": 0} for row in Report.read(folder / "straight").rows]
    assert [row["id"] for row in wanted] == [f"r{i}" for i in range(rows)]
    for number in range(count):
        found = Report.read(folder / str(number))
        assert [row | {"seconds": 0} for row in found.rows] == wanted
        assert {"report.html", "subtype_accuracy.png"} <= {path.name for path in (folder / str(number)).iterdir()}
    return count


def test_killed_evaluations_hold_every_row_once_and_in_order(tiny_folder, tmp_path):
    assert check_killed(tiny_folder, tmp_path, rows=40, kills=3) >= 1


@pytest.mark.long
def test_fifty_killed_evaluations_of_two_hundred_rows(tiny_folder, tmp_path):
    assert check_killed(tiny_folder, tmp_path, rows=200, kills=50) >= 1


# the figures once more, by other code


def test_the_written_figures_are_those_of_the_rows(tiny_folder, tmp_path):
    """`eval` twice and `compare` through the command line, and everything computed anew from the written files.

    The rows are conversations already, which the template of the answers reads back.
    """
    data = tmp_path / "test.jsonl"
    words = ["yes", "no"]
    lines = [
        {"text": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"Judgement: {words[i % 2]}"}]}
        | {"subtype": "ab"[i % 3 == 0]}
        for i in range(12)
    ]
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    chosen = ["evaluation.group_by=subtype", "evaluation.metrics=[label, perplexity]", "generation.max_new_tokens=4"]
    chosen += ["evaluation.answer_template=Judgement: {judgement}", "--data", str(data)]
    for name, more in (("a", []), ("b", ["generation.do_sample=true", "generation.temperature=3.0"])):
        assert main(["eval", str(tiny_folder), *chosen, *more, "-o", str(tmp_path / name)]) == 0
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "out")]) == 0
    first, second = (recompute.read(tmp_path / name / RESULTS) for name in "ab")
    for results in (first, second):
        recompute.check_results(results, "judgement")
    recompute.check_comparison(first, second, recompute.read(tmp_path / "out" / "comparison.json")["comparisons"][0])
    settings = first["settings"]
    assert settings["data"][0]["path"] == str(data)
    assert all(re.fullmatch("[0-9a-f]{64}", settings[name]) for name in ("rows_sha256", "template_sha256"))
    assert settings["base_fingerprint"]
    assert {"tunesmith", "torch", "transformers"} <= settings["versions"].keys()
    assert first["rows"][0]["origin"] == f"{data}:1"


def test_rows_that_are_conversations_already_serve_a_run_of_templates(tiny_folder, tmp_path):
    data = tmp_path / "test.jsonl"
    rows = [{"text": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "判断：好\n\n原因：无"}]}] * 3
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = ["data.prompt_template={task}", f"data.answer_template={CHINESE}", "generation.max_new_tokens=2"]
    assert main(["eval", str(tiny_folder), *words, "--data", str(data), "-o", str(tmp_path / "out")]) == 0
    found = Report.read(tmp_path / "out")
    assert [row["parsed"]["gold"] for row in found.rows] == [{"judgement": "好", "reason": "无"}] * 3
    assert found.settings["metrics"] == ["label", "rouge"]


def test_perplexity_and_answers_come_from_one_loaded_model(tiny_folder, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    load, loaded = AutoModelForCausalLM.from_pretrained, []
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda *args, **more: loaded.append(args) or load(*args, **more)
    )
    words = [*small_test(tmp_path, 3), "evaluation.metrics=[exact, perplexity]", "-o", str(tmp_path / "out")]
    assert main(["eval", str(tiny_folder), *words]) == 0
    assert Report.read(tmp_path / "out").totals["scores"]["perplexity"]["tokens"] > 0
    assert len(loaded) == 1


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


def test_names_in_pictures_are_drawn_whatever_they_are(tmp_path):
    """A dollar is no formula, a long name is cut, what no font has is told by its number."""
    assert plot.labels(["$x_{$", "", "a\nb", "x" * 99]) == ["$x_{$", "(none)", "a\\nb", "x" * 44 + "…"]
    assert plot.labels(["密封" * 20]) == ["密封" * 11 + "…"]
    assert plot.labels(["ok \U0001f9ff", "\U000f0000"]) == ["ok U+1F9FF", "U+F0000"]
    rows = [row(i, "DEFECT", name) for i, name in enumerate(["$x_{$", "\U0001f9ff", "\u202eevil\x07"])]
    assert is_picture(plot.subtype_accuracy(run(tmp_path / "out", rows=rows), tmp_path / "accuracy.png"))


def test_a_picture_has_150_dots_an_inch(tmp_path):
    picture = plot.subtype_accuracy(run(tmp_path / "out"), tmp_path / "accuracy.png").read_bytes()
    place = picture.index(b"pHYs") + 4
    assert int.from_bytes(picture[place : place + 4]) == round(150 / 0.0254)


def test_the_page_shows_what_is_wrong_and_escapes_everything(tmp_path):
    rows = [row(0, "NORMAL", "<i>seal</i>", "<script>alert(1)</script>"), row(1, "DEFECT", "door")]
    found = run(tmp_path / "out", Model(lambda i: "<b>no</b>" if i == 0 else right(i)), rows)
    page = report.write(found, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "50 % of 2 answers are right" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;i&gt;seal&lt;/i&gt;" in page
    assert not re.search(r"<b>no|<i>seal|src=|href=|@import|url\(", page)
    assert page.count("<script") == 1
    assert page.count("<details") == 1
    assert "t.jsonl:1" in page
    assert "t.jsonl:2" not in page


def test_totals_of_nothing_are_a_report_too():
    assert json.loads(json.dumps(totals([])))["accuracy"] == 0
