"""Every metric against what is known otherwise: the reference libraries called by hand, known examples, arithmetic."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from conftest import REAL
from tunesmith.config.schema import TemplateSection
from tunesmith.conversation import Conversation, Message, Origin, ToolCall
from tunesmith.errors import ConfigError, DataError
from tunesmith.evaluate import report as page
from tunesmith.evaluate.measures import figures
from tunesmith.evaluate.metrics import MetricContext, Scored, default, load
from tunesmith.evaluate.results import Report
from tunesmith.evaluate.run import evaluate, text
from tunesmith.evaluate.words import is_chinese, words
from tunesmith.generate.engine import Generated
from tunesmith.tokens.encode import Encoder
from tunesmith.tokens.marks import clean
from tunesmith.tokens.template import ChatTemplate
from tunesmith.tokens.turn import Frame, render_turn

PLAIN = MetricContext()
TEMPLATE = "判断:{judgement}\n\n原因：{reason}"
ENGLISH = [
    ("The valve leaks at the seal and must be closed.", "The valve leaks at its seal, so close it."),
    ("Replace the gasket before the next shift.", "Replace the gasket before the next shift."),
    ("The pump is not faulty.", ""),
]
CHINESE = [
    ("密封圈老化导致阀门漏水，请更换密封圈。", "阀门漏水是因为密封圈已经老化。"),
    ("请先关闭电源，再检查 V2 阀门。", "请先关闭电源再检查 V2 阀门。"),
]


def score(name: str, gold: str, answer: str, context: MetricContext = PLAIN) -> dict:
    return load(name)(gold, answer, context)


def total(name: str, pairs: Sequence[tuple[str, str]], context: MetricContext = PLAIN) -> dict:
    metric = load(name)
    assert metric.total is not None
    return metric.total([Scored(gold, answer, metric(gold, answer, context)) for gold, answer in pairs], context)


def row(index: int, gold: str | Message, **meta: object) -> Conversation:
    last = Message("assistant", gold) if isinstance(gold, str) else gold
    return Conversation((Message("user", f"q{index}"), last), meta=meta, origin=Origin("t.jsonl", index), index=index)


def judged(out: Path, pairs: Sequence[tuple[str, str]], groups: Sequence[str] = (), **settings: object) -> Report:
    def respond(prompts: Sequence[Conversation], first: int) -> Iterator[Generated]:
        for prompt in prompts[first:]:
            yield Generated(Message("assistant", pairs[prompt.index][1]), [1], 1, 0.1, True)

    rows = [row(i, gold, kind=groups[i] if groups else "") for i, (gold, _answer) in enumerate(pairs)]
    return evaluate(rows, respond, out=out, group_by="kind" if groups else None, **settings)


# numbers, letters, fields, calls


@pytest.mark.parametrize(
    ("gold", "answer", "correct", "label"),
    [
        ("She pays 9 * 2 = $18.\n#### 18", "So it is 18 dollars", True, "18"),
        ("#### 1,234", "That makes $1,234.00.", True, "1234"),
        ("#### 1234567", "共 １，２３４，５６７ 元。", True, "1234567"),
        ("#### -3.5", "\u22123.50 °C", True, "-3.5"),
        ("#### 18", "#### 18\nI had thought of 20 first.", True, "18"),
        ("#### 18", "First 18, then 20.", False, "20"),
        ("#### 7", "\\boxed{7} because 3 + 4 = 7 and 9 is odd", True, "7"),
        ("#### 4", "between 3-4", True, "4"),
        ("#### 1000", "1e3", True, "1000"),
        ("#### 0.5", "it is .5", True, "0.5"),
        ("#### 18", "eighteen", False, None),
        ("#### 18", "", False, None),
        ("#### 18", "#### I do not know 18", True, "18"),
        ("42", "The answer is 42.", True, "42"),
    ],
)
def test_numeric_is_the_number_behind_the_mark_or_the_last_one(gold, answer, correct, label):
    found = score("numeric", gold, answer)
    assert (found["correct"], found["label"]) == (correct, label)


def test_an_expected_answer_without_a_number_is_refused():
    with pytest.raises(DataError, match="no number"):
        score("numeric", "none", "1")


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("B", "B"),
        ("b)", None),
        ("(B) because it leaks", "B"),
        ("**B**", "B"),
        ("Ｂ。漏水", "B"),
        ("The answer is (B).", "B"),
        ("The correct answer: b", "B"),
        ("答案是B", "B"),
        ("我选择 B，因为 A 不对", "B"),
        ("\\boxed{B}", "B"),
        ("A good pump has no leak, so B it is", "B"),
        ("A dog barks", None),
        ("Either A or B", None),
        ("", None),
    ],
)
def test_choice_reads_the_letter_however_it_is_said(answer, label):
    found = score("choice", "B. The seal", answer)
    assert (found["label"], found["expected"], found["correct"]) == (label, "B", label == "B")


def test_json_is_judged_field_by_field():
    gold = '{"type": "leak", "place": {"valve": 2, "open": true}, "tags": ["a", "b"], "none": []}'
    right = '{"tags": ["a", "b"], "type": " leak", "place": {"open": true, "valve": 2.0}, "none": []}'
    right = f"Here it is:\n```json\n{right}\n```"
    assert score("json", gold, right)["correct"] is True
    found = score("json", gold, '{"type": "crack", "place": {"valve": 2, "open": 1}, "tags": ["a"], "more": null}')
    assert (found["right"], found["wrong"]) == (["place.valve", "tags[0]"], ["type", "place.open"])
    assert (found["missing"], found["extra"], found["share"]) == (["tags[1]", "none"], ["more"], 2 / 6)
    assert score("json", gold, "{'type': leak").items() >= {"correct": False, "label": None, "share": 0.0}.items()
    assert total("json", [('{"a": 1, "b": 2}', '{"a": 1, "b": 3}'), ('{"a": 1}', "?")])["fields"] == {
        "a": 0.5,
        "b": 0.0,
    }
    with pytest.raises(DataError, match="not a JSON object"):
        score("json", "[]", "{}")


def called(name: str, **arguments: object) -> str:
    return text(Message("assistant", tool_calls=(ToolCall(name, arguments, "x"),)))


@pytest.mark.parametrize(
    ("answer", "correct", "names", "arguments"),
    [
        (called("look", city="Ulm", days=2), True, 1.0, 1.0),
        ("I look.\n" + called("look", days=2, city="Ulm"), True, 1.0, 1.0),
        ('{"name": "look", "parameters": {"city": "Ulm", "days": 2}}', True, 1.0, 1.0),
        ('{"name": "look", "arguments": "{\\"city\\": \\"Ulm\\", \\"days\\": 2}"}', True, 1.0, 1.0),
        (called("look", city="Ulm", days=3), False, 1.0, 0.5),
        (called("look", city="Ulm", days=2, more=1), False, 1.0, 1.0),
        (called("book", city="Ulm", days=2), False, 0.0, 0.0),
        (called("look", city="Ulm", days=2) + "\n" + called("look"), False, 0.0, 1.0),
        ("It rains.", False, 0.0, 0.0),
    ],
)
def test_tool_calls_are_judged_by_name_and_arguments(answer, correct, names, arguments):
    found = score("tool_call", called("look", city="Ulm", days=2), answer)
    assert (found["correct"], found["names"], found["arguments"]) == (correct, names, arguments)


def test_where_no_call_is_expected_none_is_right():
    assert score("tool_call", "It rains.", "It pours.")["correct"] is True
    found = score("tool_call", "It rains.", called("look"))
    assert (found["correct"], found["expected"], found["label"]) == (False, "(none)", "look")


MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% elif m.tool_calls %}[TOOL_CALLS] ["
    "{% for t in m.tool_calls %}{{ {'name': t.function.name, 'arguments': t.function.arguments} | tojson }}"
    "{{ ', ' if not loop.last }}{% endfor %}]</s>{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
HERMES = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for t in m.tool_calls or [] %}\n<tool_call>\n"
    "{{ {'name': t.function.name, 'arguments': t.function.arguments} | tojson }}\n</tool_call>{% endfor %}</s>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize("template", [MISTRAL, HERMES])
def test_what_a_template_writes_of_calls_is_read_back(template):
    chat = ChatTemplate(template, "test")
    frame = Frame.of(chat)
    calls = (ToolCall("look", {"text": "</tool_call> {x", "deep": {"a": [1, {}]}}), ToolCall("book", {}))
    said = render_turn(chat, [Message("user", "q")], Message("assistant", tool_calls=calls))[1]
    found = frame.read(clean(said).removesuffix("</s>"))
    assert (found.tool_calls, found.content) == (calls, "")
    assert frame.read("No call at all {").content == "No call at all {"


def test_a_broken_call_stays_text_and_words_around_calls_stay_words():
    frame = Frame.of(ChatTemplate(HERMES, "test"))
    for broken in ('<tool_call>\n{"name": "look"', "<tool_call>\n{}\n</tool_call>", "<tool_call>look</tool_call>"):
        assert frame.read(broken) == Message("assistant", broken)
    found = frame.read('First.\n<tool_call>{"name": "look", "parameters": {"a": 1}}</tool_call>\nThen.')
    assert found.tool_calls == (ToolCall("look", {"a": 1}),)
    assert found.content.split() == ["First.", "Then."]


@pytest.mark.parametrize("family", ["qwen2.5", "qwen3", "gpt-oss", "deepseek-r1-distill-qwen"])
@pytest.mark.parametrize("reasoning", [None, "It asks for the weather."])
def test_calls_come_back_from_the_ids_of_real_families(family, reasoning):
    if not (REAL / family).is_dir():
        pytest.skip("the real tokenizers are not here")
    encoder = Encoder.load(REAL / family, TemplateSection(thinking="keep"))
    call = ToolCall("weather", {"city": "北京", "days": 3}, "1")
    wanted = Message("assistant", reasoning=reasoning, tool_calls=(call,))
    (answer,) = encoder.encode(Conversation((Message("user", "q"), wanted))).answers
    found = encoder.message(answer.answer_ids)
    assert (found.content, found.reasoning) == ("", reasoning)
    assert [(one.name, one.arguments) for one in found.tool_calls] == [(call.name, call.arguments)]
    assert score("tool_call", text(wanted), text(found))["correct"] is True


# words: the reference libraries, called by hand


@pytest.mark.parametrize(("pairs", "tokenize"), [(ENGLISH, "13a"), (CHINESE, "zh")])
def test_bleu_and_chrf_are_those_of_sacrebleu(pairs, tokenize):
    from sacrebleu.metrics import BLEU, CHRF

    golds, answers = ([pair[i] for pair in pairs] for i in (0, 1))
    bleu, chrf = BLEU(tokenize=tokenize), CHRF()
    assert total("bleu", pairs)["bleu"] == bleu.corpus_score(answers, [golds]).score
    assert total("chrf", pairs)["chrf"] == chrf.corpus_score(answers, [golds]).score
    assert total("bleu", pairs)["signature"] == str(bleu.get_signature())
    assert f"tok:{tokenize}" in total("bleu", pairs)["signature"]
    means = [score("bleu", *pair)["sentence"] for pair in pairs]
    assert total("bleu", pairs)["bleu"] != pytest.approx(sum(means) / len(means)), "no mean of rows"


def test_rouge_is_that_of_rouge_score_over_words_of_any_language():
    from rouge_score.rouge_scorer import RougeScorer

    kinds = ("rouge1", "rouge2", "rougeL")
    for gold, answer in ENGLISH:
        wanted = RougeScorer(kinds).score(gold, answer)
        assert score("rouge", gold, answer) == {kind: pytest.approx(wanted[kind].fmeasure, abs=1e-6) for kind in kinds}
    assert words("密封圈老化, Valve-2 漏水！") == ["密封圈", "老化", "valve", "2", "漏水"]
    assert words("Привет, Ünal") == ["привет", "ünal"]
    found = score("rouge", "密封圈老化", "密封圈漏水")  # two words each, one shared, no pair shared
    assert found == {"rouge1": 0.5, "rouge2": 0.0, "rougeL": 0.5}
    assert is_chinese(["阀门 V2 漏水"])
    assert not is_chinese(["The valve 阀 leaks", ""])


def test_rouge_compares_each_other_field_of_the_answer_template():
    context = MetricContext(TEMPLATE)
    gold = "判断：缺陷\n\n原因：密封圈老化"
    assert score("rouge", gold, "判断:正常\n原因:密封圈老化", context)["reason.rougeL"] == 1
    assert score("rouge", gold, "密封圈老化", context)["reason.rougeL"] == 0, "not readable"
    assert [*score("rouge", gold, gold, MetricContext(TEMPLATE, "reason"))][0] == "judgement.rouge1"
    assert default(context) == ["label", "rouge"]


def test_distinct_and_length_are_counts_of_words():
    pairs = [("one two three", "a b a b"), ("four", "a b")]
    assert score("distinct", *pairs[0]) == {"row_distinct1": 2 / 4, "row_distinct2": 2 / 3}
    assert total("distinct", pairs) == {"distinct1": 2 / 6, "distinct2": 2 / 4}  # ab ba ab | ab: no pair between rows
    assert total("distinct", [("x", "")]) == {"distinct1": 0, "distinct2": 0}
    assert score("length", *pairs[0]) == {"words": 4, "expected_words": 3, "characters": 7}
    assert total("length", pairs) == {"ratio": 6 / 4}


# which metrics, and what becomes of their figures


@pytest.mark.parametrize(
    ("golds", "metrics"),
    [
        (["yes", "no"], ["exact"]),
        (["A", "C. the seal", "(D)"], ["choice"]),
        (["9 * 2 = 18\n#### 18", "#### 1,000"], ["numeric"]),
        (["12", "$3.50"], ["numeric"]),
        (["chapter 12", "3"], ["exact"]),
        (['{"a": 1}', '{"b": []}'], ["json"]),
        ([called("look", city="Ulm"), called("book"), "It rains."], ["tool_call"]),
        (["Replace the gasket before the next shift."] * 2, ["exact", "bleu", "chrf", "rouge"]),
        ([], ["exact"]),
    ],
)
def test_the_data_shows_which_metric_it_needs(golds, metrics):
    assert default(PLAIN, golds) == metrics


def test_corpus_figures_are_in_the_results_over_all_and_by_group(tmp_path):
    pairs = [*ENGLISH, *CHINESE]
    found = judged(tmp_path, pairs, "eeecc", metrics=["bleu", "length", "exact"]).totals
    assert found["scores"]["bleu"]["groups"]["e"]["bleu"] == total("bleu", ENGLISH)["bleu"]
    assert found["scores"]["bleu"]["groups"]["c"]["bleu"] == total("bleu", CHINESE)["bleu"]
    assert found["scores"]["length"]["words"] == sum(len(words(answer)) for _gold, answer in pairs) / 5
    assert found["scores"]["exact"]["correct"] == found["correct"] == 1
    assert "accuracy" not in found["scores"]["bleu"]
    shown = page.write(Report.read(tmp_path), tmp_path / "report.html").read_text(encoding="utf-8")
    assert found["scores"]["bleu"]["signature"] in shown
    assert ("bleu", "bleu", f"{found['scores']['bleu']['bleu']:.4g}") in [*figures(found["scores"])]


def test_the_first_metric_that_tells_right_from_wrong_decides(tmp_path):
    pairs = [("The valve.", "the valve"), ("The pump.", "The pump.")]
    assert judged(tmp_path / "a", pairs, metrics=["rouge", "contains", "exact"]).accuracy == 1
    alone = judged(tmp_path / "b", pairs, metrics=["rouge"])
    assert (alone.accuracy, alone.settings["metrics"]) == (0.5, ["exact", "rouge"])


def test_answers_that_cannot_be_read_are_counted(tmp_path):
    found = judged(tmp_path, [("#### 1", "one"), ("#### 2", "2"), ("#### 3", "")]).totals
    assert (found["correct"], found["unparsed"], found["empty"]) == (1, 2, 1)


def test_a_metric_of_ones_own_may_have_a_total(tmp_path):
    own = tmp_path / "long.py"
    own.write_text(
        "def score(gold, answer, context):\n    return {'letters': len(answer)}\n"
        "def total(rows, context):\n    return {'longest': max(row.score['letters'] for row in rows)}\n"
    )
    found = judged(tmp_path / "out", ENGLISH, metrics=[str(own)]).totals["scores"][str(own)]
    assert found["longest"] == max(len(answer) for _gold, answer in ENGLISH)
    assert found["letters"] == sum(len(answer) for _gold, answer in ENGLISH) / 3


# the model itself


def trained_rows(folder: Path) -> tuple[Any, list]:
    from tunesmith.train.plan import Row

    encoder = Encoder.load(folder, TemplateSection())
    talks = [
        Conversation((Message("user", "Does the valve leak?"), Message("assistant", "Yes: replace the gasket."))),
        Conversation(
            (
                Message("user", "Is the pump faulty?"),
                Message("assistant", "No.", weight=0.5),
                Message("user", "And the seal?"),
                Message("assistant", "阀门漏水了。", weight=2.0),
            )
        ),
    ]
    return encoder, [Row(encoder.encode(talk).answers) for talk in talks]


def check_perplexity(model: Any, rows: list, pad_id: int) -> None:
    """Row by row against transformers' loss with labels of -100 outside the answer."""
    import torch

    nats, counts, wanted = [], [], []
    for one in rows:
        losses = []
        for answer in one.answers:
            ids = torch.tensor([answer.context_ids + answer.answer_ids])
            labels = ids.clone()
            labels[0, : len(answer.context_ids)] = -100
            with torch.no_grad():
                losses.append((model(input_ids=ids, labels=labels).loss.item(), len(answer.answer_ids)))
        nats.append(sum(loss * n for loss, n in losses))
        counts.append(sum(n for _loss, n in losses))
        wanted.append(math.exp(nats[-1] / counts[-1]))
    metric = load("perplexity")
    found = [*metric.measure(model, rows, pad_id)]
    assert [one["perplexity"] for one in found] == pytest.approx(wanted, rel=1e-4)
    assert [one["tokens"] for one in found] == counts
    whole = metric.total([Scored("", "", one) for one in found], PLAIN)
    assert whole["perplexity"] == pytest.approx(math.exp(sum(nats) / sum(counts)), rel=1e-4)


def test_perplexity_is_exp_of_the_libraries_own_loss(tiny_tokenizer, tiny_model):
    encoder, rows = trained_rows(tiny_tokenizer)
    check_perplexity(tiny_model("llama"), rows, encoder.pad_id)


@pytest.mark.long
def test_perplexity_of_the_real_small_model_is_that_of_the_library():
    import torch
    from transformers import AutoModelForCausalLM

    from tunesmith.model.packaged import base_model

    folder = base_model()
    encoder, rows = trained_rows(folder)
    check_perplexity(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), rows, encoder.pad_id)


def test_a_perplexity_beyond_all_numbers_is_a_number_still():
    scores = [{"loss": 1e6, "perplexity": 1e300, "tokens": 2, "weight": 2.0, "sum": 2e6}]
    assert load("perplexity").total([Scored("", "", one) for one in scores], PLAIN)["perplexity"] == math.exp(700)


def test_the_loss_equals_the_evaluation_loss_of_training(tiny_tokenizer, tiny_model, tmp_path):
    import torch

    from tunesmith.config.schema import TrainingSection
    from tunesmith.train import launch
    from tunesmith.train.loop import Loop
    from tunesmith.train.loss import Trainee
    from tunesmith.train.probe import probe

    encoder, rows = trained_rows(tiny_tokenizer)
    metric = load("perplexity")
    found = metric.total([Scored("", "", one) for one in metric.measure(tiny_model(), rows, encoder.pad_id)], PLAIN)
    model = tiny_model()
    able = probe(model, 64)
    trainee = Trainee(model, fast_head=able.fast_head)
    section = TrainingSection(output_dir=tmp_path)
    started = launch.start(section, weights=torch.float32, device="cpu")
    loop = Loop(started, trainee, rows, rows, section, tmp_path, forest=able.forest, pad_id=encoder.pad_id)
    assert found["loss"] == pytest.approx(loop.evaluation_loss(rows)[0], rel=1e-5)
    assert found["loss"] != pytest.approx(math.log(found["perplexity"]), rel=1e-3), "the loss is weighted"


def test_eval_measures_perplexity_when_it_is_asked_to(tiny_folder, tmp_path):
    from tunesmith.cli import main

    data, out = tmp_path / "test.jsonl", tmp_path / "out"
    lines = [{"instruction": f"What is {i}?", "output": f"It is {i}.", "kind": "ab"[i % 2]} for i in range(4)]
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    chosen = ["evaluation.metrics=[exact, perplexity]", "evaluation.group_by=kind", "generation.max_new_tokens=2"]
    assert main(["eval", str(tiny_folder), "--data", str(data), "-o", str(out), *chosen]) == 0
    found = Report.read(out)
    scores = found.totals["scores"]["perplexity"]
    assert scores["perplexity"] > 1
    assert scores["tokens"] == sum(row["scores"]["perplexity"]["tokens"] for row in found.rows)
    assert {*scores["groups"]} == {"a", "b"}
    sums = [group["sum"] for group in scores["groups"].values()]
    assert sum(sums) == pytest.approx(scores["sum"])


def test_answers_alone_have_no_perplexity(tmp_path):
    with pytest.raises(ConfigError, match="needs the model"):
        judged(tmp_path, ENGLISH, metrics=["perplexity"])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("答案是18。", "18"),
        ("一共有18个苹果", "18"),
        ("先有5个，总共18个", "18"),
        ("#### 答案18", "18"),
        ("版本 v1.18", None),
    ],
)
def test_a_number_may_touch_a_chinese_letter(text, number):
    assert load("numeric")("18", text, PLAIN)["label"] == number


@pytest.mark.parametrize(
    ("text", "letter"),
    [("The answer is a bit unclear", None), ("answer is a dog", None), ("Answer: b", "B"), ("The answer is C", "C")],
)
def test_a_small_letter_in_a_sentence_is_no_choice(text, letter):
    assert load("choice")("A", text, PLAIN)["label"] == letter


def test_one_call_is_a_call_before_it_is_an_object():
    golds = ['{"id": "call_1", "name": "f", "arguments": {"a": 1}}', '{"id": "call_2", "name": "g", "arguments": {}}']
    assert default(PLAIN, golds) == ["tool_call"]
    judge = load("tool_call")
    assert judge(golds[0], '{"id": "x", "name": "f", "arguments": "{\\"a\\": 1}"}', PLAIN)["correct"]
    assert judge(golds[1], '{"name": "g", "arguments": "{}"}', PLAIN)["correct"]
    assert not judge(golds[0], "[" * 2_000, PLAIN)["correct"], "nothing that an answer holds ends an evaluation"
