"""A RUN opened: what it means, with which template and system prompt it was trained, and how it answers.

Chat, batch, evaluation and merging begin here. Knows nothing of what is asked and where answers go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tunesmith import log, rundir
from tunesmith.actions.model import origin_note
from tunesmith.actions.record import TOLD
from tunesmith.actions.voice import Voice
from tunesmith.config.load import load
from tunesmith.conversation import Conversation
from tunesmith.errors import ConfigError, ModelError, Problem, TemplateError
from tunesmith.i18n import _
from tunesmith.model.folder import locate
from tunesmith.tokens.encode import Encoder

if TYPE_CHECKING:
    from tunesmith.config.schema import Config, GenerationSection
    from tunesmith.generate.engine import Generated
    from tunesmith.rundir import Target

ACTIVE = ("generation.", "evaluation.", "data.", "model.", "logging.")  # what can still be set of a run that is over
NAMES = {"model.name_or_path": "--model", "model.tokenizer": "--tokenizer"}
THINKING = "template.enable_thinking"
DRAWS = ("temperature", "top_p", "top_k")


@dataclass(frozen=True)
class Opened:
    """A RUN with its settings, ready to be loaded; `config` is the run's own, or the defaults with the overrides.

    `systems` are the system prompts of the rows that it was trained on, the most frequent first; an empty one is none.
    """

    target: Target
    encoder: Encoder
    config: Config
    systems: tuple[str, ...] = ()

    def note(self, text: str) -> None:
        """One record into the log of the run, where there is one."""
        if self.target.run is not None:
            log.note(self.target.run / rundir.LOG, text)

    def model(self) -> Any:
        from tunesmith.model.load import choices, load_target

        return load_target(self.target, **choices(self.config.model))[0]

    @cached_property
    def longest(self) -> int | None:
        """Tokens that the model can read; None where its config.json does not say."""
        from tunesmith.model.weights import read_config, text_config

        try:
            found = text_config(read_config(locate(self.target.base, weights=False))).get("max_position_embeddings")
        except ModelError:
            return None  # loading the model will say what is wrong with it
        return found if isinstance(found, int) else None

    def lacks_system(self, conversation: Conversation) -> bool:
        """Whether neither the conversation nor the settings say under which system prompt it stands."""
        try:
            return not self.encoder.ready.system_of(conversation)
        except TemplateError:  # the setting names a column that is not there
            return True

    def refusal(self, conversation: Conversation) -> str | None:
        """Why this can't be asked: the template refuses it (TemplateError), or prompt and answer would be too long."""
        tokens, new = len(self.encoder.context(conversation)), self.config.generation.max_new_tokens
        if self.longest is None or tokens + new <= self.longest:
            return None
        text = _(
            "The prompt has {n} tokens; with an answer of up to {new} (generation.max_new_tokens) that is more than the"
            " {limit} that the model reads."
        )
        return text.format(n=tokens, new=new, limit=self.longest)


def open_run(
    run: str,
    voice: Voice,
    *,
    checkpoint: str = "best",
    base: bool = False,
    model: str | None = None,
    tokenizer: str | None = None,
    overrides: Sequence[str] = (),
) -> Opened:
    """Finds out what RUN means and says so. The encoder is the one with which it was trained."""
    from tunesmith.config.schema import TemplateSection

    target = rundir.find(run, checkpoint=checkpoint, base=base, model=model, tokenizer=tokenizer)
    kept = target.template()
    _refuse_idle(overrides, trained=kept is not None)
    voice.say(target.why)
    note = origin_note(target)
    if note:
        voice.say(note)
    path = target.run / "config.yaml" if target.run else None
    chosen = [word for word in overrides if kept is None or not word.startswith(f"{THINKING}=")]
    config = load(path, chosen, files=False).config
    _remark_on_draws(config.generation, overrides, voice)
    folder = locate(target.tokenizer, weights=False)
    if kept is None:
        return Opened(target, Encoder.load(folder, config.template), config)
    trained = TemplateSection(**{name: kept[name] for name in TOLD if kept.get(name) is not None})
    encoder = Encoder.load(folder, trained, kept["text"])
    for word in overrides:
        if word.startswith(f"{THINKING}="):
            encoder = _with_thinking(encoder, word, voice)
    return Opened(target, encoder, config, tuple(kept.get("systems") or ()))


def respond(
    opened: Opened, voice: Voice, load: Callable[[], Any]
) -> Callable[[Sequence[Conversation], int], Iterable[Generated]]:
    """Conversations to answers from the given one on, with a bar. `load` gives the model when the first is wanted."""

    def answers(conversations: Sequence[Conversation], first: int) -> Iterable[Generated]:
        from tunesmith.generate.engine import generate

        model, began, asked = load(), time.monotonic(), 0

        def tell(done: int) -> None:
            nonlocal asked
            asked += 1
            rate = asked / max(time.monotonic() - began, 1e-3)
            advance(done, len(conversations), _("{rate:.1f} rows/s").format(rate=rate))

        with voice.progress(_("Answering")) as advance:
            section = opened.config.generation
            yield from generate(model, opened.encoder, conversations, section, first=first, progress=tell)

    return answers


def supply_system(opened: Opened, conversations: Sequence[Conversation], voice: Voice) -> list[Conversation]:
    """The conversations, those without a system prompt under the one that the training rows had; where those differ,
    under the most frequent, and that is said. Where some training row had none, none is given."""
    systems = opened.systems
    lacking = [opened.lacks_system(conversation) for conversation in conversations]
    if not systems or "" in systems or not any(lacking):
        return list(conversations)
    if len(systems) > 1:
        text = _("The rows were trained under {n} system prompts; this one, the most frequent, is taken: {text}")
        voice.say(text.format(n=len(systems), text=systems[0]))
    return [c.with_system(systems[0]) if lacks else c for c, lacks in zip(conversations, lacking, strict=True)]


def _names(overrides: Sequence[str]) -> list[str]:
    return [word.partition("=")[0] for word in overrides]


def _refuse_idle(overrides: Sequence[str], *, trained: bool) -> None:
    """Settings that a finished run can't follow any more are refused, not swallowed."""
    active = ACTIVE if trained else (*ACTIVE, "template.")
    problems = []
    for name in _names(overrides):
        if name in NAMES:
            problems.append(Problem(name, _("Here that is written {option}.").format(option=NAMES[name])))
        elif not name.startswith(active) and name != THINKING:
            text = _("This belongs to training; a run that is there takes generation, evaluation, data and model only.")
            problems.append(Problem(name, text))
    if problems:
        raise ConfigError(problems)


def _remark_on_draws(section: GenerationSection, overrides: Sequence[str], voice: Voice) -> None:
    """A setting without effect is refused; one that means another than it seems to is told."""
    idle = [name for name in _names(overrides) if name.removeprefix("generation.") in DRAWS and not section.do_sample]
    if idle:
        text = _("It counts only where tokens are drawn by chance: add generation.do_sample=true.")
        raise ConfigError([Problem(name, text) for name in idle])
    if section.do_sample and section.top_k == 1:
        voice.say(_("top_k is 1: nothing is drawn by chance, the likeliest token is always taken."))


def _with_thinking(encoder: Encoder, word: str, voice: Voice) -> Encoder:
    """The encoder with thinking on or off as `word` has it, and a warning where training had it otherwise."""
    now, then = load(None, [word]).config.template.enable_thinking, encoder.ready.enable_thinking
    if now == then:
        return encoder
    text = _("Thinking is {now} here and was {then} in training: the model meets what it was not trained for.")
    voice.say(text.format(now=_switch(now), then=_switch(then)))
    return encoder.with_thinking(now)


def _switch(value: bool | None) -> str:
    return {None: _("left to the template"), True: _("on"), False: _("off")}[value]
