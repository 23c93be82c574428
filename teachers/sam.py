"""The Segment Anything Model: image encoder, prompt encoder and mask decoder in one segmenter."""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor, nn

from core.errors import InputError
from core.geometry import boxes_to_frame, points_to_frame
from core.protocols import Masks, Prompt
from teachers.image_encoder import EncoderConfig, ImageEncoder
from teachers.mask_decoder import Decoded, MaskDecoder
from teachers.prompt_encoder import PromptEncoder

META_NORM_EPS = 1e-5
"""Of layer norms in the blocks of the mask decoder, as Meta's code has them."""


class EncoderShape(Protocol):
    """What the rest of a SAM must know of its image encoder, whatever that is."""

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        ...

    @property
    def grid(self) -> int:
        """Side of the embedding."""
        ...

    @property
    def out_channels(self) -> int:
        """Channels of the embedding."""
        ...


@dataclass(frozen=True)
class SamConfig:
    """Shape of a whole SAM.

    Attributes:
        encoder: shape of the image encoder: a SAM's ViT (:class:`EncoderConfig`), or that of a student.
        decoder_heads: heads of the mask decoder's transformer.
        decoder_mlp_width: hidden width of its MLPs.
        iou_width: hidden width of the IoU head.
        decoder_norm_eps: of the layer norms within that transformer's blocks: 1e-5 in Meta's code, 1e-6 in
            transformers unless its ``config.json`` says otherwise.
    """

    encoder: EncoderShape
    decoder_heads: int = 8
    decoder_mlp_width: int = 2048
    iou_width: int = 256
    decoder_norm_eps: float = META_NORM_EPS

    @property
    def vit(self) -> EncoderConfig:
        """The shape of the image encoder, which must be a SAM's ViT.

        Raises:
            InputError: it is another kind.
        """
        if not isinstance(self.encoder, EncoderConfig):
            kind = type(self.encoder).__name__.removesuffix("Config")
            raise InputError(f"this needs a model with SAM's own ViT as its image encoder, not {kind}")
        return self.encoder

    def make(self, name: str = "sam", encoder: nn.Module | None = None) -> "Sam":
        """A model of this shape; args as of :class:`Sam`."""
        return Sam(self, name, encoder)


class Sam(nn.Module):
    """A promptable segmenter with Meta's parameter names.

    Args:
        config: the model's shape.
        name: what rows and messages call it.
        encoder: the image encoder, of shape ``config.encoder``; None makes SAM's ViT.
        prompt_encoder: None makes one.
        mask_decoder: None makes one.
    """

    def __init__(
        self,
        config: SamConfig,
        name: str = "sam",
        encoder: nn.Module | None = None,
        prompt_encoder: PromptEncoder | None = None,
        mask_decoder: MaskDecoder | None = None,
    ) -> None:
        super().__init__()
        self.config, self.name = config, name
        shape = config.encoder
        self.input_size = shape.image_size
        # Typed as any: what is specific to a ViT asks config.vit first.
        self.image_encoder: Any = ImageEncoder(config.vit) if encoder is None else encoder
        self.prompt_encoder = prompt_encoder or PromptEncoder(shape.out_channels, shape.grid, shape.image_size)
        self.mask_decoder = mask_decoder or MaskDecoder(
            shape.out_channels,
            config.decoder_heads,
            config.decoder_mlp_width,
            config.iou_width,
            config.decoder_norm_eps,
        )

    def with_encoder(self, encoder: nn.Module, name: str) -> "Sam":
        """This model with another image encoder (the module itself), and copies of its prompt encoder and decoder.

        Args:
            encoder: has its shape as ``config``, with this model's channels.
        """
        shape: Any = encoder.config
        config, prompt_encoder = replace(self.config, encoder=shape), deepcopy(self.prompt_encoder)
        prompt_encoder.grid, prompt_encoder.frame = shape.grid, shape.image_size
        return type(self)(config, name, encoder, prompt_encoder, deepcopy(self.mask_decoder))

    def encode(self, images: Tensor) -> Any:
        """Normalised images ``[B, 3, S, S]`` to embeddings ``[B, C, g, g]``, or to several maps."""
        return self.image_encoder(images)

    def decode_frame(self, embedding: Any, prompt: Prompt) -> Decoded:
        """Decode prompts whose coordinates are in the model's frame; all four candidates.

        Args:
            embedding: of :meth:`encode`, ``M`` images: one for all prompts, one a prompt, or one for each ``N / M`` in
                turn.
        """
        points = None if prompt.points_xy is None or prompt.labels is None else (prompt.points_xy, prompt.labels)
        sparse, dense = self.prompt_encoder(points, prompt.boxes_xyxy, prompt.mask_logits)
        return self.mask_decoder(embedding, self.prompt_encoder.dense_position(), sparse, dense)

    def decode(self, embedding: Any, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        """Answer prompts in original pixels; see :meth:`core.protocols.Segmenter.decode`."""
        frame = self.input_size
        in_frame = replace(
            prompt,
            boxes_xyxy=None if prompt.boxes_xyxy is None else boxes_to_frame(prompt.boxes_xyxy, size_hw, frame),
            points_xy=None if prompt.points_xy is None else points_to_frame(prompt.points_xy, size_hw, frame),
        )
        return Masks(*self.mask_decoder.chosen(self.decode_frame(embedding, in_frame), multimask), frame)
