"""MobileSAM: distil the image encoder alone into a light one (Zhang et al. 2023, arXiv 2306.14289)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compressors.distill.engine import Frozen, Stage
from compressors.distill.losses import embedding_mse, embedding_rmse
from compressors.distill.optimizer import OptimizerConfig
from compressors.distill.state import Progress
from compressors.distill.teacher_outputs import TeacherMasks, mask_loss, teacher_masks
from compressors.method import Compressed, Compressor, RunContext
from compressors.settings import MobileSamSettings
from data.batches import ImageBatch, ImageBatches
from data.sample import ImageData
from teachers.sam import Sam, SamConfig


@dataclass(frozen=True)
class MobileSam(MobileSamSettings, Compressor):
    """A student regresses the teacher's image embeddings; prompt encoder and mask decoder are the teacher's."""

    paper: ClassVar[str] = "arXiv 2306.14289"
    stages: ClassVar[tuple[str, ...]] = ("encoder", "decoder")

    def shape(self, teacher: SamConfig) -> SamConfig:
        """The student's encoder beside the teacher's decoder."""
        return self.student.shape(teacher)

    def compress(self, teacher: Sam, data: ImageData, context: RunContext) -> Compressed:
        """Distil the encoder; then, where settings say so, let the decoder follow. Labels are never read."""
        encoder = context.encoder(self.student, teacher.config)
        student = teacher.with_encoder(encoder, f"{teacher.name}-{self.student.name}").requires_grad_(False)
        batches = ImageBatches(data, teacher.input_size, teacher.config.encoder.grid, context.seed)
        teacher_embeddings = context.teacher_embeddings(teacher)

        def decoupled(batch: ImageBatch, step: int) -> dict[str, Tensor]:
            distance = embedding_mse if self.loss == "mse" else embedding_rmse
            valid = batch.valid if self.padding == "ignore" else None
            return {"embedding": distance(student.encode(batch.images), embeddings(batch, step), valid)}

        def coupled(batch: ImageBatch, step: int) -> dict[str, Tensor]:
            return mask_loss(student, student.encode(batch.images), masks(batch, step))

        def decoder_alone(batch: ImageBatch, step: int) -> dict[str, Tensor]:
            with torch.no_grad():
                found = student.eval().encode(batch.images)
            return mask_loss(student, found, masks(batch, step))

        def answers(batch: ImageBatch, step: int) -> tuple[TeacherMasks, TeacherMasks]:
            return teacher_masks(teacher, teacher_embeddings(batch), batch.valid, self.prompts, context.seed, step)

        embeddings = Frozen[ImageBatch, Any](lambda batch, step: teacher_embeddings(batch))
        masks = Frozen(answers)

        def fit(name: str, *trained: nn.Module, **changes: object) -> Progress:
            student.requires_grad_(False)
            for part in trained:
                part.requires_grad_(True)
            stage = Stage(
                name=name,
                key=context.key(self),
                model=student,
                batch=batches,
                batch_size=self.batch,
                full_model=lambda: student,
                whole_batches=self.loss == "root" or changes["loss"] is not decoupled,
                frozen=embeddings if changes["loss"] is decoupled else masks,
                **changes,  # type: ignore[arg-type]
            )
            return context.engine.fit(stage)

        trained = [encoder, student.mask_decoder] if self.distillation == "coupled" else [encoder]
        loss = decoupled if self.distillation == "decoupled" else coupled
        stages = [fit("encoder", *trained, loss=loss, steps=2 * self.steps, optimisation=self.optimisation)]
        if self.decoder_steps:
            optimisation = OptimizerConfig(self.decoder_lr, "adamw", schedule="cosine", warmup=10, clip=1.0)
            stages.append(
                fit(
                    "decoder",
                    student.mask_decoder,
                    loss=decoder_alone,
                    steps=self.decoder_steps,
                    optimisation=optimisation,
                )
            )
        return Compressed(student.eval().requires_grad_(False), tuple(stages))
