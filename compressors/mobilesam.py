"""MobileSAM: distil the image encoder alone into a light one (Zhang et al. 2023, arXiv 2306.14289)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compressors.distill.across import Across, Alike, in_frame_of
from compressors.distill.engine import Frozen, Stage
from compressors.distill.losses import embedding_mse, embedding_rmse
from compressors.distill.optimizer import OptimizerConfig
from compressors.distill.state import Progress
from compressors.distill.teacher_outputs import TeacherMasks, mask_loss
from compressors.method import Compressed, Compressor, RunContext, trainable
from compressors.settings import MobileSamSettings
from core.errors import InputError
from core.feature_layout import layout_of
from data.batches import ImageBatch, ImageBatches
from data.sample import ImageData
from teachers.catalog import MODELS
from teachers.sam import Sam, SamConfig


@dataclass(frozen=True)
class MobileSam(MobileSamSettings, Compressor):
    """A student regresses the teacher's image embeddings; prompt encoder and mask decoder are the teacher's."""

    paper: ClassVar[str] = "arXiv 2306.14289"
    stages: ClassVar[tuple[str, ...]] = ("encoder", "decoder")

    def shape(self, teacher: SamConfig) -> SamConfig:
        """The student's encoder beside the teacher's decoder, or that of :attr:`decoder_of`."""
        if self.decoder_of is None:
            return self.student.shape(teacher)
        if self.decoder_of not in MODELS:
            raise NotImplementedError("the shape of the decoder is that of method.decoder_of")
        return self.student.shape(in_frame_of(teacher, MODELS[self.decoder_of].config))

    def compress(self, teacher: Sam, data: ImageData, context: RunContext) -> Compressed:
        """Distil the encoder; then, where settings say so, let the decoder follow. Labels are never read."""
        batches = ImageBatches(data, teacher.input_size, teacher.config.encoder.grid, context.seed)
        known = teacher, context.teacher_embeddings(teacher), batches
        own, base, name = self.decoder_of is None, teacher, f"{teacher.name}-{self.student.name}"
        if self.decoder_of is not None:
            base = trainable(context.load(self.decoder_of, "method.decoder_of"), f"method.decoder_of={self.decoder_of}")
            base = base.to(context.engine.device)
            name += f"-{base.name}"
        maps = layout_of(teacher.config.encoder).keys() & layout_of(base.config.encoder).keys()
        if self.high_res is not None and (len(maps) == 1 or self.distillation != "decoupled"):
            which = "the image embedding is the only map" if len(maps) == 1 else "masks are the only target"
            raise InputError(f"method.high_res={self.high_res}: {which} that student and teacher share; leave it out")
        encoder = context.encoder(self.student, in_frame_of(teacher.config, base.config))
        student = base.with_encoder(encoder, name).requires_grad_(False)
        seen = Alike(*known) if own else Across(student, *known, context.seed)

        def decoupled(batch: ImageBatch, step: int) -> dict[str, Tensor]:
            distance = embedding_mse if self.loss == "mse" else embedding_rmse
            valid, found = batch.valid if self.padding == "ignore" else None, student.encode(batch.images)
            expected, answered = targets(batch, step)
            terms = {"embedding": distance(seen.projected(found), expected, valid, self.high_res)}
            return terms if answered is None else terms | mask_loss(student, found, answered)

        def coupled(batch: ImageBatch, step: int) -> dict[str, Tensor]:
            return mask_loss(student, student.encode(batch.images), masks(batch, step))

        def decoder_alone(batch: ImageBatch, step: int) -> dict[str, Tensor]:
            with torch.no_grad():
                found = student.eval().encode(batch.images)
            return mask_loss(student, found, masks(batch, step))

        def answers(batch: ImageBatch, step: int) -> tuple[TeacherMasks, TeacherMasks]:
            part = batch.start % (self.batch * self.optimisation.accumulate) // self.batch
            return seen.masks(batch, self.prompts, context.seed, step, part)

        # Another model's decoder has still to learn what the embedding means, from masks.
        targets = Frozen[ImageBatch, Any](
            lambda batch, step: (seen.targets(batch), None if own else answers(batch, step))
        )
        masks = Frozen(answers)

        def fit(name: str, *trained: nn.Module, **changes: object) -> Progress:
            model = seen.trained(student).requires_grad_(False)
            for part in trained:
                part.requires_grad_(True)
            stage = Stage(
                name=name,
                key=context.key(self),
                model=model,
                batch=seen.batches,
                batch_size=self.batch,
                full_model=lambda: student,
                whole_batches=self.loss == "root" or changes["loss"] is not decoupled or not own,
                frozen=targets if changes["loss"] is decoupled else masks,
                **changes,  # type: ignore[arg-type]
            )
            return context.engine.fit(stage)

        loss, trained = decoupled if self.distillation == "decoupled" else coupled, list[nn.Module]([encoder])
        if self.distillation == "coupled" or (loss is decoupled and not own):
            trained += [student.mask_decoder, seen.projections]
        stages = [fit("encoder", *trained, loss=loss, steps=2 * self.steps, optimisation=self.optimisation)]
        if self.decoder_steps:
            optimisation = OptimizerConfig(
                self.decoder_lr,
                "adamw",
                accumulate=self.optimisation.accumulate,
                schedule="cosine",
                warmup=10,
                clip=1.0,
            )
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
