"""Students by name: which image encoder takes the place of the teacher's."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core.errors import InputError
from core.feature_layout import layout_of
from students.encoder_shapes import SIZES, TimmConfig, TimmMapsConfig, TinyVitConfig, TinyVitMapsConfig

if TYPE_CHECKING:
    from torch import nn

    from teachers.sam import SamConfig


@dataclass(frozen=True)
class Student:
    """An image encoder to be distilled, in the frame, grid and channels of whatever teacher it gets.

    Attributes:
        kind: ``tiny_vit``, or ``timm`` for any of timm's backbones.
        name: of a size (``tiny_vit_5m``, ``tiny_vit_11m``, ``tiny_vit_21m``, ``tiny_vit_pocket``), or of a backbone.
        stages: feature maps of a timm backbone, in rising order; empty chooses them by the grid.
        weights: a file of ImageNet weights to begin with (Microsoft's or timm's, of the named backbone), or None.
    """

    kind: str = "tiny_vit"
    name: str = "tiny_vit_5m"
    stages: tuple[int, ...] = ()
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("tiny_vit", "timm"):
            raise InputError(f"student.kind={self.kind} is not one of tiny_vit, timm")
        if self.kind == "tiny_vit" and self.name not in SIZES:
            raise InputError(f"student.name={self.name} is no size of TinyViT; choose one of {', '.join(SIZES)}")
        if self.kind == "tiny_vit" and self.stages:
            raise InputError(
                f"student.stages={list(self.stages)}: a TinyViT has one feature map; leave it out, or give student=timm"
            )
        rising = sorted(set(self.stages), key=lambda stage: (stage < 0, stage))
        if list(self.stages) != rising:
            raise InputError(f"student.stages={list(self.stages)}: give each stage once, in rising order: {rising}")

    def shape(self, teacher: "SamConfig") -> "SamConfig":
        """The student's shape beside a teacher."""
        frame, grid, channels = teacher.encoder.image_size, teacher.encoder.grid, teacher.encoder.out_channels
        several = len(layout_of(teacher.encoder)) > 1
        if self.kind == "timm":
            kind = TimmMapsConfig if several else TimmConfig
            return replace(teacher, encoder=kind(self.name, frame, grid, tuple(self.stages), channels))
        size = SIZES[self.name]
        shape = (TinyVitMapsConfig if several else TinyVitConfig)(
            frame, grid, size.embed_dims, size.depths, size.num_heads, size.window_sizes, out_channels=channels
        )
        return replace(teacher, encoder=shape)

    def make(self, teacher: "SamConfig", seed: int) -> "nn.Module":
        """The encoder with initial weights drawn from a run's seed.

        Raises:
            InputError: timm has no such backbone, or it does not take the teacher's images.
        """
        # Here, so that settings are checked without PyTorch.
        import torch

        from core.seeding import seed_for
        from students.kinds import KINDS, kind_of

        shape = self.shape(teacher).encoder
        _, build = KINDS[kind_of(shape)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "weights"))
            encoder = build(shape)
        if self.kind == "timm":
            # Here, since timm takes a second to import.
            from students.timm_encoder import check_backbone

            check_backbone(encoder)
        return encoder
