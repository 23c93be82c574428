"""The attentions of timm's backbones with their two products as modules; apart, since timm takes a second to import."""

from timm.models.hieradet_sam2 import MultiScaleAttention
from torch import Tensor

from students.quantized.layers import QuantizedProduct
from students.tiny_vit import FreshBiases


class QuantizedHieraAttention(MultiScaleAttention):
    """timm's attention of a Hiera, queries pooled where a stage begins, with its products in few bits."""

    scores: QuantizedProduct
    mixing: QuantizedProduct

    def forward(self, x: Tensor) -> Tensor:
        """Windows (or whole maps) ``[B, H, W, C]`` to ``[B, h, w, C']``."""
        batch, height, width, _ = x.shape
        # [B, H * W, heads, d] each
        q, k, v = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, -1).unbind(2)
        if self.q_pool is not None:
            pooled = self.q_pool(q.reshape(batch, height, width, -1).permute(0, 3, 1, 2))
            height, width = pooled.shape[2:]
            q = pooled.permute(0, 2, 3, 1).reshape(batch, height * width, self.num_heads, -1)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        logits = self.scores(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
        mixed = self.mixing(logits.softmax(-1).to(v.dtype), v)
        found: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, height, width, -1))
        return found


class QuantizedTinyVitAttention(FreshBiases):
    """TinyViT's windowed attention with its two products in few bits."""

    scores: QuantizedProduct
    mixing: QuantizedProduct

    def forward(self, x: Tensor) -> Tensor:
        """Windows ``[B, tokens, C]``, shape unchanged."""
        # [B, heads, tokens, d] each
        q, k, v = self.projected(self.norm(x))
        logits = self.scores(q * self.scale, k.transpose(-1, -2)) + self.get_attention_biases(x.device)
        mixed = self.mixing(logits.softmax(-1).to(v.dtype), v)
        return self.proj(mixed.transpose(1, 2).reshape(*x.shape[:2], self.out_dim))
