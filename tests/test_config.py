"""Settings: layers and origins, mistakes with their lines, what YAML would get wrong, and what is generated."""

from __future__ import annotations

import logging
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tunesmith import log
from tunesmith.config.load import load
from tunesmith.config.nodes import flow
from tunesmith.config.reference import json_schema, markdown
from tunesmith.config.schema import Config
from tunesmith.config.settings import sections, settings
from tunesmith.config.write import dump
from tunesmith.errors import ConfigError, RunError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_LANG", "en")


def read(text: str, *overrides: str, **options) -> Config:
    Path("run.yaml").write_text(text, encoding="utf-8")
    return load(Path("run.yaml"), overrides, **options).config


def problems(text: str | bytes, *overrides: str, **options) -> list[str]:
    Path("run.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        load(Path("run.yaml"), overrides, **options)
    assert all(problem.message for problem in error.value.problems)
    return str(error.value).splitlines()


# --- layers and origins


def test_later_layers_win_and_every_value_knows_its_origin():
    Path("mine.yaml").write_text("lora: {r: 2, lora_alpha: 3, lora_dropout: 0.1}\ntraining: {seed: 1}\n")
    Path("run.yaml").write_text(
        "preset: mine.yaml\nlora:\n  lora_alpha: 4\n  lora_dropout: 0.2\ntraining:\n  seed: 2\n"
    )
    loaded = load(Path("run.yaml"), ["lora.lora_dropout=0.4"], {"lora.lora_dropout": 0.3, "training.seed": 3})
    lora = loaded.config.lora
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, loaded.config.training.seed) == (2, 4, 0.4, 3)
    origin = loaded.origin
    assert origin["lora.r"] == "preset mine.yaml"
    assert origin["lora.lora_alpha"] == "run.yaml:3"
    assert origin["lora.lora_dropout"] == origin["training.seed"] == "command line"
    assert origin["training.learning_rate"] == "default"
    assert set(origin) == set(settings())


def test_without_a_file_there_are_defaults_and_none_is_not_given():
    loaded = load(values={"model.name_or_path": None, "training.output_dir": Path("runs/x")})
    assert loaded.config == Config.model_validate({"training": {"output_dir": "runs/x"}})
    assert loaded.path is None


def test_null_is_none_or_the_default_over_every_layer_below():
    config = read("preset: demo\nlora: {r: null}\ntraining: {save_total_limit: ~}\ntemplate:\n")
    assert config.lora.r == Config().lora.r
    assert config.training.save_total_limit is None


def test_overrides_reach_into_names_with_values_and_take_lists():
    Path("a.jsonl").touch()
    config = read(
        "template: {kwargs: {a: 1}}",
        "template.kwargs.enable_thinking=no",
        "lora.target_modules=[q_proj, v_proj]",
        "data.train=[a.jsonl, ./a.jsonl]",
        "data.prompt_template={task}: #{n}",
        'data.answer_template="a\\nb"',
        "template.system=no",
        "training.learning_rate=2e-4",
    )
    assert config.template.kwargs == {"a": 1, "enable_thinking": False}
    assert config.lora.target_modules == ["q_proj", "v_proj"]
    assert config.data.train == [Path("a.jsonl"), Path("./a.jsonl")]
    assert config.data.prompt_template == "{task}: #{n}"
    assert config.data.answer_template == "a\nb"
    assert config.template.system == "no"
    assert config.training.learning_rate == 2e-4


def test_a_path_starts_beside_the_file_that_names_it_and_then_where_the_user_works():
    folder = Path("configs")
    folder.mkdir()
    (folder / "run.yaml").write_text("data: {train: both.jsonl, test: here.jsonl}\nmodel: {name_or_path: tiny}\n")
    for path in ("both.jsonl", "configs/both.jsonl", "here.jsonl"):
        Path(path).touch()
    (folder / "tiny").mkdir()
    config = load(folder / "run.yaml").config
    assert (config.data.train, config.data.test) == (folder / "both.jsonl", Path("here.jsonl"))
    assert config.model.name_or_path == "configs/tiny"
    assert load(folder / "run.yaml", ["data.train=both.jsonl"]).config.data.train == Path("both.jsonl")


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen3-4B", "models/tiny"])
def test_what_may_be_a_hub_id_is_left_alone(name):
    Path("models/other").mkdir(parents=True)
    Path("models/other/config.json").touch()
    assert read(f"model: {{name_or_path: {name}}}").model.name_or_path == name


# --- what YAML 1.1 would get wrong


def test_the_wanted_type_decides_what_a_spelling_means():
    config = read(
        "model: {name_or_path: 123, trust_remote_code: no}\n"
        "template: {system: no, date: 2026-11-22, kwargs: {on: off, x: 1e-4, y: 'no'}}\n"
        "training: {learning_rate: 5e-5, max_steps: 010, adam_epsilon: 1e-8, bf16: on, num_train_epochs: 1_0}\n"
        "data: {stratify_by: yes, mapping: {user: 1e3}}\n"
    )
    assert (config.model.name_or_path, config.model.trust_remote_code) == ("123", False)
    assert (config.template.system, config.template.date) == ("no", "2026-11-22")
    assert config.template.kwargs == {"on": False, "x": 1e-4, "y": "no"}
    training = config.training
    assert (training.learning_rate, training.max_steps, training.adam_epsilon) == (5e-5, 10, 1e-8)
    assert (training.bf16, training.num_train_epochs) == (True, 10)
    assert (config.data.stratify_by, config.data.mapping) == ("yes", {"user": "1e3"})


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\ufeffmethod: full\n", "method: full\r\n"])
def test_empty_files_and_foreign_line_ends_are_fine(text):
    assert read(text).method == ("full" if "full" in text else "lora")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("lora:\n\tr: 8\n", 2, "tab"),
        ("lora:\n  r: 8\n  r: 9\n", 3, "twice; the first is on line 2"),
        ("method: full\n---\nmethod: lora\n", 2, "several documents"),
        ("- a\n- b\n", 1, "names with values"),
        ("method:full\n", 1, "space missing after a colon"),
        ("data:\n  train: 'x\n", 3, "never closed"),
        ("template:\n  system: you: me\n", 2, "': '"),
        ("template:\n  system: *you\n", 2, "anchor"),
        ("lora:\n   r: 8\n  lora_alpha: 2\n", 3, "indent"),
        ("x: &a [*a]\n", 1, "nested too deeply"),
        (
            "a: &a [x,x]\n" + "".join(f"{c}: &{c} [{f'*{p},' * 9}]\n" for p, c in pairwise("abcdefg")),
            None,
            "too many",
        ),
        ("a: " + "[" * 3000 + "\n", None, "nested too deeply"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "Tags"),
        ("? [a, b]\n: 1\n", 1, "must be text"),
        ("lora: &x {r: 1}\ntraining:\n  <<: *x\n", 3, "preset"),
        ("method: full\ntemplate:\n  system: \x07\n", 3, "control character"),
        ("method: full\n# 中文\n".encode("gbk"), 2, "UTF-8"),
        ("x" * 1_000_001, None, "too large"),
    ],
)
def test_broken_text_is_explained_at_its_line(text, line, words):
    found = problems(text)
    place = f"run.yaml:{line}  " if line else "run.yaml"
    assert any(each.startswith(place) and words in each for each in found), found


def test_files_that_are_none():
    for path in ("missing.yaml", "."):
        with pytest.raises(ConfigError, match=r"no such file|is a folder"):
            load(Path(path))


# --- mistakes


def test_all_mistakes_come_at_once_in_the_order_of_their_lines():
    found = problems(
        "method: loraa\n"
        "data:\n"
        "  train: missing.jsonl\n"
        "  max_length: 4\n"
        "  prompt_template: {task}\n"
        "  answer_template: x\n"
        "lora:\n"
        "  rnak: 8\n"
        "training:\n"
        "  learning_rate: fast\n"
        "  bf16: yes\n"
        "  fp16: on\n"
        "trainig:\n"
        "  seed: -4\n"
        "evaluation: 7\n"
        "training.seed: 3\n",
        "lora.r=x",
        "foo",
    )
    assert found == [
        "run.yaml:1  method is 'loraa'; expected lora or full. Did you mean lora?",
        "run.yaml:3  data.train: there is no file or folder missing.jsonl.",
        "run.yaml:4  data.max_length is 4; expected a whole number, at least 8.",
        "run.yaml:5  data.prompt_template is {task: null}; expected text. "
        "Text that begins with a bracket needs quotes.",
        "run.yaml:8  lora.rnak is not a setting. Did you mean lora.r?",
        "run.yaml:10  training.learning_rate is 'fast'; expected a number, above 0.",
        "run.yaml:11  training.bf16 and training.fp16 are both on. Choose one.",
        "run.yaml:13  trainig is not a setting. Did you mean training?",
        "run.yaml:14  training.seed is -4; expected a whole number, at least 0.",
        f"run.yaml:15  evaluation is a group of settings: {', '.join(sections()['evaluation'])}. "
        "Write them below it, indented.",
        "run.yaml:16  Write seed on a line of its own below training: .",
        "command line  'foo' is not of the form name=value, such as training.learning_rate=2e-4.",
        "command line  lora.r is 'x'; expected a whole number, above 0.",
    ]


def test_a_contradiction_with_a_preset_names_the_preset():
    Path("test.jsonl").touch()
    assert problems("preset: demo\ndata:\n  test: test.jsonl\n") == [
        "run.yaml:3  data.test and data.test_ratio are both set. Give a file or a share. "
        "data.test_ratio comes from preset demo."
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("preset: dem", "There is no preset dem. Did you mean demo?"),
        ("preset: zzz", "There is no preset zzz. There are baichuan2-13b, "),
        ("preset: other.yaml", "no such file"),
        ("preset: nested.yaml", "nested.yaml:1  This preset stands on itself: nested.yaml."),
        ("preset: wrong.yaml", "wrong.yaml:1  lora.r is 0"),
        ('preset: "\\0.yaml"', "can't be read"),
        ("training: {weight_decay: .inf}", "expected a number, at least 0"),
        ("training: {weight_decay: nan}", "expected a number, at least 0"),
        ("training: {max_steps: yes}", "expected a whole number"),
        ("model: {trust_remote_code: maybe}", "expected true or false"),
        ("template: {date: today}", "expected text of the form 0000-00-00"),
        ("evaluation: {metrics: bleu}", "expected a list"),
        ("template: {system: [a]}", "needs quotes"),
        ("model: {dtype: bf16}", "Did you mean bfloat16?"),
        ("model: {name_or_path: ./tniy}", "Did you mean ./tiny?"),
        ("model: {name_or_path: tiny/checkpoint-3}", "no file or folder"),
        ("model: {name_or_path: /a/b/c.gguf}", "no file or folder"),
        ("model: {name_or_path: '~nobody/x'}", "no file or folder"),
        ("data: {train: '%s'}" % ("x" * 5000), "no file or folder"),
        ("data: {train: [a, b]}", "no file or folder b"),
        ("data: {format: ./mine.py}", "no file or folder ./mine.py"),
        ('data: {train: "a\\e[31m"}', r"a\x1b[31m"),
    ],
)
def test_mistakes_in_values(text, words):
    Path("tiny").mkdir()
    Path("nested.yaml").write_text("preset: nested.yaml")
    Path("wrong.yaml").write_text("lora: {r: 0}")
    assert any(words in each for each in problems(text))


def test_unknown_values_from_a_program_are_mistakes_too():
    with pytest.raises(ConfigError, match=r"command line  lora\.rank is not a setting\. Did you mean lora\.r\?"):
        load(values={"lora.rank": 3})


# --- what is written


HARD = [
    "no",
    "1e-4",
    "null",
    "",
    " x ",
    "a: b",
    "{x}",
    "a\nb\t#c",
    "判断:{j}\n\n原因：{r}",
    "😀",
    "\x1b[0m",
    "'\"\\",
    "2026-11-22",
]


@pytest.mark.parametrize("text", HARD)
def test_a_dumped_config_loads_again_equal(text):
    options = {"template.system": text, "template.kwargs": {"t": text, "n": 1e-7, "b": True, "l": [text, None]}}
    first = load(values={**options, "preset": "defect-triage", "lora.target_modules": [text, "q"]}, files=False)
    again = read(dump(first.config, first.origin), files=False)
    assert again == first.config
    assert again.preset is None


def test_a_dump_shows_origins_and_means_the_same_to_other_readers():
    loaded = load(overrides=["training.learning_rate=1e-5"], values={"preset": "demo"})
    text = dump(loaded.config, loaded.origin)
    assert "  learning_rate: 1.0e-05  # command line\n" in text
    assert "  max_length: 512  # preset demo\n" in text
    assert yaml.safe_load(text) == loaded.config.model_dump(mode="json")


def test_the_config_of_a_finished_run_needs_no_files():
    assert read("data: {train: gone.jsonl}", files=False).data.train == Path("gone.jsonl")


def test_the_defect_preset_asks_in_the_datas_own_language():
    data = load(values={"preset": "defect-triage"}).config.data
    assert data.prompt_template == "任务：{task}\n\n事件：\n{event}\n\n输出格式：\n{output_format}"
    assert data.answer_template == "判断:{judgement}\n\n原因：{reason}"


def test_the_page_of_settings_is_fresh():
    assert (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8") == markdown(), "run `make docs`"


def test_the_json_schema_knows_every_group():
    assert set(sections()) < set(json_schema()["properties"])
    assert json_schema()["additionalProperties"] is False


@pytest.mark.parametrize(("value", "text"), [(1e-8, "1.0e-08"), ([1, "a b"], '[1, "a b"]'), ({"a": None}, "{a: null}")])
def test_values_in_one_line(value, text):
    assert flow(value) == text


def test_reading_starts_without_the_schemas_library():
    code = "import sys, tunesmith.config.load; sys.exit('pydantic' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the log


def test_a_record_is_one_line_that_no_terminal_obeys(monkeypatch):
    monkeypatch.setattr(log.get(), "propagate", False)  # pytest's own capture can't pass a lone surrogate on
    with log.open_log(Path("runs/a/tunesmith.log")):
        log.get().info("two\nlines \x1b[31m %s", "\u202e中文　😀\ud800")
        try:
            raise ValueError("x\ny")
        except ValueError:
            log.get().exception("failed")
    log.get().info("not in the file")
    lines = Path("runs/a/tunesmith.log").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert lines[0].split(" ", 2)[1:] == ["INFO", r"two\nlines \x1b[31m \u202e中文　😀\ud800"]
    assert lines[0].split()[0].endswith("+00:00")
    assert r"Traceback" in lines[1]
    assert not any(isinstance(handler, logging.FileHandler) for handler in log.get().handlers)


def test_text_for_the_terminal_keeps_what_it_is_told_to_keep():
    assert log.escape("a\nb\x07\r", keep="\n") == "a\nb\\x07\\r"


def test_a_log_that_cannot_be_written_says_so():
    Path("file").touch()
    with pytest.raises(RunError, match="can't be written"), log.open_log(Path("file/x.log")):
        pass
