"""The forest holds every answer in exactly its context, each shared token once."""

import random

import numpy as np
import pytest

from tunesmith.tokens.answer import Answer
from tunesmith.tokens.forest import grow


def random_answers(rng: random.Random, count: int, vocabulary: int = 4) -> list[Answer]:
    """Few ids and short rows, so that prefixes are shared and whole rows repeat."""
    answers = []
    for _ in range(count):
        if answers and rng.random() < 0.5:  # a later turn of a dialogue
            before = rng.choice(answers)
            context = before.context_ids + before.answer_ids + [rng.randrange(vocabulary)]
        else:
            context = [rng.randrange(vocabulary) for _ in range(rng.randint(1, 6))]
        answer = [rng.randrange(vocabulary) for _ in range(rng.randint(1, 5))]
        answers.append(Answer(0, context, answer, [float(rng.choice([1, 1, 2, 0.5]))] * len(answer)))
    return answers


@pytest.mark.parametrize("seed", range(300))
def test_every_answer_is_read_back_whole(seed):
    rng = random.Random(seed)
    answers = random_answers(rng, rng.randint(1, 12))
    forest = grow(answers)
    for answer, (context, target, _weights) in zip(answers, forest.answers(), strict=True):
        assert context == answer.context_ids
        assert target == answer.answer_ids
    assert forest.weight.sum() == pytest.approx(sum(sum(a.weights) for a in answers))
    distinct = {tuple((a.context_ids + a.answer_ids)[:k]) for a in answers for k in range(1, len(a))}
    assert len(forest) == len(distinct)


@pytest.mark.parametrize("seed", range(100))
def test_runs_cover_the_row_and_positions_are_depths(seed):
    forest = grow(random_answers(random.Random(1000 + seed), 8))
    assert [r.start for r in forest.runs] == [0, *[r.stop for r in forest.runs[:-1]]]
    assert forest.runs[-1].stop == len(forest)
    for token in range(len(forest)):
        path = forest.path(token)
        assert path[-1] == token
        assert len(path) == forest.position_ids[token] + 1
        assert (np.diff(path) > 0).all()


def test_equal_rows_merge_and_their_weights_add():
    row = Answer(0, [1, 2], [3, 4], [1.0, 1.0])
    heavy = Answer(0, [1, 2], [3, 4], [2.0, 2.0])
    forest = grow([row, heavy])
    assert forest.input_ids.tolist() == [1, 2, 3]
    assert forest.weight.tolist() == [3.0, 3.0]


def test_a_branching_token_has_several_targets():
    forest = grow([Answer(0, [1], [2, 9], [1.0] * 2), Answer(0, [1], [3, 9], [1.0] * 2)])
    assert forest.input_ids.tolist() == [1, 2, 3]
    assert forest.source.tolist() == [0, 0, 1, 2]
    assert forest.target.tolist() == [2, 3, 9, 9]


def test_a_whole_dialogue_shares_its_history():
    first = Answer(1, [1, 2], [3, 4], [1.0] * 2)
    second = Answer(3, [1, 2, 3, 4, 5], [6, 7], [1.0] * 2)
    forest = grow([first, second])
    assert forest.input_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert len(forest.runs) == 1


def test_an_empty_forest():
    assert len(grow([])) == 0
