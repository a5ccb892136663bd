"""Trying a model: menus, scripts, base beside tuned, system prompts and thinking as in training, batches that go on."""

from __future__ import annotations

import ast
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from tunesmith import rundir
from tunesmith.actions import chat as actions
from tunesmith.actions.batch import batch
from tunesmith.actions.opening import open_run, supply_system
from tunesmith.actions.voice import Advance, Voice
from tunesmith.cli import main
from tunesmith.conversation import Conversation, Message
from tunesmith.errors import ConfigError, RunError

SHORT = "generation.max_new_tokens=4"
PERSONA = "You are the pump doctor."
SCRIPT = [
    {
        "conversation_id": 1,
        "system_prompt": PERSONA,
        "conversation_pair": [
            {"role": "user", "content": "Is pump 1 faulty?"},
            {"role": "assistant", "content": "Yes: replace the gasket."},
            {"role": "user", "content": "阀门漏水了吗？"},
            {"role": "assistant", "content": "No."},
        ],
    },
    {"conversation_id": 2, "system_prompt": "", "conversation_pair": [{"role": "user", "content": "Does it leak?"}]},
]


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


def tunesmith(*words: object) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    assert "Traceback" not in err.getvalue()
    return Said(code, out.getvalue(), err.getvalue())


def done(*words: object) -> Said:
    said = tunesmith(*words)
    assert said.code == 0, said.err
    return said


def refused(*words: object) -> str:
    said = tunesmith(*words)
    assert said.code == 2, said.err
    return said.err


class Heard(Voice):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Keyboard(io.StringIO):
    """A person at a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def type_in(text: str, *, person: bool = False) -> None:
        monkeypatch.setattr("sys.stdin", (Keyboard if person else io.StringIO)(text))

    return type_in


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESMITH_LANG", "en")
    monkeypatch.chdir(tmp_path)


def write_rows(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def row(i: int, system: str = PERSONA) -> dict[str, object]:
    turns = [
        {"role": "system", "content": system},
        {"role": "user", "content": f"Is pump {i} faulty?"},
        {"role": "assistant", "content": "Yes." if i % 2 else "No."},
    ]
    return {"messages": [turn for turn in turns if turn["content"]], "site": f"s{i % 3}"}


def trained_on(rows: list[object], folder: Path, model: Path, *words: str) -> Path:
    data = write_rows(folder / "pumps.jsonl", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_LANG", "en")
        settings = ["training.learning_rate=2e-2", "training.lr_scheduler_type=constant", SHORT, *words]
        done("train", data, "--model", model, "-o", folder / "run", *settings)
    return folder / "run"


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints; every row under one system prompt. Read it, never change it."""
    folder = tmp_path_factory.mktemp("trained")
    words = ("training.max_steps=4", "training.save_steps=2", "data.test_ratio=0.25", "data.stratify_by=site")
    return trained_on([row(i) for i in range(16)], folder, tiny_folder, *words)


@pytest.fixture(scope="module")
def mixed(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose rows have two system prompts, the second more often. Read it, never change it."""
    rows: list[object] = [row(i, "Be rude." if i < 2 else "Be kind.") for i in range(6)]
    return trained_on(rows, tmp_path_factory.mktemp("mixed"), tiny_folder, "training.max_steps=1")


# --- scripts ----------------------------------------------------------------------------------------------------------


def test_a_script_is_played_with_the_models_own_answers_as_history(run: Path, tmp_path: Path) -> None:
    script = write_rows(tmp_path / "dialogue.jsonl", [*SCRIPT])
    said = done("chat", run, SHORT, "--script", script, "-o", "talk.jsonl")
    turns = read_rows(tmp_path / "talk.jsonl")
    assert [(t["dialogue"], t["turn"], t["user"]) for t in turns] == [
        (1, 0, "Is pump 1 faulty?"),
        (1, 1, "阀门漏水了吗？"),
        (2, 0, "Does it leak?"),
    ]
    assert [t.get("expected") for t in turns] == ["Yes: replace the gasket.", "No.", None]
    for text in (PERSONA, "阀门漏水了吗？", "Yes: replace the gasket.", turns[1]["answer"]):
        assert text in said.out
    opened = open_run(str(run), Voice(), overrides=[SHORT])
    history = [Message("system", PERSONA), Message("user", "Is pump 1 faulty?")]
    for first, expected in ((turns[0]["answer"], True), ("Yes: replace the gasket.", False)):
        told = (*history, Message("assistant", first), Message("user", "阀门漏水了吗？"))
        assert (answer(opened, told) == turns[1]["answer"]) is expected


def answer(opened: object, messages: tuple[Message, ...]) -> str:
    from tunesmith.generate.engine import generate

    [found] = generate(opened.model(), opened.encoder, [Conversation(messages)], opened.config.generation)  # type: ignore[attr-defined]
    return found.message.content


def test_with_gold_history_the_files_answers_are_what_was_said(run: Path, tmp_path: Path) -> None:
    script = write_rows(tmp_path / "dialogue.jsonl", SCRIPT[:1])
    done("chat", run, SHORT, "--script", script, "-o", "gold.jsonl", "--gold-history")
    told = [Message("system", PERSONA)]
    for turn in SCRIPT[0]["conversation_pair"][:3]:  # type: ignore[index]
        told.append(Message(turn["role"], turn["content"]))
    opened = open_run(str(run), Voice(), overrides=[SHORT])
    assert read_rows(tmp_path / "gold.jsonl")[1]["answer"] == answer(opened, tuple(told))
    assert "goes with --script" in refused("chat", run, "--gold-history")


def test_tool_results_follow_the_call_that_the_file_made(tiny_folder: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    said = "message['content'] or ''"
    calls = "{{ message['tool_calls'] | tojson if message['tool_calls'] }}"
    template = settings["chat_template"].replace("{{ message['content'] }}", "{{ " + said + " }}" + calls)
    settings["chat_template"] = "{{ tools | tojson if tools }}" + template
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    (model / "chat_template.jinja").unlink(missing_ok=True)
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]}
    turns = [{"role": "user", "content": "Look."}, call, {"role": "tool", "content": "It leaks."}]
    script = write_rows(tmp_path / "tools.jsonl", [{"messages": turns, "tools": [{"name": "look"}]}])
    opened = open_run(str(model), Voice(), overrides=[SHORT])
    [dialogue] = actions.read_script(script, opened, None, Voice())
    talk = actions.chat(opened, None)
    talk.begin(dialogue)
    for turn in dialogue.turns:
        for _name, pieces in talk.say(turn.said):
            list(pieces)
        talk.keep(turn)
    history = talk.sessions[actions.TUNED].messages
    assert [m.role for m in history] == ["user", "assistant", "tool", "assistant"]
    assert history[1].tool_calls[0].name == "look"
    assert talk.sessions[actions.TUNED].tools[0]["function"]["name"] == "look"


def test_a_transcript_never_replaces_another(run: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(run, tmp_path / "mine"))
    script = write_rows(tmp_path / "d.jsonl", SCRIPT[1:])
    for _time in range(2):
        done("chat", mine, SHORT, "--script", script)
    assert {path.name for path in (mine / "chats").iterdir()} == {"d-transcript-1.jsonl", "d-transcript-2.jsonl"}
    (tmp_path / "there.jsonl").write_text("mine")
    assert "The file exists" in refused("chat", mine, SHORT, "--script", script, "-o", "there.jsonl")
    assert (tmp_path / "there.jsonl").read_text() == "mine"


def test_a_script_that_cannot_be_asked_is_refused_with_every_line(run: Path, tmp_path: Path) -> None:
    script = write_rows(tmp_path / "d.jsonl", [SCRIPT[0], {"number": 1}, {"question": "  "}])
    said = refused("chat", run, "--script", script)
    assert f"{script}:2" in said
    assert f"{script}:3" in said


# --- base beside tuned ------------------------------------------------------------------------------------------------


def test_the_base_answers_beside_the_tuned_model(run: Path, tmp_path: Path) -> None:
    script = write_rows(tmp_path / "d.jsonl", [*SCRIPT])
    alone = {}
    for name, words in (("answer", ()), ("base", ("--base",))):
        done("chat", run, SHORT, "--script", script, "-o", f"{name}.jsonl", *words)
        alone[name] = [turn["answer"] for turn in read_rows(tmp_path / f"{name}.jsonl")]
    said = done("chat", run, SHORT, "--script", script, "-o", "both.jsonl", "--compare-base")
    turns = read_rows(tmp_path / "both.jsonl")
    assert [turn["answer"] for turn in turns] == alone["answer"]
    assert [turn["base"] for turn in turns] == alone["base"]
    assert alone["answer"] != alone["base"]
    assert sum(line.startswith("base ") for line in said.out.splitlines()) >= 3
    assert "there is none to set beside it" in refused("chat", run, "--base", "--compare-base")


def test_a_fully_trained_model_has_its_base_beside_it(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    words = ("method=full", "training.max_steps=2")
    full = trained_on([row(i) for i in range(4)], tmp_path / "full", tiny_folder, *words)
    done("chat", full, "--script", write_rows(tmp_path / "d.jsonl", SCRIPT[:1]), "-o", "o.jsonl", "--compare-base")
    turns = read_rows(tmp_path / "o.jsonl")
    assert any(turn["answer"] != turn["base"] for turn in turns)


def test_a_question_that_was_broken_off_is_forgotten_by_both(run: Path) -> None:
    talk = actions.chat(open_run(str(run), Voice(), overrides=[SHORT]), None, compare_base=True)
    before = [session.messages for session in talk.sessions.values()]
    answers = talk.say((Message("user", "Is pump 1 faulty?"),))
    list(next(answers)[1])
    next(next(answers)[1])
    answers.close()  # type: ignore[attr-defined]
    assert [session.messages for session in talk.sessions.values()] == before


# --- the menu ---------------------------------------------------------------------------------------------------------


def test_a_bare_chat_offers_every_run_and_checkpoint(
    run: Path, mixed: Path, tmp_path: Path, typed: Callable[..., None]
) -> None:
    for name, source in (("one", run), ("two", mixed)):
        shutil.copytree(source, tmp_path / name)
    typed("2\nIs pump 1 faulty?\nq\n", person=True)
    said = done("chat", SHORT, "--system", "")
    lines = said.err.splitlines()
    menu = [line.split() for line in lines if line[:2].strip().isdigit()]
    assert [line[0] for line in menu] == ["1", "2", "3"]
    assert {"one", "two"} == {line[1] for line in menu if line[1] in ("one", "two")}
    assert any({"best", "best,"} & set(line) for line in menu)
    chosen = [line for line in menu if line[0] == "2"][0]
    step = next(word for word in chosen[1:] if word.isdigit())
    assert f"checkpoint-{step}: " in said.err
    assert lines[-1] == "That was it. See you tomorrow!"
    typed("9\n", person=True)
    assert "There is no number 9" in refused("eval")
    typed("")
    assert "Name one of these runs" in refused("chat")


def test_enter_takes_the_best_checkpoint_of_the_newest_run(
    run: Path, tmp_path: Path, typed: Callable[..., None]
) -> None:
    shutil.copytree(run, tmp_path / "one")
    best = rundir.best(run)
    assert best is not None
    typed("\nq\n", person=True)
    assert f"checkpoint-{best.step}: lowest evaluation loss" in done("chat", SHORT).err


def test_a_damaged_run_hides_no_other(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "run.json").write_text("{")
    said = done("runs")
    assert {line.split()[0] for line in said.out.splitlines()} >= {"one", "two"}
    assert "run.json" in said.err


# --- system prompts and thinking as in training -----------------------------------------------------------------------


def test_trap_9_chat_speaks_under_the_persona_of_the_training(run: Path, tmp_path: Path) -> None:
    """The persona stands in the same place with the same words: the ids before an answer are those of training."""
    from tunesmith.actions.rows import open_sources, read_rows
    from tunesmith.config.load import load

    opened = open_run(str(run), Voice())
    config = load(run / "config.yaml").config
    part = read_rows(config, open_sources(config, opened.encoder, Voice()), Voice()).parts["train"]
    question = next(part.conversations()).messages[1]
    [supplied] = supply_system(opened, [Conversation((question,))], Voice())
    assert opened.encoder.context(supplied) == part.encoded[0].answers[0].context_ids
    rows = write_rows(tmp_path / "in.jsonl", [{"prompt": question.content}, row(0)])
    done("batch", run, rows, "-o", "out.jsonl", SHORT)
    bare, whole = read_rows_of(tmp_path / "out.jsonl")
    assert bare == whole


def read_rows_of(path: Path) -> list[str]:
    return [record["prediction"] for record in read_rows(path)]


def test_a_persona_of_the_settings_is_there_too(tiny_folder: Path, tmp_path: Path) -> None:
    words = (f"template.system={PERSONA}", "training.max_steps=1")
    mine = trained_on([row(i, "") for i in range(4)], tmp_path, tiny_folder, *words)
    opened = open_run(str(mine), Voice())
    assert PERSONA in opened.encoder.decode(opened.encoder.context(Conversation((Message("user", "Hi"),))))
    opened.encoder.ready.system = None
    assert PERSONA not in opened.encoder.decode(opened.encoder.context(Conversation((Message("user", "Hi"),))))


def test_where_rows_differ_chat_lists_their_system_prompts(mixed: Path, typed: Callable[..., None]) -> None:
    typed("2\nIs pump 1 faulty?\nq\n", person=True)
    chosen = done("chat", mixed, SHORT)
    assert "  1  Be kind." in chosen.err
    assert "  2  Be rude." in chosen.err
    typed("Is pump 1 faulty?\n")
    named = done("chat", mixed, SHORT, "--system", "Be rude.")
    assert named.out.strip() in chosen.out
    typed("Is pump 1 faulty?\n")
    assert "under 2 system prompts; this one, the most frequent, is taken: Be kind." in done("chat", mixed, SHORT).err


def test_the_system_prompt_of_a_batch_stands_for_every_rows_own(run: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", [row(0), row(0, "Be rude."), row(0, "")])
    found = {}
    for name, words in (("own", ()), ("rude", ("--system", "Be rude.")), ("none", ("--system", ""))):
        done("batch", run, rows, "-o", f"{name}.jsonl", SHORT, "--base", *words)
        found[name] = read_rows_of(tmp_path / f"{name}.jsonl")
    assert found["own"][0] == found["own"][2] != found["own"][1]
    assert found["rude"] == [found["own"][1]] * 3
    assert len(set(found["none"])) == 1


def test_thinking_other_than_in_training_is_told(run: Path) -> None:
    heard = Heard()
    off = open_run(str(run), heard, overrides=["template.enable_thinking=false"])
    assert "Thinking is off here and was left to the template in training" in heard.lines[-1]
    question = Conversation((Message("user", "Hi"),))
    plain = open_run(str(run), Voice())
    assert off.encoder.decode(off.encoder.context(question)) != plain.encoder.decode(plain.encoder.context(question))


def test_a_checkpoint_copied_out_of_its_run_speaks_as_it_was_trained(tiny_folder: Path, tmp_path: Path) -> None:
    words = (f"template.system={PERSONA}", "template.date=2026-01-02", "template.thinking=strip")
    mine = trained_on([row(i, "") for i in range(4)], tmp_path, tiny_folder, "training.max_steps=1", *words)
    copy = Path(shutil.copytree(mine / "checkpoint-1", tmp_path / "elsewhere" / "copy"))
    done("merge", mine, "-o", "merged")
    inside, question = open_run(str(mine), Voice()).encoder, Conversation((Message("user", "Hi"),))
    for target in (copy, tmp_path / "merged"):
        outside = open_run(str(target), Voice()).encoder
        told = (outside.ready.system, outside.ready.thinking, outside.template.date)
        assert told == (PERSONA, "strip", "2026-01-02")
        assert outside.context(question) == inside.context(question)


# --- how tokens are chosen --------------------------------------------------------------------------------------------


def test_trap_10_a_draw_from_one_token_is_told_to_be_none(run: Path) -> None:
    heard = Heard()
    draws = ["generation.do_sample=true", "generation.top_k=1", SHORT]
    opened, greedy = open_run(str(run), heard, overrides=draws), open_run(str(run), Voice(), overrides=[SHORT])
    assert heard.lines[-1].startswith("top_k is 1: nothing is drawn by chance")
    question = (Message("user", "Is pump 1 faulty?"),)
    assert answer(opened, question) == answer(greedy, question)


def test_trap_10_a_long_prompt_leaves_the_whole_answer(run: Path, tmp_path: Path) -> None:
    long = {"prompt": "Is the pump faulty? " * 20}
    done("batch", run, write_rows(tmp_path / "in.jsonl", [long]), "-o", "out.jsonl", "generation.max_new_tokens=16")
    [found] = read_rows_of(tmp_path / "out.jsonl")
    assert found


def test_a_setting_that_would_count_for_nothing_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="generation.do_sample=true"):
        open_run(str(run), Voice(), overrides=["generation.temperature=0.7"])
    with pytest.raises(ConfigError, match="belongs to training"):
        open_run(str(run), Voice(), overrides=["lora.r=4"])


def test_flags_of_a_draw_are_settings(run: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", [row(i) for i in range(3)])
    found = {}
    for name, words in (
        ("greedy", ()),
        ("hot", ("--temperature", 9, "--top-k", 0)),
        ("again", ("--temperature", 9, "--top-k", 0)),
        ("other", ("--temperature", 9, "--top-k", 0, "--seed", 1)),
    ):
        done("batch", run, rows, "-o", f"{name}.jsonl", "--max-new-tokens", 8, *words)
        found[name] = read_rows_of(tmp_path / f"{name}.jsonl")
    assert found["hot"] == found["again"]
    assert len({str(each) for each in found.values()}) == 3


def test_what_is_too_long_is_told(run: Path, tmp_path: Path, typed: Callable[..., None]) -> None:
    long = "Is the pump faulty? " * 99
    rows = write_rows(tmp_path / "in.jsonl", [{"prompt": long}, {"prompt": ""}, {"prompt": "Hi"}])
    said = done("batch", run, rows, "-o", "out.jsonl", SHORT)
    first, second, third = read_rows(tmp_path / "out.jsonl")
    assert "more than the 512 that the model reads" in first["error"]
    assert second["error"].startswith(f"{rows}:2  ")
    assert third["prediction"] is not None
    assert "2 rows could not be asked" in said.err
    typed(f"{long}\n/new\nHi\n")
    assert "512" in done("chat", run, SHORT).err


# --- batches that go on -----------------------------------------------------------------------------------------------


class Impatient(Heard):
    """Presses Ctrl-C when so many answers are there."""

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience

    @contextmanager
    def progress(self, title: str) -> Iterator[Advance]:
        def advance(done: int, total: int, text: str) -> None:
            if done == self.patience:
                raise KeyboardInterrupt

        yield advance


def test_a_batch_that_was_broken_off_goes_on(run: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", [row(i) for i in range(7)])
    words = [SHORT, "generation.batch_size=2"]
    voice = Impatient(3)
    with pytest.raises(KeyboardInterrupt):
        batch(open_run(str(run), voice, overrides=words), rows, tmp_path / "out.jsonl", voice)
    partial = tmp_path / "out.jsonl.partial"
    assert voice.lines[-1] == f"3 of 7 answers are kept in {partial}. The same command goes on."
    assert not (tmp_path / "out.jsonl").exists()
    partial.write_text(partial.read_text() + '{"row": 6, "predic')  # as a killed process leaves it
    assert "Answers of another batch" in refused("batch", run, rows, "-o", "out.jsonl", SHORT, "--seed", 3)
    said = done("batch", run, rows, "-o", "out.jsonl", *words)
    assert "Going on: 3 of 7 answers are there." in said.err
    assert not partial.exists()
    done("batch", run, rows, "-o", "straight.jsonl", *words)
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "straight.jsonl").read_text()
    assert [record["messages"] for record in read_rows(tmp_path / "out.jsonl")] == [
        row(i)["messages"] for i in range(7)
    ]


def test_a_batch_that_is_begun_anew_forgets_the_old_one(run: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", [row(0)])
    (tmp_path / "out.jsonl.partial").write_text('{"key": "other"}\n')
    with pytest.raises(RunError, match="another batch"):
        batch(open_run(str(run), Voice()), rows, tmp_path / "out.jsonl", Voice())
    done("batch", run, rows, "-o", "out.jsonl", SHORT, "--overwrite")
    assert len(read_rows(tmp_path / "out.jsonl")) == 1


# --- models that nobody trained here ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain_adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter as plain peft writes it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("peft") / "adapter"
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_folder), LoraConfig(r=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["untrained model", "bare name", "adapter of plain peft"])
def test_chat_batch_and_eval_take(
    kind: str,
    tiny_folder: Path,
    plain_adapter: Path,
    tmp_path: Path,
    typed: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))  # where the demo's base is kept
    shutil.copytree(tiny_folder, tmp_path / "cache" / rundir.PACKAGED)
    targets = {"untrained model": tiny_folder, "bare name": rundir.PACKAGED, "adapter of plain peft": plain_adapter}
    target = targets[kind]
    rows = write_rows(tmp_path / "in.jsonl", [row(i) for i in range(3)])
    typed("Is pump 1 faulty?\nq\n")
    assert done("chat", target, SHORT).out.strip()
    done("batch", target, rows, "-o", "out.jsonl", SHORT)
    answers = read_rows_of(tmp_path / "out.jsonl")
    assert len(answers) == 3
    said = done("eval", target, "--data", rows, "-o", "results", SHORT, "evaluation.group_by=site")
    assert "of 3;" in said.err
    assert (tmp_path / "results" / "subtype_accuracy.png").is_file()
    done("batch", tiny_folder, rows, "-o", "base.jsonl", SHORT)
    assert (read_rows_of(tmp_path / "base.jsonl") == answers) is (kind != "adapter of plain peft")


# --- consoles ---------------------------------------------------------------------------------------------------------


def test_a_console_without_a_character_is_no_crash(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: Callable[..., None]
) -> None:
    screen = io.BytesIO()
    console = io.TextIOWrapper(screen, encoding="gbk", errors="strict", write_through=True)
    script = write_rows(tmp_path / "d.jsonl", [{"messages": [{"role": "user", "content": "漏水 🙂 naïve ł"}]}])
    monkeypatch.setattr(sys, "stdout", console)
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="gbk", errors="strict"))
    assert main(["chat", str(run), SHORT, "--script", str(script)]) == 0
    assert "漏水 ? " in screen.getvalue().decode("gbk")


def test_nothing_that_only_posix_has_is_imported_at_the_start() -> None:
    only = {"readline", "termios", "tty", "pty", "fcntl", "resource", "pwd", "grp", "curses", "syslog"}
    source = Path(__file__).parents[1] / "src" / "tunesmith"
    for path in source.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not only.intersection(names), path
