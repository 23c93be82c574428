"""The attentions of SAM's ViT and of the mask decoder, with their two products as modules."""

from typing import Any

import torch
from torch import Tensor, nn

from students.quantized.layers import QuantizedProduct
from teachers.attention import SMALL_MAP, Attention, position_bias
from teachers.two_way_transformer import CrossAttention


class QuantizedAttention(Attention):
    """SAM's self-attention with decomposed relative positions; what those add to the logits stays float."""

    scores: QuantizedProduct
    mixing: QuantizedProduct

    def _kernel(self, device: torch.device, dtype: torch.dtype, tokens: int) -> Any:  # type: ignore[override]
        # Scales of heads need all heads in one call.
        small = tokens <= SMALL_MAP or self.scores.by_head or self.mixing.by_head
        return self._attend if small else self._attend_by_head

    def _attend_by_head(self, q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
        heads = zip(*(x.split(1, 1) for x in (q, k, v, rel_h, rel_w)), strict=True)
        return torch.cat([self._attend(*head) for head in heads], 1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
        # [B, heads, tokens, tokens]
        logits = self.scores(q, k.transpose(-1, -2)) + position_bias(rel_h, rel_w)
        return self.mixing(logits.softmax(-1).to(v.dtype), v)


class QuantizedCrossAttention(CrossAttention):
    """The mask decoder's attention between tokens and image."""

    scores: QuantizedProduct
    mixing: QuantizedProduct

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As :meth:`teachers.two_way_transformer.CrossAttention.attend`."""
        logits = self.scores(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
        mixed: Tensor = self.mixing(logits.softmax(-1), v)
        return mixed


def with_products(attention: nn.Module) -> type[nn.Module] | None:
    """What an attention becomes whose products can be quantised; None for other modules."""
    kind = type(attention)
    if kind is Attention:
        return QuantizedAttention
    if kind is CrossAttention:
        return QuantizedCrossAttention
    if kind.__module__ == "students.tiny_vit":
        # timm takes seconds to import, which only a model that has it waits for.
        from students.quantized.timm_attention import FreshBiases, QuantizedTinyVitAttention

        return QuantizedTinyVitAttention if kind is FreshBiases else None
    if kind.__module__ == "timm.models.hieradet_sam2" and kind.__name__ == "MultiScaleAttention":
        from students.quantized.timm_attention import QuantizedHieraAttention

        return QuantizedHieraAttention
    return None


def qkv_parts(attention: nn.Module) -> dict[str, int] | None:
    """How the rows of a fused ``qkv`` layer lie (``parts`` and ``repeats`` of its grid); None where nobody knows."""
    module: Any = attention
    if with_products(module) is None or isinstance(module, CrossAttention):
        return None
    if hasattr(module, "val_dim"):
        # TinyViT has queries, keys and values of one head, then of the next.
        return {"parts": 3, "repeats": int(module.num_heads)} if module.val_dim == module.key_dim else None
    return {"parts": 3, "repeats": 1}


def give_products(attention: nn.Module, scores: QuantizedProduct, mixing: QuantizedProduct) -> None:
    """Turn an attention, in place, into one whose products are the given modules; weights stay.

    Raises:
        ValueError: it is none whose products can be quantised.
    """
    kind = with_products(attention)
    if kind is None:
        raise ValueError(f"the products of a {type(attention).__name__} cannot be quantised")
    attention.__class__ = kind
    attention.scores, attention.mixing = scores, mixing
