"""The figures of an evaluation and of a comparison, computed anew from the written rows alone.

Shares nothing with the program: shares by scipy and statsmodels, text by the reference libraries, labels by patterns of
its own. Every function raises AssertionError where a written figure is another than the one computed here.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

PUNCTUATION = " \t\r\n.,:;!?。，：；！？'\"()（）"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def close(found: float, wanted: float) -> bool:
    return math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-9)


def check_share(found: dict[str, Any], verdicts: list[bool]) -> None:
    right, n = sum(verdicts), len(verdicts)
    assert (found["n"], found["correct"]) == (n, right)
    assert close(found["accuracy"], right / n)
    assert all(map(close, found["interval"], proportion_confint(right, n, method="wilson")))


def label(text: str, field: str) -> str | None:
    """What stands behind `Field:` in a text, folded."""
    match = re.search(rf"{field}\s*:\s*(.*)", unicodedata.normalize("NFKC", text), re.IGNORECASE)
    return match[1].casefold().strip(PUNCTUATION) if match else None


def check_results(results: dict[str, Any], field: str | None = None) -> None:
    """`field`: the word that stands before the label in the answers, where labels decide."""
    rows, totals = results["rows"], results["totals"]
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(re.search(r":\d+$", row["origin"]) for row in rows)
    assert all(row["answer"].strip() or not row["correct"] for row in rows)
    check_share(totals, [row["correct"] for row in rows])
    for column, kind in (("group", "groups"), ("type", "types")):
        members = defaultdict(list)
        for row in rows:
            if row[column] is not None:
                members[row[column]].append(row["correct"])
        assert totals[kind].keys() == members.keys()
        for name, verdicts in members.items():
            check_share(totals[kind][name], verdicts)
        if column == "group" and members:
            assert close(totals["macro_accuracy"], sum(sum(v) / len(v) for v in members.values()) / len(members))
    assert totals["tokens"] == sum(row["tokens"] for row in rows)
    assert totals["empty"] == sum(not row["answer"].strip() for row in rows)
    assert totals["unfinished"] == sum(not row["finished"] for row in rows)
    if field is not None:
        check_labels(rows, totals, field)
    check_perplexity(rows, totals)


def check_labels(rows: list[dict[str, Any]], totals: dict[str, Any], field: str) -> None:
    pairs = [(label(row["gold"], field), label(row["answer"], field), row["correct"]) for row in rows]
    assert all((said == wanted) == correct for wanted, said, correct in pairs)
    found = {
        name.casefold(): {k.casefold(): n for k, n in counts.items()} for name, counts in totals["confusion"].items()
    }
    for name in found:
        said = Counter(said for wanted, said, _correct in pairs if wanted == name)
        assert {k: n for k, n in found[name].items() if not k.startswith("(")} == {
            k: n for k, n in said.items() if k in found
        }
        assert sum(found[name].values()) == sum(said.values())
    scores = []
    for name in found:
        true = sum(wanted == said == name for wanted, said, _correct in pairs)
        wanted, said = (sum(pair[i] == name for pair in pairs) for i in (0, 1))
        scores.append(2 * true / (wanted + said))
    assert close(totals["macro_f1"], sum(scores) / len(scores))


def check_perplexity(rows: list[dict[str, Any]], totals: dict[str, Any]) -> None:
    if "perplexity" not in totals["scores"]:
        return
    scores = [row["scores"]["perplexity"] for row in rows]
    nats = sum(math.log(score["perplexity"]) * score["tokens"] for score in scores)
    found = totals["scores"]["perplexity"]
    assert math.isclose(found["perplexity"], math.exp(nats / sum(s["tokens"] for s in scores)), rel_tol=1e-6)


def check_comparison(first: dict[str, Any], second: dict[str, Any], comparison: dict[str, Any]) -> None:
    """`comparison` is one of comparison.json's, of the second results against the first, and the only one there."""
    before, after = ({row["id"]: row for row in results["rows"]} for results in (first, second))
    assert before.keys() == after.keys()
    check_difference(comparison, before, after, list(before), 1)
    for kind, column in (("groups", "group"), ("types", "type")):
        members = defaultdict(list)
        for name, row in after.items():
            if row[column] is not None:
                members[row[column]].append(name)
        assert comparison[kind].keys() == members.keys()
        raised = {}
        if members:
            alone = [chance(before, after, members[name]) for name in members]
            raised = dict(zip(members, multipletests(alone, method="holm")[1], strict=True))
        for name, ids in members.items():
            check_difference(comparison[kind][name], before, after, ids, None)
            assert close(comparison[kind][name]["p"], raised[name])
    fixed = [name for name in before if after[name]["correct"] and not before[name]["correct"]]
    broken = [name for name in before if before[name]["correct"] and not after[name]["correct"]]
    assert [row["id"] for row in comparison["fixed_rows"]] == fixed
    assert [row["id"] for row in comparison["broken_rows"]] == broken


def chance(before: dict[str, Any], after: dict[str, Any], ids: list[str]) -> float:
    table = [[0, 0], [0, 0]]
    for name in ids:
        table[not before[name]["correct"]][not after[name]["correct"]] += 1
    return float(mcnemar(table, exact=True).pvalue) if table[0][1] + table[1][0] else 1.0


def check_difference(found: dict[str, Any], before: Any, after: Any, ids: list[str], questions: int | None) -> None:
    shares = [sum(side[name]["correct"] for name in ids) / len(ids) for side in (before, after)]
    assert found["n"] == len(ids)
    assert all(map(close, found["accuracy"], shares))
    assert close(found["gain"], shares[1] - shares[0])
    assert found["interval"][0] <= found["gain"] + 1e-9
    assert found["gain"] - 1e-9 <= found["interval"][1]
    changed = [name for name in ids if before[name]["correct"] != after[name]["correct"]]
    assert found["fixed"] + found["broken"] == len(changed)
    if questions == 1:
        assert close(found["p"], chance(before, after, ids))
        assert close(found["p"], binomtest(found["fixed"], len(changed)).pvalue if changed else 1.0)
    wanted = "open" if found["p"] >= 0.05 else "better" if found["gain"] > 0 else "worse"
    assert found["verdict"] == wanted
