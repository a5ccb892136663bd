"""Names of older scripts: each is answered by today's name from a table, in YAML, as key=value and as a flag."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from tunesmith.cli import main
from tunesmith.config import names
from tunesmith.config.load import load
from tunesmith.config.settings import sections, settings
from tunesmith.errors import ConfigError

# What the scripts called it -> what it is here. None: no setting, but a sentence.
SERVICE = {
    "model_name": "model.name_or_path",
    "model_path": "model.name_or_path",
    "save_model_path": None,
    "dataset_path": "data.train",
    "file_load": "data",
    "train_arg": "training",
    "max_seq_length": "data.max_length",
    "dataset_class": None,
    "special_token": None,
    "bos": None,
    "eos": None,
    "fuc": "data.format",
    "map_fuc": "data.format",
    "remove_columns": None,
    "delay": "logging.typing_delay",
    "lora_path": None,
}
PERSONA = {
    "trust_remote": "model.trust_remote_code",
    "add_generation_prompt": None,
    "enablre_thinking": "template.enable_thinking",
    "tokenize": None,
    "return_tensors": None,
    "return_dict": None,
    "MAX_LENGTH": "data.max_length",
    "add_special_tokens": None,
    "task_type": None,
    "target_modules": "lora.target_modules",
    "inference_mode": None,
    "r": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "device_map": "model.device_map",
    "torch_dtype": "model.dtype",
    "api_key": None,
    "project": "tracking.project",
    "experiment_name": "tracking.experiment",
    "output_dir": "training.output_dir",
    "per_device_train_batch_size": "training.per_device_train_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "logging_steps": "training.logging_steps",
    "num_train_epochs": "training.num_train_epochs",
    "save_steps": "training.save_steps",
    "learning_rate": "training.learning_rate",
    "save_on_each_node": None,
    "gradient_checkpointing": "training.gradient_checkpointing",
    "report_to": "tracking.trace",
    "train_dataset": "data.train",
    "data_collator": None,
    "padding": None,
    "callbacks": "tracking.trace",
    "mode_path": "model.name_or_path",
    "trust_remote_code": "model.trust_remote_code",
    "model_id": "model.name_or_path",
    "enable_thinking": "template.enable_thinking",
    "gen_kwargs": "generation",
    "gen_kwargs.max_length": "generation.max_new_tokens",
    "do_sample": "generation.do_sample",
    "top_k": "generation.top_k",
    "skip_special_tokens": None,
}
MEDICAL = {
    "trace": "tracking.trace",
    "deepspeed": "training.deepspeed",
    "local_rank": None,
    "nproc_per_node": None,
    "num_gpus": None,
    "template_path": "template.fallback",
    "training_args": "training",
    "training_args.output_dir": "training.output_dir",
}
DEFECTS = {
    "input_dir": None,
    "converted_file": None,
    "train_file": "data.train",
    "test_file": "data.test",
    "test_ratio": "data.test_ratio",
    "MODEL_PATH": "model.name_or_path",
    "TRAIN_DATA": "data.train",
    "TEST_DATA": "data.test",
    "OUTPUT_DIR": "training.output_dir",
    "LEARNING_RATE": "training.learning_rate",
    "SCHEDULER": "training.lr_scheduler_type",
    "LORA_RANK": "lora.r",
    "LORA_ALPHA": "lora.lora_alpha",
    "MAX_EPOCHS": "training.num_train_epochs",
    "SAVE_STEPS": "training.save_steps",
    "PER_DEVICE_TRAIN_BATCH_SIZE": "training.per_device_train_batch_size",
    "GRADIENT_ACCUMULATION_STEPS": "training.gradient_accumulation_steps",
    "TEST_DATASET_PATH": "data.test",
    "tokenizer_path": "model.tokenizer",
    "result1_path": None,
    "result2_path": None,
}
CHATML = {
    "data_path": "data.train",
    "num_epochs": "training.num_train_epochs",
    "batch_size": "training.per_device_train_batch_size",
    "model_args": "model",
    "data_args": "data",
    "mode": None,
    "system_prompt": "template.system",
    "output_path": "training.output_dir",
    "train_data_path": "data.train",
    "max_length": "data.max_length",
    "ignore_index": None,
    "data_loader_num_workers": "data.num_proc",
    "dataloader_num_workers": "data.num_proc",
    "preprocessing_num_workers": "data.num_proc",
    "weight_decay": "training.weight_decay",
    "warmup_ratio": "training.warmup_ratio",
    "fp16": "training.fp16",
}
OLD = SERVICE | PERSONA | MEDICAL | DEFECTS | CHATML
AS_SETTING = [(name, new) for name, new in OLD.items() if "." not in name]
FLAGS = [(name, new) for name, new in AS_SETTING if new not in sections() and name != "local_rank"]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESMITH_LANG", "en")
    monkeypatch.chdir(tmp_path)


def said(*words: str) -> list[str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert main(list(words)) == 2, out.getvalue()
    return err.getvalue().splitlines()


def answered(line: str, name: str, new: str | None) -> bool:
    """Whether a line says what `name` is called now, or in a whole sentence what became of it."""
    if new is None:
        return (
            "Did you mean" not in line and re.search(rf"{name} is not a(n option| setting)\. \w.+\.$", line) is not None
        )
    return line.endswith(f"{name} is not a setting. Did you mean {new}?")


@pytest.mark.parametrize(("name", "new"), OLD.items())
def test_an_old_name_is_answered_by_the_table(name, new):
    assert names.named(name) == new or (new is None and names.explain(name))


@pytest.mark.parametrize(("name", "new"), AS_SETTING)
def test_an_old_name_in_yaml_leads_to_the_new_one(name, new):
    Path("run.yaml").write_text(f"lora:\n  r: 8\n{name}: {{}}\n")
    with pytest.raises(ConfigError) as error:
        load(Path("run.yaml"))
    line = str(error.value).splitlines()[0]
    assert line.startswith("run.yaml:3  ")
    assert answered(line, name, new)


@pytest.mark.parametrize(("name", "new"), AS_SETTING)
def test_an_old_name_as_key_and_value_leads_to_the_new_one(name, new):
    assert any(answered(line, name, new) for line in said("check", f"{name}=1"))


@pytest.mark.parametrize(("name", "new"), FLAGS)
def test_an_old_name_as_a_flag_leads_to_the_new_one(name, new):
    lines = said("check", f"--{name}", "1")
    assert len(lines) == 1
    if name == "mode":
        assert lines == ["The mode is the command: tunesmith 1 RUN"]
    elif new is None:
        assert answered(lines[0], f"--{name}", None)
    elif name != "tokenizer_path":
        assert lines[0].endswith(f"such as {new}=1")


def test_groups_of_older_files_are_read_on_so_that_all_their_names_are_answered_at_once():
    Path("run.yaml").write_text("file_load:\n  dataset_path: a.json\ntrain_arg:\n  max_seq_length: 512\n  lr: 1\n")
    assert [line for line in said("check") if "Did you mean" in line] == [
        "run.yaml:1  file_load is not a setting. Did you mean data?",
        "run.yaml:2  data.dataset_path is not a setting. Did you mean data.train?",
        "run.yaml:3  train_arg is not a setting. Did you mean training?",
        "run.yaml:4  training.max_seq_length is not a setting. Did you mean data.max_length?",
        "run.yaml:5  training.lr is not a setting. Did you mean training.learning_rate?",
    ]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("lora.rank", "lora.r"),
        ("lora_rank", "lora.r"),
        ("lora.rnak", "lora.r"),
        ("lora_rnk", "lora.r"),
        ("max_seq_lenght", "data.max_length"),
        ("lora_alpha", "lora.lora_alpha"),
        ("generation.batchsize", "generation.batch_size"),
        ("training.batch_size", "training.per_device_train_batch_size"),
        ("learning-rate", "training.learning_rate"),
        ("training.max_length", "data.max_length"),
        ("generation.max_length", "generation.max_new_tokens"),
        ("trianing.learning_rte", "training.learning_rate"),
        ("lora.zzz", None),
        ("zzz", None),
    ],
)
def test_misspelt_and_misplaced_names(wrong, meant):
    assert names.suggest(wrong) == meant


def test_every_name_of_the_table_exists_and_none_hides_a_setting():
    assert set(names._FOREIGN.values()) <= set(settings()) | set(sections())
    keys = {name.rpartition(".")[2] for name in settings()}
    assert {name for name in names._FOREIGN if name in settings()} == set()
    assert {name for name in keys if names.explain(name)} == set()


# --- flags


def test_all_flags_of_a_command_are_answered_at_once():
    words = ["--model_name", "Qwen/Qwen2.5-0.5B", "--data_path", "./data/chatml data.json", "--output_dir=./out"]
    lines = said("train", *words, "--num_epochs", "3", "--batch-size", "4", "--learning_rate", "5e-5", "--fp16")
    settings_form = "is not an option. Settings are written without dashes, such as"
    assert lines == [
        f"--model_name {settings_form} model.name_or_path=Qwen/Qwen2.5-0.5B",
        f"--data_path {settings_form} data.train='./data/chatml data.json'",
        "--output_dir is called --output: --output ./out",
        f"--num_epochs {settings_form} training.num_train_epochs=3",
        f"--batch-size {settings_form} training.per_device_train_batch_size=4",
        f"--learning_rate {settings_form} training.learning_rate=5e-5",
        f"--fp16 {settings_form} training.fp16=true",
    ]


@pytest.mark.parametrize("before", [True, False])
def test_the_mode_is_a_command(before):
    given = [
        "--model_path",
        "./out/sft",
        "--system_prompt",
        "你是一个 AI",
        "--data_path",
        "a.json",
        "--output_path",
        "b",
    ]
    mode = ["--mode", "chat"]
    assert said(*(mode + given if before else given + mode)) == [
        "The mode is the command: tunesmith chat ./out/sft --system '你是一个 AI'"
    ]
    assert said(*given[:2], *given[4:], "--mode=batch") == [
        "The mode is the command: tunesmith batch ./out/sft a.json -o b"
    ]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["chat", "--model_path", "x"], "--model_path is not an option. What answers comes first: tunesmith chat x"),
        (["chat", "run", "--system_prompt", "be brief"], "--system_prompt is called --system: --system 'be brief'"),
        (["eval", "run", "--TEST_DATASET_PATH", "x"], "--TEST_DATASET_PATH is called --data: --data x"),
        (["batch", "--output_path", "x"], "--output_path is called --output: --output x"),
        (
            ["batch", "--data_path", "x"],
            "--data_path is not an option. The rows come behind what answers: tunesmith batch RUN x",
        ),
        (["--config", "a.yaml"], "--config stands before the command. Begin with one, such as tunesmith train."),
        (["train", "--zzz"], "No such option: --zzz. See tunesmith train --help."),
        (["train", "--config"], "Option '--config' requires an argument. See tunesmith --help."),
    ],
)
def test_a_flag_of_a_command_is_answered_by_its_word_or_option(words, line):
    assert said(*words) == [line]


@pytest.mark.parametrize(
    "flag", [["--local_rank", "0"], ["--local-rank=3"], ["--local_rank=-1"], ["--local-rank", "-1"]]
)
def test_a_launchers_rank_is_accepted_before_and_behind_the_command(flag, capsys):
    assert main([*flag, "--version"]) == 0
    assert main(["runs", *flag, "--help"]) == 0
    assert main(["init", *flag]) == 0
    assert Path("run.yaml").is_file()


def test_a_rank_without_a_number_leaves_the_word_behind_it(capsys):
    assert main(["--local_rank", "--version"]) == 0
    assert capsys.readouterr().out.startswith("tunesmith ")
