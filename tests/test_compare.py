"""Two results side by side: statistics against published values and counting, verdict, pictures, page, command."""

from __future__ import annotations

import io
import json
import math
import random
import re
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from tunesmith.actions.compare import compare
from tunesmith.cli import main
from tunesmith.conversation import Conversation, Message
from tunesmith.errors import RunError
from tunesmith.evaluate import report
from tunesmith.evaluate.metrics import MetricContext, Scored, load
from tunesmith.evaluate.plot_compare import COLOURS
from tunesmith.evaluate.results import RESULTS, Report, totals
from tunesmith.evaluate.run import evaluate
from tunesmith.evaluate.statistics import DRAWS, holm, mcnemar, middle, paired_interval, redrawn, wilson
from tunesmith.generate.engine import Generated

PICTURES = ["model_comparison.png", "overall_accuracy_comparison.png", "type_accuracy_comparison.png"]


def record(i: int, correct: bool, *, group: str | None = None, kind: str | None = None, answer: str = "") -> dict:
    expected = "defect" if i % 2 else "normal"
    return {
        "index": i, "id": f"r{i}", "origin": f"t.jsonl:{i + 1}", "group": group, "type": kind,
        "prompt": [{"role": "system", "content": "Judge."}, {"role": "user", "content": f"What is row {i}?"}],
        "gold": f"It is {expected}.", "answer": answer or ("It is right." if correct else "It is wrong."),
        "reasoning": None, "tokens": 4, "seconds": 0.1, "finished": True, "correct": correct,
        "scores": {"exact": {"correct": correct}},
    }  # fmt: skip


def results(folder: Path, verdicts: Sequence[bool], *, metric: str = "exact", **columns: Any) -> Path:
    """A folder of results, a row for each verdict; a column is a function of the row's number."""
    rows = [
        record(i, correct, **{name: column(i) for name, column in columns.items()})
        for i, correct in enumerate(verdicts)
    ]
    Report(rows, totals(rows), {"metrics": [metric]}).write(folder / RESULTS)
    return folder


def tunesmith(*words: str | Path) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


# statistics


def test_the_exact_test_against_published_values_and_by_counting():
    """Tables of the sign test: 1 of 10 is 0.011 and 3 of 18 is 0.004 on one side, twice that on both."""
    assert mcnemar(1, 9) == pytest.approx(0.021484375, abs=1e-15)
    assert mcnemar(15, 3) == pytest.approx(0.007537841796875, abs=1e-15)
    assert mcnemar(0, 0) == mcnemar(4, 4) == mcnemar(4, 5) == 1
    for broken, fixed in product(range(7), range(7)):
        coins = list(product((0, 1), repeat=broken + fixed))
        uneven = sum(abs(2 * sum(heads) - broken - fixed) >= abs(broken - fixed) for heads in coins)
        assert mcnemar(broken, fixed) == pytest.approx(uneven / len(coins))
    assert mcnemar(20_000, 20_100) > 0.5


def test_the_interval_of_a_difference_against_published_values():
    """Newcombe 1998, Statistics in Medicine 17:2635, method 10: pairs of 36, 12, 2, 0."""
    low, high = paired_interval(36, 2, 12, 0)
    assert (low, high) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    assert paired_interval(36, 12, 2, 0) == pytest.approx((-high, -low))
    assert paired_interval(0, 0, 0, 0) == (-1, 1)
    assert paired_interval(0, 0, 5, 0)[1] == pytest.approx(1)


def test_the_interval_of_a_difference_holds_its_share():
    """Over all tables of 16 rows: the true difference lies inside in 95 % of the draws, give or take."""
    n = 16
    ways = math.factorial(n)
    for chances in [(0.25, 0.25, 0.25, 0.25), (0.6, 0.1, 0.2, 0.1), (0.1, 0.02, 0.7, 0.18), (0.3, 0.05, 0.3, 0.35)]:
        covered = 0.0
        for first in product(range(n + 1), repeat=3):
            if sum(first) <= n:
                counts = (*first, n - sum(first))
                low, high = paired_interval(*counts)
                if low <= chances[2] - chances[1] <= high:
                    covered += (
                        ways
                        / math.prod(map(math.factorial, counts))
                        * math.prod(p**k for p, k in zip(chances, counts, strict=True))
                    )
        assert 0.93 < covered < 0.99


def test_many_questions_are_corrected():
    """Holm 1979: the smallest p times all, the next times one less, never falling."""
    assert holm([]) == []
    assert holm([0.04]) == [0.04]
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    draw = random.Random(0)
    for _round in range(50):
        values = [draw.random() ** 3 for _value in range(draw.randrange(1, 30))]
        m = len(values)
        ranked = sorted(values)
        slow = [min(1, max((m - ranked.index(q)) * q for q in ranked if q <= p)) for p in values]
        assert holm(values) == pytest.approx(slow)


def by_scipy(one, other):
    """The paired bootstrap interval of the difference of two columns' means."""
    import numpy
    from scipy import stats

    return stats.bootstrap(
        (one, other),
        lambda x, y, axis: y.mean(axis) - x.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=DRAWS,
        rng=numpy.random.default_rng(0),
    ).confidence_interval


def test_the_statistics_are_those_of_scipy_and_statsmodels():
    """On random tables: Wilson, McNemar, Holm, and the paired bootstrap, which draws the same rows as scipy's."""
    import numpy
    from scipy import stats
    from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import proportion_confint

    draw = numpy.random.default_rng(5)
    for _round in range(100):
        n = int(draw.integers(1, 400))
        right = int(draw.integers(0, n + 1))
        assert wilson(right, n) == pytest.approx(proportion_confint(right, n, method="wilson"))
        assert wilson(right, n) == pytest.approx(tuple(stats.binomtest(right, n).proportion_ci(method="wilson")))
        (both, broken), (fixed, neither) = table = draw.integers(0, 60, (2, 2))
        wanted = mcnemar_of_statsmodels(table, exact=True).pvalue if broken + fixed else 1.0
        assert mcnemar(int(broken), int(fixed)) == pytest.approx(wanted)
        values = list(draw.random(int(draw.integers(1, 60))) ** 3)
        assert holm(values) == pytest.approx(multipletests(values, method="holm")[1])
    for n in (3, 40, 500):
        pairs = draw.normal(size=(n, 2)) + [0.0, 0.3]
        wanted = by_scipy(pairs[:, 0], pairs[:, 1])
        sums = redrawn(pairs.tolist())
        assert middle((sums[:, 1] - sums[:, 0]) / n) == pytest.approx((wanted.low, wanted.high))


# figures that are no shares


TEXTS = [
    ("The valve leaks at the seal and must be closed.", "The valve leaks at its seal, so close it."),
    ("Replace the gasket before the next shift.", "Replace the gasket before the next shift."),
    ("The pump is not faulty.", "The pump is faulty, or not."),
    ("Close the valve first and then look at the seal.", "First close the valve."),
]


@pytest.mark.parametrize("name", ["bleu", "chrf", "length"])
def test_figures_of_rows_drawn_again_are_those_that_the_metric_has_of_them(name):
    """What is added up over drawn rows is the metric's own figure of these very rows, some of them twice."""
    metric, plain = load(name), MetricContext()
    rows = [Scored(gold, answer, metric(gold, answer, plain)) for gold, answer in TEXTS]
    assert metric.sums is not None
    assert metric.total is not None
    table, figures = metric.sums(rows, plain)
    draw = random.Random(2)
    for _round in range(10):
        chosen = draw.choices(range(len(rows)), k=len(rows))
        found = figures([sum(column) for column in zip(*(table[i] for i in chosen), strict=True)])
        wanted = metric.total([rows[i] for i in chosen], plain)
        assert found == {figure: pytest.approx(wanted[figure]) for figure in found}


def scored(folder: Path, answers: Sequence[str], *metrics: str) -> Path:
    """Results of these answers to the questions of TEXTS, again and again, written by the evaluation itself."""

    def respond(prompts: Sequence[Conversation], first: int) -> Any:
        return [Generated(Message("assistant", answers[p.index]), [1], 1, 0.1, True) for p in prompts[first:]]

    rows = [
        Conversation((Message("user", f"q{i}"), Message("assistant", TEXTS[i % len(TEXTS)][0])), index=i)
        for i in range(len(answers))
    ]
    evaluate(rows, respond, out=folder, metrics=["exact", *metrics])
    return folder


def test_scored_metrics_are_compared_by_drawing_the_rows_again(tmp_path):
    """The mean of a row's figure against scipy; BLEU's own figure, of all rows, stands beside its interval."""
    from sacrebleu.metrics import BLEU

    poor = [f"It is {gold.split()[0]} {'or not' * (i % 3)}" for i, (gold, _said) in enumerate(TEXTS * 6)]
    good = [said if i % 5 else "no" for i, (_gold, said) in enumerate(TEXTS * 6)]
    a, b = scored(tmp_path / "a", poor, "bleu", "rouge"), scored(tmp_path / "b", good, "bleu", "rouge")
    (found,) = compare([a, b]).comparisons
    told = {score.name: score for score in found.scores}
    golds = [gold for gold, _said in TEXTS * 6]
    assert told["bleu"].values == tuple(BLEU().corpus_score(side, [golds]).score for side in (poor, good))
    assert told["bleu"].verdict == "higher"
    assert "bleu sentence" not in told
    columns = [[row["scores"]["rouge"]["rougeL"] for row in Report.read(side).rows] for side in (a, b)]
    wanted = by_scipy(*columns)
    assert told["rouge rougeL"].interval == pytest.approx((wanted.low, wanted.high))
    kept = json.loads((found_folder := b / "comparison" / "comparison.json").read_text(encoding="utf-8"))
    assert [score["metric"] for score in kept["comparisons"][0]["scores"]] == ["bleu", "rouge", "rouge", "rouge"]
    page = found_folder.with_name("report.html").read_text(encoding="utf-8")
    assert "By metric" in page
    assert "rouge rougeL" in page


def test_where_no_answer_is_right_the_verdict_is_on_the_first_other_figure(tmp_path):
    poor, good = ["no"] * 12, [said + " Yes." for _gold, said in TEXTS * 3]
    a, b = scored(tmp_path / "a", poor, "chrf"), scored(tmp_path / "b", good, "chrf")
    (found,) = compare([a, b]).comparisons
    assert re.match(r"chrf is higher in b than in a: \d+\.\d+ and \d", found.sentence())
    (back,) = compare([b, a]).comparisons
    assert back.sentence().startswith("chrf is lower in a than in b")
    (same,) = compare([a, scored(tmp_path / "c", ["so"] * 12, "chrf")]).comparisons
    assert "could be chance" in same.sentence()


# the verdict


def test_the_figures_are_those_of_the_rows(tmp_path):
    """Recomputed from the two files of results with nothing of the code that compared them."""
    draw = random.Random(3)
    before = [draw.random() < 0.4 for _row in range(80)]
    after = [right or draw.random() < 0.5 for right in before]
    after[before.index(True)] = False
    a = results(tmp_path / "a", before, group=lambda i: f"g{i % 3}", kind=lambda i: "xy"[i % 2])
    b = results(tmp_path / "b", after, group=lambda i: f"g{i % 3}", kind=lambda i: "xy"[i % 2])
    compare([a, b], out=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    (told,) = found["comparisons"]
    rows = [json.loads((folder / RESULTS).read_text(encoding="utf-8"))["rows"] for folder in (a, b)]
    right = [{row["id"] for row in part if row["correct"]} for part in rows]
    assert {row["id"] for row in told["fixed_rows"]} == right[1] - right[0]
    assert {row["id"] for row in told["broken_rows"]} == right[0] - right[1]
    assert told["gain"] == pytest.approx((len(right[1]) - len(right[0])) / 80)
    assert [side["correct"] for side in found["results"]] == [len(part) for part in right]
    for column, part in (("group", "groups"), ("type", "types")):
        for name, group in told[part].items():
            ids = {row["id"] for row in rows[0] if row[column] == name}
            assert group["n"] == len(ids)
            assert group["accuracy"] == pytest.approx([len(ids & side) / len(ids) for side in right])
    assert (told["verdict"], told["n"]) == ("better", 80)
    assert told["broken_rows"][0]["origin"] == f"t.jsonl:{before.index(True) + 1}"


@pytest.mark.parametrize(
    ("before", "after", "verdict", "says"),
    [
        ([False] * 20, [True] * 18 + [False] * 2, "better", "b is better than a by 90 points"),
        (
            [True] * 18 + [False] * 2,
            [False] * 20,
            "worse",
            "b is worse than a by 90 points (95 % interval 64.2 to 97.2)",
        ),
        ([False] * 20, [True] * 3 + [False] * 17, "open", "changes by 15 points"),
        ([True, False] * 10, [True, False] * 10, "open", "changes by 0 points"),
    ],
)
def test_the_verdict_in_words(before, after, verdict, says, tmp_path):
    """Three fixed rows of twenty are no proof: chance alone does that once in four times."""
    (found,) = compare([results(tmp_path / "a", before), results(tmp_path / "b", after)]).comparisons
    assert found.whole.verdict == verdict
    assert says in found.sentence()
    assert f"fixed: {len(found.fixed)}, rows that broke: {len(found.broken)}" in found.sentence()
    assert found.by_group() == []


def test_one_group_of_many_must_do_more_to_count(tmp_path):
    """Six rows fixed of six: alone beyond chance (p 0.03), as one of twenty groups not."""
    before, after = [False] * 120, [i < 6 for i in range(120)]
    many = {"group": lambda i: f"g{i // 6:02d}"}
    few = {"group": lambda i: "g00" if i < 6 else "rest"}
    for name, columns, said in (("m", many, "No single group"), ("f", few, "No single group")):
        a, b = (results(tmp_path / f"{name}{side}", v, **columns) for side, v in enumerate((before, after)))
        (found,) = compare([a, b]).comparisons
        alone = mcnemar(0, 6)
        assert alone < 0.05
        assert found.groups["g00"].p == pytest.approx(min(1, alone * len(found.groups)))
        assert found.by_group()[0].startswith(said)


def test_rows_are_matched_by_their_ids_whatever_their_order_and_prompt(tmp_path):
    a = results(tmp_path / "a", [True, False, True, False])
    kept = Report.read(a)
    rows = [row | {"prompt": row["prompt"][1:], "origin": None} for row in reversed(kept.rows)]
    Report(rows, totals(rows), kept.settings).write(tmp_path / "b" / RESULTS)
    (found,) = compare([a, tmp_path / "b"]).comparisons
    assert (found.whole.both, found.whole.neither, found.fixed, found.broken) == (2, 2, [], [])


def test_rows_without_an_id_are_named_by_what_they_ask_and_expect(tmp_path):
    """The same row has the same name in another order and under another system prompt; equal rows have names too."""

    def asked(questions: str, system: str, **meta: Any) -> list[str]:
        rows = [
            Conversation(
                (Message("system", system), Message("user", q), Message("assistant", "yes")), meta=meta, index=i
            )
            for i, q in enumerate(questions)
        ]

        def respond(prompts: Sequence[Conversation], first: int) -> Any:
            return [Generated(Message("assistant", "yes"), [1], 1, 0.1, True) for _prompt in prompts[first:]]

        return [row["id"] for row in evaluate(rows, respond, out=tmp_path, overwrite=True).rows]

    a, b, again = asked("aba", "Judge.")
    assert len({a, b, again}) == 3
    assert asked("ba", "Be brief.") == [b, a]
    assert asked("aab", "Judge.", id="the same for all") == [a, again, b]


def test_the_same_id_with_another_expected_answer_is_another_row(tmp_path):
    a = results(tmp_path / "a", [True] * 4)
    kept = Report.read(a)
    rows = [row | {"gold": "Other."} if row["index"] == 2 else row for row in kept.rows]
    Report(rows, totals(rows), kept.settings).write(tmp_path / "b" / RESULTS)
    with pytest.raises(RunError, match=r"1 of 4 rows expect another answer .* first is t\.jsonl:3"):
        compare([a, tmp_path / "b"])


# what cannot be compared


def test_other_rows_are_refused_with_the_first_of_them(tmp_path):
    a, b = results(tmp_path / "a", [True] * 5), results(tmp_path / "b", [True] * 3)
    with pytest.raises(RunError) as caught:
        compare([a, b], out=tmp_path / "out")
    lines = list(map(str, caught.value.problems))
    assert lines[0] == f"{a / RESULTS}  2 of 5 rows have no counterpart on the other side, the first is t.jsonl:4."
    assert "tunesmith eval RUN --data FILE" in lines[1]
    assert not (tmp_path / "out").exists()


def test_answers_judged_by_another_metric_are_refused(tmp_path):
    a, b = results(tmp_path / "a", [True]), results(tmp_path / "b", [True], metric="contains")
    with pytest.raises(RunError, match=r"(?s)judged by exact.*judged by contains"):
        compare([a, b])


def test_every_word_that_leads_nowhere_is_told_at_once(tmp_path):
    (tmp_path / "odd.json").write_text("{}")
    code, _out, err = tunesmith("compare", tmp_path / "none", tmp_path / "odd.json")
    assert code == 2
    assert err.count("tunesmith eval RUN") == 2
    assert "2 problems." in err
    assert "Traceback" not in err
    a = results(tmp_path / "a", [True])
    for words, says in (([a], "Name two results"), ([a, a / RESULTS], "named twice"), ([a] * 7, "up to 6")):
        code, _out, err = tunesmith("compare", *words)
        assert code == 2
        assert says in err


@pytest.mark.parametrize("damage", [{"prompt": 3}, {"correct": "yes"}, {"answer": None}, {"id": "r0"}, {"gold": ...}])
def test_a_damaged_row_is_told_by_its_number(damage, tmp_path):
    a, b = results(tmp_path / "a", [True, True]), results(tmp_path / "b", [True, True])
    content = json.loads((b / RESULTS).read_text(encoding="utf-8"))
    content["rows"][1] |= damage if ... not in damage.values() else {}
    if ... in damage.values():
        del content["rows"][1]["gold"]
    (b / RESULTS).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(RunError, match="Row 2 of these results is damaged"):
        compare([a, b])


# pictures, page, command


@pytest.mark.filterwarnings("error")
def test_three_pictures_with_chinese_names_and_no_boxes(tmp_path):
    """By subtype, over all, by type; matplotlib warns of every character that its fonts lack."""
    pytest.importorskip("pylopdf_fonts_zh_cn", reason="the package with the Chinese font is not installed")
    columns = {"group": lambda i: f"密封缺陷{i % 57}", "kind": lambda i: "有缺陷" if i % 2 else "无缺陷"}
    a = results(tmp_path / "基座", [i % 3 == 0 for i in range(171)], **columns)
    b = results(tmp_path / "微调后", [i % 5 > 0 for i in range(171)], **columns)
    folder = compare([a, b]).folder
    assert folder == b / "comparison"
    assert sorted(path.name for path in folder.glob("*.png")) == PICTURES
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))
    height = int.from_bytes((folder / PICTURES[0]).read_bytes()[20:24])
    assert height > 57 * 50  # room for every group


# Machado, Oliveira, Fernandes 2009: what eyes without one kind of cones see of linear RGB.
EYES = {
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "no red": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "no green": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "no blue": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))


def dot(row: Sequence[float], values: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(row, values, strict=True))


def seen(colour: str, eyes: str) -> tuple[float, float, float]:
    """CIE L*a*b* of a colour as these eyes have it."""
    parts = [value / 255 for value in bytes.fromhex(colour[1:])]
    linear = [((v + 0.055) / 1.055) ** 2.4 if v > 0.04045 else v / 12.92 for v in parts]
    left = [min(max(dot(row, linear), 0), 1) for row in EYES[eyes]]
    xyz = [dot(row, left) / white for row, white in zip(XYZ, (0.95047, 1, 1.08883), strict=True)]
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("eyes", EYES)
def test_the_colours_are_told_apart_also_by_colour_blind_eyes(eyes):
    colours = [seen(colour, eyes) for colour in COLOURS]
    assert min(math.dist(a, b) for a, b in combinations(colours, 2)) > 25


def test_without_groups_and_types_only_the_whole_is_drawn(tmp_path):
    folder = compare([results(tmp_path / "a", [True] * 4), results(tmp_path / "b", [False] * 4)]).folder
    assert [path.name for path in folder.glob("*.png")] == [PICTURES[1]]


def test_the_page_needs_nothing_else_and_escapes_everything(tmp_path):
    hostile = "<script>alert(1)</script> \u202eevil\x07"
    a = results(tmp_path / "a", [True, False, True], group=lambda i: "<i>g</i>", answer=lambda i: f"old {hostile} {i}")
    b = results(tmp_path / "b", [False, True, True], group=lambda i: "<i>g</i>", answer=lambda i: f"new {hostile} {i}")
    page = (compare([a, b]).folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<i>g|src=|href=|@import|url\(|https?:", page)
    assert page.count("<script") == 1  # its own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.replace("<mark>", "").replace("</mark>", "")
    assert "<mark>old</mark>" in page
    assert "<mark>new</mark>" in page
    assert "t.jsonl:1" in page
    assert "t.jsonl:2" in page
    assert "t.jsonl:3" not in page  # neither fixed nor broken
    assert "Rows that broke: 1" in page


def test_a_type_is_the_rows_own_column_or_the_expected_judgement(tmp_path):
    def rows(**meta: str) -> list[Conversation]:
        return [
            Conversation((Message("user", f"{i}?"), Message("assistant", f"Judgement: {label}")), meta=meta, index=i)
            for i, label in enumerate(("DEFECT", "NORMAL", "DEFECT"))
        ]

    def respond(prompts: Sequence[Conversation], first: int) -> Any:
        return [Generated(Message("assistant", "Judgement: DEFECT"), [1], 1, 0.1, True) for _prompt in prompts[first:]]

    judged = evaluate(rows(), respond, out=tmp_path / "a", answer_template="Judgement: {judgement}")
    assert {name: (t["correct"], t["n"]) for name, t in judged.totals["types"].items()} == {
        "DEFECT": (2, 2),
        "NORMAL": (0, 1),
    }
    declared = evaluate(rows(type="rain"), respond, out=tmp_path / "b", answer_template="Judgement: {judgement}")
    assert list(declared.totals["types"]) == ["rain"]
    assert "rain" in report.write(declared, tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_command_shows_accuracies_verdict_and_where_it_lies(tmp_path):
    a = results(tmp_path / "a", [False] * 12, group=lambda i: "seal")
    b = results(tmp_path / "b", [True] * 12, group=lambda i: "seal")
    code, out, err = tunesmith("compare", a, b / RESULTS, "-o", tmp_path / "out")
    assert code == 0
    assert re.search(r"a +0\.0% +0/12", out)
    assert re.search(r"b +100\.0% +12/12", out)
    assert "b is better than a by 100 points" in err
    assert str(tmp_path / "out") in err
    kept = (tmp_path / "out" / "comparison.json").read_bytes()
    code, _out, err = tunesmith("compare", b, a, "-o", tmp_path / "out")
    assert code == 2
    assert "--overwrite" in err
    assert (tmp_path / "out" / "comparison.json").read_bytes() == kept
    assert tunesmith("compare", b, a, "-o", tmp_path / "out", "--overwrite")[0] == 0


def test_several_results_stand_in_one_table_against_the_first(tmp_path):
    """The first fixes six rows: alone beyond chance; with two to choose from no more."""
    a = results(tmp_path / "a", [False] * 30)
    b, c = (results(tmp_path / name, [i < 6 for i in range(30)]) for name in "bc")
    code, out, err = tunesmith("compare", a, b, c)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["Results", "a", "b", "c"]
    page = (c / "comparison" / "report.html").read_text(encoding="utf-8")
    assert re.search(r"<td>a</td>.*\n<tr><td>b</td>.*0 / 30|<td>b</td>.*6 / 30.*could be chance", page)
    assert err.count("could be chance") == 2
    assert "b is better than a" in tunesmith("compare", a, b, "-o", tmp_path / "two")[2]


def test_a_run_alone_is_compared_with_its_base_and_names_what_is_missing(tmp_path):
    run = tmp_path / "run"
    kept = run / "checkpoint-8"
    kept.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (kept / "manifest.json").write_text('{"files": {}, "eval_loss": 1.0}')
    results(run / "evaluation" / "checkpoint-8", [True] * 9)
    code, _out, err = tunesmith("compare", run)
    assert code == 2
    assert f"tunesmith eval {run} --base" in err
    results(run / "evaluation" / "base", [False] * 9)
    assert "checkpoint-8 is better than base" in tunesmith("compare", run)[2]
    assert "base is worse than checkpoint-8" in tunesmith("compare", kept, run / "evaluation" / "base")[2]
