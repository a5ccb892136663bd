"""`chat`: a dialogue with a model, and with its base beside it; typed, or played from a file; kept line by line.

Prints nothing: whoever shows the talk takes the pieces of each answer as they come.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.actions.opening import Opened
from tunesmith.actions.voice import Voice
from tunesmith.conversation import Conversation, Message
from tunesmith.errors import DataError, Problem, RunError
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.generate.session import Session

TUNED, BASE = "answer", "base"  # the columns of a transcript


@dataclass(frozen=True, slots=True)
class Turn:
    """What is said before the next answer, and the answer that the file has there."""

    said: tuple[Message, ...]
    expected: Message | None


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One row of a script. `system` None leaves the system prompt to the talk; `place` is file:line."""

    place: str
    system: str | None
    tools: tuple[dict[str, Any], ...]
    turns: tuple[Turn, ...]


class Talk:
    """The same dialogue with one model or several, each in its own history. `sessions` are by their column's name."""

    def __init__(self, opened: Opened, sessions: dict[str, Session], transcript: Path | None = None) -> None:
        self.opened, self.sessions, self.transcript = opened, sessions, transcript
        self.place: str | None = None
        self.dialogues = self.turns = 0

    def begin(self, dialogue: Dialogue | None = None) -> None:
        """A new dialogue; one of a script brings its system prompt and tools along."""
        self.dialogues, self.turns = self.dialogues + 1, 0
        self.place = dialogue.place if dialogue else None
        for session in self.sessions.values():
            session.reset(*((dialogue.system, dialogue.tools) if dialogue else ()))

    def say(self, messages: tuple[Message, ...]) -> Generator[tuple[str, Iterator[str]], None, None]:
        """(column, pieces of the answer) of each model in turn. RunError where that would be longer than it reads.

        Take all pieces of one before the next. Where that is broken off, all histories are as they were before.
        """
        before = {name: session.messages for name, session in self.sessions.items()}
        for session in self.sessions.values():
            refused = self.opened.refusal(Conversation((*session.messages, *messages), session.tools))
            if refused:
                raise RunError(refused)
        whole = False
        try:
            for name, session in self.sessions.items():
                yield name, session.reply(messages)
            whole = True
        finally:
            if not whole:
                for name, session in self.sessions.items():
                    session.messages = before[name]

    def keep(self, turn: Turn, *, gold_history: bool = False) -> None:
        """Writes the turn into the transcript. The history goes on with the file's answer where that was asked for, or
        where it called tools whose results come next."""
        record = {"dialogue": self.dialogues, "turn": self.turns, "place": self.place}
        record |= {message.role: _text(message) for message in turn.said}
        for name, session in self.sessions.items():
            assert session.last is not None
            answer = session.last.message
            record[name] = _text(answer)
            if answer.reasoning:
                record[f"{name}_thinking"] = answer.reasoning
            if turn.expected is not None and (gold_history or turn.expected.tool_calls):
                session.messages = (*session.messages[:-1], turn.expected)
        if turn.expected is not None:
            record["expected"] = _text(turn.expected)
        self.turns += 1
        if self.transcript is not None:
            with self.transcript.open("a", encoding="utf-8", errors="replace") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def chat(opened: Opened, system: str | None, *, compare_base: bool = False, transcript: Path | None = None) -> Talk:
    """A talk under this system prompt; an empty one is none; None leaves it to what the run was trained with.

    `compare_base` lets the base model answer too. RunError where there is no base beside it, or a transcript already.
    """
    from tunesmith.generate.session import Session

    if transcript is not None and transcript.exists():
        raise RunError(_("The file exists. Give another name."), place=str(transcript))
    base = _base_of(opened) if compare_base else None
    if transcript is not None:
        transcript.parent.mkdir(parents=True, exist_ok=True)
    if system is not None:
        opened.encoder.ready.system = None
    section, model = opened.config.generation, opened.model()
    sessions = {TUNED: Session(model, opened.encoder, section, system)}
    if base is not None:
        other = model if base.target.base == opened.target.base else base.model()
        sessions[BASE] = Session(other, opened.encoder, section, system, bare=True)
    opened.note(f"chat begins: {opened.target.why}")
    return Talk(opened, sessions, transcript)


def _base_of(opened: Opened) -> Opened:
    """The same RUN without what was trained."""
    from dataclasses import replace

    from tunesmith import rundir

    target = opened.target
    if target.adapter is not None:
        return replace(opened, target=replace(target, adapter=None))
    if target.run is not None and target.step is not None:
        return replace(opened, target=rundir.find(str(target.run), base=True))
    raise RunError(_("This is a base model itself: there is none to set beside it."), place=target.base)


def read_script(path: Path, opened: Opened, system: str | None, voice: Voice) -> list[Dialogue]:
    """The dialogues of a file in any format of data. A system prompt that was named stands for the rows' own."""
    from tunesmith.data.prompts import read_prompts

    prompts, notices = read_prompts(path, opened.config.data)
    for notice in notices:
        voice.say(notice)
    problems = [Problem("", prompt.error) for prompt in prompts if prompt.error]
    if problems:
        raise DataError(problems)
    dialogues = []
    for prompt in prompts:
        assert prompt.conversation is not None
        messages = (*prompt.conversation.messages, *([prompt.reference] if prompt.reference else []))
        own, messages = (messages[0].content, messages[1:]) if messages[0].role == "system" else (None, messages)
        place = str(prompt.conversation.origin)
        dialogues.append(
            Dialogue(place, own if system is None else system, prompt.conversation.tools, _turns(messages))
        )
    return dialogues


def _turns(messages: tuple[Message, ...]) -> tuple[Turn, ...]:
    """An answer is asked for wherever the file has one behind a question or a tool's result, and at the end."""
    turns: list[Turn] = []
    said: list[Message] = []
    for message in messages:
        asked = any(m.role in ("user", "tool") for m in said)
        if message.role == "assistant" and asked:
            turns.append(Turn(tuple(said), message))
            said = []
        else:
            said.append(message)
    if any(m.role in ("user", "tool") for m in said):
        turns.append(Turn(tuple(said), None))
    return tuple(turns)


def free_name(opened: Opened, script: Path) -> Path:
    """A file for the transcript that is not there yet: in the run folder, else here."""
    folder = opened.target.run / "chats" if opened.target.run else Path()
    names = (folder / f"{script.stem}-transcript-{n}.jsonl" for n in range(1, 10_000))
    return next(name for name in names if not name.exists())


def _text(message: Message) -> str:
    from tunesmith.evaluate.run import text

    return text(message)
