"""Pictures of ``shapes`` held in memory as label maps, and their augmentation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from core.terminal import terminal
from data.shapes import Shapes


@dataclass(frozen=True)
class Pool:
    """Generated pictures, kept compact.

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
        """The picture's name, for messages."""
        return f"{self.prefix}{index:06d}"

    def augmented(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """A picture and its labels, flipped, transposed and with its colour channels permuted at random.

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
    """Generate ``count`` pictures (some milliseconds each)."""
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
