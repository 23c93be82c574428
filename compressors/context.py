"""What a method is given to work with, and what it gives back."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from compressors.distill.engine import Engine
from data.sample import ImageData
from teachers.sam import Sam, SamConfig


@dataclass(frozen=True)
class RunContext:
    """The surroundings of one compression run.

    Attributes:
        seed: the run's seed; every use of randomness derives its own from it by name.
        folder: where stages keep their state; a rerun continues from it.
        engine: the training loop, with its device and precision.
    """

    seed: int
    folder: Path
    engine: Engine


@dataclass(frozen=True)
class Compressed:
    """What a method made.

    Attributes:
        student: the compressed model, in eval mode.
        images_seen: training images, counted as often as they were used.
        train_seconds: time spent in training loops, over all runs of the stages.
    """

    student: Sam
    images_seen: int
    train_seconds: float


class Compressor(Protocol):
    """A published way to compress SAM. One file a paper; nothing to inherit."""

    paper: ClassVar[str]
    knobs: ClassVar[frozenset[str]]

    def shape(self, teacher: SamConfig) -> SamConfig:
        """The student's shape, without weights or data.

        Raises:
            NotImplementedError: the shape depends on weights under these settings.
        """
        ...

    def compress(self, teacher: Sam, data: ImageData, context: RunContext) -> Compressed:
        """Make a student from a frozen teacher and images; labels are read only by methods that say so."""
        ...
