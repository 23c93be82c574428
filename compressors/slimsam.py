"""SlimSAM: prune and distil alternately (Chen et al. 2023, arXiv 2312.05284)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from compressors.aligning import Aligned, Loss, bottleneck_aligning, embedding_aligning, embedding_only
from compressors.distill.engine import Stage
from compressors.distill.log import progress_bar
from compressors.distill.state import Progress
from compressors.method import Compressed, Compressor, RunContext
from compressors.prune.groups import Group, find_groups
from compressors.prune.importance import (
    LABELLED,
    Gradients,
    disturbed_gradients,
    label_gradients,
    score,
)
from compressors.prune.selection import keep_globally, keep_locally
from compressors.prune.surgery import check_cut, prune
from compressors.settings import BLIND, OptimizerConfig, SlimSamSettings
from core import distributed
from core.errors import InputError
from core.progress import say
from core.seeding import seed_for
from data.batches import ImageBatches
from data.exclusions import first_readable
from data.sample import ImageData
from students.files import load_model, read_model_metadata, save_model
from students.pruned_vit import pruned_shape
from teachers.hiera import HieraConfig
from teachers.sam import Sam, SamConfig


@dataclass(frozen=True)
class SlimSam(SlimSamSettings, Compressor):
    """Alternate slimming: prune the embedding, align the bottlenecks; prune the bottlenecks, align the embedding.

    Both steps use one ratio (section 3.2).
    """

    paper: ClassVar[str] = "arXiv 2312.05284"
    shrinks: ClassVar[bool] = True
    stages: ClassVar[tuple[str, ...]] = ("bottleneck_aligning", "embedding_aligning", "one_step")

    @property
    def reads_labels(self) -> bool:
        """Whether masks of the training images are used: to score channels, or to choose the best weights."""
        return self.importance in LABELLED or self.validations > 0

    def shape(self, teacher: SamConfig) -> SamConfig:
        """The student's shape: every width cut by the ratio, to a multiple of the number of heads.

        Raises:
            NotImplementedError: the weights decide.
        """
        if self.until == "step_1":
            return pruned_shape(teacher, self.ratio, embedding_alone=True)
        if self.scope == "global":
            raise NotImplementedError("global pruning chooses widths by the weights")
        return pruned_shape(teacher, self.ratio)

    def compress(self, teacher: Sam, data: ImageData, context: RunContext) -> Compressed:
        """Both steps (figure 2, section 3.2)."""
        v0 = teacher.image_encoder
        if isinstance(v0.config, HieraConfig) and self.rel_pos != "keep":
            raise InputError(f"method.rel_pos={self.rel_pos}: {teacher.name} has no relative positions; leave it out")
        teacher_embeddings = context.teacher_embeddings(teacher)
        batches = ImageBatches(data, teacher.input_size, v0.config.grid, context.seed)
        steps = self.steps
        epoch = Fraction(len(data), self.batch * self.optimisation.accumulate)
        aligned = Aligned.during(steps, self.aligned_epochs, epoch)
        self._say_if_aligned_to_the_end(aligned, len(data))

        def cut(encoder: Any, *parts: str) -> Any:
            return self._cut(teacher, encoder, parts, batches, context)

        def distil(student: Any, name: str, loss: Loss, steps: int) -> Progress:
            return self._distil(teacher, student, name, loss, steps, batches, context)

        if not self.alternate:
            student = cut(v0, "embedding", "attention", "mlp")
            stages: tuple[Progress, ...] = (
                distil(student, "one_step", embedding_only(student, teacher_embeddings, self.padding), 2 * steps),
            )
        else:
            v1 = cut(v0, "embedding")
            aligning = bottleneck_aligning(
                v1,
                v0,
                teacher_embeddings,
                aligned=aligned,
                weights=self.bottleneck_weights,
                global_qkv=self.align_global_qkv,
                padding=self.padding,
            )
            first = distil(v1, "bottleneck_aligning", aligning, steps)
            if self.until == "step_1":
                return self._made(teacher, v1, (first,), data)

            student = cut(v1, "attention", "mlp")
            aligning = embedding_aligning(
                student,
                v1,
                teacher_embeddings,
                aligned=aligned,
                weights=self.embedding_weights,
                padding=self.padding,
            )
            stages = (first, distil(student, "embedding_aligning", aligning, steps))
        return self._made(teacher, student, stages, data)

    def _say_if_aligned_to_the_end(self, aligned: Aligned, images: int) -> None:
        """One line where no step is left to the image embedding alone (the paper: all from the 11th epoch on)."""
        if self.aligned_epochs and self.aligns and aligned.steps >= self.steps:
            say(
                f"features are aligned to the end of method.steps={self.steps}: method.aligned_epochs="
                f"{self.aligned_epochs} epochs of {images} images last {float(aligned.steps):.0f} steps; for the "
                "published loss give fewer images (data.count=10000), more steps or fewer epochs"
            )

    def _made(self, teacher: Sam, encoder: Any, stages: tuple[Progress, ...], data: ImageData) -> Compressed:
        after = "" if self.until == "step_2" else "-step1"
        model = teacher.with_encoder(encoder, f"{teacher.name}-slimsam-{self.ratio}{after}")
        cuts = 2 if self.alternate and self.until == "step_2" else 1
        return Compressed(model.eval().requires_grad_(False), stages, cuts * self._scoring_images(len(data)))

    def _scoring_images(self, count: int) -> int:
        """Images behind the scores of one cut, of so many."""
        return 0 if self.importance in BLIND else min(self.importance_images, count)

    def _cut(
        self, teacher: Sam, encoder: Any, parts: tuple[str, ...], batches: ImageBatches, context: RunContext
    ) -> Any:
        """Cut channels of ``parts``. The first process does, unless it is done already; all read it from the folder."""
        path, key = context.folder / f"{'_and_'.join(parts)}_pruned.safetensors", context.key(self)
        if distributed.is_main() and not _is_cut(path, key):
            sam = teacher.with_encoder(encoder, teacher.name)
            slimmed = self._slim(sam, encoder, parts, batches, context.seed)
            save_model(path, teacher.with_encoder(slimmed, teacher.name), {"key": key})
        distributed.barrier()
        return load_model(path).image_encoder.to(context.engine.device)

    def _slim(self, sam: Sam, encoder: Any, parts: tuple[str, ...], batches: ImageBatches, seed: int) -> Any:
        """Score the channels of some groups, choose, remove (section 3.3).

        Args:
            sam: whose decoder turns embeddings into masks, where labels are read.
            encoder: left as it is.
            parts: of ``embedding``, ``attention``, ``mlp``.
            batches: of the training images; the first ones are looked at.
        """
        name = "_and_".join(parts)
        groups = {n: g for n, g in find_groups(encoder.config).items() if n.partition(".")[0] in parts}
        heads = encoder.config.num_heads
        if self.embedding == "tied":
            streams = {n: g for n, g in groups.items() if n.partition(".")[0] == "embedding"}
            groups |= {n: replace(g, slices=g.multiple or heads) for n, g in streams.items()}
        gradients = self._gradients(sam, encoder, batches, seed, name, list(groups.values()))
        scores = {n: score(self.importance, group, encoder, gradients, seed) for n, group in groups.items()}
        local = {n: s for n, s in scores.items() if self.scope == "local" or n.startswith("embedding")}
        ragged = {n: s for n, s in scores.items() if n not in local}
        kept = keep_locally(local, groups, self.ratio, heads)
        kept |= keep_globally(ragged, groups, self.ratio, self.normalisation, heads)
        fold = self.softmax == "fold"
        cut = prune(encoder, kept, self.rel_pos, fold)
        check_cut(encoder, cut, kept, self.rel_pos, fold)
        return cut

    def _gradients(
        self, sam: Sam, encoder: Any, batches: ImageBatches, seed: int, name: str, groups: list[Group]
    ) -> Gradients | None:
        images = self._scoring_images(len(batches.data))
        device = next(encoder.parameters()).device
        if self.importance in LABELLED:
            samples = (first_readable(batches.data, index, batches.data.sample)[1] for index in range(images))
            with _counted(f"{name}_importance", images) as done:
                joint = groups if self.importance == "group_fisher" else ()
                return label_gradients(sam, encoder, samples, done, joint)
        if self.importance == "disturbed_taylor":
            starts = range(0, images, self.batch)
            chosen = (batches.of(range(start, min(start + self.batch, images))).to(device) for start in starts)
            with _counted(f"{name}_importance", len(starts)) as done:
                return disturbed_gradients(encoder, chosen, self.noise, seed_for(seed, "importance", name), done)
        return None

    def _optimisation(self, stage: str) -> OptimizerConfig:
        if stage != "bottleneck_aligning" or self.patience_step_1 is None:
            return self.optimisation
        return replace(self.optimisation, patience=self.patience_step_1)

    def _distil(
        self,
        teacher: Sam,
        student: Any,
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
            frozen=loss.frozen,
            steps=steps,
            optimisation=self._optimisation(name),
            validate=validate and (lambda: validate(teacher.with_encoder(student, name))),
            # Rounded up: one more at the end is then not one too many.
            validate_every=-(-steps // max(1, self.validations)),
            keep_best=self.keep_best,
            full_model=lambda: teacher.with_encoder(student, name),
        )
        progress = context.engine.fit(stage)
        student.eval().requires_grad_(False)
        return progress


def _is_cut(path: Path, key: str) -> bool:
    """Whether an encoder was cut already; a damaged file, as a damaged state, is made anew."""
    try:
        if not path.exists() or read_model_metadata(path).get("key") != key:
            return False
        # What is said of it may be whole where its tensors are not.
        load_model(path)
    except InputError:
        return False
    return True


@contextmanager
def _counted(name: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar that moves by one at each call."""
    with progress_bar(name, total, 0) as show:
        numbers = count(1)
        yield lambda: show(next(numbers), {}, 0.0)
