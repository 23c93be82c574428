"""TinySAM: distil at every stage, on the prompts and masks that are hard (Shu et al. 2023, arXiv 2312.13789)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compressors.distill.engine import Frozen, Stage
from compressors.distill.losses import FOCAL_SHARE, dice_loss, embedding_l1, focal_loss, mask_cells, mask_iou
from compressors.distill.teacher_outputs import best_of_three
from compressors.method import Compressed, Compressor, RunContext, trainable
from compressors.settings import TinySamSettings
from core.protocols import Prompt
from core.seeding import generator_for
from data.batches import InstanceBatch, InstanceBatches
from data.sample import ImageData
from teachers.mask_decoder import Decoded
from teachers.sam import Sam, SamConfig

BOX_JITTER = 0.04
"""Standard deviation of the noise on each side of a box prompt, as a share of the side."""


@dataclass(frozen=True)
class TinySam(TinySamSettings, Compressor):
    """Full-stage distillation (section 3.2), hard prompt sampling and hard mask weighting (section 3.3).

    The total loss is ``embedding * L_embedding + token * L_token + output * L_output + annotations * (focal + dice +
    IoU)`` (eqs. 4, 5, 7). What the paper leaves open is a setting.
    """

    paper: ClassVar[str] = "arXiv 2312.13789"
    stages: ClassVar[tuple[str, ...]] = ("full_stage",)

    @property
    def reads_labels(self) -> bool:
        """Always: annotated masks give the prompts."""
        return True

    def shape(self, teacher: SamConfig) -> SamConfig:
        """The student's encoder beside the teacher's decoder."""
        if self.init is not None:
            raise NotImplementedError("the shape is that of method.init")
        return self.student.shape(teacher)

    def compress(self, teacher: Sam, data: ImageData, context: RunContext) -> Compressed:
        """One run, end to end. Annotated masks give the prompts, and are targets beside the teacher's answers."""
        student = self._begin(teacher, context)
        teacher_embeddings = context.teacher_embeddings(teacher)

        def of_teacher(batch: InstanceBatch, step: int) -> tuple[Tensor, Decoded | None]:
            targets = teacher_embeddings(batch.images)
            decoded = (self.token or self.output) and self.boxes != "none"
            return targets, teacher.decode_frame(targets, box_prompt(batch)) if decoded else None

        frozen = Frozen(of_teacher)

        def loss(batch: InstanceBatch, step: int) -> dict[str, Tensor]:
            images = batch.images
            (targets, of_boxes), embeddings = frozen(batch, step), student.encode(images.images)
            terms: dict[str, Tensor] = {}
            if self.embedding:
                terms["embedding"] = self.embedding * embedding_l1(embeddings, targets, images.valid)
            truth = truth_of(batch.coverage, images.valid, batch.labelled, self.tiny_masks)
            for kind, prompt in self._prompts(student, embeddings, batch, context.seed):
                ready = of_boxes if kind == "box" else None
                of_kind = self._prompted(teacher, targets, student, embeddings, prompt, truth, ready)
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
            full_model=lambda: student,
            frozen=frozen,
        )
        progress = context.engine.fit(stage)
        return Compressed(student.eval().requires_grad_(False), (progress,))

    def _begin(self, teacher: Sam, context: RunContext) -> Sam:
        if self.init is not None:
            student = trainable(context.initial(self.init, teacher), f"method.init={self.init}")
            student = student.to(context.engine.device)
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
            yield "box", box_prompt(batch)

    def _prompted(
        self,
        teacher: Sam,
        targets: Tensor,
        student: Sam,
        embeddings: Tensor,
        prompt: Prompt,
        truth: "Truth",
        expected: Decoded | None = None,
    ) -> dict[str, Tensor]:
        """The terms that need prompts, weighted; ``expected`` is the teacher's answer where it is known already."""
        found = student.decode_frame(embeddings, prompt)
        terms: dict[str, Tensor] = {}
        if self.token or self.output:
            if expected is None:
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


# Online hard prompt sampling (section 3.3, eqs. 8 and 9): ``M_i = D(E_prompt(P_i), E_img(I))`` is the student's answer
# to a point, and ``P_(i+1)`` is drawn from ``M_gt \ M_i`` and replaces it. The iteration whose point is trained on is
# drawn uniformly from 0 to 9.

ITERATIONS = 10
"""Points ``P_0`` to ``P_9``."""


def draw_iterations(seed: int, places: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
    """What chance decides for the images at some places of the training order, on the CPU.

    Args:
        count: points an image.

    Returns:
        The iteration of each image, int64 ``[B]``, and uniform numbers, float32 ``[B, ITERATIONS, count]``.
    """
    generators = [generator_for(seed, "hard prompts", place) for place in places]
    iterations = [torch.randint(ITERATIONS, (), generator=generator) for generator in generators]
    chances = [torch.rand(ITERATIONS, count, generator=generator) for generator in generators]
    return torch.stack(iterations), torch.stack(chances)


def draw_points(cells: Tensor, chance: Tensor, frame: int) -> Tensor:
    """One point in each of several regions, every cell being equally likely.

    Args:
        cells: bool ``[..., l, l]``; where a region has none, the point is that of the first cell.
        chance: ``[...]`` uniform in [0, 1).
        frame: side of the model's frame.

    Returns:
        xy float32 ``[..., 2]``, the cells' centres as pixels of the frame.
    """
    side = cells.shape[-1]
    # float32 counts cells exactly: there are fewer than 2 ** 24
    counted = cells.flatten(-2).cumsum(-1, dtype=torch.float32)
    rank = (chance * counted[..., -1]).floor()
    index = (counted > rank[..., None]).to(torch.uint8).argmax(-1)
    xy = torch.stack([index % side, index // side], -1).float()
    return (xy + 0.5) * (frame / side) - 0.5


@torch.no_grad()
def hard_points(student: Sam, embeddings: Tensor, coverage: Tensor, iterations: Tensor, chances: Tensor) -> Tensor:
    """The point of each mask at its image's iteration; where nothing is missing any more, a point stays.

    Args:
        embeddings: the student's, ``[B, C, g, g]``.
        coverage: masks ``[B, K, l, l]`` in [0, 1].
        iterations: int64 ``[B]`` on the CPU; 0 gives a random point of the mask, ``P_0``.
        chances: uniform numbers ``[B, ITERATIONS, K]``.

    Returns:
        xy float32 ``[B, K, 2]``, pixels of the frame.
    """
    frame, masks = student.input_size, mask_cells(coverage)
    points = draw_points(masks, chances[:, 0], frame)
    for iteration in range(1, int(iterations.max()) + 1):
        active = (iterations >= iteration).nonzero()[:, 0].to(points.device)
        answered = student.decode_frame(embeddings[active], point_prompt(points[active]))
        missed = masks[active] & ~best_of_three(answered.logits, answered.iou_pred).unflatten(0, (len(active), -1))
        drawn = draw_points(missed, chances[active, iteration], frame)
        points[active] = torch.where(missed.flatten(2).any(2)[..., None], drawn, points[active])
    return points


def point_prompt(points_xy: Tensor) -> Prompt:
    """Foreground points ``[B, K, 2]`` as ``B * K`` prompts, those of one image together."""
    return Prompt.foreground(points_xy.flatten(0, 1)[:, None])


def box_prompt(batch: InstanceBatch) -> Prompt:
    """The boxes ``[B, K, 4]`` of a batch as ``B * K`` prompts, those of one image together."""
    return Prompt(boxes_xyxy=batch.boxes_xyxy.flatten(0, 1))


# The losses (section 3.2): what the student's decoder says against its teacher's, and against the annotated masks. All
# are means over an image's prompts, and then over images; one without annotations adds nothing.


@dataclass(frozen=True)
class Truth:
    """What ``N = B * K`` prompts mean.

    Attributes:
        coverage: float ``[N, l, l]`` in [0, 1].
        valid: bool ``[N, l, l]``, the cells that hold image.
        weight: float ``[N]``, 1 / N, or 0 for prompts on images without annotations.
        tiny_masks: see :class:`compressors.settings.TinySamSettings`.
    """

    coverage: Tensor
    valid: Tensor
    weight: Tensor
    tiny_masks: str = "cell"

    @property
    def cells(self) -> Tensor:
        """The cells that are mask, 0 or 1, by which IoUs go: float ``[N, l, l]``."""
        return (mask_cells(self.coverage) if self.tiny_masks == "cell" else self.coverage >= 0.5).float()


def truth_of(coverage: Tensor, valid: Tensor, labelled: Tensor, tiny_masks: str = "cell") -> Truth:
    """The truth of a batch.

    Args:
        coverage: ``[B, K, l, l]``.
        valid: bool ``[B, g, g]``, of the embedding's cells.
        labelled: bool ``[B]``.
        tiny_masks: see :class:`compressors.settings.TinySamSettings`.
    """
    images, prompts, side = coverage.shape[:3]
    per_cell = side // valid.shape[-1]
    fine = valid.repeat_interleave(per_cell, 1).repeat_interleave(per_cell, 2)
    weight = labelled.float().repeat_interleave(prompts) / (images * prompts)
    return Truth(coverage.flatten(0, 1), fine.repeat_interleave(prompts, 0), weight, tiny_masks)


def hard_mask_weights(student_iou: Tensor, teacher_iou: Tensor, epsilon: float) -> Tensor:
    """``H = sigmoid(IoU_T / (IoU_S + epsilon) - 1)``, without gradient (eq. 6): above 1/2 where the student is behind.

    Args:
        student_iou, teacher_iou: with the annotated mask, same shape.
    """
    return torch.sigmoid(teacher_iou / (student_iou + epsilon) - 1).detach()


def token_loss(student: Decoded, teacher: Decoded, truth: Truth) -> Tensor:
    """L1 distance of the output tokens after the two-way transformer (eq. 3)."""
    distance = (student.tokens.float() - teacher.tokens.float()).abs().mean((1, 2))
    return (distance * truth.weight).sum()


def output_loss(student: Decoded, teacher: Decoded, truth: Truth, epsilon: float | None) -> Tensor:
    """L1 distance of the mask logits of all four candidates, over the cells that hold image (eq. 2).

    Args:
        epsilon: of hard mask weighting, each candidate having its own weight (eq. 6, 7); None weighs all alike.
    """
    valid = truth.valid[:, None].float()
    errors = (student.logits.float() - teacher.logits.float()).abs() * valid
    # [N, 4]
    distance = errors.sum((2, 3)) / valid.sum((2, 3)).clamp(min=1)
    if epsilon is not None:
        targets = truth.cells[:, None].expand_as(student.logits)
        distance = distance * hard_mask_weights(
            mask_iou(student.logits, targets), mask_iou(teacher.logits, targets), epsilon
        )
    return (distance.mean(1) * truth.weight).sum()


def annotation_losses(student: Decoded, truth: Truth) -> dict[str, Tensor]:
    """Focal and dice loss against the annotated mask, and the L1 distance of predicted and actual IoU (eq. 5).

    The single-mask answer and the best of the three others are trained, as Segment Anything does; each counts half.
    """
    logits = student.logits.float()
    targets = truth.coverage[:, None].expand_as(logits)
    parts = {"focal": FOCAL_SHARE * focal_loss(logits, targets), "dice": dice_loss(logits, targets)}
    best = (parts["focal"] + parts["dice"]).detach()[:, 1:].argmin(1, keepdim=True) + 1
    terms = {name: ((part[:, 0] + part.gather(1, best)[:, 0]) / 2 * truth.weight).sum() for name, part in parts.items()}
    iou = mask_iou(logits, truth.cells[:, None].expand_as(logits))
    distance = (student.iou_pred.float() - iou).abs().mean(1)
    return terms | {"iou": (distance * truth.weight).sum()}
