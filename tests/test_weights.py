"""Weights in the loss: of rows, messages and parts of answers, from data and settings to the gradient."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tunesmith.config.load import load
from tunesmith.config.schema import DataSection, TemplateSection
from tunesmith.conversation import Conversation, Message, Span
from tunesmith.data import dataset, formats
from tunesmith.errors import ConfigError
from tunesmith.tokens.answer import Answer
from tunesmith.tokens.encode import Encoder
from tunesmith.tokens.forest import grow

ASSETS = Path(__file__).parents[2] / "shared" / "assets"
needs_assets = pytest.mark.skipif(not ASSETS.exists(), reason="real tokenizers lie in the shared folder, not here")
FAMILIES = ["baichuan2", "deepseek-llm", "deepseek-r1-distill-qwen", "gemma3", "gpt-oss", "llama3", "qwen2.5", "qwen3"]
QUESTION = Message("user", "阀门漏水了吗？判断")


@cache
def encoder(family: str) -> Encoder:
    return Encoder.load(ASSETS / "tokenizers" / family, TemplateSection(thinking="keep", date="2026-11-22"))


def marked(text: str, **weights: float) -> tuple[Span, ...]:
    return tuple(Span(text.index(word), text.index(word) + len(word), weight) for word, weight in weights.items())


def loaded(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> dataset.Dataset:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return dataset.load(path, DataSection(**settings))


# --- settings ---------------------------------------------------------------------------------------------------------


def test_texts_and_patterns_weigh_what_they_match_in_answers_alone(tmp_path: Path) -> None:
    rows = [{"question": "判断?", "answer": "判断:缺陷\n原因：压力低\n判断"}, {"question": "判断", "answer": "a+b"}]
    rules = [{"text": "判断", "weight": 2}, {"pattern": "原因：.*", "weight": 0.5}, {"text": "a+", "weight": 0}]
    found = loaded(tmp_path, rows, weights=rules)
    assert found.conversations[0].messages[0].spans == ()
    assert found.conversations[0].messages[1].spans == (Span(0, 2, 2), Span(13, 15, 2), Span(6, 12, 0.5))
    assert found.conversations[1].messages[1].spans == (Span(0, 2, 0),)


def test_where_each_rule_holds_is_said(tmp_path: Path) -> None:
    rules = [{"text": "yes", "weight": 2}, {"pattern": "never", "weight": 0}, {"pattern": "x*", "weight": 3}]
    rows = [{"question": "q", "answer": "yes, yes"}, {"question": "r", "answer": "yes"}]
    found = loaded(tmp_path, rows, weights=rules)
    assert found.notices == [
        "data.weights: yes stands in 2 answers and has the weight 2.",
        "data.weights: never stands in no answer.",
        "data.weights: x* stands in no answer.",
    ]


def test_what_is_wrong_with_a_rule_is_said_at_its_line(tmp_path: Path) -> None:
    lines = [
        "data:",
        "  weights:",
        "    - {text: no, weight: 2}",
        '    - {pattern: "(", weight: 1}',
        "    - {text: a, pattern: b, weight: 1}",
        "    - {text: a, weight: -1}",
        "    - {text: a, wieght: 1}",
        "    - hello",
        "    - {weight: 2}",
    ]
    (tmp_path / "run.yaml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load(tmp_path / "run.yaml")
    said = [(int(problem.place.rpartition(":")[2]), problem.message) for problem in error.value.problems]
    for (line, message), (expected, part) in zip(
        said,
        [
            (4, "data.weights[1]: This is not a regular expression: missing )"),
            (5, "data.weights[2]: Give either text or pattern."),
            (6, "data.weights[3].weight is -1; expected a number, at least 0."),
            (7, "data.weights[4] has no weight."),
            (7, "Did you mean weight?"),
            (8, "data.weights[5] is 'hello'"),
            (9, "data.weights[6]: Give either text or pattern."),
        ],
        strict=True,
    ):
        assert line == expected
        assert part in message


def test_rules_on_the_command_line_and_in_the_run_folder(tmp_path: Path) -> None:
    from tunesmith.config.write import dump

    given = load(overrides=["data.weights=[{text: no, weight: 2}, {pattern: '原因：.*', weight: 0.5}]"])
    assert [(rule.text, rule.pattern, rule.weight) for rule in given.config.data.weights] == [
        ("no", None, 2.0),
        (None, "原因：.*", 0.5),
    ]
    (tmp_path / "config.yaml").write_text(dump(given.config, given.origin), encoding="utf-8")
    assert load(tmp_path / "config.yaml").config == given.config


# --- rows and formats -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["weight", "loss_weight", "loss_scale"])
@pytest.mark.parametrize("name", ["messages", "sharegpt", "conversation_pair", "text", "prompt_completion"])
def test_every_format_with_turns_carries_their_weights(name: str, key: str) -> None:
    speaker, said = ("from", "value") if name == "sharegpt" else ("role", "content")
    asked, answered = {speaker: "user", said: "q"}, {speaker: "assistant", said: "a", key: 0.5}
    off = [{speaker: "assistant", said: "b", switch: False} for switch in ("loss", "train")]
    turns = [asked, answered, asked, off[0], asked, off[1]]
    columns = {"sharegpt": "conversations"}.get(name, name)
    row = {"prompt": turns[:1], "completion": turns[1:]} if name == "prompt_completion" else {columns: turns}
    found = formats.get(name).parse(row).messages
    assert [m.weight for m in found if m.role == "assistant"] == [0.5, 0.0, 0.0]


def test_parts_of_an_answer_have_weights_of_their_own() -> None:
    content = [{"type": "text", "text": "<think>why</think>\n\n判断:"}, {"text": "缺陷", "weight": 5}, " end"]
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]}
    answer = formats.get("messages").parse(row).messages[1]
    assert (answer.content, answer.reasoning, answer.spans) == ("判断:缺陷 end", "why", (Span(3, 5, 5.0),))


@pytest.mark.parametrize("key", ["loss_weight", "loss_scale"])
def test_a_column_weighs_the_whole_row(tmp_path: Path, key: str) -> None:
    rows = [{"question": f"q{i}", "answer": "a", key: w} for i, w in enumerate((0.5, 2, None, 0, -1))]
    rows.append({"question": "kg", "answer": "a", "weight": 80})
    found = loaded(tmp_path, rows)
    assert [c.weight for c in found.conversations] == [0.5, 2.0, 1.0, 1.0]
    assert found.conversations[3].meta == {"weight": 80}
    assert [r.code for r in found.rejected] == ["nothing_trained", "weight"]


def test_a_column_that_only_looks_like_a_weight_is_told(tmp_path: Path) -> None:
    found = loaded(tmp_path, [{"question": f"q{i}", "answer": "a", "weight": 80} for i in range(3)])
    assert [c.weight for c in found.conversations] == [1.0] * 3
    assert found.notices == ["A column weight changes no loss; call it loss_weight if it is meant to."]


# --- tokens -----------------------------------------------------------------------------------------------------------


@needs_assets
@pytest.mark.parametrize("family", FAMILIES)
def test_characters_become_tokens_in_every_family(family: str) -> None:
    text = "  判断：缺陷 龘。\n原因：the pressure fell 😀 below"
    weights = {"判断": 2.0, "龘": 3.0, "原因": 0.0, "pressure": 5.0, "😀": 7.0}
    message = Message("assistant", text, reasoning="判断 think", spans=marked(text, **weights))
    (answer,) = encoder(family).encode(Conversation((QUESTION, message))).answers
    (plain,) = encoder(family).encode(Conversation((QUESTION, replace(message, spans=())))).answers
    assert answer.answer_ids == plain.answer_ids
    made = encoder(family)
    for word, weight in weights.items():
        ids = [i for i, w in zip(answer.answer_ids, answer.weights, strict=True) if w == weight]
        assert made.decode(ids).strip().rstrip("：") in (word, word[:1], word[1:]), (family, word)
    first = answer.weights.index(2.0)
    assert all(w == 1.0 for w in answer.weights[:first]), "reasoning and template text keep the message's weight"
    assert answer.weights[-1] == 1.0


@needs_assets
def test_a_token_that_is_touched_takes_the_weight() -> None:
    def weights(text: str, *spans: Span) -> list[float]:
        found = encoder("qwen2.5").encode(Conversation((QUESTION, Message("assistant", text, spans=spans))))
        return found.answers[0].weights

    # "defect" with the space before it is one token
    assert weights("a defect", Span(2, 8, 2)) == [1, 2, 1]
    assert weights("a defect", Span(3, 4, 0)) == [1, 0, 1]
    assert weights("a defect", Span(2, 4, 0), Span(4, 8, 3)) == [1, 3, 1]
    assert weights("a defect", Span(2, 8, 2), Span(0, 8, 3)) == [3, 6, 1]
    assert weights("a defect", Span(0, 8, 0)) == [0, 0, 1]


@needs_assets
@pytest.mark.parametrize("family", ["qwen3", "baichuan2", "gpt-oss", "llama3"])
def test_random_spans_weigh_exactly_the_tokens_that_they_touch(family: str) -> None:
    rng = random.Random(family)
    made = encoder(family)
    alphabet = ["判", "断", "a", "b", " ", "\n", "<|im_end|>", "😀", "1", "\ufdd0", "\t", "é"]
    for _round in range(60):
        text = "x" + "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 30))) + "y"
        start = rng.randrange(len(text))
        span = Span(start, rng.randint(start + 1, len(text)), 4.0)
        (answer,) = made.encode(Conversation((QUESTION, Message("assistant", text, spans=(span,))))).answers
        clean = text.replace("\ufdd0", "")
        inside = text[span.start : span.stop].replace("\ufdd0", "")
        heavy = made.decode([i for i, w in zip(answer.answer_ids, answer.weights, strict=True) if w == 4.0])
        assert inside.strip("\ufffd ") in heavy or not inside, (text, span, heavy)
        light = [i for i, w in zip(answer.answer_ids, answer.weights, strict=True) if w == 1.0]
        assert len(made.decode(light)) >= len(clean) - len(inside) - 24


@needs_assets
def test_message_and_row_weights_multiply() -> None:
    message = Message("assistant", "a defect", weight=0.5, spans=(Span(2, 8, 4),))
    (answer,) = encoder("qwen2.5").encode(Conversation((QUESTION, message), weight=3.0)).answers
    assert answer.weights == [1.5, 6.0, 1.5]


# --- loss -------------------------------------------------------------------------------------------------------------


def step(answers: list[Answer]) -> tuple[float, list[Any]]:
    """(weighted mean loss, gradients) of a tiny model on these answers in one batch."""
    import torch

    from conftest import build_model
    from tunesmith.model.attention import use_forest_attention
    from tunesmith.train.batch import Batch
    from tunesmith.train.loss import Trainee

    model: Any = build_model("llama")
    use_forest_attention(model)
    batch = Batch.of_forest(grow(answers), torch.device("cpu"))
    loss = Trainee(model)(batch)[0] / sum(sum(a.weights) for a in answers)
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters()]


def same(one: tuple[float, list[Any]], other: tuple[float, list[Any]]) -> bool:
    import torch

    grads = all(torch.allclose(a, b, atol=1e-5, rtol=1e-4) for a, b in zip(one[1], other[1], strict=True))
    return abs(one[0] - other[0]) < 1e-5 and grads


def test_weight_two_is_the_token_twice_in_the_mean() -> None:
    heavy = step([Answer(0, [5, 6, 7], [8, 9, 2], [1.0, 2.0, 1.0])])
    once, again = Answer(0, [5, 6, 7], [8, 9, 2], [1.0] * 3), Answer(0, [5, 6, 7, 8], [9], [1.0])
    assert same(heavy, step([once, again]))
    assert not same(heavy, step([once]))


def test_weight_zero_is_context_and_nothing_else() -> None:
    masked = step([Answer(0, [5, 6, 7], [8, 9, 2], [0.0, 0.0, 1.0])])
    assert same(masked, step([Answer(0, [5, 6, 7, 8, 9], [2], [1.0])]))
    assert not same(masked, step([Answer(0, [5, 6, 7, 10, 9], [2], [1.0])]))
