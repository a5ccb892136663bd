"""Conversations to answers: in batches for files and evaluation, token by token for a chat.

The encoder says what the model reads, when an answer ends and what its ids mean; the section says how tokens are
chosen. Knows nothing of files, metrics or where the model came from.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from tunesmith.config.schema import GenerationSection
from tunesmith.conversation import Conversation, Message
from tunesmith.generate import library
from tunesmith.generate.choose import Choice
from tunesmith.generate.decode import Decoder, Written, can_decode
from tunesmith.generate.packed import packed
from tunesmith.generate.slots import slot_attending

if TYPE_CHECKING:
    from tunesmith.tokens.encode import Encoder

Model = PreTrainedModel | PeftModel

_WINDOW = 16  # batches whose rows are sorted by length together: rows of like length, and answers still come steadily


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer. `ids` are the new tokens with the one that ended them; `tokens` is their number.

    `seconds` is the row's share of the time. `finished`: the model stopped by itself, not at the limit.
    """

    message: Message
    ids: list[int]
    tokens: int
    seconds: float
    finished: bool


def generate(
    model: Model,
    encoder: Encoder,
    conversations: Sequence[Conversation],
    section: GenerationSection,
    *,
    first: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Iterator[Generated]:
    """An answer to each conversation from the `first` on, in their order; each is the one that it would be if all
    were asked. `progress` hears after each answer how many are there.

    In float32 a row's tokens do not depend on the rows beside it, and its draws never do.
    """
    waiting: dict[int, Generated] = {}
    following = begin = _window_of(first, section)
    for done, (index, answer) in enumerate(as_done(model, encoder, conversations, section, first=first), start=1):
        waiting[index] = answer
        if progress is not None:
            progress(begin + done)
        while following in waiting:
            answer = waiting.pop(following)
            if following >= first:
                yield answer
            following += 1


def as_done(
    model: Model,
    encoder: Encoder,
    conversations: Sequence[Conversation],
    section: GenerationSection,
    *,
    first: int = 0,
) -> Iterator[tuple[int, Generated]]:
    """(index, answer) of each conversation as soon as it is done; rows of like length are in work together.

    Begins with the rows that are in work together with the `first`: only so are they what they are among all.
    """
    window = section.batch_size * _WINDOW
    with _answering(model, encoder, section) as answers:
        for start in range(_window_of(first, section), len(conversations), window):
            contexts = [encoder.context(conversation) for conversation in conversations[start : start + window]]
            seeds = [section.seed + start + i for i in range(len(contexts))]
            for written in answers(contexts, seeds):
                yield start + written.number, _generated(encoder, written.ids, written.seconds)


def stream(
    model: Model, encoder: Encoder, conversation: Conversation, section: GenerationSection
) -> Generator[str, None, Generated]:
    """The answer's text piece by piece, whole characters only; the generator's value is the answer as `Generated`.

    Chooses the same tokens as `generate` with this one conversation. Closing the generator stops the model.
    """
    began = time.monotonic()
    ids: list[int] = []
    shown = ""
    for token in _tokens(model, encoder.context(conversation), section, encoder.stop_ids):
        ids.append(token)
        text = encoder.decode(ids)
        if not text.endswith("\ufffd"):  # the token may end within a character
            yield text[len(shown) :]
            shown = text
    yield encoder.decode(ids)[len(shown) :]
    return _generated(encoder, ids, time.monotonic() - began)


def _window_of(row: int, section: GenerationSection) -> int:
    """The first of the rows that are in work together with this one."""
    return row - row % (section.batch_size * _WINDOW)


@contextmanager
def _answering(
    model: Model, encoder: Encoder, section: GenerationSection
) -> Iterator[Callable[[Sequence[list[int]], Sequence[int]], Iterator[Written]]]:
    """What makes new tokens of contexts and seeds, in the fast way where that is wanted and the model can."""
    with _plain(model) as base:
        if section.kernels == "fast" and can_decode(base):
            with slot_attending(base), packed(base):
                yield Decoder(base, section, encoder.stop_ids).answers
        else:
            yield partial(library.answers, base, section=section, stop_ids=encoder.stop_ids, pad_id=encoder.pad_id)


def _tokens(model: Model, context: list[int], section: GenerationSection, stop_ids: frozenset[int]) -> Iterator[int]:
    """New tokens, the one that stops included, by a loop over the model's key-value cache."""
    choose = Choice(section)
    with _plain(model) as base:
        chance = torch.Generator(base.device).manual_seed(section.seed)
        ids = torch.tensor([context], device=base.device)
        # logits of the last place only, where the model can: a long prompt's would fill the memory
        last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(base.forward).parameters else {}
        new, cache = ids, None
        for _step in range(section.max_new_tokens):
            with torch.inference_mode():
                output = base(input_ids=new, past_key_values=cache, use_cache=True, **last)
                cache = output.past_key_values
                new = choose(ids, output.logits[:, -1], chance)
                ids = torch.cat([ids, new], dim=1)
            yield int(new)
            if int(new) in stop_ids:
                return


@contextmanager
def _plain(model: Model) -> Iterator[Any]:
    """The transformers model itself (adapters are in its layers), in evaluation mode; all as it was afterwards."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    training, settings = model.training, base.generation_config
    model.eval()
    try:
        yield base
    finally:
        base.generation_config = settings
        model.train(training)


def _generated(encoder: Encoder, ids: list[int], seconds: float) -> Generated:
    finished = bool(ids) and ids[-1] in encoder.stop_ids
    return Generated(encoder.message(ids), ids, len(ids), seconds, finished)
