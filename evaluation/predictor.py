"""Prompts on images, with the interface of ``segment_anything.SamPredictor``: its users change one import."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from core.errors import InputError
from core.feature_maps import Features
from core.geometry import boxes_to_frame, normalise, points_to_frame, resized_size, upscale_logits
from core.protocols import Masks, Prompt, Segmenter, device_of
from data.images import resized_image, to_frame
from evaluation.prompt_arrays import LOGITS_PER_CELL, prompt_from_arrays


class ResizeLongestSide:
    """Images and pixels of the original image to those of the frame, whose side is the image's longer side.

    Args:
        target_length: side of the frame.
    """

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An image uint8 ``[H, W, 3]`` with its longer side at the frame's: uint8 ``[h, w, 3]``.

        Raises:
            InputError: another type or shape.
        """
        check_image(image)
        return resized_image(image, self.target_length)

    def apply_image_torch(self, image: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` with their longer side at the frame's, same dtype and device: ``[B, C, h, w]``.

        Bilinear with antialiasing, which is not exactly what :meth:`apply_image` does. ``segment_anything`` 1.0 takes
        ``B`` and ``C`` for height and width; this does what its documentation says.

        Raises:
            InputError: another shape.
        """
        if image.ndim != 4 or not image.numel():
            raise InputError(f"images must be a tensor [B, C, H, W], got {list(image.shape)}; image[None] adds B")
        size = resized_size((image.shape[2], image.shape[3]), self.target_length)
        return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)

    def apply_coords(self, coords: ArrayLike, original_size: tuple[int, int]) -> NDArray[np.float64]:
        """Points ``[..., 2]``, xy in original pixels, to the frame (float64, same shape)."""
        new_h, new_w = self.get_preprocess_shape(*original_size, self.target_length)
        return np.asarray(coords, np.float64) * (new_w / original_size[1], new_h / original_size[0])

    def apply_boxes(self, boxes: ArrayLike, original_size: tuple[int, int]) -> NDArray[np.float64]:
        """Boxes ``[..., 4]``, xyxy in original pixels, to the frame: float64 ``[N, 4]``."""
        return self.apply_coords(np.asarray(boxes, np.float64).reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def apply_coords_torch(self, coords: Tensor, original_size: tuple[int, int]) -> Tensor:
        """Points ``[..., 2]``, xy in original pixels, to the frame (float32, same shape and device)."""
        return points_to_frame(coords, original_size, self.target_length)

    def apply_boxes_torch(self, boxes: Tensor, original_size: tuple[int, int]) -> Tensor:
        """Boxes ``[..., 4]``, xyxy in original pixels, to the frame: float32 ``[N, 4]``, same device."""
        return boxes_to_frame(boxes.reshape(-1, 4), original_size, self.target_length)

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Size ``(h, w)`` of an image of ``oldh`` by ``oldw`` pixels, its longer side at ``long_side_length``."""
        return resized_size((oldh, oldw), long_side_length)

    def original_coords(self, coords: Tensor, original_size: tuple[int, int]) -> Tensor:
        """Points ``[..., 2]`` of the frame back to original pixels (float32, same shape and device)."""
        new_h, new_w = resized_size(original_size, self.target_length)
        scale = torch.tensor([original_size[1] / new_w, original_size[0] / new_h], device=coords.device)
        return coords.to(torch.float32) * scale


def check_image(image: NDArray[np.uint8]) -> None:
    """Refuse what is not an image as an array.

    Raises:
        InputError: not uint8 ``[H, W, 3]``, or without a pixel.
    """
    if not isinstance(image, np.ndarray):
        raise InputError(f"an image must be a numpy array uint8 [H, W, 3], got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(f"an image must be uint8 [H, W, 3] with values 0..255, got {image.dtype} {list(image.shape)}")


PROMPTS_AT_ONCE = 64
"""Prompts decoded together; what is beyond comes after."""


class SamPredictor:
    """Encodes an image once, then answers prompts on it. Computes on the model's device, without gradients.

    Beyond Meta's: several boxes in one :meth:`predict`, and several images at once by :meth:`set_images` and
    :meth:`predict_batch`.

    Args:
        model: any segmenter, in evaluation mode.
    """

    def __init__(self, model: Segmenter) -> None:
        self.model = model
        self.transform = ResizeLongestSide(model.input_size)
        self.features: Features | None = None
        self.original_sizes: list[tuple[int, int]] = []

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return device_of(self.model)

    # The next three and ``features`` may be assigned, as programs do that keep embeddings of images for later.

    @property
    def is_image_set(self) -> bool:
        """Whether there is an image to answer prompts on."""
        return self.features is not None

    @is_image_set.setter
    def is_image_set(self, value: bool) -> None:
        if not value:
            self.reset_image()

    @property
    def original_size(self) -> tuple[int, int]:
        """Size ``(h, w)`` of the image as it was given."""
        return self._single()[1]

    @original_size.setter
    def original_size(self, size_hw: Sequence[int]) -> None:
        self.original_sizes = [(int(size_hw[0]), int(size_hw[1]))]

    @property
    def input_size(self) -> tuple[int, int]:
        """Size ``(h, w)`` of the image in the model's frame, without the padding."""
        return resized_size(self.original_size, self.model.input_size)

    @input_size.setter
    def input_size(self, size_hw: Sequence[int]) -> None:
        for original in self.original_sizes:
            self._check_input_size(tuple(size_hw), original)

    def reset_image(self) -> None:
        """Forget the image, or the images."""
        self.features = None
        self.original_sizes = []

    def set_image(self, image: NDArray[np.uint8], image_format: str = "RGB") -> None:
        """Encode an image uint8 ``[H, W, 3]``; ``BGR`` is how OpenCV reads.

        Raises:
            InputError: another type, shape or format.
        """
        self.set_images([image], image_format)

    @torch.inference_mode()
    def set_images(self, images: Sequence[NDArray[np.uint8]], image_format: str = "RGB") -> None:
        """Encode images uint8 ``[H, W, 3]`` of any sizes in one batch, for :meth:`predict_batch`.

        Raises:
            InputError: none is given, or one has another type, shape or format.
        """
        if image_format not in ("RGB", "BGR"):
            raise InputError(f"image_format must be RGB or BGR, got {image_format}")
        if not len(images):
            raise InputError("no image is given; give at least one")
        for image in images:
            check_image(image)
        self.reset_image()
        order = slice(None) if image_format == "RGB" else slice(None, None, -1)
        frames = [to_frame(np.ascontiguousarray(image[..., order]), self.model.input_size) for image in images]
        # [B, 3, S, S]
        batch = torch.stack(frames).to(self.device, self._dtype())
        self.features = self.model.encode(batch)
        self.original_sizes = [(image.shape[0], image.shape[1]) for image in images]

    @torch.inference_mode()
    def set_torch_image(self, transformed_image: Tensor, original_image_size: Sequence[int]) -> None:
        """Encode an image that is resized already, as :attr:`transform` does it.

        Args:
            transformed_image: RGB, 0 to 255, neither normalised nor padded: ``[1, 3, h, w]`` of any dtype, the longer
                side as long as the model's frame.
            original_image_size: ``(H, W)`` of the image before it was resized.

        Raises:
            InputError: another shape, or not the size that such an original has in the frame.
        """
        shape = tuple(transformed_image.shape)
        if len(shape) != 4 or shape[:2] != (1, 3):
            raise InputError(f"transformed_image must be [1, 3, h, w], got {list(shape)}")
        size_hw = (int(original_image_size[0]), int(original_image_size[1]))
        self._check_input_size(shape[2:], size_hw)
        self.reset_image()
        frame = normalise(transformed_image.to(self.device), self.model.input_size)
        self.features = self.model.encode(frame.to(self._dtype()))
        self.original_sizes = [size_hw]

    def get_image_embedding(self) -> Features:
        """The embedding ``[1, C, g, g]`` of the image, or ``[B, C, g, g]`` of the images.

        Raises:
            RuntimeError: no image is set.
        """
        return self._features()

    @torch.inference_mode()
    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        """Answer a prompt on the image; what is given together is one prompt.

        Args:
            point_coords: xy in original pixels, ``[P, 2]``.
            point_labels: 1 foreground, 0 background, ``[P]``.
            box: xyxy in original pixels, ``[4]``.
            mask_input: ``[1, l, l]``, one of the low-resolution logits of an earlier answer.
            multimask_output: three candidates instead of one.
            return_logits: masks as logits, not yet cut at zero.

        Returns:
            Masks at the original size, bool or float32 ``[C, H, W]``; their predicted IoUs ``[C]``; their
            low-resolution logits ``[C, l, l]`` in the model's frame. Several prompts, given with a leading dimension
            (boxes ``[N, 4]``, points ``[N, P, 2]``), add a leading ``N`` to all three unless ``N`` is 1.

        Raises:
            RuntimeError: not exactly one image is set.
            InputError: the prompt is empty or malformed.
        """
        embedding, size_hw = self._single()
        prompt = prompt_from_arrays(point_coords, point_labels, box, mask_input, embedding.shape[-1])
        answer = self._decode(embedding, prompt, size_hw, multimask_output)
        full = np.stack([plane.cpu().numpy() for plane in _at_original_size(answer, size_hw, return_logits)])
        found = full, answer.iou_pred.float().cpu().numpy(), answer.logits.float().cpu().numpy()
        return found if len(prompt) > 1 else (found[0][0], found[1][0], found[2][0])

    @torch.inference_mode()
    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Answer ``N`` prompts given as tensors in the model's FRAME, where :attr:`transform` brings coordinates.

        Args:
            point_coords: xy, ``[N, P, 2]``.
            point_labels: 1 foreground, 0 background, -1 padding, ``[N, P]``.
            boxes: xyxy, ``[N, 4]``.
            mask_input: ``[N, 1, l, l]``.

        Returns:
            Masks ``[N, C, H, W]``, predicted IoUs ``[N, C]`` and low-resolution logits ``[N, C, l, l]``.

        Raises:
            RuntimeError: not exactly one image is set.
            InputError: the prompts are empty or malformed.
        """
        embedding, size_hw = self._single()
        given = prompt_from_arrays(point_coords, point_labels, boxes, mask_input, embedding.shape[-1], batched=True)
        corners = None if given.boxes_xyxy is None else given.boxes_xyxy.reshape(-1, 2, 2)
        back = [
            None if xy is None else self.transform.original_coords(xy, size_hw) for xy in (corners, given.points_xy)
        ]
        prompt = Prompt(None if back[0] is None else back[0].flatten(1), back[1], given.labels, given.mask_logits)
        answer = self._decode(embedding, prompt, size_hw, multimask_output)
        full = torch.stack(_at_original_size(answer, size_hw, return_logits))
        return full, answer.iou_pred, answer.logits

    @torch.inference_mode()
    def predict_batch(self, prompts: Sequence[Prompt], multimask_output: bool = True) -> list[Masks]:
        """Answer ``N`` prompts an image, in the order of :meth:`set_images`.

        Args:
            prompts: one :class:`Prompt` an image, in pixels of that original image; may be of length 0.

        Returns:
            The answers to each; ``answer.binary(size_hw)`` gives masks ``[N, C, H, W]`` at the original size.

        Raises:
            RuntimeError: no image is set.
            InputError: not as many prompts as images.
        """
        features = self._features()
        if len(prompts) != len(features):
            raise InputError(
                f"{len(prompts)} prompts for {len(features)} images; give one Prompt (of any length) an image"
            )
        # Each [1, C, g, g]
        embeddings = features.split(1)
        return [
            self._decode(embedding, prompt, size_hw, multimask_output)
            for embedding, prompt, size_hw in zip(embeddings, prompts, self.original_sizes, strict=True)
        ]

    def _decode(self, embedding: Features, prompt: Prompt, size_hw: tuple[int, int], multimask: bool) -> Masks:
        prompt = prompt.to(self.device)
        if not len(prompt):
            # An image in which a detector found nothing; not every decoder takes a batch of none.
            side = LOGITS_PER_CELL * embedding.shape[-1]
            candidates = embedding.new_zeros(0, 3 if multimask else 1)
            return Masks(candidates[..., None, None].expand(-1, -1, side, side), candidates, self.model.input_size)
        parts = [
            self.model.decode(embedding, prompt[start : start + PROMPTS_AT_ONCE], size_hw, multimask)
            for start in range(0, len(prompt), PROMPTS_AT_ONCE)
        ]
        logits, iou_pred = (
            torch.cat(tensors) for tensors in zip(*((m.logits, m.iou_pred) for m in parts), strict=True)
        )
        return Masks(logits, iou_pred, parts[0].frame)

    def _features(self) -> Features:
        if self.features is None:
            raise RuntimeError("no image is set; call set_image(...) first")
        return self.features

    def _single(self) -> tuple[Features, tuple[int, int]]:
        features = self._features()
        if len(features) != 1:
            raise RuntimeError(f"{len(features)} images are set; predict_batch answers for several, set_image sets one")
        if len(self.original_sizes) != 1:
            raise RuntimeError("features are set without original_size; set both")
        return features, self.original_sizes[0]

    def _check_input_size(self, found_hw: tuple[int, ...], original_hw: tuple[int, int]) -> None:
        right = resized_size(original_hw, self.model.input_size)
        if found_hw != right:
            raise InputError(
                f"an image of {list(original_hw)} (h, w) is {list(right)} in a frame of {self.model.input_size}, "
                f"got {list(found_hw)}; resize it by transform.apply_image"
            )

    def _dtype(self) -> torch.dtype:
        """What the model's weights are kept in: a model in half precision takes no float32."""
        parameters = getattr(self.model, "parameters", tuple)
        return next((part.dtype for part in parameters() if part.is_floating_point()), torch.float32)


def _at_original_size(answer: Masks, size_hw: tuple[int, int], logits: bool) -> list[Tensor]:
    """Masks ``[C, H, W]`` of each prompt: bool, or float32 logits.

    One prompt after the other, because on the way each is as large as the frame and as the image.
    """
    each = zip(answer.logits.split(1), answer.iou_pred.split(1), strict=True)
    if logits:
        return [upscale_logits(low_res, size_hw, answer.frame)[0] for low_res, _ in each]
    return [Masks(low_res, iou, answer.frame).binary(size_hw)[0] for low_res, iou in each]
