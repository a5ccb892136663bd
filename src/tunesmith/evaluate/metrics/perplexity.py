"""perplexity: how well the model foresees the expected answers: loss and perplexity over their trained tokens.

Made by the loss of training, so that the loss of all rows equals the evaluation loss of training on the same rows.
The loss is weighted as in training, perplexity is not: exp of the mean cross entropy of a token. Needs the model, no
answer of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.evaluate.metrics import MetricContext, Scored, Sums

MOST = 700.0  # nats of a token: more than a float can tell

if TYPE_CHECKING:
    from torch import nn

    from tunesmith.train.plan import Row


def measure(model: nn.Module, rows: Sequence[Row], pad_id: int) -> Iterator[dict[str, Any]]:
    """For each row, in order: `loss` and `perplexity`, both None for a row without a trained token; `tokens`,
    `weight` and `sum` (of cross entropy, in nats), from which `total` counts."""
    import torch

    from tunesmith.tokens.forest import grow
    from tunesmith.train.batch import Batch
    from tunesmith.train.loss import Trainee
    from tunesmith.train.probe import probe

    device = next(model.parameters()).device
    able = probe(model, max((len(answer) for row in rows for answer in row.answers), default=1))
    trainee = Trainee(model, fast_head=able.fast_head).eval()
    for row in rows:
        if not row.weight:
            yield {"loss": None, "perplexity": None, "tokens": 0, "weight": 0.0, "sum": 0.0}
            continue
        answers = list(row.answers)
        batch = Batch.of_forest(grow(answers), device) if able.forest else Batch.of_rows(answers, pad_id, device)
        with torch.no_grad():
            loss, losses = trainee(batch)
        losses = losses[batch.weight > 0]
        yield {
            "loss": loss.item() / row.weight,
            "perplexity": _perplexity(losses.mean().item()),
            "tokens": len(losses),
            "weight": row.weight,
            "sum": losses.sum().item(),
        }


def total(rows: Sequence[Scored], context: MetricContext) -> dict[str, Any]:
    """Over all trained tokens, whatever row they stand in."""
    table, figures = sums(rows, context)
    found = [sum(column) for column in zip(*table, strict=True)]
    return figures(found) | dict(zip(("weight", "sum", "tokens"), found[1:], strict=True))


def sums(rows: Sequence[Scored], context: MetricContext) -> Sums:
    table = [[(s["loss"] or 0) * s["weight"], s["weight"], s["sum"], s["tokens"]] for s in (row.score for row in rows)]
    return table, _figures


def _figures(found: Sequence[float]) -> dict[str, float | None]:
    loss, weight, nats, tokens = found
    if not tokens:
        return {"loss": None, "perplexity": None}
    return {"loss": loss / weight, "perplexity": _perplexity(nats / tokens)}


def _perplexity(nats: float) -> float:
    return math.exp(min(nats, MOST))
