"""What a compression method is: what it is given to work with, what it must and may say, and what it gives back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from compressors.distill.engine import Engine
from compressors.distill.state import Progress
from compressors.distill.teacher_outputs import TeacherEmbeddings, embedding_cache
from compressors.setting_checks import MethodSettings, check_above_zero, check_at_least, check_ratio, check_unvalidated
from core.errors import InputError
from core.feature_layout import layout_of
from data.sample import ImageData
from students.files import load_model
from students.initial_weights import load_imagenet
from students.quantized.plan import plan_of
from students.student import Student
from teachers.sam import Sam, SamConfig

__all__ = [
    "Compressed",
    "Compressor",
    "RunContext",
    "check_above_zero",
    "check_at_least",
    "check_ratio",
    "check_unvalidated",
]


@dataclass(frozen=True)
class RunContext:
    """The surroundings of one compression run.

    Attributes:
        seed: the run's seed; every use of randomness derives its own from it by name.
        folder: where stages keep their state; a rerun continues from it.
        engine: the training loop, with its device and precision.
        cache: whether the teacher's embeddings are kept on ``disk``, in ``memory``, or not (``off``).
        cache_folder: where on disk; other runs find them there. None: in ``folder``.
        validate: scores a model on labelled training images, higher being better; None where there are none.
        load: reads a model by its file or its released name; the setting that names it is for messages.
        sha256: of all that the run depends on, its images too; empty where nobody says.
    """

    seed: int
    folder: Path
    engine: Engine
    cache: str = "memory"
    cache_folder: Path | None = None
    validate: Callable[[Sam], float] | None = None
    load: Callable[[str, str], Sam] = field(default=lambda name, setting: load_model(Path(name)))
    sha256: str = ""

    def key(self, method: object) -> str:
        """What saved work must have been begun with to be gone on with: this run's settings, weights and images.

        Args:
            method: whose settings stand for the run's where nobody says what it depends on.
        """
        return self.sha256 or f"{method} seed={self.seed}"

    def teacher_embeddings(self, teacher: Sam) -> TeacherEmbeddings:
        """The teacher's image embeddings, kept as the settings say."""
        encoder = teacher.image_encoder
        kept = embedding_cache(self.cache, self.cache_folder or self.folder / "embeddings", encoder)
        return TeacherEmbeddings(encoder, self.engine, kept)

    def encoder(self, student: Student, teacher: SamConfig) -> nn.Module:
        """A student's image encoder on the device, its weights random (by the run's seed) or from the file it names.

        Raises:
            InputError: the file cannot be read, or is of another backbone.
        """
        encoder = student.make(teacher, self.seed).to(self.engine.device)
        if student.weights is not None:
            load_imagenet(encoder, student.weights)
        return encoder

    def initial(self, name: str, teacher: Sam, shared: Collection[str] = ()) -> Sam:
        """A model to begin with, which must take the teacher's images and answer in its terms.

        Args:
            shared: what alone must be the teacher's, of the keys of :func:`_outside`; empty: all of them.

        Raises:
            InputError: it cannot be read, or its frame, embedding or decoder are not the teacher's.
        """
        model = self.load(name, "method.init")
        mine, theirs = (_outside(m.config) for m in (model, teacher))
        keys = [key for key in shared or mine if mine[key] != theirs[key]]
        if differing := [f"{key} {mine[key]}, the teacher's {theirs[key]}" for key in keys]:
            raise InputError(f"method.init={name}: {'; '.join(differing)}; begin with a student of this teacher")
        return model


def trainable(model: Sam, setting: str) -> Sam:
    """A model of which something is to be trained.

    Args:
        setting: that names it, key and value, for messages.

    Raises:
        InputError: it is quantised.
    """
    if plan_of(model) is not None:
        raise InputError(f"{setting}: is quantised, so nothing of it can learn; give the model it was made from")
    return model


def _outside(config: SamConfig) -> dict[str, Any]:
    """What a student shares with its teacher."""
    encoder = config.encoder
    return {
        "side of the frame": encoder.image_size,
        "grid": encoder.grid,
        "maps": " and ".join(layout_of(encoder)),
        "channels": encoder.out_channels,
        "heads of the decoder": config.decoder_heads,
        "width of the decoder's MLPs": config.decoder_mlp_width,
        "width of the IoU head": config.iou_width,
    }


@dataclass(frozen=True)
class Compressed:
    """What a method made.

    Attributes:
        student: the compressed model, in eval mode.
        stages: what its training took, stage by stage.
        importance_images: images that channels were scored by, counted for each cut; 0 of methods that score none.
    """

    student: Sam
    stages: tuple[Progress, ...]
    importance_images: int = 0

    @property
    def images_seen(self) -> int:
        """Training images, counted as often as they were used."""
        return sum(stage.images for stage in self.stages)

    @property
    def train_seconds(self) -> float:
        """Time spent in training loops, over all runs of the stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def device_hours(self) -> float:
        """The same in hours, of all devices together."""
        return sum(stage.device_seconds for stage in self.stages) / 3600

    @property
    def precisions(self) -> tuple[str, ...]:
        """That stages were trained in, by name; none where nothing was trained."""
        return tuple(sorted({stage.precision for stage in self.stages if stage.images and stage.precision}))

    @property
    def peak_memory_bytes(self) -> int:
        """Most memory a training process needed (see :mod:`compressors.distill.engine`)."""
        return max((stage.peak_memory_bytes for stage in self.stages), default=0)


class Compressor(MethodSettings, ABC):
    """A way to compress SAM: a frozen dataclass of its settings, in a file of its own.

    ``paper``, :meth:`shape` and :meth:`compress` must be there; all else has a default. Whoever runs, lists, logs or
    tabulates methods asks nothing else of them.

    Attributes:
        paper: where it is published; stands in every result.
        stages: names of all stages that it may train, in order; curves of logs are found by them.
        shrinks: whether the student must have fewer parameters than its teacher, as after pruning.
    """

    paper: ClassVar[str]
    stages: ClassVar[tuple[str, ...]] = ()
    shrinks: ClassVar[bool] = False

    @abstractmethod
    def shape(self, teacher: SamConfig) -> SamConfig:
        """The student's shape, without weights or data.

        Raises:
            NotImplementedError: the shape depends on weights under these settings.
        """

    @abstractmethod
    def compress(self, teacher: Sam, data: ImageData, context: RunContext) -> Compressed:
        """Make a student from a frozen teacher and images; labels are read only where :attr:`reads_labels` says so."""
