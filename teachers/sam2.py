"""SAM 2.1 on images, without a video's memory: a Hiera encoder, SAM's prompt encoder, SAM 2's mask decoder."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from core.errors import InputError
from core.feature_layout import HIGH_RES
from core.geometry import Stretched
from teachers.hiera import HieraConfig, HieraEncoder
from teachers.mask_decoder import Decoded, MaskDecoder, Perceptron
from teachers.prompt_encoder import PromptEncoder
from teachers.sam import Sam, SamConfig

STABLE, STABILITY_DELTA = 0.98, 0.05
"""Of the stability rule: the least stability of a single-mask answer that stands, and the offset of its thresholds."""


@dataclass(frozen=True)
class Sam2Config(SamConfig):
    """Shape of a whole SAM 2; see :class:`SamConfig`. The encoder is a Hiera, or that of a student with three maps."""

    @property
    def hiera(self) -> HieraConfig:
        """The shape of the image encoder, which must be a Hiera.

        Raises:
            InputError: it is another kind.
        """
        if not isinstance(self.encoder, HieraConfig):
            kind = type(self.encoder).__name__.removesuffix("Config")
            raise InputError(f"this needs a model with SAM 2's own Hiera as its image encoder, not {kind}")
        return self.encoder

    def make(self, name: str = "sam2", encoder: nn.Module | None = None) -> "Sam2":
        """A model of this shape; args as of :class:`Sam2`."""
        return Sam2(self, name, encoder)


class Sam2Decoded(NamedTuple):
    """What :class:`Decoded` has, and ``object_score``: logits ``[N, 1]``, above 0 where the prompt means an object."""

    logits: Tensor
    iou_pred: Tensor
    tokens: Tensor
    object_score: Tensor


class Sam2MaskDecoder(MaskDecoder):
    """SAM's decoder with a token for the object score, high-resolution features, and IoUs through a sigmoid.

    Args as of :class:`MaskDecoder`.
    """

    def __init__(self, channels: int, num_heads: int, mlp_width: int, iou_width: int, norm_eps: float) -> None:
        super().__init__(channels, num_heads, mlp_width, iou_width, norm_eps)
        self.obj_score_token = nn.Embedding(1, channels)
        self.pred_obj_score_head = Perceptron(channels, channels, 1, 3)

    def output_tokens(self) -> Tensor:
        """As of :meth:`MaskDecoder.output_tokens`, the token of the object score before them."""
        return torch.cat([self.obj_score_token.weight, super().output_tokens()])

    def attend(self, embedding: Any, position: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """As of :meth:`MaskDecoder.attend`, on the feature maps of ``M`` images."""
        return super().attend(embedding.embedding, position, sparse, dense)

    def answers(self, tokens: Tensor, logits: Tensor) -> Any:
        """A :class:`Sam2Decoded`; args as of :meth:`MaskDecoder.answers`."""
        decoded = super().answers(tokens, logits)
        object_score = self.pred_obj_score_head(tokens[:, 0])
        return Sam2Decoded(logits, decoded.iou_pred.sigmoid(), decoded.tokens, object_score)

    def upscaled(self, image: Tensor, embedding: Any) -> Tensor:
        """As of :meth:`MaskDecoder.upscaled`, the high-resolution features of the images' own maps added."""
        first, norm, activation, second, _ = self.output_upscaling
        fine, middle = (embedding.maps[name] for name in HIGH_RES)
        x = activation(norm(_added(first(image), middle)))
        return activation(_added(second(x), fine))

    def chosen(self, decoded: Decoded, multimask: bool) -> tuple[Tensor, Tensor]:
        """As of :meth:`MaskDecoder.chosen`; a single answer that is not stable gives way to the best of the three.

        Only in evaluation mode, as in Meta's code: while it is trained, a decoder answers with its own single mask.
        """
        if multimask or self.training:
            return super().chosen(decoded, multimask)
        return stable_or_best(decoded.logits, decoded.iou_pred)


def stable_or_best(logits: Tensor, iou_pred: Tensor) -> tuple[Tensor, Tensor]:
    """The single-mask answer where it is stable, else the best of the three.

    Args:
        logits: of all four candidates, ``[N, 4, l, l]``.
        iou_pred: ``[N, 4]``.

    Returns:
        Logits ``[N, 1, l, l]`` and predicted IoUs ``[N, 1]``.
    """
    best = iou_pred[:, 1:].argmax(1) + 1
    each, stable = torch.arange(best.shape[0], device=best.device), stability(logits[:, :1]) >= STABLE
    return (
        torch.where(stable[..., None, None], logits[:, :1], logits[each, best][:, None]),
        torch.where(stable, iou_pred[:, :1], iou_pred[each, best][:, None]),
    )


def stability(logits: Tensor) -> Tensor:
    """IoU of masks cut :data:`STABILITY_DELTA` above and below zero: ``[..., h, w]`` to ``[...]``; 1 of empty ones."""
    inner = (logits > STABILITY_DELTA).flatten(-2).sum(-1)
    outer = (logits > -STABILITY_DELTA).flatten(-2).sum(-1)
    return torch.where(outer > 0, inner / outer, 1.0)


def _added(x: Tensor, of_images: Tensor) -> Tensor:
    """``x`` of ``N`` prompts plus a map of each of their ``M`` images, which is not repeated in memory."""
    images = of_images.shape[0]
    if images == x.shape[0]:
        return x + of_images
    return (x.unflatten(0, (images, -1)) + of_images[:, None]).flatten(0, 1) if images > 1 else x + of_images


class Sam2(Sam):
    """A promptable segmenter; args as of :class:`Sam`. Images are stretched to fill its frame, as SAM 2's are.

    ``encode`` gives :class:`core.feature_maps.FeatureMaps`, and prompts are decoded on them.
    """

    def __init__(
        self,
        config: SamConfig,
        name: str = "sam2",
        encoder: nn.Module | None = None,
        prompt_encoder: PromptEncoder | None = None,
        mask_decoder: MaskDecoder | None = None,
    ) -> None:
        assert isinstance(config, Sam2Config)
        shape = config.encoder
        super().__init__(
            config,
            name,
            HieraEncoder(config.hiera) if encoder is None else encoder,
            prompt_encoder or PromptEncoder(shape.out_channels, shape.grid, shape.image_size, pads_boxes=True),
            mask_decoder
            or Sam2MaskDecoder(
                shape.out_channels,
                config.decoder_heads,
                config.decoder_mlp_width,
                config.iou_width,
                config.decoder_norm_eps,
            ),
        )
        self.input_size = Stretched(shape.image_size)
