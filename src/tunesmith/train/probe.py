"""Whether a model takes a forest, and whether its head may be left to the chunked loss: found out, never assumed.

Synthetic trees that branch, deeper than every attention window, are scored as a forest and row by row by the model's
own forward; the log-probabilities must agree. Touches neither weights nor random state.
"""

from __future__ import annotations

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

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}  # nats, of the largest difference
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
    model.eval()
    try:
        answers = _trees(causal, longest_row, seed)
        device = next(model.parameters()).device
        wanted = torch.cat([_row_by_row(causal, answer, device) for answer in answers])
        tolerance = TOLERANCE.get(next(model.parameters()).dtype, 1e-3)
        use_forest_attention(model)
        fast_head = _agrees(model, answers, wanted, tolerance, device, fast_head=True, forest=False)
        forest = _agrees(model, answers, wanted, tolerance, device, fast_head=fast_head, forest=True)
    finally:
        model.train(training)
    reason = ""
    if not forest:
        reason = _(
            "This model computes a row differently when rows share their beginnings, so each answer is computed on its"
            " own. The result is the same, training is slower."
        )
    return Abilities(forest, fast_head, reason)


def _agrees(
    model: nn.Module,
    answers: list[Answer],
    wanted: torch.Tensor,
    tolerance: float,
    device: torch.device,
    *,
    fast_head: bool,
    forest: bool,
) -> bool:
    trainee = Trainee(model, fast_head=fast_head)
    try:
        if forest:
            grown = grow(answers)
            _total, losses = trainee(Batch.of_forest(grown, device))
            losses = torch.cat([losses[torch.as_tensor(leaf.targets, device=device)] for leaf in grown.leaves])
        else:
            losses = torch.cat([trainee(Batch.of_rows([a], 0, device))[1] for a in answers])
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
        return False  # layers that know no paths, a head that is no matrix
    return bool(losses.isfinite().all() and (losses - wanted).abs().max() <= tolerance)


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
