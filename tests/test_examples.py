"""The five examples: their READMEs' commands run, their values are those of the older scripts, their data are read."""

from __future__ import annotations

import io
import re
import shlex
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunesmith import rundir
from tunesmith.cli import main
from tunesmith.config.load import load
from tunesmith.config.schema import DataSection
from tunesmith.data import dataset
from tunesmith.model import packaged
from tunesmith.tokens.encode import Encoder

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples"

# Each example with the number of commands that its older script took from data to an answer.
COMMANDS_THEN = {"chatml": 4, "defect-triage": 5, "medical": 2, "persona": 2, "service-dialogue": 3}
EXAMPLES = tuple(COMMANDS_THEN)
FULL = "chatml"  # trains all weights: writing them and AdamW's state takes longer than all else
SHORT = ["training.max_steps=1", "data.max_dropped=1"]
ONE = ["generation.max_new_tokens=2", "evaluation.limit=2"]


def blocks(name: str, page: str = "README.md") -> list[list[list[str]]]:
    """The words of every command of a README, block by block; the first block is the small way, from data to answer."""
    text = (FOLDER / name / page).read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^```bash\n(.*?)^```$", text, re.M | re.S)
    return [[shlex.split(line)[1:] for line in block.splitlines()] for block in found]


def commands(name: str, page: str = "README.md") -> list[list[str]]:
    return [words for block in blocks(name, page) for words in block]


def quick(words: list[str]) -> list[str]:
    if words[0] == "train":
        return [*words, *SHORT]
    return [*words, *(ONE if words[0] == "eval" else ONE[:1])] if words[0] in ("eval", "chat", "batch") else words


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("你是谁？\nq\n"))
    assert main(words) == 0, f"tunesmith {' '.join(words)}"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the examples lie as in a fresh clone."""
    (tmp_path / "examples").symlink_to(FOLDER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def real(clone: Path) -> Path:
    """The same, on a machine that has the real small model already."""
    folder = Path.home() / ".cache" / "tunesmith" / packaged.NAME
    if not folder.is_dir():
        pytest.skip(f"the small model is not in {folder}; `tunesmith demo` fetches it")
    return clone


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_command_of_an_example_runs(name, clone, tiny_folder, monkeypatch):
    """On a tiny model under the names of the real ones, in the order of the page."""
    for model in {packaged.NAME, load(FOLDER / name / "run.yaml").config.model.name_or_path}:
        (clone / model).parent.mkdir(exist_ok=True)
        (clone / model).symlink_to(tiny_folder)
    for words in commands(name):
        run(quick(words), monkeypatch)


@pytest.mark.parametrize("name", [pytest.param(FULL, marks=pytest.mark.long), *sorted({*EXAMPLES} - {FULL})])
def test_an_example_starts_on_the_real_model(name, real, monkeypatch):
    """The real small model: one step of two conversations, and its loss is that of a model which knows its language."""
    run([*quick(blocks(name)[0][0]), "training.per_device_train_batch_size=2"], monkeypatch)
    (folder,) = rundir.runs(real)
    (first, *_more) = [line["loss"] for line in rundir.metrics(folder) if "loss" in line]
    assert 0.5 < first < 8


@pytest.mark.long
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_learns_what_its_readme_says(name, real, monkeypatch):
    """The whole way, as a user goes it: the training loss falls by a third at least."""
    for words in blocks(name)[0]:
        run(words, monkeypatch)
    (folder,) = rundir.runs(real)
    losses = [line["loss"] for line in rundir.metrics(folder) if "loss" in line]
    assert losses[-1] < losses[0] * 2 / 3


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_takes_no_more_commands_than_the_older_script(name):
    assert 2 <= len(blocks(name)[0]) <= COMMANDS_THEN[name]


@pytest.mark.parametrize("name", EXAMPLES)
def test_both_readmes_of_an_example_have_the_same_commands(name):
    assert commands(name) == commands(name, "README.zh-CN.md")


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_file_of_settings_loads(file):
    load(file)


VALUES: dict[str, dict[str, Any]] = {
    "persona": {
        "model.name_or_path": "Qwen/Qwen3-4B-Instruct-2507",
        "model.dtype": "bfloat16",
        "data.max_length": 1024,
        "lora.r": 8,
        "lora.lora_alpha": 32,
        "lora.lora_dropout": 0.1,
        "lora.target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "training.per_device_train_batch_size": 16,
        "training.gradient_accumulation_steps": 2,
        "training.logging_steps": 10,
        "training.num_train_epochs": 3,
        "training.save_steps": 100,
        "training.learning_rate": 1e-4,
        "training.gradient_checkpointing": True,
    },
    "defect-triage": {
        "model.name_or_path": "Qwen/Qwen2.5-Coder-7B-Instruct",
        "data.max_length": 4096,
        "data.test_ratio": 0.2,
        "data.stratify_by": "subtype",
        "lora.r": 32,
        "lora.lora_alpha": 32,
        "training.learning_rate": 3e-5,
        "training.lr_scheduler_type": "linear",
        "training.num_train_epochs": 300,
        "training.save_steps": 20,
        "training.per_device_train_batch_size": 1,
        "training.gradient_accumulation_steps": 8,
    },
    "chatml": {
        "method": "full",
        "model.name_or_path": "Qwen/Qwen2.5-0.5B",
        "training.output_dir": Path("outputs/sft_model"),
        "training.num_train_epochs": 3,
        "training.per_device_train_batch_size": 4,
        "training.learning_rate": 5e-5,
        "training.lr_scheduler_type": "linear",
    },
    "service-dialogue": {"model.name_or_path": "Qwen/Qwen3-8B", "template.thinking": "keep"},
    "medical": {"method": "lora", "training.early_stopping_patience": 3},
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_values_are_those_of_the_older_scripts(name):
    config = load(FOLDER / name / "run.yaml").config
    assert {setting: attrgetter(setting)(config) for setting in VALUES[name]} == VALUES[name]


def test_only_model_and_size_differ_on_a_cpu():
    """What a small file sets beside the model is how long and how large, never what is trained."""
    sizes = re.compile(r"num_train_epochs|learning_rate|batch_size|accumulation|checkpointing|logging_steps|dropout")
    for file in FOLDER.glob("*/small.yaml"):
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert said.pop("preset") == "run.yaml"
        assert said.pop("model") == {"name_or_path": packaged.NAME}
        said.pop("generation", None)
        assert [key for group in said.values() for key in group if not sizes.search(key)] == []


def test_two_files_stay_two():
    """One file for data and folders, one for each model, as the agent trainer has them."""
    folder = FOLDER / "service-dialogue"
    names = {file.stem for file in (folder / "train_arg").glob("*.yaml")}
    assert {"qwen3-8b", "gpt-oss", "smollm2-135m"} <= names
    for name in names:
        loaded = load(folder / "run.yaml", [f"preset={folder}/train_arg/{name}.yaml"])
        assert name.partition("-")[0] in str(loaded.config.model.name_or_path).lower()
        assert loaded.config.training.output_dir == Path("model_output/service")


@pytest.mark.parametrize("file", sorted((FOLDER / "medical" / "shapes").iterdir()), ids=lambda path: path.stem)
def test_every_shape_is_recognised(file):
    """Two of the five differ only in their names; all say the same questions and answers as the main file."""
    main_rows = dataset.load(FOLDER / "medical" / "messages.jsonl", DataSection()).conversations
    found = dataset.load(file, DataSection())
    assert not found.rejected
    for mine, other in zip(found.conversations, main_rows, strict=False):
        assert mine.messages[-2].content.endswith(other.messages[0].content)
        assert mine.messages[-1].content == other.messages[1].content


def test_raw_rows_become_questions_and_keep_their_subtype():
    config = load(FOLDER / "defect-triage" / "run.yaml").config
    found = dataset.load(FOLDER / "defect-triage" / "dataset" / "output", config.data)
    assert len(found.conversations) == 48
    for conversation in found.conversations:
        asked, answer = conversation.messages
        assert re.fullmatch(r"任务：.+\n\n事件：\n.+\n\n输出格式：\n.+", asked.content, re.S)
        assert re.fullmatch(r"判断:(有缺陷|无缺陷)\n\n原因：.+。", answer.content)
    assert len({conversation.meta["subtype"] for conversation in found.conversations}) == 6


def test_every_row_of_every_example_is_used():
    """Nothing is rejected, and no row says what another says."""
    for file in (
        *("service-dialogue/dialogues.json", "persona/teahouse.json", "medical/messages.jsonl"),
        "chatml/chatml_data.json",
    ):
        found = dataset.load(FOLDER / file, DataSection())
        assert not found.rejected, file
        assert not found.duplicates, file
        assert len(found.conversations) >= 20, file


def test_the_reasoning_of_a_service_dialogue_is_trained(real):
    """The small model's template has no place for it: it stands before the answer, and is gone from the history."""
    folder = Path.home() / ".cache" / "tunesmith" / packaged.NAME
    config = load(
        FOLDER / "service-dialogue/run.yaml", [f"preset={FOLDER}/service-dialogue/train_arg/smollm2-135m.yaml"]
    )
    encoder = Encoder.load(folder, config.config.template)
    (first, *_rest) = dataset.load(FOLDER / "service-dialogue/dialogues.json", DataSection()).conversations
    answers = [message for message in first.messages if message.role == "assistant"]
    for message, answer in zip(answers, encoder.encode(first, 4096).answers, strict=True):
        trained = encoder.decode(list(answer.answer_ids))
        assert trained.startswith(f"<think>\n{message.reasoning}\n</think>\n\n{message.content}")
        assert "<think>" not in encoder.decode(list(answer.context_ids))
