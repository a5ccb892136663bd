"""The Python door: scripts of a ChatML framework run as they are, but for the line that imports."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tunesmith import ChatMLDataProcessor, SFTTrainer, get_config
from tunesmith.config.layers import presets
from tunesmith.config.load import load
from tunesmith.errors import ConfigError

MAKE_DATA = """
from tunesmith import ChatMLDataProcessor

processor = ChatMLDataProcessor()

# 创建示例数据
sample_data = [
    processor.create_chatml_sample(
        system="你是一个有用的AI助手。",
        user="什么是机器学习？",
        assistant="机器学习是人工智能的一个分支..."
    ),
    # 更多数据...
]

# 保存数据
processor.save_chatml_data(sample_data, "./data/chatml_data.json")
"""
READ_CONFIG = """
from tunesmith import SFTTrainer, get_config

# 获取预定义配置
config = get_config("qwen2.5-0.5b")
"""
TRAIN = """
# 创建训练器
trainer = SFTTrainer(
    model_args=config["model"],
    data_args=config["data"],
    training_args=config["training"]
)

# 开始训练
trainer.train()
"""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def trainer_of(folder: Path, **training: object) -> SFTTrainer:
    rows = [
        ChatMLDataProcessor().create_chatml_sample(user=f"Is pump {i} faulty?", assistant="Yes." if i % 2 else "No.")
        for i in range(4)
    ]
    ChatMLDataProcessor().save_chatml_data(rows, "rows.json")
    return SFTTrainer({"model_name": str(folder)}, {"train_data_path": "rows.json"}, training)


def test_the_scripts_of_a_chatml_framework_run_one_after_the_other(tiny_folder, capsys):
    names: dict = {}
    exec(MAKE_DATA + READ_CONFIG, names)
    names["config"]["model"]["model_name"] = str(tiny_folder)
    capsys.readouterr()
    exec(TRAIN, names)
    printed = capsys.readouterr().out.splitlines()

    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert len(printed) == 1
    model = AutoModelForCausalLM.from_pretrained(printed[0])
    assert sum(p.numel() for p in model.parameters()) == model.num_parameters()
    assert not (Path(printed[0]) / "adapter_config.json").exists()
    asked = AutoTokenizer.from_pretrained(printed[0]).apply_chat_template(
        [{"role": "user", "content": "什么是机器学习？"}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert model.generate(**asked, max_new_tokens=2).shape[0] == 1


def test_an_adapters_path_loads_too(tiny_folder, capsys):
    path = trainer_of(tiny_folder, num_epochs=1, method="lora").train()
    assert capsys.readouterr().out.strip() == str(path)
    from transformers import AutoModelForCausalLM

    assert "lora" in "".join(name for name, _value in AutoModelForCausalLM.from_pretrained(path).named_parameters())


def test_a_row_is_its_messages_in_order():
    make = ChatMLDataProcessor().create_chatml_sample
    roles = [message["role"] for message in make(assistant="c", user="b", system="a")["messages"]]
    assert roles == ["system", "user", "assistant"]
    assert make(user="b", assistant="")["messages"][0] == {"role": "user", "content": "b"}


def test_rows_are_kept_as_they_are():
    rows = [ChatMLDataProcessor().create_chatml_sample(user="判断：\n\t“是”？", assistant="😀")]
    path = ChatMLDataProcessor().save_chatml_data(rows, "a/b/rows.json")
    assert json.loads(path.read_text(encoding="utf-8")) == rows
    assert "判断" in path.read_text(encoding="utf-8")


def test_the_named_config_is_full_fine_tuning():
    Path("data").mkdir()
    Path("data/chatml_data.json").touch()
    parts = get_config("qwen2.5-0.5b")
    config = SFTTrainer(parts["model"], parts["data"], parts["training"]).loaded.config
    assert config.method == "full"
    assert config.model.name_or_path == parts["model"]["model_name"] == "Qwen/Qwen2.5-0.5B"
    training = config.training
    assert (training.learning_rate, training.per_device_train_batch_size, training.num_train_epochs) == (5e-5, 4, 3)


@pytest.mark.parametrize("name", presets())
def test_a_preset_reaches_the_trainer_whole(name):
    Path("data").mkdir()
    Path("data/chatml_data.json").touch()
    parts = get_config(name)
    if not parts["model"].get("model_name"):
        parts["model"]["model_name"] = "some/model"
    config = SFTTrainer(parts["model"], parts["data"], parts["training"]).loaded.config
    expected = load(values={"preset": name, "model.name_or_path": config.model.name_or_path}).config
    expected.data.train = Path("data/chatml_data.json")
    assert config == expected


@dataclass
class ModelArguments:
    model_name: str = "Qwen/Qwen2.5-0.5B"
    trust_remote_code: bool = True
    torch_dtype: str = "bfloat16"
    device_map: str = "auto"


@dataclass
class DataArguments:
    train_data_path: str = "rows.json"
    max_length: int = 512
    ignore_index: int = -100


@dataclass
class TrainingArguments:
    num_train_epochs: int = 2
    per_device_train_batch_size: int = 2
    gradient_accumulation_steps: int = 3
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    output_dir: str | None = None


def test_dataclasses_with_the_fields_of_older_scripts_are_settings():
    Path("rows.json").touch()
    loaded = SFTTrainer(ModelArguments(), DataArguments(), TrainingArguments()).loaded
    config = loaded.config
    model, training = config.model, config.training
    assert (model.name_or_path, model.trust_remote_code) == ("Qwen/Qwen2.5-0.5B", True)
    assert (model.dtype, model.device_map) == ("bfloat16", "auto")
    assert (config.data.train, config.data.max_length) == (Path("rows.json"), 512)
    assert (training.num_train_epochs, training.per_device_train_batch_size) == (2, 2)
    assert (training.gradient_accumulation_steps, training.learning_rate) == (3, 5e-5)
    assert (training.weight_decay, training.warmup_ratio) == (0.01, 0.1)
    assert loaded.origin["training.learning_rate"] == "SFTTrainer"


def test_groups_and_dotted_names_reach_every_setting():
    given = {"lora": {"r": 4, "lora_alpha": 8}, "template.system": "Be brief.", "generation": {"max_new_tokens": 7}}
    config = SFTTrainer(argparse.Namespace(model_path="some/model"), None, given).loaded.config
    assert (config.lora.r, config.lora.lora_alpha, config.template.system) == (4, 8, "Be brief.")
    assert (config.model.name_or_path, config.generation.max_new_tokens) == ("some/model", 7)


def test_fields_that_are_none_are_named_at_once():
    with pytest.raises(ConfigError) as error:
        SFTTrainer(
            {"model_name": "a", "model_path": "b", "modle": 1},
            {"save_model_path": "x"},
            {"lora": {"rnak": 2}, "learning_rate": "fast"},
        )
    assert str(error.value).splitlines() == [
        "model_args  model.name_or_path is given twice, as a and as b. Keep one.",
        "model_args  modle is not a setting. Did you mean model.name_or_path?",
        "data_args  save_model_path is not a setting. A merged model is named when it is made: "
        "tunesmith merge RUN -o DIR.",
        "training_args  rnak is not a setting. Did you mean lora.r?",
    ]
    with pytest.raises(ConfigError, match=r"SFTTrainer  training\.learning_rate is 'fast'"):
        SFTTrainer({}, {}, {"learning_rate": "fast"})


def test_labels_are_exported_with_the_index_that_was_asked_for(tiny_folder):
    trainer = trainer_of(tiny_folder)
    trainer.ignore_index = -1
    assert trainer.export_labels("labels.jsonl") == 4
    for line in Path("labels.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        context, answer = len(row["context_ids"]), row["answer_ids"]
        assert row["input_ids"] == row["context_ids"] + answer
        assert row["labels"] == [-1] * context + answer
    data = {"train_data_path": "rows.json", "ignore_index": -7}
    assert SFTTrainer({"model_name": str(tiny_folder)}, data).ignore_index == -7


def test_importing_the_package_costs_nothing():
    code = (
        "import sys, tunesmith; first = {'torch', 'transformers', 'pydantic', 'yaml'} & set(sys.modules);"
        "tunesmith.get_config; sys.exit(bool(first or {'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_the_package_does_not_have():
    import tunesmith

    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = tunesmith.trian
