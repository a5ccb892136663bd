"""The house itself: floors, what a light module may load, the length of the reading path, calls that are never made."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tunesmith"
FILES = sorted(SOURCE.rglob("*.py"))

FLOORS = {
    **dict.fromkeys(("errors", "conversation", "durable", "endpoint", "rundir", "i18n", "log"), 0),
    "config": 1,
    "data": 2,
    "tokens": 3,
    "model": 4,
    **dict.fromkeys(("train", "generate"), 5),
    **dict.fromkeys(("evaluate", "export"), 6),
    **dict.fromkeys(("actions", "demo"), 7),
    **dict.fromkeys(("cli", "api", "server", "studio", "__main__", "__init__"), 8),
}
NEIGHBOURS = {("demo", "actions"), ("__main__", "cli"), ("__init__", "api"), ("api", "cli")}  # allowed on one floor
LIGHT = [room for room, floor in FLOORS.items() if floor <= 3] + ["cli", "api", "server", "studio"]
READING_PATH = (
    "conversation.py",
    "data/formats/messages.py",
    "tokens/template.py",
    "tokens/encode.py",
    "tokens/forest.py",
    "model/attention.py",
    "train/loss.py",
    "train/loop.py",
)


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs: what stands under `if TYPE_CHECKING:` is left out."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from nodes(child)


def imported(text: str, package: str) -> Iterator[str]:
    """Dotted names of all that a file imports; `package` is the package in which it lies."""
    for node in nodes(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield from (".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def upward(text: str, package: str, own: str) -> list[str]:
    """The rooms that a file in room `own` imports and must not."""
    rooms = {
        parts[1]
        for parts in (full.split(".") for full in imported(text, package))
        if parts[0] == "tunesmith" and parts[1:]
    }
    return sorted(
        other
        for other in rooms & FLOORS.keys() - {own}
        if FLOORS[other] > FLOORS[own] or (FLOORS[other] == FLOORS[own] > 0 and (own, other) not in NEIGHBOURS)
    )


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_room_imports_lower_floors_only(path):
    assert room(path) in FLOORS, "a new room needs a floor"
    package = ".".join(("tunesmith", *path.relative_to(SOURCE).parts[:-1]))
    assert upward(path.read_text(encoding="utf-8"), package, room(path)) == []


@pytest.mark.parametrize(
    ("text", "own", "found"),
    [
        ("from tunesmith.train.loop import x", "model", ["train"]),
        ("def f():\n    import tunesmith.cli", "actions", ["cli"]),
        ("from tunesmith import generate", "train", ["generate"]),
        ("from ..model.load import x", "tokens", ["model"]),
        ("from importlib import import_module\nimport_module('tunesmith.tokens.forest')", "data", ["tokens"]),
        ("if TYPE_CHECKING:\n    from tunesmith.train.loop import x", "model", []),
        ("from tunesmith import __version__\nfrom tunesmith.log import get\nfrom . import read", "data", []),
        ("from tunesmith.actions import train", "demo", []),
    ],
)
def test_the_floors_are_read_as_python_reads_them(text, own, found):
    assert upward(text, f"tunesmith.{own}", own) == found


def test_light_rooms_and_doors_load_neither_torch_nor_transformers():
    modules = [
        "tunesmith." + name(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for path in FILES
        if room(path) in LIGHT
    ]
    code = (
        "import importlib, sys\n"
        "for module in sys.argv[1:]:\n"
        "    importlib.import_module(module)\n"
        "    loaded = {'torch', 'transformers'} & set(sys.modules)\n"
        "    if loaded: sys.exit(f'{module} loads {loaded}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_reading_path_is_an_evening_long():
    lines = {
        part: len((SOURCE / part).read_text(encoding="utf-8").splitlines())
        for part in READING_PATH
        if (SOURCE / part).exists()
    }
    assert sum(lines.values()) < 1200, lines


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_is_long_or_has_a_name_that_says_nothing(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400
    assert not {"utils", "util", "helpers", "common", "manager"} & set(Path(name(path)).with_suffix("").parts)


def forbidden(text: str) -> list[str]:
    """Calls and imports through which data could become code, as `line: what`."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [
                f"{node.lineno}: import {each}"
                for each in modules
                if each.split(".")[0] in ("pickle", "dill", "marshal")
            ]
        elif isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            unsafe = (
                call in ("eval", "exec", "torch.load", "jinja2.Environment", "Environment", "os.system")
                or (call in ("yaml.load", "yaml.compose") and "SafeLoader" not in ast.unparse(node))
                or call in ("yaml.unsafe_load", "yaml.full_load")
                or any(word.arg == "shell" and ast.unparse(word.value) != "False" for word in node.keywords)
            )
            found += [f"{node.lineno}: {call}"] if unsafe else []
    return found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_data_never_becomes_code(path):
    assert forbidden(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(p)",
        "yaml.load(t)",
        "yaml.load(t, Loader=yaml.Loader)",
        "run(c, shell=True)",
        "eval(x)",
        "jinja2.Environment()",
    ],
)
def test_the_gate_shuts(text):
    assert forbidden(text)


def test_the_gate_lets_the_safe_ones_through():
    assert not forbidden(
        "model.eval()\nyaml.load(t, Loader=yaml.SafeLoader)\nrun(c, shell=False)\nSandboxedEnvironment()"
    )


def unnamed_encodings(text: str) -> list[str]:
    """Files of text that a machine's own locale would decide how to read, as `line: call`."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        name, words = call.rpartition(".")[2], [ast.unparse(arg) for arg in node.args]
        given = {word.arg for word in node.keywords} & {"encoding", "mode"}
        binary = any("b" in word for word in words if word.strip("'\"")[:1] in "rwax" and len(word) <= 5)
        if call in ("os.open", "archive.open") or binary or "encoding" in given:
            continue
        if name == "open" or (name == "read_text" and not words) or (name == "write_text" and len(words) < 2):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_of_text_names_its_encoding(path):
    assert unnamed_encodings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("open(p)", 1),
        ("p.open('w')", 1),
        ("p.read_text()", 1),
        ("p.write_text(t)", 1),
        ("open(p, 'rb')", 0),
        ("p.open('w', encoding='utf-8')", 0),
        ("p.read_text(encoding='utf-8')", 0),
        ("p.read_text('utf-8')", 0),
        ("p.write_text(t, encoding='utf-8')", 0),
    ],
)
def test_an_unnamed_encoding_is_seen(text, found):
    assert len(unnamed_encodings(text)) == found


POSIX = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}


def test_nothing_at_start_is_for_posix_alone():
    """Modules that Windows lacks, wherever a file imports them as it is loaded."""
    found = []
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = imported(ast.unparse(node), "tunesmith")
                found += [f"{name(path)}: {module}" for module in modules if module.split(".")[0] in POSIX]
    assert found == []
