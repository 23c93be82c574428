"""The frozen teacher's outputs as targets: image embeddings, computed once an image, and masks of drawn prompts."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compressors.distill.engine import Engine
from compressors.distill.losses import FOCAL_SHARE, dice_loss, focal_loss
from core import distributed
from core.checkpoint import weights_sha256
from core.feature_layout import layout_of
from core.feature_maps import Features, packed, packed_channels, unpacked
from core.protocols import Prompt
from core.seeding import generator_for
from data.batches import ImageBatch
from data.embeddings import DiskEmbeddings, Embeddings, MemoryEmbeddings
from teachers.mask_decoder import Decoded
from teachers.sam import Sam

PREPROCESSING = "longer side, bilinear on uint8, zero-padded, 1"
"""How images are brought into the frame; to be changed whenever that changes what comes out."""


@dataclass
class TeacherEmbeddings:
    """Gives the teacher's embeddings of a batch, from where they are kept or from the teacher.

    Images are encoded one at a time and rounded to float16 whether or not they are kept, so that what a student sees
    depends on the image alone: not on its neighbours, nor on what an earlier run left.

    Attributes:
        encoder: the teacher's, frozen.
        engine: whose device and precision it computes in.
        kept: where embeddings are kept; None computes them each time.
        computed: how many images were encoded.
    """

    encoder: nn.Module
    engine: Engine
    kept: Embeddings | None = None
    computed: int = 0
    _maker: bytes = field(init=False)
    _encode: Callable[[Tensor], Features] = field(init=False)

    def __post_init__(self) -> None:
        # A wrapper, so that the teacher itself stays as it is for whoever else uses it.
        self._encode = torch.compile(self.encoder) if self.engine.compile else self.encoder
        shape: Any = self.encoder.config
        self._layout = layout_of(shape)
        frame, device = shape.image_size, self.engine.device.type
        # Another number of threads adds in another order, so that some embeddings differ in their last bit.
        exactly = (device, self.engine.compile, *([torch.get_num_threads()] if device == "cpu" else []))
        parts = (weights_sha256(self.encoder), PREPROCESSING, frame, self.engine.precision, *exactly)
        self._maker = hashlib.sha256(repr(parts).encode()).digest()

    def __call__(self, batch: ImageBatch) -> Any:
        """Embeddings, float32 ``[B, C, g, g]``, or several maps, on the device of the batch's images."""
        return unpacked(torch.stack([self._one(batch, i).float() for i in range(len(batch.names))]), self._layout)

    def _one(self, batch: ImageBatch, i: int) -> Tensor:
        key = hashlib.sha256(self._maker + batch.digests[i]).digest() if batch.digests else None
        # An empty store is false, so it is compared by identity.
        if self.kept is not None and key is not None:
            record = self.kept.get(key)
            if record is not None:
                return record[0].to(batch.images.device, non_blocking=True)
        with torch.no_grad(), self.engine.autocast():
            embedding = packed(self._encode(batch.images[i : i + 1]))[0].half()
        self.computed += 1
        if self.kept is not None and key is not None:
            self.kept.put(key, embedding, batch.valid[i])
        return embedding


def embedding_cache(mode: str, folder: Path, encoder: nn.Module) -> Embeddings | None:
    """Where embeddings of an encoder are kept.

    Args:
        mode: ``disk`` (in ``folder``, for this run and all others), ``memory`` (for this run) or ``off``.
    """
    if mode == "off":
        return None
    if mode == "memory":
        return MemoryEmbeddings()
    shape: Any = encoder.config
    return DiskEmbeddings(folder, packed_channels(layout_of(shape)), shape.grid)


@dataclass(frozen=True)
class TeacherMasks:
    """Prompts and the teacher's answers, those of one image together.

    Attributes:
        prompt: ``B * K`` prompts in the model's frame.
        logits: ``[B * K, 4, l, l]``, all four candidates.
        iou_pred: ``[B * K, 4]``.
        counts: bool ``[B * K]``: prompts that have an answer worth learning (boxes of empty masks have none).
    """

    prompt: Prompt
    logits: Tensor
    iou_pred: Tensor
    counts: Tensor


class Answering(Protocol):
    """A teacher, or what stands for it in another frame."""

    @property
    def input_size(self) -> int:
        """Side of the frame that prompts are in."""
        ...

    def decode_frame(self, embedding: Any, prompt: Prompt) -> Decoded:
        """As :meth:`teachers.sam.Sam.decode_frame`."""
        ...


def teacher_masks(
    teacher: Answering, embeddings: Features, valid: Tensor, points: int, seed: int, step: int, part: int = 0
) -> tuple[TeacherMasks, TeacherMasks]:
    """Ask the teacher about random points of each image, and about the boxes of the masks it answers with.

    Args:
        embeddings: the teacher's, of ``B`` images.
        valid: bool ``[B, g, g]``, the cells that hold image; points fall there.
        points: prompts of each kind an image.
        seed, step: what the points are drawn from, for the whole batch that processes share.
        part: which of the step's accumulated batches it is.
    """
    generator = generator_for(seed, "mask prompts", step, *([part] if part else []))
    images = len(embeddings)
    drawn = torch.rand(distributed.count() * images, points, 1, 2, generator=generator)
    drawn = drawn[distributed.rank() * images :][:images].to(embeddings.device)
    # Valid cells are a rectangle in the upper left corner: its width and height, in the frame.
    cell = teacher.input_size / valid.shape[-1]
    size = torch.stack([valid.any(1).sum(1), valid.any(2).sum(1)], 1) * cell
    xy = (drawn * size[:, None, None]).flatten(0, 1)
    by_points = Prompt.foreground(xy)
    with torch.no_grad():
        first = teacher.decode_frame(embeddings, by_points)
        masks = best_of_three(first.logits, first.iou_pred)
        by_boxes = Prompt(boxes_xyxy=_boxes(masks, teacher.input_size))
        second = teacher.decode_frame(embeddings, by_boxes)
    every_one = torch.ones(len(xy), dtype=torch.bool, device=xy.device)
    return (
        TeacherMasks(by_points, first.logits.float(), first.iou_pred.float(), every_one),
        TeacherMasks(by_boxes, second.logits.float(), second.iou_pred.float(), masks.flatten(1).any(1)),
    )


def mask_loss(student: Sam, embeddings: Features, answers: tuple[TeacherMasks, TeacherMasks]) -> dict[str, Tensor]:
    """SAM's loss (focal 20, dice 1, squared error of predicted IoUs 1) of a student against the teacher's answers.

    Points are compared in all four candidates, boxes in the single one. Every image counts alike.

    Args:
        embeddings: the student's, of ``B`` images.
    """
    terms: dict[str, Tensor] = {}
    for name, part, kept in (("point", answers[0], slice(None)), ("box", answers[1], slice(0, 1))):
        found = student.decode_frame(embeddings, part.prompt)
        logits, targets = found.logits[:, kept].float(), (part.logits[:, kept] > 0).float()
        weight = part.counts.float()
        share = weight / len(weight)
        masks = FOCAL_SHARE * focal_loss(logits, targets) + dice_loss(logits, targets)
        terms[f"{name}_masks"] = (masks.mean(1) * share).sum()
        squared = (found.iou_pred[:, kept].float() - part.iou_pred[:, kept]).square()
        terms[f"{name}_iou"] = (squared.mean(1) * share).sum()
    return terms


def _boxes(masks: Tensor, frame: int) -> Tensor:
    """Tight boxes of masks ``[N, l, l]`` in the frame, ``[N, 4]``; the whole frame for an empty mask."""
    side = masks.shape[-1]
    places = torch.arange(side, device=masks.device)
    corners = []
    for axis in (1, 2):
        occupied = masks.any(axis)
        low = torch.where(occupied, places, side).amin(1)
        high = torch.where(occupied, places + 1, 0).amax(1)
        empty = high <= low
        corners.append((torch.where(empty, 0, low), torch.where(empty, side, high)))
    (left, right), (top, bottom) = corners
    return torch.stack([left, top, right, bottom], 1).float() * (frame / side)


def best_of_three(logits: Tensor, iou_pred: Tensor) -> Tensor:
    """The mask with the best predicted IoU of the three that answer an ambiguous prompt.

    Args:
        logits: ``[N, 4, l, l]``, the single mask first.
        iou_pred: ``[N, 4]``.

    Returns:
        bool ``[N, l, l]``.
    """
    best = iou_pred[:, 1:].argmax(1) + 1
    return logits[torch.arange(len(best), device=best.device), best] > 0
