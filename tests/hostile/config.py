"""Files of settings and command lines: YAML that is none or too much, wrong values, contradictions, paths, secrets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hostile import ACCEPTED, REFUSED, Case, Place

# Made here, and keys to nothing.
KEYS = {
    "a key of a model hub": "hf_" + "aB3dE5gH7jK9mN1pQ3sT" * 2,
    "a key of an API": "sk-" + "aB3dE5gH7jK9mN1pQ3sT" * 2,
    "a key of a code host": "ghp_" + "aB3dE5gH7jK9mN1pQ3sT" * 2,
    "a key of a cloud": "AKIA" + "ABCDEFGHIJKLMNOP",
    "a private key": "-----BEGIN PRIVATE KEY----- MIIE",
    "an address with a password": "https://user:hunter2secret@mirror.example/x",
}


def settings(name: str, text: str | bytes, says: str, ends: str = REFUSED, *words: str) -> Case:
    """A file of settings beside good rows; `MODEL` in it is a good model."""

    def make(place: Place) -> Sequence[object]:
        data = place.rows()
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        raw = raw.replace(b"MODEL", str(place.model).encode()).replace(b"ROWS", str(data).encode())
        return ["check", place.write("run.yaml", raw), *words]

    return Case(name, make, ends, says)


def whole(name: str, text: str, says: str, ends: str = REFUSED) -> Case:
    """Settings beside a model and rows that are given on the command line."""

    def make(place: Place) -> Sequence[object]:
        config = place.write("run.yaml", text.replace("ROWS", "rows.jsonl"))
        return ["check", config, "--model", place.model, *([] if "train:" in text else [f"data.train={place.rows()}"])]

    return Case(name, make, ends, says)


def word(name: str, setting: str, says: str, ends: str = REFUSED) -> Case:
    """One setting on the command line."""
    return Case(name, lambda p: ["check", p.rows(), "--model", p.model, setting], ends, says)


def made(name: str, make: Callable[[Place], Path], says: str, ends: str = REFUSED) -> Case:
    return Case(name, lambda place: ["check", make(place)], ends, says)


def yaml() -> Iterator[Case]:
    """YAML that is none, or that would do more than hold values."""
    yield settings("whole settings", "model: {name_or_path: MODEL}\ndata: {train: ROWS}\n", "", ACCEPTED)
    yield settings("an empty file", "", "There is no model")
    yield settings("a list", "- a\n- b\n", "run.yaml:1  Settings are names with values")
    yield settings("a text", "hello", "run.yaml:1  Settings are names with values")
    yield settings("JSON lines", '{"a": 1}\n{"a": 2}\n', "run.yaml:")
    yield settings("a tab", "lora:\n\tr: 8\n", "run.yaml:2  A tab stands")
    yield settings("a quote that never ends", 'data:\n  train: "rows.jsonl\n', "run.yaml:")
    yield settings("a bracket that never ends", "lora: {r: 8\n", "run.yaml:2  A quote or bracket")
    yield settings("two documents", "method: lora\n---\nmethod: full\n", "run.yaml:2  The file holds several")
    yield settings("a name twice", "method: lora\nmethod: full\n", "run.yaml:2  method stands here twice")
    yield settings("a colon without a space", "method:lora\n", "run.yaml:1  ")
    yield settings("another encoding", "model: {name_or_path: 模型}".encode("gbk"), "run.yaml:1  The text is not UTF-8")
    yield settings("utf-16", "method: lora\n".encode("utf-16"), "run.yaml:1  The text is not UTF-8")
    yield settings("zeros", b"method: lo\x00ra\n", "run.yaml:1  A control character")
    yield settings("an escape", "method: \x1b[31mlora\n", "run.yaml:1  A control character")
    yield settings("bytes of a program", b"\x7fELF" + bytes(range(256)), "run.yaml")
    yield settings("a million bytes", "#" * 1_100_000, "run.yaml  The file is too large for settings")
    yield settings("very deep", "a: " + "[" * 20_000, "run.yaml  The values are nested too deeply")
    yield settings("deep blocks", "".join(f"{' ' * i}a:\n" for i in range(900)), "run.yaml")
    yield settings("ten thousand names", "".join(f"a{i}: 1\n" for i in range(11_000)), "nested too deeply, or too many")
    laughs = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    )
    yield settings("a billion laughs", laughs, "run.yaml:")
    yield settings("a value that holds itself", "data: &a {mapping: *a}\n", "run.yaml:")
    yield settings("an anchor that is not there", "method: *x\n", "run.yaml:1  '*' begins the name")
    yield settings("a merge", "x: &x {r: 8}\nlora:\n  <<: *x\n", "run.yaml:3  '<<' is not read")
    yield settings(
        "an object of Python", "method: !!python/object/apply:os.system ['touch CANARY']\n", "run.yaml:1  Tags"
    )
    yield settings("a name of Python", "method: !!python/name:os.system\n", "run.yaml:1  Tags such as")
    yield settings("a tag of its own", "method: !env SECRET\n", "run.yaml:1  Tags such as")
    yield settings("a name that is a list", "? [a, b]\n: 1\n", "run.yaml:1  A name must be text")


def files() -> Iterator[Case]:
    yield made("a folder called yaml", lambda p: p.write("run.yaml/x", "").parent, "a YAML file is expected")
    yield made("not there", lambda p: p.folder / "run.yaml", "There is no such file")
    yield made("a link to itself", lambda p: _link(p, "run.yaml"), "run.yaml")
    yield made("a link without end", lambda p: _link(p, "/dev/zero"), "run.yaml")
    yield made("a pipe that nobody writes", _pipe, "run.yaml  This is a device or a pipe")
    yield whole("a preset that is not there", "preset: nowhere\n", "run.yaml:1  There is no preset nowhere")
    yield whole("a preset by a path outside", "preset: ../../../../etc/passwd\n", "run.yaml:1  There is no preset")
    yield whole("a preset that is a folder", "preset: /tmp/.yaml\n", "/tmp/.yaml")
    yield Case("presets that stand on each other", lambda p: ["check", p.write("a.yaml", "preset: b.yaml\n"), *(
        [] if p.write("b.yaml", "preset: a.yaml\n") else [])], REFUSED, "This preset stands on itself")  # fmt: skip
    yield whole("a template that is not there", "template: {path: nowhere.jinja}\n", "run.yaml:1")
    yield whole("a template that is a folder", "template: {path: /tmp/}\n", "The chat template can't be read")
    yield whole("a template that is a device", "template: {path: /dev/zero}\n", "/dev/zero")
    yield whole("rows with a zero in the name", 'data: {train: "a\\0b.jsonl"}\n', "run.yaml:1")
    yield settings(
        "rows in a place that is none", "model: {name_or_path: MODEL}\ndata: {train: ROWS/x}\n", "run.yaml:2"
    )
    yield settings("the same in another file", "model: {name_or_path: MODEL}\ndata: {train: [ROWS, gone.jsonl]}\n",
                   "run.yaml:2  data.train: there is no file")  # fmt: skip
    yield whole("a format that is not there", "data: {format: ./nowhere.py}\n", "run.yaml:1")
    yield settings(
        "a model with a zero in its name", 'model: {name_or_path: "a\\0b"}\ndata: {train: ROWS}\n', "a\\x00b"
    )
    yield word("a model that is a command", "model.name_or_path=$(touch CANARY)", "touch CANARY")
    yield word("a model one floor up", "model.name_or_path=../../../nowhere", "there is no file or folder")
    yield Case("a run in a file", lambda p: ["check", p.rows(), "--model", p.model,
               f"training.output_dir={p.rows() / 'run'}"], REFUSED, "training.output_dir  ")  # fmt: skip
    yield word("a run in a device", "training.output_dir=/dev/null", "training.output_dir  ")
    for name, where in (("the model's folder", "."), ("the model's folder, further down", "a/b")):
        yield Case(f"a run in {name}", lambda p, where=where: ["check", p.rows(), "--model", p.model,
                   f"training.output_dir={p.model / where}"], REFUSED, "lies in the folder of the base")  # fmt: skip
    yield Case("a run by a link to the model's folder", lambda p: ["check", p.rows(), "--model", p.model,
               f"training.output_dir={_linked(p, p.model)}"], REFUSED, "lies in the folder of the base")  # fmt: skip


def _linked(place: Place, target: Path) -> Path:
    (place.folder / "link").symlink_to(target)
    return place.folder / "link"


def _link(place: Place, target: str) -> Path:
    link = place.folder / "run.yaml"
    link.symlink_to(target)
    return link


def _pipe(place: Place) -> Path:
    os.mkfifo(place.folder / "run.yaml")
    return place.folder / "run.yaml"


def values() -> Iterator[Case]:
    """Wrong types and ranges: the setting, where it stands, and what it takes."""
    wrong = {
        "lora: {r: 0}": "lora.r is 0; expected a whole number",
        "lora: {r: -8}": "lora.r is -8",
        "lora: {r: eight}": "lora.r is 'eight'",
        "lora: {r: 8.5}": "lora.r is 8.5",
        "lora: {r: [8]}": "lora.r is [8]",
        "lora: {r: true}": "lora.r is",
        f"lora: {{r: {'9' * 5000}}}": "lora.r is",
        "lora: {r: 100000000000}": "of disk",
        "lora: {lora_dropout: 1.5}": "lora.lora_dropout is 1.5",
        "lora: {lora_alpha: .nan}": "lora.lora_alpha is",
        "lora: {target_modules: [nowhere_proj]}": "no linear layer",
        "lora: {target_modules: []}": "lora.target_modules",
        "lora: {target_modules: '(a+)+$'}": "lora.target_modules",
        "lora: {layers_to_transform: [99]}": "lora.layers_to_transform",
        "lora: 8": "lora is a group of settings",
        "training: {learning_rate: .inf}": "training.learning_rate is",
        "training: {learning_rate: 1e999}": "training.learning_rate is",
        "training: {learning_rate: -1}": "training.learning_rate is -1",
        "training: {learning_rate: 0}": "training.learning_rate is 0",
        "training: {learning_rate: fast}": "training.learning_rate is 'fast'",
        "training: {num_train_epochs: 0}": "training.num_train_epochs is 0",
        "training: {max_steps: -2}": "training.max_steps is -2",
        "training: {warmup_ratio: 2}": "training.warmup_ratio is 2",
        "training: {lr_scheduler_type: cosin}": "Did you mean cosine?",
        "training: {seed: -1}": "training.seed is -1",
        "training: {save_total_limit: 0}": "training.save_total_limit is 0",
        "data: {max_length: 4}": "data.max_length is 4",
        "data: {test_ratio: 1}": "data.test_ratio is 1",
        "data: {test_ratio: '20%'}": "data.test_ratio is '20%'",
        "data: {max_dropped: 2}": "data.max_dropped is 2",
        "data: {split_by: a, split_pattern: '('}": "data.split_pattern",
        "data: {split_by: a, split_pattern: 'abc'}": "The pattern needs parentheses",
        "data: {mapping: [a]}": "data.mapping is",
        "data: {prompt_template: '{question.__class__}', answer_template: '{answer}'}": "",
        "data: {prompt_template: '{question!r:>999999999}', answer_template: '{answer}'}": "may hold only names",
        "data: {prompt_template: '{', answer_template: '{answer}'}": "is malformed",
        "data: {weights: [{pattern: '(', weight: 2}]}": "This is not a regular expression",
        "data: {weights: [{text: a}]}": "has no weight",
        "data: {weights: [{text: a, weight: .inf}]}": "weight",
        "method: lorra": "Did you mean lora?",
        "model: {dtype: float8}": "model.dtype is 'float8'",
        "model: {device: gpu99}": "model.device",
        "model: {trust_remote_code: maybe}": "model.trust_remote_code is 'maybe'",
        "template: {date: yesterday}": "template.date is 'yesterday'",
        "template: {date: '2026-13-45'}": "template.date",
        "template: {kwargs: {messages: []}}": "messages",
        "generation: {temperature: 0}": "generation.temperature is 0",
        "generation: {max_new_tokens: -5}": "generation.max_new_tokens is -5",
        "tracking: {trace: everything}": "tracking.trace",
        "logging: {level: loud}": "logging.level is 'loud'",
    }
    for text, says in wrong.items():
        yield whole(f"value: {text[:60]}", text, says)


def names() -> Iterator[Case]:
    for text, says in {
        "loar: {r: 8}": "run.yaml:1  loar is not a setting. Did you mean lora?",
        "lora: {rr: 8}": "Did you mean lora.r?",
        "Lora: {r: 8}": "Did you mean lora?",
        "lоra: {r: 8}": "Did you mean lora?",  # a Cyrillic letter
        "learning_rate: 1e-4": "training.learning_rate",
        "lora.r: 8": "Write r on a line of its own",
        "__class__: 1": "run.yaml:1  __class__ is not a setting",
        '"\\e[2J": 1': "run.yaml:1  \\x1b[2J is not a setting",
        '"": 1': "run.yaml:1",
        "1: 2": "run.yaml:1  1 is not a setting",
        "null: 2": "run.yaml:1  null is not a setting",
        f"{'a' * 1000}: 1": "is not a setting",
    }.items():
        yield whole(f"name: {text[:40]}", text + "\n", says)


def contradictions() -> Iterator[Case]:
    for text in (
        "training: {bf16: true, fp16: true}",
        "method: full\nlora: {r: 4}\nmodel: {load_in_4bit: true}",
        "template: {enable_thinking: false, thinking: keep}",
        "training: {fp16: true, bf16: true}",
    ):
        yield settings(f"against itself: {text[:50]}", text + "\n", "run.yaml:1")


def words() -> Iterator[Case]:
    yield word("no value", "lora.r", "lora.r")
    yield word("an empty name", "=8", "")
    yield word("a hidden name of Python", "training.__class__=1", "training.__class__ is not a setting")
    yield word("a tag", "lora.r=!!python/object/apply:os.system ['touch CANARY']", "lora.r is")
    yield word("not a number", "training.learning_rate=nan", "training.learning_rate is")
    yield word("escapes", "lora.r=\x1b[31m8", "lora.r is '\\x1b[31m8'")
    yield word("half a character", "lora.r=\udcff", "lora.r is")
    yield word("a value that is very deep", "lora.target_modules=" + "[" * 20_000, "lora.target_modules")
    yield word("very long", "lora.r=" + "9" * 100_000, "lora.r is")


def secrets() -> Iterator[Case]:
    """A key in settings is refused where it stands, and never said again."""
    for name, key in KEYS.items():
        yield whole(f"{name} as an unknown setting", f"tracking: {{api_key: '{key}'}}\n", "run.yaml:1")
        yield whole(f"{name} as a value", f"tracking: {{project: '{key}'}}\n", "run.yaml:1  tracking.project holds")
        yield whole(
            f"{name} deep in a value", f"template: {{kwargs: {{a: ['{key}']}}}}\n", "run.yaml:1  template.kwargs"
        )
        yield word(f"{name} on the command line", f"tracking.experiment={key}", "tracking.experiment holds")
    for name in ("api_key", "hf_token", "wandb_api_key", "password", "secret_key", "access_token"):
        yield whole(f"a setting called {name}", f"tracking: {{{name}: '0123456789abcdef'}}\n", "run.yaml:1  ")
    yield whole("a key in what a template is given", "template: {kwargs: {api_key: abcdef}}\n", "run.yaml:1")
    yield whole("text about keys", "template: {system: 'Never print a token, a password or sk-...'}\n", "", ACCEPTED)


def cases() -> Sequence[Case]:
    return [*yaml(), *files(), *values(), *names(), *contradictions(), *words(), *secrets()]
