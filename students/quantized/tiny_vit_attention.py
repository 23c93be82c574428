"""The attention of TinyViT in few bits: apart, since timm takes a second to import."""

from torch import Tensor

from students.quantized.layers import QuantizedProduct
from students.tiny_vit import FreshBiases


class QuantizedTinyVitAttention(FreshBiases):
    """TinyViT's windowed attention with a bias for each pair of positions."""

    scores: QuantizedProduct
    mixing: QuantizedProduct

    def forward(self, x: Tensor) -> Tensor:
        """Windows ``[B, tokens, C]``, shape unchanged."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, tokens, self.num_heads, -1)
        # [B, heads, tokens, d] each
        q, k, v = (part.transpose(1, 2) for part in qkv.split([self.key_dim, self.key_dim, self.val_dim], 3))
        logits = self.scores(q * self.scale, k.transpose(-1, -2)) + self.get_attention_biases(x.device)
        mixed = self.mixing(logits.softmax(-1).to(v.dtype), v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, self.out_dim))
