"""A teacher in its student's terms: as it is, or where the student has another model's prompt encoder and mask decoder.

Then both may be of different generations. The student's frame has the teacher's side, and its embedding the teacher's
grid; but images fill the one frame and leave padding in the other, so what the teacher makes is brought to where the
student sees the same part of the image. What channels mean differs too: a learned 1 x 1 convolution for each map that
both have, which is no part of the student, brings the student's to the teacher's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressors.distill.teacher_outputs import TeacherEmbeddings, TeacherMasks, teacher_masks
from core.feature_layout import Layout, layout_of
from core.feature_maps import FeatureMaps, Features, maps_of
from core.geometry import Stretched, resized_size
from core.protocols import Prompt
from core.seeding import seed_for
from data.batches import ImageBatch, ImageBatches
from data.content import ReadFromFiles
from data.sample import ScaledImage
from teachers.mask_decoder import Decoded
from teachers.sam import Sam, SamConfig

Masks = tuple[TeacherMasks, TeacherMasks]


@dataclass(frozen=True)
class OuterShape:
    """What the rest of a model must know of its image encoder; see :class:`teachers.sam.EncoderShape`."""

    image_size: int
    grid: int
    out_channels: int
    maps: Layout


def in_frame_of(teacher: SamConfig, base: SamConfig) -> SamConfig:
    """The shape of a model whose encoder a student is to replace: ``base``'s but for the frame and the grid."""
    if base is teacher:
        return teacher
    frame, own = teacher.encoder, base.encoder
    return replace(base, encoder=OuterShape(frame.image_size, frame.grid, own.out_channels, layout_of(own)))


class Alike:
    """A student with its teacher's own prompt encoder and decoder.

    Args:
        teacher: frozen.
        embeddings: gives the teacher's.
        batches: the images in the teacher's frame.
    """

    def __init__(self, teacher: Sam, embeddings: TeacherEmbeddings, batches: ImageBatches) -> None:
        self.teacher, self.embeddings = teacher, embeddings
        self.projections = nn.ModuleDict()
        self.batches: ImageBatches = batches

    def trained(self, student: Sam) -> nn.Module:
        """What a stage trains."""
        return nn.ModuleDict({"student": student, "projections": self.projections}) if self.projections else student

    def projected(self, found: Features) -> Features:
        """The student's features, to be compared with :meth:`targets`."""
        return found

    def targets(self, batch: ImageBatch) -> Features:
        """The teacher's features of a batch, in the student's frame."""
        return self.embeddings(batch)

    def masks(self, batch: ImageBatch, points: int, seed: int, step: int, part: int) -> Masks:
        """The teacher's answers to drawn prompts; see :func:`teacher_masks`."""
        return teacher_masks(self.teacher, self.embeddings(batch), batch.valid, points, seed, step, part)


class Across(Alike):
    """A student with another model's prompt encoder and decoder.

    Args:
        student: has the teacher's side of the frame and its grid.
        seed: of the run; the projections' weights are drawn by it.
    """

    def __init__(
        self, student: Sam, teacher: Sam, embeddings: TeacherEmbeddings, batches: ImageBatches, seed: int
    ) -> None:
        super().__init__(teacher, embeddings, PairedBatches(**vars(batches), own_frame=student.input_size))
        self.student_frame = student.input_size
        ours, theirs = (layout_of(model.config.encoder) for model in (student, teacher))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "projections"))
            heads = {name: nn.Conv2d(ours[name][0], theirs[name][0], 1) for name in ours if name in theirs}
        self.projections = nn.ModuleDict(heads).to(next(student.parameters()).device)

    def projected(self, found: Features) -> Features:
        """The student's maps that the teacher has too, each with the teacher's channels."""
        maps = {name: self.projections[name](x) for name, x in maps_of(found).items() if name in self.projections}
        return FeatureMaps(maps)

    def targets(self, batch: ImageBatch) -> Features:
        """The teacher's maps that the student has too."""
        assert isinstance(batch, PairedBatch)
        maps = maps_of(self.embeddings(batch.teacher))
        return FeatureMaps({name: reframed(maps[name], batch.ratio, "border") for name in self.projections})

    def masks(self, batch: ImageBatch, points: int, seed: int, step: int, part: int) -> Masks:
        """Prompts in the student's frame, and the teacher's answers brought there."""
        assert isinstance(batch, PairedBatch)
        seen = _Seen(self.teacher, self.student_frame, batch.ratio)
        return teacher_masks(seen, self.embeddings(batch.teacher), batch.valid, points, seed, step, part)


@dataclass(frozen=True, kw_only=True)
class PairedBatch(ImageBatch):
    """Images in the student's frame, and in the teacher's.

    Attributes:
        teacher: the same images in the teacher's frame.
        ratio: float32 ``[B, 2]``, how much longer the image is in the teacher's frame, along x and y.
    """

    teacher: ImageBatch
    ratio: Tensor

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory."""
        return replace(super().pin_memory(), teacher=self.teacher.pin_memory(), ratio=self.ratio.pin_memory())

    def to(self, device: torch.device) -> Self:
        """The same batch on a device; from page-locked memory without waiting."""
        ratio = self.ratio.to(device, non_blocking=True)
        return replace(super().to(device), teacher=self.teacher.to(device), ratio=ratio)


@dataclass(frozen=True, kw_only=True)
class PairedBatches(ImageBatches):
    """Images in two frames of one side, each read once, as large as the larger of its two sizes needs.

    Attributes:
        frame: the teacher's.
        own_frame: the student's.
    """

    own_frame: int

    def _read(self, index: int) -> ScaledImage:
        if not isinstance(self.data, ReadFromFiles):
            return super()._read(index)
        # An image that fills a frame is the larger one.
        frames = (self.frame, self.own_frame)
        return self.data.training_image(index, next((f for f in frames if isinstance(f, Stretched)), self.frame))

    def made(self, indices: Sequence[int], images: Sequence[ScaledImage]) -> PairedBatch:
        """The batch of images that were read, at their places in the data set."""
        teacher = super().made(indices, images)
        own = replace(self, frame=self.own_frame)
        sizes = [[resized_size(read.size_hw, frame)[::-1] for read in images] for frame in (self.frame, self.own_frame)]
        theirs, ours = (torch.tensor(each, dtype=torch.float32) for each in sizes)
        return PairedBatch(**vars(ImageBatches.made(own, indices, images)), teacher=teacher, ratio=theirs / ours)


def reframed(x: Tensor, ratio: Tensor, beyond: str = "zeros") -> Tensor:
    """Maps ``[N, C, h, w]`` of the teacher's frame as the image lies in the student's; bilinear.

    Args:
        ratio: ``[N, 2]``, see :class:`PairedBatch`.
        beyond: what stands where the teacher's frame ends: ``zeros``, or its ``border``.
    """
    theta = torch.cat([torch.diag_embed(ratio), (ratio - 1)[..., None]], 2)
    places = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x.float(), places, padding_mode=beyond, align_corners=False)


class _Seen:
    """The teacher as :func:`teacher_masks` asks it: in the student's frame."""

    def __init__(self, teacher: Sam, input_size: int, ratio: Tensor) -> None:
        self.teacher, self.input_size, self.ratio = teacher, input_size, ratio

    def decode_frame(self, embeddings: Features, prompt: Prompt) -> Decoded:
        """As :meth:`Sam.decode_frame`, for prompts of all images in turn; logits are 0 beyond the image."""
        count = next(len(part) for part in (prompt.points_xy, prompt.boxes_xyxy) if part is not None)
        ratio = self.ratio.repeat_interleave(count // len(self.ratio), 0)
        points = None if prompt.points_xy is None else prompt.points_xy * ratio[:, None]
        boxes = None if prompt.boxes_xyxy is None else prompt.boxes_xyxy * ratio.repeat(1, 2)
        decoded = self.teacher.decode_frame(embeddings, replace(prompt, points_xy=points, boxes_xyxy=boxes))
        return decoded._replace(logits=reframed(decoded.logits, ratio))
