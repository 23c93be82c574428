"""Pretraining on single images of ``shapes``, as ``sam_pocket`` was trained: they stay in memory as label maps."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from torch import Tensor

from compressors.distill.losses import binary_cross_entropy, dice_loss, focal_loss, mask_iou
from core.geometry import Stretched, normalise
from core.protocols import Prompt
from core.seeding import seed_for
from core.terminal import terminal
from data.images import resized_image
from data.prompts import jitter_boxes, random_points
from data.shapes import DIFFICULTY, Shapes, tight_box
from teachers.sam import Sam


@dataclass(frozen=True)
class ShapesTraining:
    """What a teacher of procedural shapes is trained on, and how.

    Attributes:
        images: distinct training images at full difficulty.
        easy_images: distinct clear images, used in the first ``easy_share`` of the steps; never more than ``images``.
        batch: images a step; each is flipped, turned and recoloured at random.
        masks: instances an image.
        box_share: share of the steps with boxes; the others have one to three points.
    """

    steps: int = 5200
    images: int = 10000
    easy_images: int = 2000
    easy_share: float = 0.1
    easy_difficulty: float = 0.15
    batch: int = 12
    masks: int = 4
    box_share: float = 0.6
    box_jitter: float = 0.04
    rate: float = 1.2e-3
    warmup: int = 150
    weight_decay: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        # Generating 2,000 of 512 pixels takes minutes, whoever asks for few images.
        object.__setattr__(self, "easy_images", min(self.easy_images, self.images))


@dataclass(frozen=True)
class Pool:
    """Generated images, kept compact.

    Attributes:
        images: uint8 ``[n, S, S, 3]``, padded at the bottom and the right.
        labels: uint8 ``[n, S, S]``: 0 background, k + 1 instance k.
        sizes: int ``[n, 2]``, ``(h, w)`` without the padding.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    sizes: NDArray[np.int64]
    prefix: str

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The image's name, for messages."""
        return f"{self.prefix}{index:06d}"

    def augmented(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """An image and its labels, flipped, transposed and with its colour channels permuted at random.

        Returns:
            uint8 ``[h, w, 3]`` and uint8 ``[h, w]``.
        """
        height, width = self.sizes[index]
        image, labels = self.images[index, :height, :width], self.labels[index, :height, :width]
        vertical, horizontal, transposed = rng.random(3) < 0.5
        if vertical:
            image, labels = image[::-1], labels[::-1]
        if horizontal:
            image, labels = image[:, ::-1], labels[:, ::-1]
        if transposed:
            image, labels = image.transpose(1, 0, 2), labels.T
        return np.ascontiguousarray(image[..., rng.permutation(3)]), np.ascontiguousarray(labels)


def make_pool(split: str, count: int, seed: int, difficulty: float, size: int) -> Pool:
    """Generate ``count`` images (some milliseconds each)."""
    data = Shapes(split, count, seed=seed, size=size, difficulty=difficulty)
    images = np.zeros((count, size, size, 3), np.uint8)
    labels = np.zeros((count, size, size), np.uint8)
    sizes = np.zeros((count, 2), np.int64)
    for i in track(
        range(count), f"shapes {split}, difficulty {difficulty}", console=terminal(stderr=True), transient=True
    ):
        image, label = data.label_map(i)
        height, width = label.shape
        images[i, :height, :width], labels[i, :height, :width], sizes[i] = image, label, (height, width)
    return Pool(images, labels, sizes, f"shapes_{split}_")


@dataclass(frozen=True)
class PromptedBatch:
    """Images with prompts and the masks they mean.

    Attributes:
        images: float ``[B, 3, S, S]``, normalised.
        prompt: ``B * K`` prompts in the model's frame, those of one image together.
        targets: coverage ``[B * K, l, l]`` in [0, 1], at the resolution of the low-res logits.
    """

    names: tuple[str, ...]
    images: Tensor
    prompt: Prompt
    targets: Tensor

    def part(self, images: slice) -> "PromptedBatch":
        """Some of the images, with their prompts."""
        each = len(self.prompt) // len(self.names)
        prompts = slice(images.start * each, images.stop * each)
        return PromptedBatch(self.names[images], self.images[images], self.prompt[prompts], self.targets[prompts])

    def pin_memory(self) -> "PromptedBatch":
        """The same batch; it is small, and stays where it is."""
        return self

    def to(self, device: torch.device) -> "PromptedBatch":
        """The same batch on a device."""
        return PromptedBatch(self.names, self.images.to(device), self.prompt.to(device), self.targets.to(device))


@dataclass(frozen=True)
class ShapesBatches:
    """The batch at places of the training order: each is drawn as a whole, by its number, which is that of the step."""

    recipe: ShapesTraining
    easy: Pool
    hard: Pool
    frame: int
    low_res: int

    @classmethod
    def load(cls, recipe: ShapesTraining, frame: int, low_res: int) -> "ShapesBatches":
        """Generate the images."""
        easy = make_pool("train", recipe.easy_images, recipe.seed + 1, recipe.easy_difficulty, frame)
        return cls(recipe, easy, make_pool("train", recipe.images, recipe.seed, DIFFICULTY, frame), frame, low_res)

    def __call__(self, places: range) -> PromptedBatch:
        """The images at consecutive places of one step: all of its batch, or the share of one of several processes."""
        step, first = divmod(places.start, self.recipe.batch)
        return self.of_step(step).part(slice(first, first + len(places)))

    def of_step(self, step: int) -> PromptedBatch:
        """The batch of a step, a function of the recipe and the step alone; masks at ``low_res`` cells a side."""
        recipe, frame = self.recipe, self.frame
        rng = np.random.Generator(np.random.PCG64(seed_for(recipe.seed, "pretrain", step)))
        pool = self.easy if step < recipe.easy_share * recipe.steps else self.hard
        boxes_step = rng.random() < recipe.box_share
        point_count = int(rng.integers(1, 4))
        images, prompts, targets, names = [], [], [], []
        for index in rng.integers(0, len(pool), recipe.batch):
            image, labels = pool.augmented(int(index), rng)
            if isinstance(frame, Stretched):
                image = resized_image(image, frame)
                labels = np.array(Image.fromarray(labels).resize((frame, frame), Image.Resampling.NEAREST))
            names.append(pool.name(int(index)))
            images.append(normalise(torch.from_numpy(image).permute(2, 0, 1), frame))
            for instance in _choose(labels, recipe.masks, rng):
                mask = labels == instance
                prompts.append(_box(mask, recipe, rng) if boxes_step else random_points(mask, point_count, rng))
                targets.append(torch.from_numpy(np.pad(mask, [(0, frame - s) for s in mask.shape])))
        coordinates = torch.from_numpy(np.stack(prompts)).float()
        prompt = Prompt(boxes_xyxy=coordinates) if boxes_step else Prompt.foreground(coordinates)
        coverage = torch.nn.functional.avg_pool2d(torch.stack(targets).float()[:, None], frame // self.low_res)[:, 0]
        return PromptedBatch(tuple(names), torch.stack(images), prompt, coverage)


def _choose(labels: NDArray[np.uint8], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``count`` instances of a label map, without repetition where there are enough."""
    present = 1 + np.flatnonzero(np.bincount(labels.ravel(), minlength=2)[1:])
    order = rng.permutation(present)
    return np.resize(order, count)


def _box(mask: NDArray[np.bool_], recipe: ShapesTraining, rng: np.random.Generator) -> NDArray[np.float64]:
    return jitter_boxes(tight_box(mask)[None], (mask.shape[0], mask.shape[1]), recipe.box_jitter, rng)[0]


def prompted_loss(model: Sam, batch: PromptedBatch) -> dict[str, Tensor]:
    """Segment Anything's loss: the single mask, the best of the three others, and the predicted IoUs."""
    embeddings = model.encode(batch.images)
    decoded = model.decode_frame(embeddings, batch.prompt)
    # [N, 4, l, l]
    logits = decoded.logits.float()
    targets = batch.targets[:, None].expand_as(logits)
    parts = {
        "focal": 5 * focal_loss(logits, targets),
        "dice": dice_loss(logits, targets),
        "bce": 2 * binary_cross_entropy(logits, targets),
    }
    best = sum(parts.values()).detach()[:, 1:].argmin(1, keepdim=True) + 1  # type: ignore[union-attr]
    terms = {name: part[:, 0].mean() + part.gather(1, best).mean() for name, part in parts.items()}
    terms["iou"] = (decoded.iou_pred.float() - mask_iou(logits, targets)).square().mean()
    return terms
