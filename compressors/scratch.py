"""The control of SlimSAM's table 2, "scratch distillation": the pruned shape, filled at random, distilled alike."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from compressors.distill.engine import Frozen, Stage
from compressors.distill.losses import embedding_mse
from compressors.method import Compressed, Compressor, RunContext
from compressors.settings import ScratchSettings
from core.seeding import seed_for
from data.batches import ImageBatch, ImageBatches
from data.sample import ImageData
from students.kinds import KINDS, kind_of
from students.pruned_vit import pruned_shape
from teachers.initial_weights import initialise_encoder
from teachers.sam import Sam, SamConfig


@dataclass(frozen=True)
class Scratch(ScratchSettings, Compressor):
    """A randomly initialised encoder of the widths that SlimSAM would leave, distilled on the image embedding."""

    paper: ClassVar[str] = "arXiv 2312.05284, Table 2"
    shrinks: ClassVar[bool] = True
    stages: ClassVar[tuple[str, ...]] = ("scratch",)

    def shape(self, teacher: SamConfig) -> SamConfig:
        """The student's shape, SlimSAM's at the same ratio."""
        return pruned_shape(teacher, self.ratio)

    def compress(self, teacher: Sam, data: ImageData, context: RunContext) -> Compressed:
        """Distil the final image embedding. Labels are never read."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(context.seed, "weights"))
            # Its convolutions draw their weights when they are made.
            shape: Any = self.shape(teacher.config).encoder
            encoder: Any = KINDS[kind_of(shape)][1](shape)
            initialise_encoder(encoder)
        encoder.to(context.engine.device)
        teacher_embeddings = context.teacher_embeddings(teacher)
        expected = Frozen[ImageBatch, Any](lambda batch, step: teacher_embeddings(batch))
        name = f"{teacher.name}-scratch-{self.ratio}"

        def loss(batch: ImageBatch, step: int) -> dict[str, torch.Tensor]:
            return {"embedding": embedding_mse(encoder(batch.images), expected(batch, step), batch.valid)}

        progress = context.engine.fit(
            Stage(
                name="scratch",
                key=context.key(self),
                model=encoder,
                batch=ImageBatches(data, teacher.input_size, encoder.config.grid, context.seed),
                batch_size=self.batch,
                loss=loss,
                frozen=expected,
                steps=2 * self.steps,
                optimisation=self.optimisation,
                full_model=lambda: teacher.with_encoder(encoder, name),
            )
        )
        student = teacher.with_encoder(encoder, name).eval().requires_grad_(False)
        return Compressed(student, (progress,))
