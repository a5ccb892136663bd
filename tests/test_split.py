"""Held-out rows: exact totals, every class on both sides, nothing that belongs together divided."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from tunesmith.conversation import Conversation, Message
from tunesmith.data.split import split
from tunesmith.errors import DataError


def row(index: int, prompt: str | None = None, **meta: Any) -> Conversation:
    messages = (Message("user", prompt or f"q{index}"), Message("assistant", f"a{index}"))
    return Conversation(messages, meta=meta, index=index)


def kinds(rows: list[Conversation], column: str = "kind") -> Counter[Any]:
    return Counter(c.meta[column] for c in rows)


def test_exact_totals_and_every_class_on_both_sides() -> None:
    draw = random.Random(2)
    for trial in range(100):
        classes = draw.randrange(1, 12)
        rows = [row(i, kind=draw.randrange(classes)) for i in range(draw.randrange(30, 120))]
        ratio = draw.choice([0.05, 0.2, 0.5])
        train, held, notices = split(rows, ratio, stratify_by="kind", singletons="train", seed=trial)
        assert sorted(c.index for c in train + held) == list(range(len(rows)))
        sizes = kinds(rows)
        divisible = [kind for kind, n in sizes.items() if n > 1]
        assert len(held) == max(int(len(rows) * ratio + 0.5), len(divisible))
        for kind, n in sizes.items():
            in_held, in_train = kinds(held)[kind], kinds(train)[kind]
            assert in_train >= 1
            assert in_held >= 1 or n == 1
            assert abs(in_held - n * ratio) < 2
        assert bool(notices) == (len(divisible) < len(sizes))


@pytest.mark.parametrize(("choice", "side"), [("train", 0), ("test", 1)])
def test_a_class_of_one_row_goes_where_it_was_sent_and_is_said(choice: Any, side: int) -> None:
    rows = [row(0, kind="rare"), *(row(i, kind="common") for i in range(1, 11))]
    found = split(rows, 0.2, stratify_by="kind", singletons=choice, seed=1)
    assert rows[0] in found[side]
    assert len(found.held) == 2
    assert f"only {choice}ed: 1 (rare)" in found.notices[0]


def test_a_class_of_one_row_can_be_refused() -> None:
    rows = [row(0, kind="rare"), *(row(i, kind="common") for i in range(1, 11))]
    with pytest.raises(DataError, match=r"data\.singletons.*together: 1 \(rare\)"):
        split(rows, 0.2, stratify_by="kind", singletons="error", seed=1)
    assert len(split(rows[1:], 0.2, stratify_by="kind", singletons="error", seed=1).held) == 2


def test_a_class_that_stays_together_is_as_one_row() -> None:
    rows = [*(row(i, kind="rare", code="x") for i in range(3)), *(row(i, kind="common") for i in range(3, 23))]
    given = {"stratify_by": "kind", "split_by": "code", "seed": 1}
    assert kinds(split(rows, 0.2, **given).held) == {"rare": 3, "common": 2}
    assert "rare" not in kinds(split(rows, 0.2, singletons="train", **given).held)


def test_a_pattern_pairs_rows_and_names_what_it_does_not_match() -> None:
    rows = [row(i, id=f"E{i // 2}-{'bad' if i % 2 else 'good'}") for i in range(40)] + [row(40, id="odd")]
    for seed in range(5):
        train, held, notices = split(rows, 0.3, split_by="id", split_pattern="(.*)-(bad|good)", seed=seed)
        codes = [{c.meta["id"].split("-")[0] for c in part} for part in (train, held)]
        assert not codes[0] & codes[1]
        assert "1 (odd)" in notices[0]


def test_the_seed_decides_and_order_is_kept() -> None:
    rows = [row(i) for i in range(100)]
    first = split(rows, 0.2, seed=7)
    assert first == split(rows, 0.2, seed=7)
    assert first.held != split(rows, 0.2, seed=8).held
    for part in (first.train, first.held):
        assert [c.index for c in part] == sorted(c.index for c in part)


def test_groups_stay_together_also_when_stratified() -> None:
    draw = random.Random(4)
    for trial in range(30):
        rows = [row(i, code=draw.randrange(40), kind=draw.randrange(4)) for i in range(200)]
        for settings in ({}, {"stratify_by": "kind"}):
            train, held, _notices = split(rows, 0.2, split_by="code", seed=trial, **settings)
            assert not set(kinds(train, "code")) & set(kinds(held, "code"))
            assert 20 <= len(held) <= 60
            assert not settings or set(kinds(held)) == set(kinds(train)) == {0, 1, 2, 3}


def test_equal_prompts_never_part() -> None:
    rows = [row(i, prompt=f"q{i % 20}", kind=i % 3) for i in range(100)]
    for settings in ({}, {"stratify_by": "kind"}):
        train, held, _notices = split(rows, 0.3, seed=3, **settings)
        assert held
        assert not {c.messages[0] for c in train} & {c.messages[0] for c in held}


def test_rows_without_a_group_stand_alone() -> None:
    rows = [row(0, code="x"), *(row(i) for i in range(1, 50))]
    assert len(split(rows, 0.2, split_by="code", seed=0).held) == 10


def test_what_cannot_be_divided() -> None:
    one_group = [row(i, code="same") for i in range(10)]
    train, held, notices = split(one_group, 0.5, split_by="code", seed=0)
    assert (len(train), len(held)) == (10, 0)
    assert any("Nothing was held out" in notice for notice in notices)
    coarse = [row(i, code=i % 2) for i in range(20)]
    train, held, notices = split(coarse, 0.2, split_by="code", seed=0)
    assert (len(train), len(held)) == (10, 10)
    assert "10 rows instead of 4" in notices[0]
    assert split(one_group, 0.0, seed=0) == (one_group, [], [])


def test_columns_that_do_not_exist() -> None:
    with pytest.raises(DataError, match=r"data\.stratify_by.*subtyp.*kind"):
        split([row(0, kind="x")], 0.2, stratify_by="subtyp", seed=0)
    with pytest.raises(DataError, match=r"data\.split_by"):
        split([row(0)], 0.2, split_by="code", seed=0)
