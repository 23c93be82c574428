"""SAM's mask decoder: a two-way transformer, four mask tokens and an IoU head (Segment Anything, appendix A)."""

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from teachers.image_encoder import LayerNorm2d
from teachers.two_way_transformer import TwoWayTransformer, for_each_prompt


class Decoded(NamedTuple):
    """What the decoder computes for ``N`` prompts.

    Attributes:
        logits: all four candidates ``[N, 4, 4g, 4g]``; the first is the single-mask answer.
        iou_pred: ``[N, 4]``.
        tokens: output tokens after the transformer, ``[N, 5, C]``: IoU token, then the mask tokens.
    """

    logits: Tensor
    iou_pred: Tensor
    tokens: Tensor


class Perceptron(nn.Module):
    """A multi-layer perceptron with ReLU between its layers."""

    def __init__(self, inputs: int, hidden: int, outputs: int, depth: int) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * (depth - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class MaskDecoder(nn.Module):
    """Image and prompt embeddings to mask logits and predicted IoUs.

    Args:
        channels: width ``C`` of the embeddings.
        num_heads: heads of the two-way transformer.
        mlp_width: hidden width of its MLPs.
        iou_width: hidden width of the IoU head.
        norm_eps: of the layer norms in the blocks of the transformer.
    """

    num_mask_tokens = 4

    def __init__(
        self,
        channels: int = 256,
        num_heads: int = 8,
        mlp_width: int = 2048,
        iou_width: int = 256,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(2, channels, num_heads, mlp_width, norm_eps)
        self.iou_token = nn.Embedding(1, channels)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, channels)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(channels, channels // 4, 2, 2),
            LayerNorm2d(channels // 4),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 4, channels // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            Perceptron(channels, channels, channels // 8, 3) for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = Perceptron(channels, iou_width, self.num_mask_tokens, 3)

    def forward(self, embedding: Tensor, position: Tensor, sparse: Tensor, dense: Tensor) -> Decoded:
        """Decode ``N`` prompts.

        Args:
            embedding: image embeddings ``[M, C, g, g]``; ``N`` is a multiple of ``M``, an image's prompts are together.
            position: position encoding of the image embedding, ``[1, C, g, g]``.
            sparse: prompt embeddings ``[N, K, C]``.
            dense: prompt embeddings ``[N, C, g, g]``, or one for all ``[1, C, g, g]``.
        """
        tokens, image = self.attend(embedding, position, sparse, dense)
        # [N, C, g, g] back from [N, g * g, C]
        upscaled = self.upscaled(image.transpose(1, 2).reshape(image.shape[0], -1, *position.shape[-2:]), embedding)
        logits = (self.classifiers(tokens) @ upscaled.flatten(2)).reshape(image.shape[0], -1, *upscaled.shape[-2:])
        return self.answers(tokens, logits)

    def output_tokens(self) -> Tensor:
        """The learned tokens that answers are read from, ``[T, C]``; the last five are those of :class:`Decoded`."""
        return torch.cat([self.iou_token.weight, self.mask_tokens.weight])

    def attend(self, embedding: Tensor, position: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """The transformer: output tokens ``[N, T, C]`` and the image ``[N, g * g, C]``; args as of :meth:`forward`."""
        output_tokens = self.output_tokens()
        # Shapes, not len(): a traced graph keeps them open.
        count = sparse.shape[0]
        tokens = torch.cat([output_tokens.expand(count, -1, -1), sparse], 1)
        # Prompts without a mask share their image: [M, C, g, g].
        source = (embedding if dense.shape[0] == 1 else for_each_prompt(embedding, count)) + dense
        tokens, image = self.transformer(source, position.to(source.dtype), tokens)
        return tokens[:, : output_tokens.shape[0]], image

    def upscaled(self, image: Tensor, embedding: Tensor) -> Tensor:
        """Images ``[N, C, g, g]`` as ``[N, C / 8, 4g, 4g]``."""
        return self.output_upscaling(image)

    def classifiers(self, tokens: Tensor) -> Tensor:
        """One dynamic linear classifier a mask token, ``[N, 4, C / 8]``, of output tokens ``[N, T, C]``."""
        mask_tokens = tokens[:, -self.num_mask_tokens :]
        return torch.stack([mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], 1)

    def answers(self, tokens: Tensor, logits: Tensor) -> Decoded:
        """Output tokens ``[N, T, C]`` and logits ``[N, 4, 4g, 4g]`` with the IoUs that are predicted for them."""
        tokens = tokens[:, -1 - self.num_mask_tokens :]
        return Decoded(logits, self.iou_prediction_head(tokens[:, 0]), tokens)

    def chosen(self, decoded: Decoded, multimask: bool) -> tuple[Tensor, Tensor]:
        """The candidates that answer a prompt: logits ``[N, M, 4g, 4g]`` and predicted IoUs ``[N, M]``, M of 3 or 1."""
        kept = slice(1, None) if multimask else slice(0, 1)
        return decoded.logits[:, kept], decoded.iou_pred[:, kept]
