"""``transformers``' SAM as this project's evaluations see models; see ``docs/any_predictor.md``."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from core.errors import InputError
from core.geometry import boxes_to_frame, points_to_frame
from core.protocols import Masks, Prompt


class TransformersSegmenter:
    """A ``transformers.SamModel`` (of any size, SlimSAM's among them) as a :class:`core.protocols.Segmenter`.

    It gets this project's frames in place of its processor's: the longer side resized to ``input_size``, normalised and
    padded with zeros at the bottom and at the right, as its processor does. Models with other habits, such as
    ``Sam2Model``, whose processor squashes pictures into a square, are not for this.

    Args:
        model: in evaluation mode, on any device, in any precision.
        name: for messages.

    Raises:
        InputError: the object has not the parts of a ``SamModel``.
    """

    def __init__(self, model: Any, name: str = "transformers_sam") -> None:
        side = getattr(getattr(getattr(model, "config", None), "vision_config", None), "image_size", None)
        if not isinstance(side, int) or not hasattr(model, "get_image_embeddings"):
            raise InputError(f"{name}: {type(model).__name__} is not like transformers.SamModel; give such a model")
        self.model, self.name, self.input_size = model, name, side

    def parameters(self) -> Iterator[nn.Parameter]:
        """The model's: they tell on which device it computes."""
        return self.model.parameters()

    def encode(self, images: Tensor) -> Tensor:
        """Normalised images ``[B, 3, S, S]`` to embeddings ``[B, C, g, g]``."""
        return self.model.get_image_embeddings(images.to(self.model.dtype))

    def decode(self, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        """Answer prompts (in original pixels) on one image of original size ``size_hw``; embedding ``[1, C, g, g]``."""
        boxes = None if prompt.boxes_xyxy is None else boxes_to_frame(prompt.boxes_xyxy, size_hw, self.input_size)
        points = None if prompt.points_xy is None else points_to_frame(prompt.points_xy, size_hw, self.input_size)
        answer = self.model(
            image_embeddings=embedding,
            # A leading dimension for the image: [1, N, 4], [1, N, P, 2], [1, N, P].
            input_boxes=None if boxes is None else boxes[None],
            input_points=None if points is None else points[None],
            input_labels=None if prompt.labels is None else prompt.labels[None],
            input_masks=prompt.mask_logits,
            multimask_output=multimask,
        )
        return Masks(answer.pred_masks[0], answer.iou_scores[0], self.input_size)
