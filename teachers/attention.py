"""Self-attention of SAM's ViT: decomposed relative positions, windows, any attention width.

Decomposed relative positions (Segment Anything, appendix A; Li et al., MViTv2, eq. 4) add ``q . rel_h[y - y']`` and
``q . rel_w[x - x']`` to each logit. No way of computing it here holds a ``heads x tokens x tokens`` tensor of a
large map:

- On an accelerator the bias is written as one inner product of longer vectors,
  ``[q * scale, q . rel_h, q . rel_w] . [k, onehot(y'), onehot(x')]``, which any fused attention kernel computes.
- On the CPU small maps take those longer vectors and plain matrix products; large ones go head by head in parts that
  stay in the caches, since the fused kernel pads values to the longer width. With matrix units (AMX) that kernel is
  faster in bfloat16 in spite of it, and is used.
- In a graph that is exported for other runtimes it is the textbook form too, of large maps one head at a time: the
  fastest form in ONNX Runtime and OpenVINO, and there an eighth of the memory of all heads together.
- On the meta device the textbook form is used, so that counters see the textbook number of operations.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PART = 512
"""Queries whose logits are in memory at once."""


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


SMALL_MAP = 256
"""Up to this many tokens all logits are in memory at once on the CPU, in training too."""


def relative_table(rel_pos: Tensor, size: int) -> Tensor:
    """Gather a table of relative positions for ``size`` queries and keys along one axis.

    Args:
        rel_pos: ``[2 * s - 1, d]`` learned vectors; resized linearly when ``s != size``.

    Returns:
        ``[size, size, d]``: entry ``[i, j]`` is the vector of offset ``i - j``.
    """
    length = 2 * size - 1
    if rel_pos.shape[0] != length:
        resized = F.interpolate(rel_pos.float().T[None], size=length, mode="linear", align_corners=False)
        rel_pos = resized[0].T.to(rel_pos.dtype)
    steps = torch.arange(size, device=rel_pos.device)
    return rel_pos[steps[:, None] - steps[None, :] + size - 1]


def fold_positions(q: Tensor, k: Tensor, rel_h: Tensor, rel_w: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys whose inner products are the logits, relative positions included.

    Args:
        q, k, rel_h, rel_w: as of :func:`attend_by_definition`.

    Returns:
        Two of ``[B, heads, H * W, d + H + W]``.
    """
    height, width = rel_h.shape[-1], rel_w.shape[-1]
    rows = torch.eye(height, device=q.device, dtype=q.dtype).repeat_interleave(width, 0)
    columns = torch.eye(width, device=q.device, dtype=q.dtype).repeat(height, 1)
    # [B, heads, H * W, H + W]: where each key stands
    places = torch.cat([rows, columns], 1).expand(*k.shape[:2], -1, -1)
    return torch.cat([q, rel_h.flatten(2, 3), rel_w.flatten(2, 3)], -1), torch.cat([k, places], -1)


def attend_folded(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Softmax attention by a fused kernel without a mask; args and returns as of :func:`attend_by_definition`."""
    q, k = fold_positions(q, k, rel_h, rel_w)
    # Fused kernels want one width for queries, keys and values; the padding never reaches the output.
    padded = F.pad(v, (0, q.shape[-1] - v.shape[-1]))
    return F.scaled_dot_product_attention(q, k, padded, scale=1.0)[..., : v.shape[-1]]


def attend_at_once(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """The same with all logits in memory, but no other tensor of their size."""
    q, k = fold_positions(q, k, rel_h, rel_w)
    return (q @ k.transpose(-1, -2)).softmax(-1).to(v.dtype) @ v


def position_bias(rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """What relative positions add to every logit: ``[B, heads, H * W, H * W]``; args as of the next function."""
    batch, heads = rel_h.shape[:2]
    rel_h, rel_w = (part.flatten(2, 3).flatten(0, 1) for part in (rel_h, rel_w))
    # [B * heads, H * W, H, W]
    bias = rel_h[..., :, None] + rel_w[..., None, :]
    return bias.flatten(2).unflatten(0, (batch, heads))


def attend_by_definition(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Softmax attention with relative positions, as it is defined: every logit in memory.

    Args:
        q, k, v: ``[B, heads, H * W, d]``, queries already scaled.
        rel_h, rel_w: what relative positions add to the logits of a query, by the row and by the column of the key:
            ``[B, heads, H, W, H]`` and ``[B, heads, H, W, W]``.

    Returns:
        ``[B, heads, H * W, d]``.
    """
    return (q @ k.transpose(-1, -2) + position_bias(rel_h, rel_w)).softmax(-1).to(v.dtype) @ v


def attend_by_head(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """The same with the logits of one head in memory at a time."""
    heads = zip(*(x.split(1, 1) for x in (q, k, v, rel_h, rel_w)), strict=True)
    return torch.cat([attend_by_definition(*head) for head in heads], 1)


class Attention(nn.Module):
    """Multi-head self-attention over a map of tokens, with decomposed relative positions.

    The attention width (``heads x head_dim``) is free of the embedding width, as pruning leaves it. Parameter names
    are those of Meta's checkpoints.

    Args:
        embed_dim: embedding width ``D``.
        width: attention width ``A``, a multiple of ``num_heads``.
        num_heads: number of heads.
        window: side ``s`` of the map the relative positions were made for, in tokens.
    """

    def __init__(self, embed_dim: int, width: int, num_heads: int, window: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"attention width {width} is not a multiple of {num_heads} heads")
        self.num_heads = num_heads
        self.scale = (width // num_heads) ** -0.5
        self.qkv = nn.Linear(embed_dim, 3 * width)
        self.proj = nn.Linear(width, embed_dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * window - 1, width // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * window - 1, width // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each map: ``[B, H, W, D]`` to the same shape."""
        batch, height, width, _ = x.shape
        heads, tokens = self.num_heads, height * width
        # q, k, v with shape [B, heads, H * W, d]
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        dim = q.shape[-1]

        table_h = relative_table(self.rel_pos_h, height).to(q.dtype)
        table_w = relative_table(self.rel_pos_w, width).to(q.dtype)
        q_map = q.reshape(batch, heads, height, width, dim)
        # [B, heads, H, W, H] and [B, heads, H, W, W]
        rel_h = torch.einsum("bnhwd,hkd->bnhwk", q_map, table_h)
        rel_w = torch.einsum("bnhwd,wkd->bnhwk", q_map, table_w)

        out = self._kernel(x.device, q.dtype, tokens)(q * self.scale, k, v, rel_h, rel_w)
        return self.proj(out.transpose(1, 2).reshape(batch, height, width, heads * dim))

    @staticmethod
    def _kernel(
        device: torch.device, dtype: torch.dtype, tokens: int
    ) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The way of computing that is fastest for a map of so many tokens."""
        if torch.compiler.is_exporting():
            return attend_by_definition if tokens <= SMALL_MAP else attend_by_head
        if device.type == "meta":
            return attend_by_definition
        if device.type != "cpu":
            return attend_folded
        if tokens <= SMALL_MAP:
            return attend_at_once
        has_matrix_units = dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
        return attend_folded if has_matrix_units else attend_in_parts


def partition_windows(x: Tensor, window: int) -> tuple[Tensor, tuple[int, int]]:
    """Cut ``[B, H, W, D]`` into windows ``[B * n, window, window, D]``, zero-padding at the bottom and the right.

    Returns:
        The windows and the padded size ``(Hp, Wp)``.
    """
    batch, height, width, dim = x.shape
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    padded_h, padded_w = x.shape[1:3]
    # [B * rows, window, columns, window * D]: four dimensions, since Core ML knows no more than five
    x = x.reshape(batch * (padded_h // window), window, padded_w // window, window * dim)
    return x.transpose(1, 2).reshape(-1, window, window, dim), (padded_h, padded_w)


def merge_windows(windows: Tensor, window: int, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Undo :func:`partition_windows`: windows ``[B * n, window, window, D]`` to ``[B, H, W, D]``."""
    columns, dim = padded[1] // window, windows.shape[-1]
    x = windows.reshape(-1, columns, window, window * dim).transpose(1, 2)
    x = x.reshape(-1, padded[0], padded[1], dim)
    return x[:, : size[0], : size[1]]
