"""Encoded rows on the disk: the same as without, made anew when anything changed, whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tunesmith.actions.base import make_encoder
from tunesmith.actions.encoding import Source, code_sha256
from tunesmith.actions.prepare import Prepared, prepare
from tunesmith.actions.voice import Advance, Voice
from tunesmith.cli import main
from tunesmith.config.load import load
from tunesmith.config.schema import Config
from tunesmith.data.read import Files
from tunesmith.errors import DataError
from tunesmith.tokens.cache import ABANDONED, Writer, make_room, stores
from tunesmith.tokens.pack import Recipe
from tunesmith.tokens.workers import WORTH, chunks, processes

KINDS_OF_ROWS = 7


class Heard(Voice):
    """A voice that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def row(i: int) -> Any:
    """Rows of every fate: several answers, weights, system prompts, duplicates, too long, without an answer."""
    user, assistant = {"role": "user", "content": f"Is pump {i} faulty?"}, {"role": "assistant", "content": "Yes."}
    again = {"role": "assistant", "content": f"Replace gasket {i}.", "loss_weight": 0.5}
    return [
        {"messages": [user, assistant], "kind": "a"},
        {"messages": [user, assistant, user, again], "kind": "b"},
        {"messages": [{"role": "system", "content": f"Be short {i % 3}."}, user, again], "kind": "a"},
        {"messages": [{"role": "user", "content": "Again?"}, assistant], "kind": "b"},
        {"messages": [user, {"role": "assistant", "content": "It leaks. " * 60}], "kind": "a"},
        {"messages": [user], "kind": "b"},
        {"messages": [user, {"role": "assistant", "content": f"判断：缺陷 {i}"}], "kind": "a"},
    ][i % KINDS_OF_ROWS]


def write(path: Path, count: int, first: int = 0) -> Path:
    lines = [json.dumps(row(i), ensure_ascii=False) + "\n" for i in range(first, first + count)]
    path.write_text("".join(lines) + "not JSON\n", encoding="utf-8")
    return path


def config(data: Path, model: Path, *overrides: str) -> Config:
    usual = ("data.max_dropped=0.9", "data.max_length=120", "data.test_ratio=0.2", "data.stratify_by=kind")
    return load(None, (*usual, *overrides), {"data.train": data, "model.name_or_path": model}).config


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "train.jsonl", 63)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def everything(found: Prepared) -> dict[str, Any]:
    """All that training takes from the rows."""
    parts = {
        name: [(list(part.encoded), [str(part.store.place(i)) for i in part.rows], part.systems(5), part.ledger())]
        for name, part in found.rows.parts.items()
    }
    said = [conversation.messages for conversation in found.train.conversations()]
    rejected = [row.as_dict() for row in found.rows.rejected()]
    return {"parts": parts, "said": said, "rejected": rejected, "ledger": found.ledger, "notices": found.notices}


# --- the same rows ----------------------------------------------------------------------------------------------------


def test_rows_are_the_same_without_a_cache_in_a_new_one_and_out_of_it(
    data: Path, kept: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = 'data.weights=[{"text": "gasket", "weight": 3}]'
    plain = everything(prepare(config(data, tiny_folder, "data.cache=off", weights), Voice()))
    totals = {"rows": 64, "train": 30, "validation": 0, "test": 7, "duplicates": 8, "rejected": 19}
    assert plain["ledger"]["totals"] == totals
    assert any(len(encoded.answers) > 1 for encoded in plain["parts"]["train"][0][0])
    monkeypatch.chdir(data.parent)
    other_name = Path(data.name)
    for path in (data, data, other_name):
        voice = Heard()
        found = everything(prepare(config(path, tiny_folder, f"data.cache={kept}", weights), voice))
        if path is other_name:  # places are named as the user names the file now, not as he did then
            assert [row["file"] for row in found["rejected"]] == [str(other_name)] * 19
            found = json.loads(json.dumps(found, default=repr).replace(f'"{other_name}', f'"{data}'))
            plain = json.loads(json.dumps(plain, default=repr))
        assert found == plain
    assert "nothing changed" in voice.text
    assert len(stores(kept)) == 1


def test_several_processes_make_the_same_arrays(tiny_folder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "many.jsonl", 1100)  # more chunks than processes
    settings = config(data, tiny_folder)
    encoder = make_encoder(settings.model, settings.template)
    recipe = Recipe(encoder.tokenizer.folder, encoder.template.text, settings.template, settings.data, "messages")
    made = []
    for number in (1, 2):
        with Writer(tmp_path / str(number)) as writer:
            for chunk in chunks(Files(data), recipe, number):
                writer.add(chunk)
            made.append((writer.close({}, {}), writer.seen))
    assert made[0][1] == made[1][1]
    for file in sorted((tmp_path / "1").iterdir()):
        assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes(), file.name


def test_few_rows_are_encoded_in_one_process_and_many_on_every_core() -> None:
    assert processes(None, WORTH - 1) == 1
    assert processes(None, WORTH) == len(os.sched_getaffinity(0))
    assert processes(3, 1) == 3


# --- what changed -----------------------------------------------------------------------------------------------------


def other_tokenizer(_data: Path, model: Path, _own: Path) -> tuple[str, ...]:
    file = model / "tokenizer_config.json"
    file.write_text(file.read_text("utf-8").replace("512", "511"), encoding="utf-8")
    return ()


def other_data(data: Path, _model: Path, _own: Path) -> tuple[str, ...]:
    write(data, 64)
    return ()


def other_format(_data: Path, _model: Path, own: Path) -> tuple[str, ...]:
    own.write_text(own.read_text("utf-8") + "# another version\n", encoding="utf-8")
    return ()


def setting(*settings: str) -> Callable[[Path, Path, Path], tuple[str, ...]]:
    return lambda _data, _model, _own: settings


TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}[assistant]"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_data, "the data"),
        (other_tokenizer, "the tokenizer"),
        (other_format, "the file of data.format"),
        (setting("data.max_length=121"), "data.max_length 120 -> 121"),
        (setting("data.overflow=drop"), "data.overflow 'trim_history' -> 'drop'"),
        (setting('data.weights=[{"text": "Yes", "weight": 2}]'), "data.weights []"),
        (setting("data.stratify_by=null"), "data.stratify_by 'kind' -> None"),
        (setting("template.system=Be kind."), "template.system None -> 'Be kind.'"),
        (setting("template.thinking=strip"), "template.thinking None -> 'strip'"),
    ],
)
def test_what_the_rows_depend_on_makes_new_ones_and_is_named(
    change: Callable[[Path, Path, Path], tuple[str, ...]],
    said: str,
    data: Path,
    kept: Path,
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    own = tmp_path / "own.py"
    own.write_text("def parse(row):\n    return row['messages']\n", encoding="utf-8")
    usual = (f"data.cache={kept}", f"data.format={own}", "data.stratify_by=kind")
    encode(config(data, model, *usual))
    voice = Heard()
    encode(config(data, model, *usual, *change(data, model, own)), voice)
    assert f"since this changed: {said}" in voice.text
    assert len(stores(kept)) == 2


def test_settings_that_change_no_row_make_no_new_ones(data: Path, kept: Path, tiny_folder: Path) -> None:
    others = ("training.seed=7", "data.test_ratio=0.5", "data.drop_duplicates=false", "data.num_proc=1", "lora.r=2")
    encode(config(data, tiny_folder, f"data.cache={kept}"))
    voice = Heard()
    encode(config(data, tiny_folder, f"data.cache={kept}", *others), voice)
    assert "nothing changed" in voice.text
    assert len(stores(kept)) == 1


def encode(settings: Config, voice: Voice | None = None) -> Source:
    voice = voice or Voice()
    assert settings.data.train is not None
    source = Source(settings.data.train, settings, make_encoder(settings.model, settings.template), voice)
    source.encode(voice)
    return source


def test_another_version_of_the_code_is_another_source(tmp_path: Path) -> None:
    (tmp_path / "data" / "formats").mkdir(parents=True)
    (tmp_path / "tokens").mkdir()
    (tmp_path / "conversation.py").write_text("a = 1\n")
    known = {code_sha256(tmp_path)}
    for file in ("data/formats/x.py", "tokens/y.py", "conversation.py"):
        (tmp_path / file).write_text("a = 2\n")
        known.add(code_sha256(tmp_path))
    assert len(known) == 4


# --- damage -----------------------------------------------------------------------------------------------------------


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", ["tokens", "row.state", "names.json", "rejected.jsonl", "meta.json"])
def test_damaged_rows_are_noticed_and_made_anew(
    name: str, damage: Callable[[Path], None], data: Path, kept: Path, tiny_folder: Path
) -> None:
    settings = config(data, tiny_folder, f"data.cache={kept}")
    encode(settings)
    [folder] = [store.folder for store in stores(kept)]
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    damage(folder / name)
    voice = Heard()
    encode(settings, voice)
    assert "damaged" in voice.text
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in kept.iterdir()] == [folder.name]


def test_data_that_change_while_they_are_read_are_refused(data: Path, kept: Path, tiny_folder: Path) -> None:
    class Meddling(Voice):
        @contextmanager
        def progress(self, title: str) -> Iterator[Advance]:
            yield lambda done, total, text: grow()

    def grow() -> None:
        write(data, 70)

    with pytest.raises(DataError, match="changed while they were read"):
        encode(config(data, tiny_folder, f"data.cache={kept}"), Meddling())
    assert list(kept.iterdir()) == []


def recipe_of(settings: Config) -> Recipe:
    encoder = make_encoder(settings.model, settings.template)
    return Recipe(encoder.tokenizer.folder, encoder.template.text, settings.template, settings.data, "messages")


def test_two_writers_at_once_leave_one_whole_folder(data: Path, kept: Path, tiny_folder: Path) -> None:
    made = list(chunks(Files(data), recipe_of(config(data, tiny_folder)), 1))
    with Writer(kept / "rows") as one, Writer(kept / "rows") as other:
        for chunk in made:
            one.add(chunk)
            other.add(chunk)
        first = one.close({"made of": 1}, {})
        tokens = [first.encoded(i) for i in range(len(first))]  # in use when the other is done
        second = other.close({"made of": 1}, {})
    assert [second.encoded(i) for i in range(len(second))] == tokens == [first.encoded(i) for i in range(len(first))]
    assert second.whole()
    assert [path.name for path in kept.iterdir()] == ["rows"]


def test_what_stands_in_the_way_and_is_not_whole_gives_way(data: Path, kept: Path, tiny_folder: Path) -> None:
    (kept / "rows").mkdir(parents=True)
    (kept / "rows" / "tokens").write_text("half")
    with Writer(kept / "rows") as writer:
        for chunk in chunks(Files(data), recipe_of(config(data, tiny_folder)), 1):
            writer.add(chunk)
        assert writer.close({}, {}).whole()


# Encodes a file in two processes, says how far it is, and is killed in the middle of it. It has no guard around its
# last lines, so a process that ran it again would say more than once that it began.
KILLED = """
import os, signal, sys
from contextlib import contextmanager
from tunesmith.actions.prepare import prepare
from tunesmith.actions.voice import Voice
from tunesmith.config.load import load

class Deadly(Voice):
    @contextmanager
    def progress(self, title):
        yield lambda done, total, text: end(done)

def end(done):
    print("encoded", done, flush=True)
    if sys.argv[4] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)

print("begun", flush=True)
data, model, kept = sys.argv[1:4]
settings = ("data.num_proc=2", "data.max_dropped=0.9", f"data.cache={kept}")
prepare(load(None, settings, {"data.train": data, "model.name_or_path": model}).config, Deadly())
"""


@pytest.mark.parametrize("how", ["kill", "live"])
def test_a_killed_writer_leaves_nothing_that_counts_and_no_process(
    how: str, kept: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    data, script = write(tmp_path / "many.jsonl", 600), tmp_path / "script.py"
    script.write_text(KILLED, encoding="utf-8")
    # Reading to the end of the output waits for every process that could still write there.
    command = [sys.executable, script, data, tiny_folder, kept, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if how == "live":
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.split() == ["begun", "encoded", "256", "encoded", "512", "encoded", "601"]
        return
    assert done.stdout.split() == ["begun", "encoded", "256"]
    assert stores(kept) == []
    [partial] = kept.iterdir()
    encode(config(data, tiny_folder, f"data.cache={kept}"))
    assert partial in kept.iterdir()  # its writer might still be at work
    for path in (partial, *partial.iterdir()):
        old = path.stat().st_mtime - ABANDONED - 1
        os.utime(path, (old, old))
    make_room(kept)
    assert [path.name for path in kept.iterdir()] == [store.folder.name for store in stores(kept)]


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file can grow beyond 4 KB."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_nothing_is_left(
    data: Path, kept: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str], full_disk: None
) -> None:
    words = ["check", str(data), "--model", str(tiny_folder), f"data.cache={kept}", "data.max_dropped=0.9"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"{kept}  Encoded rows can't be written here" in said
    assert "data.cache=FOLDER" in said
    assert list(kept.iterdir()) == []


def test_a_place_that_is_no_folder_is_an_error_with_what_to_do(
    data: Path, kept: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept.write_text("a file")
    assert main(["check", str(data), "--model", str(tiny_folder), f"data.cache={kept}"]) == 2
    assert "data.cache=FOLDER" in capsys.readouterr().err


# --- room -------------------------------------------------------------------------------------------------------------


def test_what_was_not_used_for_longest_makes_room(data: Path, kept: Path, tiny_folder: Path) -> None:
    made = []
    for age, length in enumerate((100, 110, 120)):
        settings = config(data, tiny_folder, f"data.cache={kept}", f"data.max_length={length}")
        made.append(encode(settings).store)
        os.utime(made[-1].folder / "meta.json", (age, age))
    encode(config(data, tiny_folder, f"data.cache={kept}", "data.max_length=100"))  # used again: not the oldest now
    make_room(kept, limit=made[0].size + made[2].size)
    assert {store.folder for store in stores(kept)} == {made[0].folder, made[2].folder}
    make_room(kept, limit=1)
    assert [store.folder for store in stores(kept)] == [made[0].folder]  # the newest stays in any case


def test_rows_that_nobody_keeps_go_with_the_process_that_made_them(
    data: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passing = tmp_path / "passing"
    passing.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(passing))
    source = encode(config(data, tiny_folder, "data.cache=off"))
    assert len(list(passing.iterdir())) == 1
    assert len(source.store) == 64
    del source
    assert list(passing.iterdir()) == []
    with pytest.raises(DataError):
        encode(config(data, tiny_folder, "data.cache=off", "data.format=nothing"))
    assert list(passing.iterdir()) == []


def peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    work()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_memory_does_not_grow_with_the_rows(
    tiny_folder: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoding keeps nothing of a row: three times the rows take what a third of them take."""
    monkeypatch.setattr("tunesmith.tokens.tokenizer.REMEMBERED", 50)  # texts: so few rows would not fill its memory

    def encoded(count: int, first: int) -> int:
        data = write(tmp_path / f"{count}.jsonl", count, first)
        settings = config(data, tiny_folder, f"data.cache={kept}")
        encoder = make_encoder(settings.model, settings.template)
        source = Source(data, settings, encoder, Voice())
        return peak(lambda: source.encode(Voice()))

    few, many = encoded(511, 0), encoded(1533, 10_000)
    assert many < 1.1 * few + 16 * (1533 - 511)
