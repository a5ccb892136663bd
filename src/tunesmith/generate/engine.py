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
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tunesmith.config.schema import GenerationSection
from tunesmith.conversation import Conversation, Message

if TYPE_CHECKING:
    from tunesmith.tokens.encode import Encoder

Model = PreTrainedModel | PeftModel

_WINDOW = 16  # batches whose rows are sorted by length together: little padding, and answers still come steadily


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer. `ids` are the new tokens with the one that ended them; `tokens` is their number.

    `seconds` is the row's share of its batch's time. `finished`: the model stopped by itself, not at the limit.
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
    progress: Callable[[int], object] | None = None,
) -> Iterator[Generated]:
    """An answer to each conversation, in their order. `progress` hears after each answer how many are there.

    In float32 a row's tokens do not depend on its batch: padding stands left, is masked, and takes up no position.
    """
    waiting: dict[int, Generated] = {}
    following = 0
    for done, (index, answer) in enumerate(as_done(model, encoder, conversations, section), start=1):
        waiting[index] = answer
        if progress is not None:
            progress(done)
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def as_done(
    model: Model, encoder: Encoder, conversations: Sequence[Conversation], section: GenerationSection
) -> Iterator[tuple[int, Generated]]:
    """(index, answer) of each conversation as soon as its batch is done; rows of like length share a batch."""
    window = section.batch_size * _WINDOW
    for start in range(0, len(conversations), window):
        contexts = [encoder.context(conversation) for conversation in conversations[start : start + window]]
        longest_first = sorted(range(len(contexts)), key=lambda i: -len(contexts[i]))
        for first in range(0, len(contexts), section.batch_size):
            rows = longest_first[first : first + section.batch_size]
            answers = _batch(model, encoder, [contexts[i] for i in rows], section, section.seed + start + rows[0])
            yield from zip((start + i for i in rows), answers, strict=True)


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


@torch.inference_mode()
def _batch(
    model: Model, encoder: Encoder, contexts: list[list[int]], section: GenerationSection, seed: int
) -> list[Generated]:
    began = time.monotonic()
    width = max(map(len, contexts))
    padded = [[encoder.pad_id] * (width - len(ids)) + ids for ids in contexts]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in contexts]
    with _plain(model) as base, _seeded(seed, base.device, section.do_sample):
        base.generation_config = _settings(section, encoder)  # the model's own would fill in what is not set here
        written: Any = base.generate(
            input_ids=torch.tensor(padded, device=base.device), attention_mask=torch.tensor(mask, device=base.device)
        )
    seconds = (time.monotonic() - began) / len(contexts)
    return [_generated(encoder, _through_stop(row[width:].tolist(), encoder), seconds) for row in written]


def _tokens(model: Model, context: list[int], section: GenerationSection, stop_ids: frozenset[int]) -> Iterator[int]:
    """New tokens, the one that stops included, by a loop over the model's key-value cache."""
    choose: Any = _processors(section)
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
                scores = choose(ids, output.logits[:, -1].float())
                if section.do_sample:
                    new = scores.softmax(-1).multinomial(1, generator=chance)
                else:
                    new = scores.argmax(-1, keepdim=True)
                ids = torch.cat([ids, new], dim=1)
            yield int(new)
            if int(new) in stop_ids:
                return


@contextmanager
def _seeded(seed: int, device: torch.device, draws: bool) -> Iterator[None]:
    """Draws of this block start from `seed`; whoever else draws by chance, such as a training, notices nothing."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=draws):
        if draws:
            torch.manual_seed(seed)
        yield


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


def _settings(section: GenerationSection, encoder: Encoder) -> GenerationConfig:
    chance = {"temperature": section.temperature, "top_p": section.top_p, "top_k": section.top_k}
    return GenerationConfig(
        max_new_tokens=section.max_new_tokens,
        do_sample=section.do_sample,
        repetition_penalty=section.repetition_penalty,
        eos_token_id=sorted(encoder.stop_ids) or None,
        pad_token_id=encoder.pad_id,
        **(chance if section.do_sample else {}),
    )


def _processors(section: GenerationSection) -> LogitsProcessorList:
    """What `_settings` means for one step's scores, in the order in which transformers applies it."""
    steps = LogitsProcessorList()
    if section.repetition_penalty != 1.0:
        steps.append(RepetitionPenaltyLogitsProcessor(section.repetition_penalty))
    if section.do_sample and section.temperature != 1.0:
        steps.append(TemperatureLogitsWarper(section.temperature))
    if section.do_sample and section.top_k:
        steps.append(TopKLogitsWarper(section.top_k))
    if section.do_sample and section.top_p < 1.0:
        steps.append(TopPLogitsWarper(section.top_p))
    return steps


def _through_stop(ids: list[int], encoder: Encoder) -> list[int]:
    """A row of a batch without what pads it after its end."""
    end = next((i + 1 for i, token in enumerate(ids) if token in encoder.stop_ids), len(ids))
    return ids[:end]


def _generated(encoder: Encoder, ids: list[int], seconds: float) -> Generated:
    finished = bool(ids) and ids[-1] in encoder.stop_ids
    return Generated(encoder.message(ids), ids, len(ids), seconds, finished)
