"""TinySAM: distil at every stage, on the prompts and masks that are hard (Shu et al. 2023, arXiv 2312.13789)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from compressors.context import Compressed, RunContext
from compressors.distill.engine import Stage
from compressors.distill.losses import embedding_l1
from compressors.distill.schedule import Optimisation
from compressors.full_stage import Truth, annotation_losses, output_loss, token_loss, truth_of
from compressors.hard_prompts import draw_iterations, draw_points, hard_points, mask_cells, point_prompt
from compressors.settings import check_above_zero, check_at_least, check_choices, check_unvalidated
from core.errors import InputError
from core.protocols import Prompt
from data.instance_batches import InstanceBatch, InstanceBatches
from data.sample import ImageData
from students.student import Student
from teachers.sam import Sam, SamConfig

CHOICES = {"boxes": ("none", "also", "alone"), "decoder": ("trained", "frozen")}
BOX_JITTER = 0.04
"""Standard deviation of the noise on each side of a box prompt, as a share of the side."""


@dataclass(frozen=True)
class TinySam:
    """Full-stage distillation (section 3.2), hard prompt sampling and hard mask weighting (section 3.3).

    The total loss is ``embedding * L_embedding + token * L_token + output * L_output + annotations * (focal + dice +
    IoU)`` (eqs. 4, 5, 7). What the paper leaves open is a setting.

    Attributes:
        student: the image encoder to be distilled, from random weights.
        init: a model to begin with instead (a file of any layout, or a released model's name), decoder included.
        embedding, token, output: weights of the three distances to the teacher; the paper does not give them.
        annotations: weight of the losses against annotated masks.
        hard_prompts: each point is where the student's mask is missing; false draws it anywhere in the mask.
        hard_masks: the output's distance weighs more where the student is behind its teacher.
        epsilon: of that weight.
        prompts: masks a picture, each asked for by a point, a box, or both.
        boxes: box prompts: ``none`` (the paper describes points alone), ``also``, ``alone``. Without them
            the single-mask answer to boxes is forgotten.
        decoder: whether the student's mask decoder is ``trained`` or ``frozen``.
        steps: half of the optimizer steps. SlimSAM distils twice, so equal ``steps`` see equally many images.
        batch: pictures a batch.
        optimisation: of everything.
    """

    student: Student = field(default_factory=Student)
    init: str | None = None
    embedding: float = 1.0
    token: float = 1.0
    output: float = 0.1
    annotations: float = 1.0
    hard_prompts: bool = True
    hard_masks: bool = True
    epsilon: float = 1e-6
    prompts: int = 64
    boxes: str = "also"
    decoder: str = "trained"
    steps: int = 250
    batch: int = 1
    optimisation: Optimisation = field(default_factory=Optimisation)

    paper: ClassVar[str] = "arXiv 2312.13789"
    knobs: ClassVar[frozenset[str]] = frozenset()
    reads_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choices(self, CHOICES)
        check_at_least(self, embedding=0, token=0, output=0, annotations=0, prompts=1, steps=1, batch=1)
        check_above_zero(self, "epsilon")
        check_unvalidated(self.optimisation)
        if not (self.embedding or self.token or self.output or self.annotations):
            raise InputError("method.embedding, token, output and annotations are all 0; give one of them a weight")

    def shape(self, teacher: SamConfig) -> SamConfig:
        """The student's encoder beside the teacher's decoder."""
        if self.init is not None:
            raise NotImplementedError("the shape is that of method.init")
        return self.student.shape(teacher)

    def compress(self, teacher: Sam, data: ImageData, context: RunContext) -> Compressed:
        """One run, end to end. Annotated masks give the prompts, and are targets beside the teacher's answers."""
        student = self._begin(teacher, context)
        wanted = context.teacher_embeddings(teacher)

        def loss(batch: InstanceBatch, step: int) -> dict[str, Tensor]:
            pictures = batch.pictures
            targets, embeddings = wanted(pictures), student.encode(pictures.images)
            terms: dict[str, Tensor] = {}
            if self.embedding:
                terms["embedding"] = self.embedding * embedding_l1(embeddings, targets, pictures.valid)
            truth = truth_of(batch.coverage, pictures.valid, batch.labelled)
            for kind, prompt in self._prompts(student, embeddings, batch, context.seed):
                of_kind = self._prompted(teacher, targets, student, embeddings, prompt, truth)
                terms |= {f"{kind}_{name}": term for name, term in of_kind.items()}
            return terms

        stage = Stage(
            name="full_stage",
            key=context.key(self),
            model=student,
            batch=InstanceBatches(
                data, teacher.input_size, teacher.config.encoder.grid, context.seed, self.prompts, BOX_JITTER
            ),
            batch_size=self.batch,
            loss=loss,
            steps=2 * self.steps,
            optimisation=self.optimisation,
            whole=lambda: student,
        )
        progress = context.engine.fit(stage)
        return Compressed(student.eval().requires_grad_(False), (progress,))

    def _begin(self, teacher: Sam, context: RunContext) -> Sam:
        if self.init is not None:
            student = context.initial(self.init, teacher).to(context.engine.device)
            student.name = f"{teacher.name}-tinysam"
        else:
            encoder = context.encoder(self.student, teacher.config)
            student = teacher.with_encoder(encoder, f"{teacher.name}-{self.student.name}")
        student.requires_grad_(False).image_encoder.requires_grad_(True)
        # Prompts mean the same to both: the prompt encoder stays as it is.
        student.mask_decoder.requires_grad_(self.decoder == "trained")
        return student

    def _prompts(
        self, student: Sam, embeddings: Tensor, batch: InstanceBatch, seed: int
    ) -> Iterator[tuple[str, Prompt]]:
        if self.boxes != "alone":
            iterations, chances = draw_iterations(seed, batch.places, self.prompts)
            chances = chances.to(embeddings.device)
            if self.hard_prompts:
                points = hard_points(student, embeddings.detach(), batch.coverage, iterations, chances)
            else:
                points = draw_points(mask_cells(batch.coverage), chances[:, 0], student.input_size)
            yield "point", point_prompt(points)
        if self.boxes != "none":
            yield "box", Prompt(boxes_xyxy=batch.boxes_xyxy.flatten(0, 1))

    def _prompted(
        self, teacher: Sam, targets: Tensor, student: Sam, embeddings: Tensor, prompt: Prompt, truth: Truth
    ) -> dict[str, Tensor]:
        """The terms that need prompts, weighted."""
        found = student.decode_frame(embeddings, prompt)
        terms: dict[str, Tensor] = {}
        if self.token or self.output:
            with torch.no_grad():
                expected = teacher.decode_frame(targets, prompt)
            if self.token:
                terms["token"] = self.token * token_loss(found, expected, truth)
            if self.output:
                epsilon = self.epsilon if self.hard_masks else None
                terms["output"] = self.output * output_loss(found, expected, truth, epsilon)
        if self.annotations:
            terms |= {name: self.annotations * term for name, term in annotation_losses(found, truth).items()}
        return terms
