"""Whether a model takes a forest, and whether its head may be left to the chunked loss: found out, never assumed.

Synthetic trees that branch, deeper than every attention window, are scored as a forest and row by row by the model's
own forward; the log-probabilities must agree. Touches neither weights nor random state.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tunesmith.i18n import _
from tunesmith.model.attention import use_forest_attention
from tunesmith.tokens.answer import Answer
from tunesmith.tokens.forest import grow
from tunesmith.train.batch import Batch
from tunesmith.train.loss import Trainee, causal_model

# Mean difference in nats that is a type's own noise: (at most, and what is always forgiven). SmolLM2-135M in bfloat16
# differs from itself in float32 by 0.07.
NOISE = {torch.float32: (1e-4, 1e-4), torch.bfloat16: (0.2, 2e-3), torch.float16: (0.05, 1e-3)}
FACTOR = 1.5  # sharing may differ from not sharing so many times more than that differs from the model's own rows
RESHAPED = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # a config's names for what happens to logits
SHORT = 24  # tokens of a probe's answers and branches


@dataclass(frozen=True)
class Abilities:
    """`forest`: shared tokens may stand once. `fast_head`: logits are hidden @ head. `reason`: a sentence if not."""

    forest: bool
    fast_head: bool
    reason: str = ""


@torch.no_grad()
def probe(model: nn.Module, longest_row: int, seed: int = 0) -> Abilities:
    """Tries both. `longest_row` [tokens] bounds the depth of the trees, so that no row is deeper than was tried."""
    causal = causal_model(model)
    training = model.training
    parameter = next(model.parameters())
    limit, forgiven = NOISE.get(parameter.dtype, NOISE[torch.float32])
    model.eval()
    try:
        answers = _trees(causal, longest_row, seed)
        wanted = torch.cat([_row_by_row(causal, answer, parameter.device) for answer in answers])
        use_forest_attention(model)
        rows = [[answer] for answer in answers]
        fast_head = _plain_head(causal, answers[0], parameter.device)
        alone = _losses(model, rows, fast_head=fast_head, forest=True)
        shared = _losses(model, [answers], fast_head=fast_head, forest=True)
    finally:
        model.train(training)
    noise = _difference(alone, wanted)
    forest = noise <= limit and _difference(shared, alone) <= max(forgiven, FACTOR * noise)
    reason = ""
    if not forest:
        reason = _(
            "This model computes a row differently when rows share their beginnings, so each answer is computed on its"
            " own. The result is the same, training is slower."
        )
    return Abilities(forest, fast_head, reason)


def _plain_head(causal: Any, answer: Answer, device: torch.device) -> bool:
    """Whether logits are hidden @ head and nothing else: no bias, scale, cap or adapter on the way."""
    head, config = causal.get_output_embeddings(), causal.config.get_text_config()
    if type(head) is not nn.Linear or head.bias is not None:
        return False
    if any(getattr(config, name, None) not in (None, 1, 1.0) for name in RESHAPED):
        return False
    ids = torch.tensor([answer.context_ids], device=device)
    hidden = causal.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    wanted = causal(input_ids=ids, use_cache=False).logits.float()
    rounding = 2 * torch.finfo(hidden.dtype).eps * wanted.abs().max()
    return bool(((hidden @ head.weight.T).float() - wanted).abs().max() <= rounding)


def _losses(model: nn.Module, batches: list[list[Answer]], *, fast_head: bool, forest: bool) -> torch.Tensor | None:
    """The loss of every answer token, in order; None where the model can't do it."""
    trainee, device = Trainee(model, fast_head=fast_head), next(model.parameters()).device
    found = []
    try:
        for answers in batches:
            if not forest:
                found.append(trainee(Batch.of_rows(answers, 0, device))[1])
                continue
            grown = grow(answers)
            losses = trainee(Batch.of_forest(grown, device))[1]
            found += [losses[torch.as_tensor(leaf.targets, device=device)] for leaf in grown.leaves]
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
        return None  # layers that know no paths, a head that is no matrix
    return torch.cat(found)


def _difference(found: torch.Tensor | None, wanted: torch.Tensor | None) -> float:
    """Mean difference in nats; infinite where there is none to speak of."""
    if found is None or wanted is None:
        return math.inf
    difference = (found - wanted).abs().mean().item()
    return difference if math.isfinite(difference) else math.inf


def _row_by_row(causal: Any, answer: Answer, device: torch.device) -> torch.Tensor:
    ids = torch.tensor([answer.context_ids + answer.answer_ids], device=device)
    logits = causal(input_ids=ids, use_cache=False).logits[0, len(answer.context_ids) - 1 : -1]
    return cross_entropy(logits.float(), torch.tensor(answer.answer_ids, device=device), reduction="none")


def _trees(causal: Any, longest_row: int, seed: int) -> list[Answer]:
    """Two trees: one shallow, one as deep as matters, each with branches in a context and after an answer."""
    rng = random.Random(seed)
    config = causal.config.get_text_config()

    def some(count: int) -> list[int]:
        return [rng.randrange(config.vocab_size) for _ in range(count)]

    def answer(context: list[int]) -> Answer:
        ids = some(SHORT // 2)
        return Answer(0, context, ids, [1.0] * len(ids))

    depth = min(max(_reach(config) + SHORT, 2 * SHORT), max(longest_row, 2 * SHORT))
    answers = []
    for length in (SHORT // 2, depth - SHORT):
        stem = some(length)
        first = answer(stem)
        answers += [first, answer(stem), answer(stem[: length // 2] + some(5))]
        answers.append(answer(stem + first.answer_ids + some(3)))
    return answers


def _reach(config: Any) -> int:
    """The depth beyond which a model may behave otherwise: its widest window, and its original rope length."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *[r for r in rope.values() if isinstance(r, dict)]]
    lengths = [r.get("original_max_position_embeddings") for r in kinds]
    lengths.append(getattr(config, "sliding_window", None))
    lengths.append(getattr(config, "attention_chunk_size", None))
    return max([n for n in lengths if isinstance(n, int)], default=0)
