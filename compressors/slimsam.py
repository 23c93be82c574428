"""SlimSAM: prune and distil alternately (Chen et al. 2023, arXiv 2312.05284)."""

from dataclasses import dataclass, field
from typing import ClassVar

from compressors.aligning import WEIGHTS, Loss, bottleneck_aligning, embedding_aligning, embedding_only
from compressors.context import Compressed, RunContext
from compressors.distill.engine import Stage
from compressors.distill.schedule import Optimisation
from compressors.distill.state import Progress
from compressors.prune.importance import IMPORTANCE, LABELLED
from compressors.prune.selection import NORMALISATIONS
from compressors.prune.slimming import Criterion
from core import processes
from core.errors import InputError
from data.batches import ImageBatches
from data.sample import ImageData
from students.pruned_vit import load_model, pruned_shape, read_about, save_model
from teachers.image_encoder import ImageEncoder
from teachers.sam import Sam, SamConfig

CHOICES = {
    "importance": IMPORTANCE,
    "scope": ("local", "global"),
    "normalisation": NORMALISATIONS,
    "embedding": ("free", "tied"),
    "rel_pos": ("keep", "reset"),
    "softmax": ("fold", "rescale"),
    "bottleneck_weights": WEIGHTS,
    "embedding_weights": WEIGHTS,
}


@dataclass(frozen=True)
class SlimSam:
    """Alternate slimming: prune the embedding, align the bottlenecks; prune the bottlenecks, align the embedding.

    Attributes:
        ratio: share of the channels removed, in (0, 1). Both steps use it (section 3.2).
        importance: ``disturbed_taylor`` (section 3.3), ``taylor`` or ``hessian`` (both read labels), ``magnitude``,
            ``random``.
        importance_images: pictures behind the gradients.
        noise: standard deviation of the disturbance of the embedding.
        scope: ``local`` cuts every block alike; ``global`` cuts where scores are lowest, and leaves ragged blocks.
        normalisation: how ``global`` makes the scores of blocks comparable.
        embedding: ``free`` keeps the best channels of the residual stream; ``tied`` keeps one pattern in every head's
            slice of it, as the released code does.
        rel_pos: ``keep`` indexes the tables of relative positions by the kept channels; ``reset`` zeroes them.
        softmax: ``fold`` keeps the temperature of attention when heads get narrower; ``rescale`` lets it change.
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

    ratio: float
    importance: str = "disturbed_taylor"
    importance_images: int = 256
    noise: float = 0.01
    scope: str = "local"
    normalisation: str = "gaussian"
    embedding: str = "free"
    rel_pos: str = "keep"
    softmax: str = "fold"
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
        if not 0 < self.ratio < 1:
            raise InputError(f"ratio={self.ratio} is outside (0, 1); try ratio=0.5 or ratio=0.77")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"method.{name}={getattr(self, name)} is not one of {', '.join(allowed)}")
        for name, least in (("importance_images", 1), ("steps", 1), ("batch", 1), ("validations", 0)):
            if getattr(self, name) < least:
                raise InputError(f"method.{name}={getattr(self, name)} must be at least {least}")
        if not self.noise > 0:
            raise InputError(f"method.noise={self.noise} must be above 0, or every channel scores the same")
        if self.optimisation.schedule == "plateau" and not self.validations:
            raise InputError("method.optimisation.schedule=plateau goes by validation; give method.validations=20")

    @property
    def reads_labels(self) -> bool:
        """Whether masks of the training pictures are used: to score channels, or to choose the best weights."""
        return self.importance in LABELLED or self.validations > 0

    def shape(self, teacher: SamConfig) -> SamConfig:
        """The student's shape: every width cut by the ratio, to a multiple of the number of heads."""
        if self.scope == "global":
            raise NotImplementedError("global pruning chooses widths by the weights")
        return pruned_shape(teacher, self.ratio)

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

    def _key(self, context: RunContext) -> str:
        return f"{self} seed={context.seed}"

    def _cut(
        self, teacher: Sam, encoder: ImageEncoder, parts: tuple[str, ...], batches: ImageBatches, context: RunContext
    ) -> ImageEncoder:
        """Cut channels of ``parts``; once done, read back from the folder."""
        path = context.folder / f"{'_and_'.join(parts)}_pruned.safetensors"
        if path.exists() and read_about(path).get("key") == self._key(context):
            return load_model(path).image_encoder.to(context.engine.device)
        criterion = Criterion(
            self.ratio,
            self.importance,
            self.importance_images,
            self.noise,
            self.scope,
            self.normalisation,
            self.embedding,
            self.rel_pos,
            self.softmax,
            self.batch,
        )
        slimmed = criterion.slim(teacher.with_encoder(encoder, teacher.name), encoder, parts, batches, context.seed)
        if processes.is_first():
            save_model(path, teacher.with_encoder(slimmed, teacher.name), {"key": self._key(context)})
        return slimmed

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
            key=self._key(context),
            model=student.requires_grad_(True),
            batch=batches,
            batch_size=self.batch,
            loss=loss,
            steps=steps,
            optimisation=self.optimisation,
            validate=validate and (lambda: validate(teacher.with_encoder(student, name))),
            validate_every=max(1, steps // max(1, self.validations)),
            keep_best=True,
        )
        progress = context.engine.fit(stage)
        student.eval().requires_grad_(False)
        return progress
