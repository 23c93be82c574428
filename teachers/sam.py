"""The Segment Anything Model: image encoder, prompt encoder and mask decoder in one segmenter."""

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from core.geometry import boxes_to_frame, points_to_frame
from core.protocols import Masks, Prompt
from teachers.image_encoder import EncoderConfig, ImageEncoder
from teachers.mask_decoder import Decoded, MaskDecoder
from teachers.prompt_encoder import PromptEncoder


@dataclass(frozen=True)
class SamConfig:
    """Shape of a whole SAM.

    Attributes:
        encoder: shape of the image encoder.
        decoder_heads: heads of the mask decoder's transformer.
        decoder_mlp_width: hidden width of its MLPs.
        iou_width: hidden width of the IoU head.
    """

    encoder: EncoderConfig
    decoder_heads: int = 8
    decoder_mlp_width: int = 2048
    iou_width: int = 256


class Sam(nn.Module):
    """A promptable segmenter with Meta's parameter names.

    Args:
        config: the model's shape.
        name: what rows and messages call it.
    """

    def __init__(self, config: SamConfig, name: str = "sam") -> None:
        super().__init__()
        self.config, self.name = config, name
        encoder = config.encoder
        self.input_size = encoder.image_size
        self.image_encoder = ImageEncoder(encoder)
        self.prompt_encoder = PromptEncoder(encoder.out_channels, encoder.grid, encoder.image_size)
        self.mask_decoder = MaskDecoder(
            encoder.out_channels, config.decoder_heads, config.decoder_mlp_width, config.iou_width
        )

    def with_encoder(self, encoder: ImageEncoder, name: str) -> "Sam":
        """This model with another image encoder (the module itself), and copies of its prompt encoder and decoder."""
        with torch.device("meta"):
            model = Sam(replace(self.config, encoder=encoder.config), name)
        model.image_encoder = encoder
        model.prompt_encoder = deepcopy(self.prompt_encoder)
        model.mask_decoder = deepcopy(self.mask_decoder)
        return model

    def encode(self, images: Tensor) -> Tensor:
        """Normalised images ``[B, 3, S, S]`` to embeddings ``[B, C, g, g]``."""
        return self.image_encoder(images)

    def decode_frame(self, embedding: Tensor, prompt: Prompt) -> Decoded:
        """Decode prompts whose coordinates are in the model's frame; all four candidates.

        Args:
            embedding: ``[1, C, g, g]`` for all prompts, or ``[N, C, g, g]`` with one a prompt.
        """
        points = None if prompt.points_xy is None or prompt.labels is None else (prompt.points_xy, prompt.labels)
        sparse, dense = self.prompt_encoder(points, prompt.boxes_xyxy, prompt.mask_logits)
        return self.mask_decoder(embedding, self.prompt_encoder.dense_position(), sparse, dense)

    def decode(self, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        """Answer prompts in original pixels; see :meth:`core.protocols.Segmenter.decode`."""
        frame = self.input_size
        in_frame = replace(
            prompt,
            boxes_xyxy=None if prompt.boxes_xyxy is None else boxes_to_frame(prompt.boxes_xyxy, size_hw, frame),
            points_xy=None if prompt.points_xy is None else points_to_frame(prompt.points_xy, size_hw, frame),
        )
        decoded = self.decode_frame(embedding, in_frame)
        kept = slice(1, None) if multimask else slice(0, 1)
        return Masks(decoded.logits[:, kept], decoded.iou_pred[:, kept], frame)
