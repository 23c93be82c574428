"""Pretraining on scenes of annotated images: what the embedded teacher of photographs learns from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from compressors.distill.losses import dice_loss, focal_loss, mask_iou
from core.errors import InputError
from core.geometry import PIXEL_MEAN, PIXEL_STD
from core.plain_file import home_path
from core.progress import say
from core.protocols import Prompt
from core.seeding import seed_for
from data.coco import Coco
from data.prompts import jitter_boxes
from data.sa1b import Sa1b
from data.sample import ImageData
from data.scenes import MaskedImage, SceneRecipe, compose, load_masked_images
from data.shapes import Shapes
from evaluation.baselines import filled_ellipses
from teachers.sam import Sam

SHAPES_COUNT, SHAPES_SIZE = 2000, 256
"""How many procedural images scenes are composed of, and their side in pixels."""


@dataclass(frozen=True)
class SceneTraining:
    """What a teacher of photographs is trained on, and how.

    Attributes:
        batch: scenes a step.
        boxes: instances a scene that are prompted by a box, each side moved by ``box_jitter`` of its length.
        points: instances a scene that are prompted by one to three points.
        images: most images of a data set that are kept in memory.
        ellipses: whether box prompts are random boxes and their targets the ellipses in them, whatever the image shows
            there: so that a decoder learns where a box is, at all sizes, before it learns what is in it.
        scenes: how scenes are composed.
    """

    steps: int = 4000
    batch: int = 4
    boxes: int = 10
    points: int = 4
    box_jitter: float = 0.03
    images: int = 20000
    rate: float = 8e-4
    warmup: int = 100
    weight_decay: float = 0.05
    ema: float = 0.995
    seed: int = 0
    ellipses: bool = False
    scenes: SceneRecipe = field(default_factory=SceneRecipe)


@dataclass(frozen=True)
class Source:
    """A data set by its name, its share of the scenes, and what becomes of what cannot be used in it.

    ``missing`` and ``unusable`` are those of :class:`data.coco.Coco`.
    """

    name: str
    root: str | None
    share: float
    missing: str = "refuse"
    unusable: str = "refuse"

    @classmethod
    def parse(cls, text: str, setting: str = "--data") -> "Source":
        """Read ``NAME``, ``NAME=ROOT``, ``NAME:SHARE`` or ``NAME=ROOT:SHARE``.

        Args:
            setting: what it was given as, for messages.

        Raises:
            InputError: an unknown name, a folder that is needed and not given, or a share that is no positive number.
        """
        front, separator, last = text.rpartition(":")
        share = 1.0
        if separator and _is_number(last):
            text, share = front, float(last)
        name, given, root = text.partition("=")
        if name not in ("shapes", "coco", "sa1b"):
            raise InputError(f"{setting} {text}: no data set {name!r}; choose one of shapes, coco, sa1b")
        if given if name == "shapes" else not root:
            problem = "shapes lie in no folder" if name == "shapes" else f"give its folder: {setting} {name}=DIR"
            raise InputError(f"{setting} {text}: {problem}")
        if not 0 < share < math.inf:
            raise InputError(f"{setting} {text}:{share:g}: a share is a number above 0")
        return cls(name, root or None, share)

    @classmethod
    def parse_validation(cls, text: str) -> "Source":
        """Read ``NAME`` or ``NAME=ROOT``, what is scored.

        Raises:
            InputError: as of :meth:`parse`; or it has a share.
        """
        source = cls.parse(text, "--validation")
        if source.share != 1.0:
            raise InputError(f"--validation {text}: what is scored has no share; leave out :{source.share:g}")
        return source

    def open(self, split: str, seed: int = 0) -> ImageData:
        """The images of ``train`` or ``validation`` with their instances.

        Args:
            seed: of procedural training images.

        Raises:
            InputError: the data set cannot be read, or has what is refused.
        """
        training, missing, unusable = split == "train", self.missing, self.unusable
        if self.root is None:
            return Shapes(split, SHAPES_COUNT, seed=seed, size=SHAPES_SIZE) if training else Shapes(split, 100)
        # A shell leaves ~ as it is behind the = of NAME=DIR.
        root = home_path(self.root)
        if self.name == "coco":
            return Coco(root, split, missing=missing, unusable=unusable)
        if training:
            return Sa1b(root, split, validation_count=1, missing=missing, unusable=unusable)
        return Sa1b(root, split, missing=missing, unusable=unusable)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class SceneBatch:
    """``B`` scenes with ``K`` box prompts and ``P`` point prompts each.

    Attributes:
        images: float ``[B, 3, S, S]``, normalised.
        box_prompt, point_prompt: in the model's frame, those of one image together.
        box_targets: coverage ``[B * K, l, l]`` in [0, 1] at the resolution of the low-res logits; ``point_targets``
            alike.
    """

    names: tuple[str, ...]
    images: Tensor
    box_prompt: Prompt
    box_targets: Tensor
    point_prompt: Prompt
    point_targets: Tensor

    def pin_memory(self) -> "SceneBatch":
        """The same batch; it is made on the device."""
        return self

    def to(self, device: torch.device) -> "SceneBatch":
        """The same batch on a device."""
        parts = [part.name for part in fields(self) if part.name != "names"]
        return replace(self, **{name: getattr(self, name).to(device) for name in parts})


@dataclass(frozen=True)
class SceneBatches:
    """The batch at places of the endless training order: a function of the recipe and the places alone."""

    pools: Sequence[tuple[float, Sequence[MaskedImage]]]
    recipe: SceneTraining
    frame: int
    low_res: int

    @classmethod
    def load(
        cls,
        sources: Sequence[Source],
        data: Sequence[ImageData],
        recipe: SceneTraining,
        frame: int,
        low_res: int,
        device: torch.device,
    ) -> "SceneBatches":
        """Read every source's images into memory, and say what was read and what was left out.

        Args:
            data: each source's training images.
        """
        pools = []
        for source, images in zip(sources, data, strict=True):
            found = load_masked_images(images, frame, recipe.images, device)
            if not found:
                raise InputError(f"--data {source.name}={source.root}: no image there has an instance")
            counted = {f"images of {len(images)}": len(found), "masks": sum(len(image.masks) for image in found)}
            counted |= {name: count for name, count in images.skipped.items() if count}
            say(f"{images.name}: {', '.join(f'{count:,} {name}' for name, count in counted.items())}")
            pools.append((source.share, found))
        return cls(pools, recipe, frame, low_res)

    def __call__(self, places: range) -> SceneBatch:
        """The batch at consecutive places."""
        recipe = self.recipe
        count = recipe.boxes + recipe.points
        shares = np.array([share for share, _ in self.pools])
        # One number of points a step, so that prompts stack; it goes by the first place's own draw.
        step_rng = np.random.Generator(np.random.PCG64(seed_for(recipe.seed, "points", places.start // recipe.batch)))
        point_count = int(step_rng.integers(1, 4))
        scenes, boxes = [], []
        for place in places:
            rng = np.random.Generator(np.random.PCG64(seed_for(recipe.seed, "scene", place)))
            _, images = self.pools[int(rng.choice(len(shares), p=shares / shares.sum()))]
            scene = compose(images, recipe.scenes, self.frame, self.low_res, count, point_count, rng)
            scenes.append(scene)
            if recipe.ellipses:
                drawn = random_boxes(recipe.boxes, scene.size_hw, rng)
                scene.coverage[: recipe.boxes] = ellipse_coverage(drawn, self.frame, self.low_res)
                boxes.append(drawn)
            else:
                boxes.append(jitter_boxes(scene.boxes_xyxy[: recipe.boxes], scene.size_hw, recipe.box_jitter, rng))
        pixels = torch.stack([scene.image for scene in scenes])
        sizes = [scene.size_hw for scene in scenes]
        device = pixels.device
        prompts = torch.from_numpy(np.concatenate(boxes)).float().to(device)
        points = np.concatenate([scene.points_xy[recipe.boxes :] for scene in scenes])
        return SceneBatch(
            tuple(name for scene in scenes for name in scene.names[:1]),
            _normalised(pixels, sizes),
            Prompt(boxes_xyxy=prompts),
            torch.cat([scene.coverage[: recipe.boxes] for scene in scenes]),
            Prompt.foreground(torch.from_numpy(points).float().to(device)),
            torch.cat([scene.coverage[recipe.boxes :] for scene in scenes]),
        )


def random_boxes(
    count: int, size_hw: tuple[int, int], rng: np.random.Generator, sides: tuple[float, float] = (7.0, 300.0)
) -> NDArray[np.float64]:
    """Boxes ``[count, 4]`` within an image, in its pixels: as many small ones as large ones.

    Args:
        sides: smallest and largest root of a box's area in pixels, drawn evenly on a logarithmic scale.
    """
    area = np.exp(rng.uniform(math.log(sides[0]), math.log(sides[1]), count)) ** 2
    aspect = np.exp(rng.uniform(-0.8, 0.8, count))
    height, width = size_hw
    sides_wh = np.stack([np.minimum(np.sqrt(area * aspect), width), np.minimum(np.sqrt(area / aspect), height)], 1)
    corner = rng.random((count, 2)) * (np.array([width, height]) - sides_wh)
    return np.concatenate([corner, corner + sides_wh], 1)


def ellipse_coverage(boxes_xyxy: NDArray[np.float64], frame: int, low_res: int) -> Tensor:
    """The share of each low-res cell that the ellipse in a box covers: float ``[N, 4]`` to ``[N, l, l]`` in [0, 1]."""
    cell = frame // low_res
    inside = filled_ellipses(boxes_xyxy, (frame, frame)).reshape(-1, low_res, cell, low_res, cell)
    return torch.from_numpy(inside.mean((2, 4), dtype=np.float32))


def _normalised(pixels: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    mean = torch.tensor(PIXEL_MEAN, device=pixels.device)[:, None, None]
    std = torch.tensor(PIXEL_STD, device=pixels.device)[:, None, None]
    images = (pixels - mean) / std
    for image, (height, width) in zip(images, sizes, strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return images


def scene_loss(model: Sam, batch: SceneBatch) -> Mapping[str, Tensor]:
    """Segment Anything's loss: boxes teach the single mask, points that and the best of the three others.

    The weighted terms are focal, dice, cross-entropy (half of it around the mask, so that small objects count) and the
    squared error of the predicted IoUs.
    """
    embeddings = model.encode(batch.images)
    of_boxes = model.decode_frame(embeddings, batch.box_prompt)
    of_points = model.decode_frame(embeddings, batch.point_prompt)
    terms = {f"box_{name}": term for name, term in _mask_terms(of_boxes.logits[:, 0], batch.box_targets).items()}
    found = mask_iou(of_points.logits, batch.point_targets[:, None].expand_as(of_points.logits))
    best = found[:, 1:].argmax(1) + 1
    chosen = of_points.logits[torch.arange(len(best), device=best.device), best]
    single = _mask_terms(of_points.logits[:, 0], batch.point_targets)
    others = _mask_terms(chosen, batch.point_targets)
    terms |= {f"point_{name}": 0.5 * (single[name] + others[name]) for name in single}
    box_iou = mask_iou(of_boxes.logits[:, 0], batch.box_targets)
    terms["iou"] = (of_boxes.iou_pred[:, 0].float() - box_iou).square().mean() + (
        of_points.iou_pred.float() - found
    ).square().mean()
    return terms


def _mask_terms(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Weighted terms over masks ``[N, l, l]``, each a mean."""
    logits = logits.float()
    return {
        "focal": 5 * focal_loss(logits, targets).mean(),
        "dice": dice_loss(logits, targets).mean(),
        "bce": local_cross_entropy(logits, targets).mean(),
    }


def local_cross_entropy(logits: Tensor, targets: Tensor, margin: int = 5) -> Tensor:
    """Cross-entropy over all cells plus that over the cells around the mask, each a mean: ``[N, l, l]`` to ``[N]``.

    Args:
        margin: cells that are added around the box of the mask.
    """
    errors = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    rows, columns = (F.max_pool1d((targets.amax(axis) > 0).float(), 2 * margin + 1, 1, margin) for axis in (2, 1))
    around = rows[:, :, None] * columns[:, None, :]
    near = (errors * around).sum((1, 2)) / around.sum((1, 2)).clamp(min=1)
    return errors.mean((1, 2)) + near
