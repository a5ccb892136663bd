"""What a user begins with: presets by any spelling, presets on presets, two files, starter files in three styles."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tunesmith.cli import main
from tunesmith.config.layers import PRESETS, presets
from tunesmith.config.load import load
from tunesmith.config.names import preset_name
from tunesmith.config.schema import Config
from tunesmith.config.settings import settings
from tunesmith.config.write import STYLES, draft
from tunesmith.errors import ConfigError

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((*ROOT.glob("examples/**/*.yaml"), *PRESETS.glob("*.yaml")))


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_LANG", "en")


def read(text: str, *overrides: str) -> Config:
    Path("run.yaml").write_text(text, encoding="utf-8")
    return load(Path("run.yaml"), overrides, files=False).config


# --- presets


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.parent.name + "/" + p.name)
def test_every_shipped_file_loads(path):
    loaded = load(path, files=False)
    assert any(origin != "default" for origin in loaded.origin.values())
    assert path.read_text(encoding="utf-8").startswith("#")


@pytest.mark.parametrize(
    ("family", "sizes"),
    {
        "qwen2": "0.5b 1.5b 7b 72b",
        "qwen2.5": "0.5b 1.5b 3b 7b 14b 32b 72b",
        "qwen2.5-coder": "7b",
        "qwen3": "4b 8b 4b-instruct-2507",
        "deepseek-r1-distill-qwen": "7b",
        "deepseek-llm": "7b",
        "gpt-oss": "20b",
        "gemma-3": "1b",
        "llama3": "8b 70b",
        "chatglm3": "6b",
        "baichuan2": "7b 13b",
    }.items(),
)
def test_every_family_has_its_sizes(family, sizes):
    for size in sizes.split():
        config = load(values={"preset": f"{family}-{size}"}, files=False).config
        hub_id = str(config.model.name_or_path).lower().replace("-", "").replace("meta", "")
        assert hub_id.partition("/")[2].startswith(f"{family}{size}".replace("-", ""))


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("qwen2_5-14b", "qwen2.5-14b"),
        ("deepseek-r1-qwen-7b", "deepseek-r1-distill-qwen-7b"),
        ("gemma-3", "gemma-3-270m"),
        ("gpt-oss", "gpt-oss-20b"),
        ("qwen3-8b", "qwen3-8b"),
        ("qwen2.5-0.5b", "qwen2.5-0.5b"),
        ("qwen2.5", "qwen2.5-0.5b"),
        ("DeepSeek-R1-Distill-Qwen-7B", "deepseek-r1-distill-qwen-7b"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3-4b-instruct-2507"),
        ("Qwen2.5-Coder-7B-Instruct", "qwen2.5-coder-7b"),
        ("llama3", "llama3-8b"),
        ("qwen2-14b", None),
        ("qwen", None),
        ("7b", None),
        ("instruct", None),
        ("-", None),
    ],
)
def test_spellings_of_older_scripts_are_found(spelling, name):
    assert preset_name(spelling, presets()) == name


@pytest.mark.parametrize("name", presets())
def test_a_presets_fallback_is_a_shipped_template(name):
    from tunesmith.tokens.choose import shipped

    fallback = load(values={"preset": name}, files=False).config.template.fallback
    assert fallback is None or fallback in shipped()


def test_a_model_that_does_not_exist_is_answered_by_the_nearest():
    with pytest.raises(ConfigError, match=r"There is no preset qwen2-14b\. Did you mean qwen2\.5-14b\?"):
        load(values={"preset": "qwen2-14b"})


def test_a_preset_stands_on_another_and_every_value_knows_whose_it_is():
    loaded = load(values={"preset": "qwen3-4b-lora"}, files=False)
    origin = loaded.origin
    assert origin["lora.lora_alpha"] == "preset qwen3-4b-lora"
    assert origin["model.name_or_path"] == "preset qwen3-4b-instruct-2507"
    assert origin["training.gradient_checkpointing"] == "preset lora-7b"
    assert origin["lora.r"] == "preset lora-1b"
    assert (loaded.config.lora.r, loaded.config.lora.lora_alpha) == (8, 32)


def test_presets_that_stand_on_each_other_are_refused():
    Path("a.yaml").write_text("preset: b.yaml\n")
    Path("b.yaml").write_text("lora: {r: 2}\npreset: a.yaml\n")
    with pytest.raises(ConfigError, match=r"b\.yaml:2  This preset stands on itself: a\.yaml, b\.yaml\."):
        load(values={"preset": "a.yaml"})


def test_settings_of_the_run_and_of_the_model_stay_two_files(monkeypatch):
    """`config.yaml` says what is trained on, `train_arg/MODEL.yaml` how; either is found from anywhere."""
    Path("work/train_arg").mkdir(parents=True)
    Path("work/config.yaml").write_text(
        "preset: train_arg/qwen3-8b.yaml\nmodel: {name_or_path: some/model}\nlora: {r: 4}\n"
    )
    Path("work/train_arg/qwen3-8b.yaml").write_text("preset: qwen3-8b\nlora: {r: 16, lora_alpha: 64}\n")
    Path("work/train_arg/gemma-3.yaml").write_text("lora: {r: 2, lora_alpha: 3}\n")
    loaded = load(Path("work/config.yaml"))
    lora, training = loaded.config.lora, loaded.config.training
    assert (lora.r, lora.lora_alpha, loaded.config.model.name_or_path) == (4, 64, "some/model")
    assert training.gradient_checkpointing is True
    assert loaded.origin["lora.lora_alpha"] == "preset train_arg/qwen3-8b.yaml"
    monkeypatch.chdir("work")
    assert load(Path("config.yaml"), ["preset=train_arg/gemma-3.yaml"]).config.lora.lora_alpha == 3


def test_a_preset_may_be_changed_by_any_setting():
    assert read("preset: qwen2_5-14b\ntraining: {learning_rate: 3e-5}\n", "lora.r=1").lora.r == 1


# --- starter files


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", [None, "qwen2.5-0.5b", "defect-triage", "lora-70b", "gpt-oss-20b"])
def test_a_draft_is_a_config_that_keeps_the_preset(name, language, style, monkeypatch):
    monkeypatch.setenv("TUNESMITH_LANG", language)
    text = draft(name, style)
    config, below = read(text), load(values={"preset": name}).config
    assert config.model.name_or_path
    assert config.method == below.method
    if style != "medical":
        assert (config.lora, config.training, config.template) == (below.lora, below.training, below.template)
    for key, origin in load(values={"preset": name}).origin.items():
        section, _dot, inner = key.rpartition(".")
        if origin != "default" and section:
            assert getattr(getattr(config, section), inner) == getattr(getattr(below, section), inner)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_reference_style_explains_every_setting(language, monkeypatch):
    from tunesmith.i18n import _

    monkeypatch.setenv("TUNESMITH_LANG", language)
    text = draft(style="reference")
    for name, prop in settings().items():
        assert f"# {_(prop['description'])}\n" in text
        assert re.search(rf"^ *#?{name.rpartition('.')[2]}: ", text, re.MULTILINE)
    opened = read(re.sub(r"^( *)#(\w+: )", r"\1\2", text, flags=re.MULTILINE))
    assert opened.training == Config().training
    assert opened.generation == Config().generation


def test_the_short_style_fits_on_a_screen():
    assert len(draft().splitlines()) < 30


def test_the_medical_style_holds_back_rows_and_stops_early():
    config = read(draft(style="medical"))
    assert config.data.validation_ratio > 0 < config.data.test_ratio
    assert config.training.early_stopping_patience
    assert config.template.system


def test_a_style_that_is_none_is_refused(capsys):
    assert main(["init", "--style", "long"]) == 2
    assert capsys.readouterr().err == "--style  There is no style long; there are short, medical, reference.\n"
    assert not Path("run.yaml").exists()


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3), ("zero3-offload", 3)])
def test_init_writes_deepspeeds_own_file_beside_the_settings(name, stage, capsys):
    Path("sub").mkdir()
    assert main(["init", "sub/run.yaml", "--deepspeed", name]) == 0
    assert f"Train with it: --deepspeed sub/ds_{name}.json" in capsys.readouterr().err
    found = json.loads(Path(f"sub/ds_{name}.json").read_text(encoding="utf-8"))
    assert found["zero_optimization"]["stage"] == stage
    assert found["train_micro_batch_size_per_gpu"] == "auto"
    Path("sub/run.yaml").unlink()
    assert main(["init", "sub/run.yaml", "--deepspeed", name]) == 2
    assert f"sub/ds_{name}.json  The file exists." in capsys.readouterr().err
    assert not Path("sub/run.yaml").exists()
    assert main(["init", "--deepspeed", "zero9"]) == 2
    assert "there are zero2, zero3" in capsys.readouterr().err
