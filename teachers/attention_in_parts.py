"""Attention with relative positions on a CPU: a few queries of one head at a time, forwards and backwards.

The logits of ``PART`` queries stay in the processor's caches, so a large map needs no more memory than a small one, and
bfloat16 is as fast as its matrix products. Backwards, the logits of a part are computed again.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

PART = 512
"""Queries whose logits are held at once."""


def attend_in_parts(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Softmax attention; args and returns as of :func:`teachers.attention.attend_by_definition`."""
    out: Tensor = _InParts.apply(q, k, v, rel_h.flatten(2, 3), rel_w.flatten(2, 3))
    return out


class _InParts(torch.autograd.Function):
    """Queries, keys and values ``[B, heads, tokens, d]``, ``rel_h`` and ``rel_w`` ``[B, heads, tokens, H or W]``."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        q, k, v, rel_h, rel_w = inputs
        ctx.save_for_backward(*inputs)
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        # Autocast would widen the softmax to float32 and back: the kernel adds up in float32 anyway.
        with torch.autocast("cpu", enabled=False):
            for at, part in _parts(q):
                out[at][part] = _weights(q, k, rel_h, rel_w, at, part) @ v[at]
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        (gradient,) = gradients
        q, k, v, rel_h, rel_w = ctx.saved_tensors
        height, width = rel_h.shape[-1], rel_w.shape[-1]
        to_q, to_h, to_w = torch.empty_like(q), torch.empty_like(rel_h), torch.empty_like(rel_w)
        # Keys and values gather from every part.
        to_k, to_v = torch.zeros(k.shape, dtype=torch.float32), torch.zeros(v.shape, dtype=torch.float32)
        for at, part in _parts(q):
            weights = _weights(q, k, rel_h, rel_w, at, part)
            arriving = gradient[at][part]
            to_v[at] += weights.T @ arriving
            # d softmax: weights * (d weights - their weighted mean over the keys)
            moved = arriving @ v[at].T
            moved -= (moved * weights).sum(-1, keepdim=True)
            moved *= weights
            to_q[at][part] = moved @ k[at]
            to_k[at] += moved.T @ q[at][part]
            on_map = moved.view(-1, height, width)
            to_h[at][part], to_w[at][part] = on_map.sum(2), on_map.sum(1)
        return to_q, to_k.to(k.dtype), to_v.to(v.dtype), to_h, to_w


def _parts(q: Tensor) -> Iterator[tuple[tuple[int, int], slice]]:
    """Every (image, head), and of each the slices of its queries."""
    for image in range(q.shape[0]):
        for head in range(q.shape[1]):
            for start in range(0, q.shape[2], PART):
                yield (image, head), slice(start, start + PART)


def _weights(q: Tensor, k: Tensor, rel_h: Tensor, rel_w: Tensor, at: tuple[int, int], part: slice) -> Tensor:
    """Softmax weights of a part: ``[queries, tokens]``."""
    logits = (q[at][part] @ k[at].T).view(-1, rel_h.shape[-1], rel_w.shape[-1])
    logits += rel_h[at][part, :, None]
    logits += rel_w[at][part, None, :]
    return logits.flatten(1).softmax(-1)
