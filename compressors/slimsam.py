"""SlimSAM: prune and distil alternately (Chen et al. 2023, arXiv 2312.05284)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from compressors.aligning import bottleneck_aligning, embedding_aligning
from compressors.context import Compressed, RunContext
from compressors.distill.engine import Stage
from compressors.distill.progress import progress_bar
from compressors.distill.schedule import Optimisation
from compressors.distill.state import Progress
from compressors.prune.groups import find_groups
from compressors.prune.importance import disturbed_gradients, keep, score
from compressors.prune.surgery import prune
from core.errors import InputError
from core.seeding import seed_for
from data.batches import ImageBatches
from data.sample import ImageData
from students.pruned_vit import kept_width, load_model, pruned_shape, read_about, save_model
from teachers.image_encoder import ImageEncoder
from teachers.sam import Sam, SamConfig

CHOICES = {
    "importance": ("disturbed_taylor", "magnitude", "random"),
    "embedding": ("free", "tied"),
    "rel_pos": ("keep", "reset"),
}


@dataclass(frozen=True)
class SlimSam:
    """Alternate slimming: prune the embedding, align the bottlenecks; prune the bottlenecks, align the embedding.

    Attributes:
        ratio: share of the channels removed from every width, in (0, 1). Both steps use it (section 3.2).
        importance: ``disturbed_taylor`` (section 3.3), ``magnitude`` or ``random``.
        importance_images: pictures behind the disturbed gradients.
        noise: standard deviation of the disturbance of the embedding.
        embedding: ``free`` keeps the best channels of the residual stream; ``tied`` keeps one pattern in every head's
            slice of it, as the released code does.
        rel_pos: ``keep`` indexes the tables of relative positions by the kept channels; ``reset`` zeroes them.
        aligning: whether intermediate features are aligned besides the final image embedding.
        steps: optimizer steps of each of the two distillations.
        batch: pictures a batch.
        optimisation: of both distillations.
    """

    ratio: float
    importance: str = "disturbed_taylor"
    importance_images: int = 256
    noise: float = 0.01
    embedding: str = "free"
    rel_pos: str = "keep"
    aligning: bool = True
    steps: int = 250
    batch: int = 12
    optimisation: Optimisation = field(default_factory=Optimisation)

    paper: ClassVar[str] = "arXiv 2312.05284"
    knobs: ClassVar[frozenset[str]] = frozenset({"ratio"})

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise InputError(f"ratio={self.ratio} is outside (0, 1); try ratio=0.5 or ratio=0.77")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"method.{name}={getattr(self, name)} is not one of {', '.join(allowed)}")
        for name in ("importance_images", "steps", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"method.{name}={getattr(self, name)} must be at least 1")
        if not self.noise > 0:
            raise InputError(f"method.noise={self.noise} must be above 0, or every channel scores the same")

    def shape(self, teacher: SamConfig) -> SamConfig:
        """The student's shape: every width cut by the ratio, to a multiple of the number of heads."""
        return pruned_shape(teacher, self.ratio)

    def compress(self, teacher: Sam, data: ImageData, context: RunContext) -> Compressed:
        """Both steps (figure 2, section 3.2). Labels are never read."""
        v0 = teacher.image_encoder
        frame, grid = teacher.input_size, v0.config.grid
        batches = ImageBatches(data, frame, grid, self.batch, context.seed, context.engine.device)

        v1 = self._slim(teacher, v0, "embedding", batches, context)
        progress1 = self._distil(teacher, v1, "bottleneck_aligning", (v0,), batches, context)

        v2 = self._slim(teacher, v1, "bottleneck", batches, context)
        progress2 = self._distil(teacher, v2, "embedding_aligning", (v0, v1), batches, context)

        student = teacher.with_encoder(v2, f"{teacher.name}-slimsam-{self.ratio}").eval().requires_grad_(False)
        return Compressed(student, progress1.images + progress2.images, progress1.seconds + progress2.seconds)

    def _key(self, context: RunContext) -> str:
        return f"{self} seed={context.seed}"

    def _slim(
        self, teacher: Sam, encoder: ImageEncoder, part: str, batches: ImageBatches, context: RunContext
    ) -> ImageEncoder:
        """Score and cut the channels of ``embedding`` or ``bottleneck``; once done, read back from the folder."""
        path, key = context.folder / f"{part}_pruned.safetensors", self._key(context)
        if path.exists() and read_about(path).get("key") == key:
            return load_model(path).image_encoder.to(context.engine.device)
        groups = {n: g for n, g in find_groups(encoder.config).items() if (n == "embedding") == (part == "embedding")}
        gradients = None
        if self.importance == "disturbed_taylor":
            gradients = self._gradients(encoder, batches, seed_for(context.seed, "importance", part), part)
        heads = encoder.config.num_heads
        kept = {}
        for name, group in groups.items():
            slices = heads if name == "embedding" and self.embedding == "tied" else group.slices
            scores = score(self.importance, group, encoder, gradients, context.seed)
            kept[name] = keep(scores, kept_width(group.width, self.ratio, heads), slices)
        slimmed = prune(encoder, kept, self.rel_pos)
        save_model(path, teacher.with_encoder(slimmed, teacher.name), {"key": key})
        return slimmed

    def _gradients(self, encoder: ImageEncoder, batches: ImageBatches, seed: int, part: str) -> dict[str, torch.Tensor]:
        count = min(self.importance_images, len(batches.data))
        starts = range(0, count, self.batch)
        chosen: Iterable = (batches.of(range(start, min(start + self.batch, count))) for start in starts)
        with progress_bar(f"{part}_importance", len(starts), 0) as show:
            done = iter(range(1, len(starts) + 1))
            return disturbed_gradients(encoder, chosen, self.noise, seed, lambda: show(next(done), {}, 0.0))

    def _distil(
        self,
        teacher: Sam,
        student: ImageEncoder,
        name: str,
        models: tuple[ImageEncoder, ...],
        batches: ImageBatches,
        context: RunContext,
    ) -> Progress:
        """Train the student's encoder against the frozen encoders ``models``; ends with its best weights."""
        loss = bottleneck_aligning if name == "bottleneck_aligning" else embedding_aligning
        stage = Stage(
            name=name,
            key=self._key(context),
            model=student.requires_grad_(True),
            batch=batches,
            loss=loss(student, *models, steps=self.steps, features=self.aligning),
            steps=self.steps,
            optimisation=self.optimisation,
        )
        progress = context.engine.fit(stage)
        student.eval().requires_grad_(False)
        return progress
