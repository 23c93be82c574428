"""The procedural data set ``shapes``: images with exact masks, made from a seed, the same on every machine."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.seeding import seed_for
from data.sample import ImageSample
from data.shapes_scene import Scene, compose

SPLITS = ("train", "validation")
SMALLEST_SIZE = 32
DIFFICULTY = 0.5
"""Of the data set as the tables use it: textured, shaded and cluttered, every object visible to a person."""
IDS_PER_IMAGE = 16


class Shapes:
    """Figures painted back to front on a textured ground, with the masks of what is seen of each.

    Item ``i`` depends on the split, the seed, the size and the difficulty, not on ``count`` or on other items.
    Nothing is kept: each call makes its image anew, which takes a few milliseconds.

    Args:
        split: ``train`` or ``validation``, two independent streams.
        count: number of images.
        seed: of the whole data set.
        size: the longer side in pixels; half of the images are square, the others 4:3 or 3:4.
        difficulty: 0 (flat, clear fills on a plain ground) to 1 (texture, shade, clutter, noise, kindred colours).

    Raises:
        InputError: an unknown split, or a number outside its range.
    """

    name = "shapes"

    def __init__(
        self, split: str = "train", count: int = 8000, seed: int = 0, size: int = 128, difficulty: float = DIFFICULTY
    ) -> None:
        if split not in SPLITS:
            raise InputError(f"shapes: unknown split {split!r}; use one of {', '.join(SPLITS)}")
        if count < 1:
            raise InputError(f"shapes: count is {count}; give at least 1 image")
        if size < SMALLEST_SIZE:
            raise InputError(f"shapes: size is {size} pixels; give at least {SMALLEST_SIZE}")
        if not 0.0 <= difficulty <= 1.0:
            raise InputError(f"shapes: difficulty is {difficulty}; give a number from 0 to 1")
        self.split = split
        self.count = count
        self.seed = seed
        self.size = size
        self.difficulty = float(difficulty)

    def __len__(self) -> int:
        """Number of images."""
        return self.count

    def scene(self, index: int) -> Scene:
        """Image, labels and kinds of figure of one item.

        Raises:
            IndexError: ``index`` is outside the data set.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"shapes: index {index} of {self.count}")
        return compose(seed_for(self.seed, "shapes", self.split, index), self.size, self.difficulty)

    def label_map(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The compact form: uint8 ``[H, W, 3]`` RGB and uint8 ``[H, W]`` (0 ground, ``k + 1`` instance ``k``)."""
        scene = self.scene(index)
        return scene.image, scene.labels

    def image(self, index: int) -> NDArray[np.uint8]:
        """The image alone, uint8 ``[H, W, 3]`` RGB."""
        return self.scene(index).image

    def image_name(self, index: int) -> str:
        """Such as ``shapes_train_000012``."""
        return f"shapes_{self.split}_{index:06d}"

    def image_id(self, index: int) -> int:
        """The item's number."""
        return index

    def image_file(self, index: int) -> None:
        """None: images are made."""

    def annotation_file(self, index: int) -> None:
        """None: masks are made with the images."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Split, seed, size and difficulty; an item depends on nothing else."""
        return {name: getattr(self, name) for name in ("split", "seed", "size", "difficulty")}

    def sample(self, index: int) -> ImageSample:
        """The image with its instances, the rearmost first; masks are disjoint and boxes are tight."""
        scene = self.scene(index)
        masks = scene.labels[None] == np.arange(1, len(scene.kinds) + 1, dtype=np.uint8)[:, None, None]
        boxes = np.stack([tight_box(mask) for mask in masks])
        return ImageSample(
            image_id=index,
            name=self.image_name(index),
            image=scene.image,
            masks=masks,
            boxes_xyxy=boxes,
            areas=np.count_nonzero(masks, axis=(1, 2)).astype(np.float64),
            annotation_ids=tuple(index * IDS_PER_IMAGE + k for k in range(len(masks))),
        )

    @property
    def skipped(self) -> Mapping[str, int]:
        """Nothing is ever left out."""
        return {}


def tight_box(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The box around a mask's pixels, float64 ``[4]``: ``(x0, y0, x1 + 1, y1 + 1)`` of the extreme pixels."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


if __name__ == "__main__":
    # Under ``python -m`` this file is the module ``__main__``; the command lives where one copy of Shapes exists.
    from core.closed_pipes import outlive_closed_pipes
    from data.shapes_export import main

    outlive_closed_pipes()
    raise SystemExit(main())
