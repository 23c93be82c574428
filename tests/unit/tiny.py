"""A SAM small enough to train within a test, and images in memory."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data.sample import ImageSample
from students.encoder_shapes import TinyVitConfig
from students.student import Student
from teachers.catalog import MODELS
from teachers.image_encoder import EncoderConfig, ImageEncoder
from teachers.initial_weights import initialise_encoder
from teachers.sam import Sam, SamConfig

# A grid of 4 does not divide into windows of 3: padding takes part.
ENCODER = EncoderConfig(64, 16, 24, 2, (24, 24, 24), (48, 48, 48), 3, (1,), 16)
CONFIG = SamConfig(ENCODER, decoder_heads=2, decoder_mlp_width=20, iou_width=12)


class TinyStudent(Student):
    """A TinyViT of a few channels, whatever its name says."""

    def shape(self, teacher: SamConfig) -> SamConfig:
        shape = TinyVitConfig(64, 4, (8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1, 1), (4, 4, 4, 4), 16)
        return replace(teacher, encoder=shape)


class Killed(Exception):
    """What stops an interrupted run."""


def tiny_sam(seed: int = 0) -> Sam:
    """A frozen teacher with random weights everywhere, relative positions included."""
    generator = torch.Generator().manual_seed(seed)
    model = Sam(CONFIG, "tiny").eval().requires_grad_(False)
    # Buffers too: the prompt encoder's frequencies are drawn at random.
    for tensor in model.state_dict().values():
        tensor.normal_(std=0.2, generator=generator)
    return model


def pocket_file(path: Path, seed: int = 0) -> Path:
    """A file of random weights in the shape of sam_pocket, for commands to take as their teacher."""
    torch.manual_seed(seed)
    model = Sam(MODELS["sam_pocket"].config)
    initialise_encoder(model.image_encoder)
    torch.save(model.state_dict(), path)
    return path


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def tiny_encoder(seed: int = 0) -> ImageEncoder:
    """The image encoder of :func:`tiny_sam`."""
    return tiny_sam(seed).image_encoder


@dataclass
class Images:
    """Random images of several sizes, without annotations.

    Attributes:
        count: how many.
        kill_at: how many images may be read before :class:`Killed` is raised, or None.
        read: indices of the images read so far.
    """

    count: int = 5
    kill_at: int | None = None
    name: str = "images"
    read: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> NDArray[np.uint8]:
        if len(self.read) == self.kill_at:
            raise Killed
        self.read.append(index)
        rng = np.random.Generator(np.random.PCG64(index))
        size = [(64, 64), (40, 64), (64, 20)][index % 3]
        return rng.integers(0, 256, (*size, 3), dtype=np.uint8)

    def image_name(self, index: int) -> str:
        return f"image-{index}"

    def sample(self, index: int) -> ImageSample:
        raise AssertionError("labels are never read")

    @property
    def skipped(self) -> Mapping[str, int]:
        return {}


@dataclass
class LabelledImages(Images):
    """The same with one to three rectangles as instances; every fourth image has none."""

    def sample(self, index: int) -> ImageSample:
        image = self.image(index)
        height, width = image.shape[:2]
        count = 0 if index % 4 == 3 else 1 + index % 3
        rng = np.random.Generator(np.random.PCG64(100 + index))
        boxes = np.zeros((count, 4))
        masks = np.zeros((count, height, width), np.bool_)
        for k in range(count):
            x0, y0 = rng.integers(0, width - 8), rng.integers(0, height - 8)
            x1, y1 = rng.integers(x0 + 6, width + 1), rng.integers(y0 + 6, height + 1)
            masks[k, y0:y1, x0:x1], boxes[k] = True, (x0, y0, x1, y1)
        areas = masks.sum((1, 2)).astype(np.float64)
        ids = tuple(10 * index + k for k in range(count))
        return ImageSample(index, self.image_name(index), image, masks, boxes, areas, ids)
