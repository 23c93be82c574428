"""Models of other packages as this project's scorer sees models; see ``docs/any_predictor.md``."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.errors import InputError
from core.geometry import boxes_to_frame, points_to_frame
from core.protocols import ImageMasks, Masks, Prompt


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image uint8 ``[H, W, 3]``, RGB, that the predictor gets when it is to answer prompts on it."""

    image: NDArray[np.uint8]


class PredictorSegmenter:
    """Any object with the ``set_image`` and ``predict`` of ``segment_anything.SamPredictor``, to be scored.

    Images are scaled, prompts placed and masks brought back by the predictor itself: what is scored is what its users
    get. Nobody else may set its image meanwhile.

    Args:
        predictor: in evaluation mode. ``set_image`` takes an image uint8 ``[H, W, 3]``, RGB. ``predict`` takes one
            prompt by the keywords ``point_coords`` ``[P, 2]``, ``point_labels`` ``[P]``, ``box`` ``[4]`` (original
            pixels) and ``mask_input`` ``[1, l, l]``, of which it is given those that the prompt has, and
            ``multimask_output``. Of what it returns the first are masks ``[M, H, W]`` at the original size and
            predicted IoUs ``[M]``, as arrays or tensors. Where it knows ``return_logits``, logits are requested and cut
            at its ``mask_threshold``, or its model's, or zero.
        name: for messages.
        batched: decode all prompts of a batch together, through ``predict_torch`` and ``transform``.

    Raises:
        InputError: the object lacks a method.
    """

    def __init__(self, predictor: Any, name: str = "predictor", batched: bool = False) -> None:
        needed = ("set_image", "predict", *(("predict_torch", "transform", "device") if batched else ()))
        lacking = [part for part in needed if not hasattr(predictor, part)]
        if lacking:
            fix = "leave batched out" if lacking[0] not in needed[:2] else "give an object that has it"
            raise InputError(f"{name}: {type(predictor).__name__} has no {lacking[0]}; {fix}")
        self.predictor, self.name, self.batched = predictor, name, batched
        threshold = getattr(getattr(predictor, "model", None), "mask_threshold", 0.0)
        self._threshold = float(getattr(predictor, "mask_threshold", threshold))
        self._gives_logits = "return_logits" in inspect.signature(predictor.predict).parameters
        self._shown: EncodedImage | None = None

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of the predictor's model, if it is a module: they tell on which device it computes."""
        model = getattr(self.predictor, "model", None)
        return model.parameters() if isinstance(model, nn.Module) else iter(())

    def encode_image(self, image: NDArray[np.uint8]) -> EncodedImage:
        """An image uint8 ``[H, W, 3]``, RGB, kept until :meth:`decode` answers prompts on it."""
        return EncodedImage(image)

    def decode(
        self, embedding: EncodedImage, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False
    ) -> ImageMasks:
        """Answer prompts (in original pixels) on one image of size ``size_hw``.

        Raises:
            InputError: the predictor's answer is not of the shapes or values above.
        """
        if embedding is not self._shown:
            self._shown = None
            self.predictor.set_image(embedding.image)
            self._shown = embedding
        answer = self._predict_together if self.batched else self._predict_in_turn
        masks, iou_pred = answer(prompt, size_hw, multimask)
        self._check(masks, iou_pred, size_hw, multimask)
        return ImageMasks(self._cut(masks), iou_pred.float())

    def _predict_in_turn(self, prompt: Prompt, size_hw: tuple[int, int], multimask: bool) -> tuple[Tensor, Tensor]:
        """Masks ``[N, M, H, W]`` and IoUs ``[N, M]``."""
        parts = {
            "point_coords": prompt.points_xy,
            "point_labels": prompt.labels,
            "box": prompt.boxes_xyxy,
            "mask_input": prompt.mask_logits,
        }
        arrays = {key: part.cpu().numpy() for key, part in parts.items() if part is not None}
        options = {"multimask_output": multimask} | ({"return_logits": True} if self._gives_logits else {})
        answers = []
        for i in range(len(prompt)):
            answers.append(self.predictor.predict(**{key: array[i] for key, array in arrays.items()}, **options)[:2])
        masks, iou_pred = zip(*answers, strict=True)
        return _stacked(masks), _stacked(iou_pred)

    def _predict_together(self, prompt: Prompt, size_hw: tuple[int, int], multimask: bool) -> tuple[Tensor, Tensor]:
        """The same in one call."""
        prompt, place = prompt.to(torch.device(self.predictor.device)), self.predictor.transform
        masks, iou_pred, *_ = self.predictor.predict_torch(
            None if prompt.points_xy is None else place.apply_coords_torch(prompt.points_xy, size_hw),
            prompt.labels,
            None if prompt.boxes_xyxy is None else place.apply_boxes_torch(prompt.boxes_xyxy, size_hw),
            prompt.mask_logits,
            multimask,
            return_logits=True,
        )
        return masks, iou_pred

    def _check(self, masks: Tensor, iou_pred: Tensor, size_hw: tuple[int, int], multimask: bool) -> None:
        found = f"{self.name}: predict gave masks {list(masks.shape[1:])}"
        if masks.ndim != 4 or masks.shape[2:] != size_hw:
            raise InputError(f"{found} on an image of {list(size_hw)}; give [M, H, W] at the image's size")
        if masks.shape[1] < 1 or (masks.shape[1] > 1 and not multimask):
            raise InputError(f"{found} for multimask_output={multimask}; give one mask there, or more with True only")
        if iou_pred.shape != masks.shape[:2]:
            raise InputError(f"{found} with predicted IoUs {list(iou_pred.shape[1:])}; give one IoU a mask")

    def _cut(self, masks: Tensor) -> Tensor:
        """Logits with their threshold at zero, or bool masks."""
        if masks.is_floating_point() and (self._gives_logits or self.batched):
            return masks.float() - self._threshold if self._threshold else masks.float()
        binary = masks > 0
        if masks.is_floating_point() and not torch.equal(binary.to(masks.dtype), masks):
            raise InputError(f"{self.name}: predict gave masks with values other than 0 and 1; give bool masks")
        return binary


def _stacked(answers: tuple[Any, ...]) -> Tensor:
    """What ``N`` calls gave, arrays or tensors ``[...]``, as ``[N, ...]``."""
    return torch.stack([torch.as_tensor(answer) for answer in answers])


class TransformersSegmenter:
    """A ``transformers.SamModel`` (of any size, SlimSAM's among them) as a :class:`core.protocols.Segmenter`.

    It gets this project's frames in place of its processor's: the longer side resized to ``input_size``, normalised and
    padded with zeros at the bottom and at the right, as its processor does. Models with other habits, such as
    ``Sam2Model``, whose processor squashes images into a square, are not for this.

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
