"""From a model's scores to the next token: how the settings say it, and nothing of where scores come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

if TYPE_CHECKING:
    import torch

    from tunesmith.config.schema import GenerationSection


class Choice:
    """The next token of a row. Draws come from the generator that is given, so a row's do not depend on other rows."""

    def __init__(self, section: GenerationSection) -> None:
        self.draws = section.do_sample
        self._steps = LogitsProcessorList()  # in the order in which transformers applies them
        if section.repetition_penalty != 1.0:
            self._steps.append(RepetitionPenaltyLogitsProcessor(section.repetition_penalty))
        if section.do_sample and section.temperature != 1.0:
            self._steps.append(TemperatureLogitsWarper(section.temperature))
        if section.do_sample and section.top_k:
            self._steps.append(TopKLogitsWarper(section.top_k))
        if section.do_sample and section.top_p < 1.0:
            self._steps.append(TopPLogitsWarper(section.top_p))

    @property
    def plain(self) -> bool:
        """Whether it is the likeliest token, whatever the row: many rows can be chosen for at once."""
        return not (self.draws or self._steps)

    def __call__(self, ids: Tensor, logits: Tensor, chance: torch.Generator) -> Tensor:
        """ids [1, so far] with the prompt, logits [1, vocabulary] -> [1, 1]."""
        scores = self._steps(ids, logits.float())  # type: ignore[arg-type]
        if self.draws:
            return scores.softmax(-1).multinomial(1, generator=chance)
        return scores.argmax(-1, keepdim=True)


def as_library_settings(section: GenerationSection, stop_ids: frozenset[int], pad_id: int) -> GenerationConfig:
    """The same for transformers' own `generate`."""
    chance = {"temperature": section.temperature, "top_p": section.top_p, "top_k": section.top_k}
    return GenerationConfig(
        max_new_tokens=section.max_new_tokens,
        do_sample=section.do_sample,
        repetition_penalty=section.repetition_penalty,
        eos_token_id=sorted(stop_ids) or None,
        pad_token_id=pad_id,
        **(chance if section.do_sample else {}),
    )
