"""The two-way transformer of SAM's mask decoder: prompts attend to the image, and the image to the prompts.

Until the image has attended to a prompt's tokens it is the same for all its prompts. So images may come fewer
than prompts (``M`` images, ``N = M * prompts an image``, those of one image together), and are projected once each.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def for_each_prompt(x: Tensor, count: int) -> Tensor:
    """What belongs to ``M`` images, ``[M, ...]``, as ``[count, ...]``, one entry a prompt; a view where it can be."""
    # Shapes, not len(): while a graph is traced for any number of prompts, that would fix the number.
    if x.shape[0] == count:
        return x
    return x[:, None].expand(-1, count // x.shape[0], *x.shape[1:]).flatten(0, 1)


def attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over ``[N, heads, tokens, d]`` each by matrix products, all logits in memory.

    Of the decoder's two sequences one is an image and one a few tokens. PyTorch's fused kernel works through blocks of
    both; with its gradient, in bfloat16 on a CPU, it takes longer than these products (``benchmarks/README.md``).
    """
    q = q * q.shape[-1] ** -0.5
    if k.shape[-2] < q.shape[-2]:
        # Few keys: the softmax runs over rows, all queries side by side.
        return (v.transpose(-1, -2) @ (k @ q.transpose(-1, -2)).softmax(-2).to(v.dtype)).transpose(-1, -2)
    return (q @ k.transpose(-1, -2)).softmax(-1).to(v.dtype) @ v


class CrossAttention(nn.Module):
    """Multi-head attention between two sequences, with a narrower inner width.

    Args:
        dim: width of both sequences.
        num_heads: number of heads.
        downsample: how many times narrower the inner width is.
    """

    def __init__(self, dim: int, num_heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries ``[N, Q, C]`` over keys and values ``[N, K, C]`` to ``[N, Q, C]``; either may come as ``[M]``."""
        return self.out_proj(self.attend(*self.heads(q, k, v)).transpose(1, 2).flatten(-2))

    def heads(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`forward` is given, projected, as ``[N, heads, tokens, d]`` each."""
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        # Sizes, not lengths: an exported decoder takes any number of prompts.
        count = max(q.shape[0], k.shape[0])
        return for_each_prompt(q, count), for_each_prompt(k, count), for_each_prompt(v, count)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention over ``[N, heads, tokens, d]`` each."""
        if q.requires_grad and q.dtype == torch.bfloat16 and q.device.type == "cpu":
            return attend_by_products(q, k, v)
        return F.scaled_dot_product_attention(q, k, v)


class TwoWayMLP(nn.Module):
    """The MLP of a two-way block (ReLU)."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, width)
        self.lin2 = nn.Linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Shape unchanged."""
        return self.lin2(F.relu(self.lin1(x)))


class TwoWayBlock(nn.Module):
    """Self-attention of the tokens, tokens to image, MLP, image to tokens; each followed by a norm."""

    def __init__(self, dim: int, num_heads: int, mlp_width: int, first: bool, norm_eps: float) -> None:
        super().__init__()
        self.self_attn = CrossAttention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim, norm_eps)
        self.cross_attn_token_to_image = CrossAttention(dim, num_heads, downsample=2)
        self.norm2 = nn.LayerNorm(dim, norm_eps)
        self.mlp = TwoWayMLP(dim, mlp_width)
        self.norm3 = nn.LayerNorm(dim, norm_eps)
        self.norm4 = nn.LayerNorm(dim, norm_eps)
        self.cross_attn_image_to_token = CrossAttention(dim, num_heads, downsample=2)
        self.first = first

    def forward(self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``[N, K, C]`` and image ``[M, g * g, C]``, each with its position encoding; to ``[N, ...]`` both."""
        if self.first:
            # The first block's tokens are their own position encoding; it has no residual either.
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, image + image_pe, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        attended = self.cross_attn_image_to_token(image + image_pe, tokens + token_pe, tokens)
        return tokens, self.norm4(for_each_prompt(image, tokens.shape[0]) + attended)


class TwoWayTransformer(nn.Module):
    """Blocks of two-way attention and a last look of the tokens at the image."""

    def __init__(self, depth: int, dim: int, num_heads: int, mlp_width: int, norm_eps: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(dim, num_heads, mlp_width, i == 0, norm_eps) for i in range(depth))
        self.final_attn_token_to_image = CrossAttention(dim, num_heads, downsample=2)
        # Of PyTorch's own eps in Meta's code and in transformers.
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Image ``[M, C, g, g]``, its position encoding ``[1, C, g, g]`` and tokens ``[N, K, C]``.

        Returns:
            Tokens ``[N, K, C]`` and image ``[N, g * g, C]``.
        """
        return self.on_tokens(image.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2), tokens)

    def on_tokens(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The same of an image and its position encoding as tokens, ``[M, g * g, C]`` and ``[1, g * g, C]``."""
        token_pe = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe)
        attended = self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens + attended), image
