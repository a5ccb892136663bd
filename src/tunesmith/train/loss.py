"""The loss over triples (source, target, weight): sum of weight x cross entropy, logits made in chunks and never kept.

Forward of the decoder and the loss live in one module, the one that an engine (DDP, FSDP, DeepSpeed) wraps. Divides
by nothing: a step's weight is known to the loop alone. (Chunked cross entropy: arXiv 2410.10989.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tunesmith.model.attention import no_dense_mask
from tunesmith.train.batch import Batch

CHUNK_BYTES = 48 * 2**20  # fp32 logits alive at once


class Trainee(nn.Module):
    """A causal model and its loss. `fast_head` False: logits are the model's own (softcap, scale, bias)."""

    def __init__(self, model: nn.Module, *, fast_head: bool = True) -> None:
        super().__init__()
        self.model = model
        self.fast_head = fast_head

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(sum of weight x cross entropy, cross entropy of each target [m] in fp32 without gradient)."""
        causal = causal_model(self.model)
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids,
            "position_ids": batch.position_ids,
            "attention_mask": batch.attention_mask,
            "use_cache": False,
        }
        if not self.fast_head:
            return self._reference(causal, batch, inputs)
        if batch.paths is None:
            hidden = causal.get_decoder()(**inputs).last_hidden_state
        else:
            with no_dense_mask():
                hidden = causal.get_decoder()(**inputs, paths=batch.paths).last_hidden_state
        head = causal.get_output_embeddings()
        return chunked_cross_entropy(hidden.flatten(0, 1)[batch.source], head.weight, batch.target, batch.weight)

    def _reference(self, causal: Any, batch: Batch, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        if batch.paths is None:
            logits = causal(**inputs).logits.flatten(0, 1)[batch.source]
        else:
            with no_dense_mask():
                logits = causal(**inputs, paths=batch.paths, logits_to_keep=batch.source).logits[0]
        losses = cross_entropy(logits.float(), batch.target, reduction="none")
        return (losses * batch.weight).sum(), losses.detach()


def causal_model(model: Any) -> Any:
    """The transformers model inside an adapter, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def chunked_cross_entropy(hidden: Tensor, head: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """hidden [m, h], head [v, h], target [m], weight [m] -> (weighted sum, losses [m])."""
    return _ChunkedCrossEntropy.apply(hidden, head, target, weight)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        need_hidden, need_head = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_head = torch.zeros_like(head, dtype=torch.float32) if need_head else None  # many small terms: fp32
        losses = torch.empty(len(target), dtype=torch.float32, device=hidden.device)
        rows = max(16, CHUNK_BYTES // (4 * len(head)))
        # Two buffers serve all chunks: memory taken anew for each costs more time than the arithmetic done in it.
        logits = torch.empty(min(rows, len(target)), len(head), dtype=torch.float32, device=hidden.device)
        narrow = torch.empty_like(logits, dtype=hidden.dtype) if hidden.dtype != torch.float32 else logits
        for start in range(0, len(target), rows):
            part = slice(start, start + rows)
            x, place, w = hidden[part], target[part, None], weight[part, None]
            wide, low = logits[: len(x)], narrow[: len(x)]
            wide.copy_(torch.mm(x, head.T, out=low))
            right, highest = wide.gather(1, place), wide.amax(-1, keepdim=True)
            share = torch.softmax(wide, -1, out=wide)
            normaliser = highest - share.amax(-1, keepdim=True).log()  # of the highest logit, whose share can't be 0
            losses[part] = (normaliser - right)[:, 0]
            if grad_hidden is None and grad_head is None:
                continue
            share.scatter_add_(1, place, torch.full_like(w, -1.0))
            low.copy_(share.mul_(w))
            if grad_hidden is not None:
                torch.mm(low, head, out=grad_hidden[part])
            if grad_head is not None:
                grad_head += (low.T @ x).float()
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.head_dtype = head.dtype
        ctx.mark_non_differentiable(losses)
        return (losses * weight).sum(), losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _losses: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_hidden, grad_head = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden * grad.to(grad_hidden.dtype),
            None if grad_head is None else (grad_head * grad).to(ctx.head_dtype),
            None,
            None,
        )
