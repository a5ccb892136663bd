"""Models, adapters and runs from strangers: damaged, lying, of another base, or made to run code."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hostile import ACCEPTED, REFUSED, SHORT, Case, Place, pickled
from hostile.damage import (
    Change,
    both,
    code,
    cut,
    entry,
    fields,
    filled,
    folder_instead,
    gone,
    header,
    linked,
    pipe,
    tensors,
    text,
    torch_archive,
)

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
DEEP = "[" * 100_000


def adapter(name: str, change: Change, says: str, ends: str = REFUSED, command: str = "batch") -> Case:
    """A checkpoint of the run as an adapter on its own, damaged."""

    def make(place: Place) -> Sequence[object]:
        newest = sorted(place.trained().glob("checkpoint-*"))[-1]
        copy = place.copied(newest, "adapter")
        change(copy, place)
        words = [place.rows(), "-o", place.folder / "o.jsonl", SHORT] if command == "batch" else []
        return [*command.split(), copy, *words]

    return Case(f"adapter: {name}", make, ends, says)


def run(name: str, change: Change, says: str, *command: str, ends: str = REFUSED) -> Case:
    def make(place: Place) -> Sequence[object]:
        copy = place.copied(place.trained(), "run")
        change(copy, place)
        words = [place.rows(), "-o", place.folder / "o.jsonl", SHORT] if command[0] == "batch" else []
        return [*command, copy, *words]

    return Case(f"run: {name}", make, ends, says)


def model(name: str, change: Change, says: str, ends: str = REFUSED, *, loads: bool = False) -> Iterator[Case]:
    """A model folder that `change` damaged: looked through, and trained on in name or asked."""

    def folder(place: Place) -> Path:
        copy = place.copied(place.model, "model")
        change(copy, place)
        return copy

    yield Case(f"{name}, looked through", lambda p: ["model", "check", folder(p)], ends, says)
    if loads:
        yield Case(f"{name}, asked", lambda p: ["batch", folder(p), p.rows(), "-o", p.folder / "o.jsonl", SHORT], ends)
    else:
        yield Case(f"{name}, for training", lambda p: ["check", p.rows(), "--model", folder(p)], ends)


def weights() -> Iterator[Case]:
    whole = header(WEIGHTS, lambda found: None)
    yield from model("whole", whole, "The model is in order", ACCEPTED)
    yield from model("whole and loaded", whole, "", ACCEPTED, loads=True)
    yield from model("weights cut short", cut(WEIGHTS), "model.safetensors")
    yield from model("weights cut in the header", cut(WEIGHTS, 0.001), "is cut short")
    yield from model("empty weights", text(WEIGHTS, b""), "is cut short")
    yield from model("weights that are zeros", text(WEIGHTS, bytes(4000)), "model.safetensors")
    yield from model("weights of junk", text(WEIGHTS, b"\xff" * 4000), "is cut short")
    yield from model(
        "a header of many gigabytes", text(WEIGHTS, struct.pack("<Q", 1 << 62) + bytes(99)), "is cut short"
    )
    deep = struct.pack("<Q", 100_000) + DEEP.encode()
    yield from model("a header that is deep", text(WEIGHTS, deep), "damaged header")
    yield from model("a header that is a list", text(WEIGHTS, struct.pack("<Q", 2) + b"[]"), "damaged header")
    yield from model("a shape below zero", header(WEIGHTS, entry(shape=[-1, -64])), "damaged header")
    yield from model("a shape that is text", header(WEIGHTS, entry(shape="abc")), "damaged header")
    yield from model("a shape without end", header(WEIGHTS, entry(shape=[1 << 40, 1 << 40])), "damaged header")
    yield from model("an offset behind the end", header(WEIGHTS, entry(data_offsets=[0, 1 << 40])), "model.safetensors")
    yield from model("an offset below zero", header(WEIGHTS, entry(data_offsets=[-8, 0])), "damaged header")
    yield from model("offsets that overlap", header(WEIGHTS, _overlap), "damaged header")
    yield from model("a type that nobody knows", header(WEIGHTS, entry(dtype="X99")), "damaged header")
    yield from model("a weight of another shape", tensors(WEIGHTS, _narrow), "has the shape")
    yield from model("a weight that is missing", tensors(WEIGHTS, _without_one), "config.json demands")
    yield from model("weights that are no numbers", filled(WEIGHTS, float("nan")), "", ACCEPTED)
    yield from model("no weights", gone(WEIGHTS), "holds no weights")
    yield from model("weights that are a folder", folder_instead(WEIGHTS), "model.safetensors")
    yield from model("weights that are a pipe", pipe(WEIGHTS), "model.safetensors")
    yield from model("weights without end", linked(WEIGHTS, "/dev/zero"), "model.safetensors")
    yield from model("weights that link to themselves", linked(WEIGHTS, WEIGHTS), "model.safetensors")
    index = "model.safetensors.index.json"
    for name, raw, says in (
        ("an index that is no JSON", "{", "is damaged"),
        ("an index that is deep", DEEP, "is damaged"),
        ("an index of other folders", '{"weight_map": {"a": "../other/model.safetensors"}}', "no .safetensors file of"),
        ("an index of anywhere", '{"weight_map": {"a": "/etc/passwd"}}', "no .safetensors file of this folder"),
        ("an index of files that are not there", '{"weight_map": {"a": "b.safetensors"}}', "is missing"),
        ("an index of pickles", '{"weight_map": {"a": "pytorch_model.bin"}}', "no .safetensors file of this folder"),
        ("an index of numbers", '{"weight_map": {"a": 1}}', "is damaged"),
    ):
        yield from model(name, text(index, raw), says)


def _overlap(found: dict[str, Any]) -> None:
    first, second, *_rest = [name for name in found if name != "__metadata__"]
    found[second]["data_offsets"] = found[first]["data_offsets"]


def _narrow(found: dict[str, Any]) -> dict[str, Any]:
    name = "model.layers.0.self_attn.q_proj.weight"
    return found | {name: found[name][:, :32].contiguous()}


def _without_one(found: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor for name, tensor in found.items() if "layers.1.mlp.up_proj" not in name}


def unpickled() -> Iterator[Case]:
    """Files that would run code if they were read as pickles, or imported."""
    only = both(gone(WEIGHTS), lambda folder, place: (folder / "pytorch_model.bin").write_bytes(pickled(place.canary)))
    yield from model("a pickle for weights", only, "holds only pickled weights", loads=True)
    yield from model("an archive of a pickle", both(gone(WEIGHTS), torch_archive), "holds only pickled", loads=True)
    yield from model("a pickle called safetensors", lambda f, p: (f / WEIGHTS).write_bytes(pickled(p.canary)),
                     "model.safetensors", loads=True)  # fmt: skip
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "rng_state.pth", "value_head.bin"):
        yield from model(f"{name} beside the weights", _beside(name), "", ACCEPTED, loads=True)
    named = fields(CONFIG, auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"})
    yield from model("code beside a known family", both(named, code("evil.py")), "", ACCEPTED, loads=True)
    unknown = both(named, fields(CONFIG, model_type="evil", architectures=["Evil"]), code("evil.py"))
    yield Case("code of a family of its own, asked", lambda p: ["batch", _changed(p, unknown), p.rows(), "-o",
               p.folder / "o.jsonl", SHORT], REFUSED, "trust_remote_code")  # fmt: skip
    settings = both(fields("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]},
                           tokenizer_class="Evil"), code("evil.py"))  # fmt: skip
    yield from model("code of a tokenizer", settings, "", ACCEPTED, loads=True)
    generation = both(
        text("generation_config.json", '{"eos_token_id": 2, "custom_generate": "."}'),
        lambda f, p: p.write("model/custom_generate/generate.py", f"open({str(p.canary)!r}, 'w')"),
    )
    yield from model("code of a way to generate", generation, "", ACCEPTED, loads=True)
    yield from model("code of an attention", fields(CONFIG, _attn_implementation_internal="evil/kernel"), "", ACCEPTED,
                     loads=True)  # fmt: skip
    trusting = both(named, code("evil.py"), fields(CONFIG, trust_remote_code=True))
    yield from model("a folder that trusts itself", trusting, "", ACCEPTED, loads=True)
    stowaway = lambda f, p: (f / ADAPTER_CONFIG).write_text('{"base_model_name_or_path": "owner/name"}')  # noqa: E731
    yield from model("an adapter in a model's folder", stowaway, "adapter", REFUSED)


def _beside(name: str) -> Change:
    return lambda folder, place: (folder / name).write_bytes(pickled(place.canary))


def _changed(place: Place, change: Change) -> Path:
    copy = place.copied(place.model, "model")
    change(copy, place)
    return copy


def configs() -> Iterator[Case]:
    yield from model("a config that is no JSON", text(CONFIG, "{"), "config.json  cannot be read")
    yield from model("a config that is deep", text(CONFIG, DEEP), "config.json  is nested too deeply")
    yield from model("a config that is a list", text(CONFIG, "[]"), "config.json  is damaged")
    yield from model(
        "a config in another encoding", text(CONFIG, '{"a": "é"}'.encode("latin-1")), "config.json  cannot"
    )
    yield from model("an empty config", text(CONFIG, ""), "config.json  cannot be read")
    yield from model("no config", gone(CONFIG), "has no config.json")
    yield from model("a config that is a folder", folder_instead(CONFIG), "config.json  cannot be read")
    yield from model("a config that is a pipe", pipe(CONFIG), "config.json  cannot be read")
    yield from model("a config without end", linked(CONFIG, "/dev/zero"), "config.json  cannot be read")
    sizes: dict[str, list[Any]] = {
        "num_hidden_layers": [10**9, 9000, 0, -1, "two", 2.5, True],
        "hidden_size": [10**12, 1_000_000, 0, -64, "64"],
        "vocab_size": [10**15, 90_000_000, 0, -1],
        "intermediate_size": [10**9, "absent"],
        "num_attention_heads": [10**9, 0, -4],
        "num_key_value_heads": [0, 10**9],
        "max_position_embeddings": [-1, "many", 10**30],
    }
    for name, values in sizes.items():
        for value in values:
            yield from model(f"{name} is {value}", fields(CONFIG, **{name: value}), "config.json")


def adapters() -> Iterator[Case]:
    import math

    yield adapter("whole", lambda folder, place: None, "", ACCEPTED)
    yield adapter("cut short", cut(ADAPTER), ADAPTER)
    yield adapter("no weights", gone(ADAPTER), ADAPTER)
    yield adapter("empty weights", text(ADAPTER, b""), "is cut short")
    yield adapter("a header that lies", header(ADAPTER, entry(shape=[1, 1])), "damaged header")
    yield adapter("a pickle instead", both(gone(ADAPTER), lambda f, p: (f / "adapter_model.bin").write_bytes(
        pickled(p.canary))), ADAPTER)  # fmt: skip
    yield adapter("a pickle beside", lambda f, p: (f / "optimizer.pt").write_bytes(pickled(p.canary)), "", ACCEPTED)
    yield adapter("a weight that is missing", tensors(ADAPTER, lambda t: dict(list(t.items())[1:])), "does not fit")
    more = tensors(ADAPTER, lambda t: t | {"x.lora_A.weight": next(iter(t.values())).clone()})
    yield adapter("a weight too many", more, "does not fit")
    yield adapter(
        "another shape", tensors(ADAPTER, lambda t: {k: v[:, :3].contiguous() for k, v in t.items()}), "not fit"
    )
    yield adapter("not one number", filled(ADAPTER, math.nan), "not finite")
    yield adapter("without end", filled(ADAPTER, math.inf), "not finite")
    yield adapter("settings that are no JSON", text(ADAPTER_CONFIG, "{"), ADAPTER_CONFIG)
    yield adapter("settings that are deep", text(ADAPTER_CONFIG, DEEP), ADAPTER_CONFIG)
    yield adapter("settings that are a list", text(ADAPTER_CONFIG, "[]"), ADAPTER_CONFIG)
    yield adapter("no base", fields(ADAPTER_CONFIG, base_model_name_or_path="absent"), "names no base model")
    yield adapter("a base that is a number", fields(ADAPTER_CONFIG, base_model_name_or_path=5), "")
    yield adapter(
        "a base that is not there", fields(ADAPTER_CONFIG, base_model_name_or_path="/nowhere/x"), "/nowhere/x"
    )
    yield adapter(
        "a base that is itself", lambda f, p: fields(ADAPTER_CONFIG, base_model_name_or_path=str(f))(f, p), ""
    )
    yield adapter("a base by a path outside", fields(ADAPTER_CONFIG, base_model_name_or_path="../../../etc"), "")
    yield adapter("another base", _another_base, "is another model")
    yield adapter("a kind of nobody", fields(ADAPTER_CONFIG, peft_type="EVIL"), "does not fit")
    yield adapter("a rank of a billion", fields(ADAPTER_CONFIG, r=10**9), "does not fit")
    yield adapter("a rank below zero", fields(ADAPTER_CONFIG, r=-1), "does not fit")
    yield adapter("a module to import", both(fields(ADAPTER_CONFIG, auto_mapping={
        "base_model_class": "x", "parent_library": "evil"}), code("evil.py")), "", ACCEPTED)  # fmt: skip
    yield adapter("a pattern without end", fields(ADAPTER_CONFIG, target_modules="(a|a|a)*$" * 8 + "x"), "")
    yield adapter("a record that is no JSON", text("tunesmith.json", "{"), "tunesmith.json")
    yield adapter("a record that is deep", text("tunesmith.json", DEEP), "tunesmith.json")
    yield adapter("whole, merged without a run", lambda folder, place: None, "belongs to no run", command="merge")
    yield adapter("cut short, looked through", cut(ADAPTER), ADAPTER, command="model check")


def _another_base(folder: Path, place: Place) -> None:
    """The same shapes and other numbers."""
    other = place.copied(place.model, "other")
    filled(WEIGHTS, 0.25)(other, place)
    fields(ADAPTER_CONFIG, base_model_name_or_path=str(other))(folder, place)


def runs() -> Iterator[Case]:
    for name, raw in {"cut": '{"base": ', "a list": "[]", "deep": DEEP, "empty": "", "zeros": "\0" * 200}.items():
        yield run(f"run.json {name}", text("run.json", raw), "run.json", "batch")
    yield run("run.json without a base", text("run.json", "{}"), "run.json", "batch")
    yield run("a base that is gone", fields("run.json", base="/nowhere/x"), "/nowhere/x", "batch")
    yield run("a base that is a number", fields("run.json", base=7), "", "batch")
    yield run("a template that is gone", fields("run.json", template="absent"), "records no chat template", "batch")
    yield run("a template that is a number", fields("run.json", template={"text": 5}), "run.json", "batch")
    yield run("a template that loops", fields("run.json", template={"text": "{% for a in range(99999) %}{% for b in"
              " range(99999) %}{% endfor %}{% endfor %}"}), "does not come to an end", "batch")  # fmt: skip
    yield run("settings with tags", text("config.yaml", "method: !!python/object/apply:os.system ['touch CANARY']"),
              "config.yaml:1", "batch")  # fmt: skip
    yield run("settings that are cut", text("config.yaml", "data: {"), "config.yaml", "batch")
    yield run("no checkpoint", lambda f, p: [shutil.rmtree(c) for c in f.glob("checkpoint-*")], "no complete", "batch")
    yield run("only half a checkpoint", lambda f, p: [(c / "manifest.json").unlink() for c in f.glob("checkpoint-*")],
              "no complete checkpoint", "batch")  # fmt: skip
    yield run("numbers that are cut", cut("metrics.jsonl", 0.7), "", "runs", ends=ACCEPTED)
    yield run("numbers of junk", text("metrics.jsonl", b"\xff\x00{" * 99), "", "runs", ends=ACCEPTED)
    yield run("run.json cut, listed", text("run.json", "{"), "", "runs", ends=ACCEPTED)


def _gguf(name: str, raw: bytes, words: Callable[[Place, Path], Sequence[object]]) -> Case:
    return Case(name, lambda place: words(place, place.write("m.gguf", raw)), REFUSED, "m.gguf")


def gguf() -> Iterator[Case]:
    good = b"GGUF" + struct.pack("<IQQ", 3, 0, 0)
    for name, raw in {
        "empty": b"",
        "of another sort": b"MZ" + bytes(500),
        "cut behind its name": b"GGUF",
        "of version nobody": b"GGUF" + struct.pack("<IQQ", 99, 0, 0) + bytes(64),
        "with nothing in it": good,
        "that speaks of many tensors": b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0) + bytes(64),
        "that speaks of many values": b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60) + bytes(64),
        "with a name without end": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 62) + bytes(64),
        "with a list in a list": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a"
        + struct.pack("<IIQ", 9, 9, 1 << 40) + bytes(200),
        "of zeros": b"GGUF" + bytes(5000),
    }.items():  # fmt: skip
        yield _gguf(f"gguf {name}, looked through", raw, lambda p, file: ["model", "check", file])
        yield _gguf(f"gguf {name}, asked", raw, lambda p, file: ["batch", file, p.rows(), "-o", p.folder / "o.jsonl"])
    yield Case("gguf not there", lambda p: ["check", p.rows(), "--model", p.folder / "m.gguf"], REFUSED, "m.gguf")


def cases() -> Sequence[Case]:
    return [
        *weights(),
        *unpickled(),
        *configs(),
        *adapters(),
        *runs(),
        *gguf(),
    ]
