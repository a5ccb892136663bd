"""Thirteen mistakes that older training scripts make or invite, and three gaps that they admit: none is here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from test_cli import Said, done, refused, tunesmith, write_rows
from test_evaluate import CHINESE, Model, row, run
from tunesmith import rundir
from tunesmith.config.schema import DataSection, TemplateSection
from tunesmith.conversation import Conversation, Message
from tunesmith.data import dataset
from tunesmith.errors import DataError
from tunesmith.tokens.encode import Encoder

ROOT = Path(__file__).parents[1]
PERSONA = "You keep the tea house."
QA = [{"question": f"Is pump {i} faulty?", "answer": "Yes, it leaks." if i % 2 else "No."} for i in range(12)]

# A dialogue as an older README prints it: a comma behind the last turn, another behind the last row.
PRINTED = """[
    {
        "conversation_id": 1,
        "system_prompt": "你是一个医美客服助手",
        "conversation_pair": [
        {
            "role": "user",
            "content": "你好，做一次超声炮多少钱？"
        },
        {
            "role": "assistant",
            "thinking": "确认顾客想改善的问题",
            "content": "您好，您是对面部哪个部分不满意呢？"
        },
        ]
    },
]
"""
RAW = {
    "instruction": [{"subtype": "seal"}],
    "input": {"task": "A leak is a defect.", "event": "Oil drips.", "output_format": "judgement and reason"},
    "output": {"judgement": "defect", "reason": "It leaks."},
}
TEMPLATES = {
    "prompt_template": "任务：{task}\n\n事件：\n{event}\n\n输出格式：\n{output_format}",
    "answer_template": "判断:{judgement}\n\n原因：{reason}",
}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def train(tmp_path: Path, tiny_folder: Path) -> Callable[..., Said]:
    """Trains on twelve questions, as short as it goes; settings as on a command line."""
    write_rows(tmp_path / "qa.jsonl", QA)

    def call(*words: str, run: str = "run") -> Said:
        return tunesmith("train", "qa.jsonl", "--model", tiny_folder, "-o", run, "training.max_steps=2", *words)

    return call


def encoder(folder: Path, **template: object) -> Encoder:
    return Encoder.load(folder, TemplateSection(**template))


def files(*suffixes: str) -> Iterator[Path]:
    for path in sorted((ROOT / "src" / "tunesmith").rglob("*")):
        if path.suffix in suffixes:
            yield path


# --- the thirteen traps -----------------------------------------------------------------------------------------------


def test_trap_01_trailing_commas_are_read_and_told(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "printed.json").write_text(PRINTED, encoding="utf-8")
    said = done("check", "printed.json", "--model", tiny_folder, "template.thinking=keep")
    assert "printed.json:14, printed.json:16" in said.err + said.out
    found = dataset.load(tmp_path / "printed.json", DataSection())
    assert [m.role for m in found.conversations[0].messages] == ["system", "user", "assistant"]


def test_trap_02_alpaca_keys_with_other_types_are_not_alpaca(tmp_path: Path) -> None:
    raw = write_rows(tmp_path / "raw.jsonl", [RAW])
    with pytest.raises(DataError, match="prompt_template"):
        dataset.load(raw, DataSection())
    (asked, answer) = dataset.load(raw, DataSection(**TEMPLATES)).conversations[0].messages
    assert asked.content == "任务：A leak is a defect.\n\n事件：\nOil drips.\n\n输出格式：\njudgement and reason"
    assert answer.content == "判断:defect\n\n原因：It leaks."


def test_trap_03_a_list_in_text_is_a_dialogue(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Oil drips."}, {"role": "assistant", "content": "defect"}]
    found = dataset.load(write_rows(tmp_path / "t.jsonl", [{"subtype": "seal", "text": turns}]), DataSection())
    (conversation,) = found.conversations
    assert [(m.role, m.content) for m in conversation.messages] == [("user", "Oil drips."), ("assistant", "defect")]
    assert conversation.meta == {"subtype": "seal"}


@pytest.mark.parametrize(
    "answer", ["判断：有缺陷\n\n原因:漏油", "判断:有缺陷\n\n原因：漏油", "判断： 有缺陷。\n原因：漏油"]
)
def test_trap_04_half_and_full_width_are_one(tmp_path: Path, answer: str) -> None:
    from tunesmith.evaluate.metrics import MetricContext, load

    gold = "判断:有缺陷\n\n原因：漏油。"
    assert load("label")(gold, answer, MetricContext(TEMPLATES["answer_template"]))["correct"]
    assert load("label")(gold, answer, MetricContext(CHINESE))["correct"]


def test_trap_05_accuracy_by_judgement_is_not_accuracy_by_subtype(tmp_path: Path) -> None:
    rows = [row(i, "DEFECT" if i % 3 else "NORMAL", "seal" if i < 5 else "door") for i in range(9)]
    always = Model(lambda index: "Judgement: DEFECT\nReason: it is so.")
    by_subtype = run(tmp_path / "a", always, rows).totals["groups"]
    by_type = run(tmp_path / "b", always, rows, group_by="judgement").totals["groups"]
    assert set(by_subtype) == {"seal", "door"}
    assert {name: found["accuracy"] for name, found in by_type.items()} == {"DEFECT": 1.0, "NORMAL": 0.0}


def test_trap_06_many_checkpoints_do_not_fill_the_disk(train: Callable[..., Said], tmp_path: Path) -> None:
    said = train("training.max_steps=-1", "training.num_train_epochs=4", "training.save_steps=1")
    assert said.code == 0, said.err
    kept = [checkpoint.step for checkpoint in rundir.checkpoints(tmp_path / "run")]
    assert max(kept) > len(kept)
    assert len(kept) <= 5  # three, and the best and the last


def test_trap_07_the_end_of_turn_is_trained_and_never_cut(tiny_folder: Path) -> None:
    coder = encoder(tiny_folder, system=PERSONA)
    end = 2  # <|im_end|>
    rows = (Message("user", "<s>Who are you?<|im_end|>"), Message("assistant", "The keeper."))
    (answer,) = coder.encode(Conversation(rows), 512).answers
    assert answer.answer_ids[-1] == end
    assert answer.context_ids.count(end) == 2  # of system and user; what the user wrote is text
    assert coder.decode(list(answer.answer_ids[:-1])) == "The keeper."  # no empty reasoning before it
    short = coder.encode(Conversation(rows), len(answer.context_ids) + 1)
    assert not short.answers  # dropped and counted
    assert short.dropped == 1


@pytest.mark.parametrize(
    ("typed", "meant"), [("model.trust_remote", "trust_remote_code"), ("template.enablre_thinking", "enable_thinking")]
)
def test_trap_08_misspelt_options_are_refused(tiny_folder: Path, typed: str, meant: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "qa.jsonl", QA)
    lines = refused("train", "qa.jsonl", "--model", tiny_folder, f"{typed}=true")
    assert meant in lines[0]
    assert not (tmp_path / "runs").exists()


def test_trap_09_the_persona_of_training_is_that_of_chat(train: Callable[..., Said], tmp_path: Path) -> None:
    from tunesmith.actions.opening import open_run
    from tunesmith.cli.terminal import Terminal

    assert train(f"template.system={PERSONA}").code == 0
    opened = open_run("run", Terminal())
    question = Message("user", QA[0]["question"])
    asked = opened.encoder.context(Conversation((question,)))
    trained = opened.encoder.encode(Conversation((question, Message("assistant", "No."))), 512).answers[0].context_ids
    assert asked == list(trained)
    assert PERSONA in opened.encoder.rendered(Conversation((question,)))


def test_trap_10_the_prompt_does_not_count_and_greedy_is_greedy(tiny_folder: Path, tiny_model) -> None:
    from tunesmith.config.schema import GenerationSection
    from tunesmith.generate.engine import generate

    coder, model = encoder(tiny_folder), tiny_model("llama")
    asked = [Conversation((Message("user", "Is the pump faulty? " * n),)) for n in (1, 12)]
    greedy = [a.ids for a in generate(model, coder, asked, GenerationSection(max_new_tokens=6))]
    drawn = generate(model, coder, asked, GenerationSection(max_new_tokens=6, do_sample=True, top_k=1))
    assert [a.ids for a in drawn] == greedy
    assert [len(ids) for ids in greedy] == [6, 6]


def test_trap_11_a_base_model_stops_at_the_end_of_turn(tiny_folder: Path, tmp_path: Path) -> None:
    import shutil

    base = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    for name in ("tokenizer_config.json", "generation_config.json", "config.json"):
        path = base / name
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            found["eos_token" if name.startswith("tokenizer") else "eos_token_id"] = (
                "<|endoftext|>" if name.startswith("tokenizer") else 0
            )
            path.write_text(json.dumps(found), encoding="utf-8")
    coder = encoder(base)
    (answer,) = coder.encode(Conversation((Message("user", "Who?"), Message("assistant", "I."))), 512).answers
    assert answer.answer_ids[-1] in coder.stop_ids
    assert answer.answer_ids[-1] == 2  # <|im_end|>, though the model's own end of text is 0


def test_trap_12_half_precision_never_fails_in_the_middle(train: Callable[..., Said], tmp_path: Path) -> None:
    for words in (["training.fp16=true"], ["training.fp16=true", "model.dtype=float16"], ["model.dtype=float16"]):
        said = train(*words)
        assert said.code == 2
        assert "float16" in said.err
        assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_trap_13_no_page_shows_a_command_that_is_not_run() -> None:
    from test_docs import READMES
    from test_examples import EXAMPLES

    folders = [ROOT / name for name in ("docs", "examples", "src", "tests")]
    pages = [*ROOT.glob("README*.md"), *(page for folder in folders for page in folder.rglob("README*.md"))]
    known = {ROOT / page for page in READMES} | {
        ROOT / "examples" / name / page for name in EXAMPLES for page in READMES
    }
    assert set(pages) == known
    for page in pages:
        assert not re.search(r"source env/bin/Scripts|conda create env", page.read_text(encoding="utf-8"))


# --- the gaps that they admit -----------------------------------------------------------------------------------------


def test_gap_0_11_results_are_never_overwritten_unasked(train: Callable[..., Said], tmp_path: Path) -> None:
    assert train().code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again = train()
    assert again.code == 2
    assert "--overwrite" in again.err
    done("merge", "run", "-o", "merged")
    assert "--overwrite" in refused("merge", "run", "-o", "merged")[-1]
    changed = [path for path, bytes_ in before.items() if path.suffix == ".safetensors" and path.read_bytes() != bytes_]
    assert changed == []


def test_gap_0_16_no_scene_in_the_package() -> None:
    """No persona, scene or customer of the older scripts stands in code, presets or templates."""
    scenes = re.compile("医美|客服|超声炮|甄嬛|皇帝|新人留联|场景")
    found = [
        f"{path.relative_to(ROOT)}: {hit}"
        for path in files(".py", ".jinja", ".json", ".yaml")
        for hit in scenes.findall(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_gap_0_19_an_adapter_of_another_base_is_refused(
    train: Callable[..., Said], tmp_path: Path, tiny_folder: Path, tiny_model
) -> None:
    import shutil

    assert train().code == 0
    other = Path(shutil.copytree(tiny_folder, tmp_path / "other"))
    tiny_model("llama", seed=7).save_pretrained(other)
    (tmp_path / "q.jsonl").write_text('{"question": "Who?"}\n', encoding="utf-8")
    checkpoint = rundir.latest(tmp_path / "run")
    assert checkpoint is not None
    lines = refused("batch", checkpoint.path, "q.jsonl", "-o", "a.jsonl", "--model", other)
    assert "was trained on" in " ".join(lines)
    assert str(tiny_folder) in " ".join(lines)
    assert "other" in " ".join(lines)


def test_the_faq_names_settings_that_exist() -> None:
    from tunesmith.config.settings import settings

    groups = {name.partition(".")[0] for name in settings() if "." in name}
    for page in ("faq.md", "faq.zh-CN.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        named = [name for name in re.findall(r"`([a-z_]+\.[a-z0-9_]+)", text) if name.partition(".")[0] in groups]
        assert len(set(named)) > 12
        assert [name for name in named if name not in settings()] == []
