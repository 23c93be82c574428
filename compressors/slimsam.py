"""SlimSAM: prune and distil alternately (Chen et al. 2023, arXiv 2312.05284)."""

from dataclasses import dataclass, field
from typing import ClassVar

from compressors.aligning import WEIGHTS, Loss, bottleneck_aligning, embedding_aligning, embedding_only
from compressors.context import Compressed, RunContext
from compressors.distill.engine import Stage
from compressors.distill.schedule import Optimisation
from compressors.distill.state import Progress
from compressors.prune.importance import LABELLED
from compressors.prune.slimming import Slimming
from compressors.settings import check_at_least, check_choices
from core import processes
from core.errors import InputError
from data.batches import ImageBatches
from data.sample import ImageData
from students.files import load_model, read_about, save_model
from teachers.image_encoder import ImageEncoder
from teachers.sam import Sam, SamConfig


@dataclass(frozen=True)
class SlimSam(Slimming):
    """Alternate slimming: prune the embedding, align the bottlenecks; prune the bottlenecks, align the embedding.

    How channels are scored and cut is that of :class:`compressors.prune.slimming.Slimming`; both steps use one ratio
    (section 3.2).

    Attributes:
        alternate: two steps of cutting and distilling; false cuts everything at once and distils the embedding.
        bottleneck_weights, embedding_weights: how the weight of intermediate features goes in step 1 and in step 2;
            see :func:`compressors.aligning.feature_weight`. ``none`` aligns the final embedding alone.
        align_global_qkv: whether q/k/v of global blocks are aligned in step 1; the released code leaves them out.
        steps: optimizer steps of each of the two distillations (of one that cuts at once: half of its steps).
        batch: pictures a batch.
        validations: how often each distillation is scored on labelled training pictures; its best weights are kept,
            and the plateau schedule goes by them. 0 for never.
        optimisation: of both distillations.
    """

    alternate: bool = True
    bottleneck_weights: str = "constant"
    embedding_weights: str = "dynamic"
    align_global_qkv: bool = True
    steps: int = 250
    batch: int = 12
    validations: int = 0
    optimisation: Optimisation = field(default_factory=Optimisation)

    paper: ClassVar[str] = "arXiv 2312.05284"
    knobs: ClassVar[frozenset[str]] = frozenset({"ratio"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, {"bottleneck_weights": WEIGHTS, "embedding_weights": WEIGHTS})
        check_at_least(self, steps=1, batch=1, validations=0)
        if self.optimisation.schedule == "plateau" and not self.validations:
            raise InputError("method.optimisation.schedule=plateau goes by validation; give method.validations=20")

    @property
    def reads_labels(self) -> bool:
        """Whether masks of the training pictures are used: to score channels, or to choose the best weights."""
        return self.importance in LABELLED or self.validations > 0

    def shape(self, teacher: SamConfig) -> SamConfig:
        """The student's shape: every width cut by the ratio, to a multiple of the number of heads."""
        return self.width_config(teacher)

    def compress(self, teacher: Sam, data: ImageData, context: RunContext) -> Compressed:
        """Both steps (figure 2, section 3.2)."""
        v0 = teacher.image_encoder
        wanted = context.teacher_embeddings(teacher)
        batches = ImageBatches(data, teacher.input_size, v0.config.grid, context.seed)
        steps = self.steps

        def cut(encoder: ImageEncoder, *parts: str) -> ImageEncoder:
            return self._cut(teacher, encoder, parts, batches, context)

        def distil(student: ImageEncoder, name: str, loss: Loss, steps: int) -> Progress:
            return self._distil(teacher, student, name, loss, steps, batches, context)

        if not self.alternate:
            student = cut(v0, "embedding", "attention", "mlp")
            stages: tuple[Progress, ...] = (distil(student, "one_step", embedding_only(student, wanted), 2 * steps),)
        else:
            v1 = cut(v0, "embedding")
            aligning = bottleneck_aligning(
                v1, v0, wanted, steps=steps, weights=self.bottleneck_weights, global_qkv=self.align_global_qkv
            )
            first = distil(v1, "bottleneck_aligning", aligning, steps)

            student = cut(v1, "attention", "mlp")
            aligning = embedding_aligning(student, v1, wanted, steps=steps, weights=self.embedding_weights)
            stages = (first, distil(student, "embedding_aligning", aligning, steps))
        model = teacher.with_encoder(student, f"{teacher.name}-slimsam-{self.ratio}")
        return Compressed(model.eval().requires_grad_(False), stages)

    def _cut(
        self, teacher: Sam, encoder: ImageEncoder, parts: tuple[str, ...], batches: ImageBatches, context: RunContext
    ) -> ImageEncoder:
        """Cut channels of ``parts``. The first process does, unless it is done already; all read it from the folder."""
        path, key = context.folder / f"{'_and_'.join(parts)}_pruned.safetensors", context.key(self)
        if processes.is_first() and not (path.exists() and read_about(path).get("key") == key):
            sam = teacher.with_encoder(encoder, teacher.name)
            slimmed = self.slim(sam, encoder, parts, batches, context.seed, self.batch)
            save_model(path, teacher.with_encoder(slimmed, teacher.name), {"key": key})
        processes.wait()
        return load_model(path).image_encoder.to(context.engine.device)

    def _distil(
        self,
        teacher: Sam,
        student: ImageEncoder,
        name: str,
        loss: Loss,
        steps: int,
        batches: ImageBatches,
        context: RunContext,
    ) -> Progress:
        """Train the student's encoder; it ends frozen, with its best weights where they were looked for."""
        validate = context.validate if self.validations else None
        stage = Stage(
            name=name,
            key=context.key(self),
            model=student.requires_grad_(True),
            batch=batches,
            batch_size=self.batch,
            loss=loss,
            steps=steps,
            optimisation=self.optimisation,
            validate=validate and (lambda: validate(teacher.with_encoder(student, name))),
            validate_every=max(1, steps // max(1, self.validations)),
            keep_best=True,
            whole=lambda: teacher.with_encoder(student, name),
        )
        progress = context.engine.fit(stage)
        student.eval().requires_grad_(False)
        return progress
