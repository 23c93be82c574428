"""One cut of an encoder: score the channels of some groups, choose, remove."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count

from compressors.distill.progress import progress_bar
from compressors.prune.gradients import Gradients, disturbed_gradients, label_gradients
from compressors.prune.groups import find_groups
from compressors.prune.importance import LABELLED, score
from compressors.prune.selection import keep_globally, keep_locally
from compressors.prune.surgery import prune
from core.seeding import seed_for
from data.batches import ImageBatches
from teachers.image_encoder import ImageEncoder
from teachers.sam import Sam


@dataclass(frozen=True)
class Criterion:
    """How channels are scored and chosen; the attributes are those of :class:`compressors.slimsam.SlimSam`."""

    ratio: float
    importance: str
    images: int
    noise: float
    scope: str
    normalisation: str
    embedding: str
    rel_pos: str
    softmax: str
    batch: int

    def slim(
        self, sam: Sam, encoder: ImageEncoder, parts: Collection[str], batches: ImageBatches, seed: int
    ) -> ImageEncoder:
        """A smaller encoder, with fewer channels in ``parts`` (of ``embedding``, ``attention``, ``mlp``).

        Args:
            sam: whose decoder turns embeddings into masks, where labels are read.
            encoder: left as it is.
            batches: of the training pictures; the first ones are looked at.
            seed: of the run.
        """
        name = "_and_".join(parts)
        groups = {n: g for n, g in find_groups(encoder.config).items() if n.partition(".")[0] in parts}
        heads = encoder.config.num_heads
        if self.embedding == "tied" and "embedding" in groups:
            groups["embedding"] = replace(groups["embedding"], slices=heads)
        gradients = self._gradients(sam, encoder, batches, seed, name)
        scores = {n: score(self.importance, group, encoder, gradients, seed) for n, group in groups.items()}
        local = {n: s for n, s in scores.items() if self.scope == "local" or n == "embedding"}
        ragged = {n: s for n, s in scores.items() if n not in local}
        kept = keep_locally(local, groups, self.ratio, heads)
        kept |= keep_globally(ragged, groups, self.ratio, self.normalisation, heads)
        return prune(encoder, kept, self.rel_pos, fold=self.softmax == "fold")

    def _gradients(
        self, sam: Sam, encoder: ImageEncoder, batches: ImageBatches, seed: int, name: str
    ) -> Gradients | None:
        images = min(self.images, len(batches.data))
        device = encoder.pos_embed.device
        if self.importance in LABELLED:
            samples = (batches.data.sample(index) for index in range(images))
            with _counted(f"{name}_importance", images) as done:
                return label_gradients(sam, encoder, samples, done)
        if self.importance == "disturbed_taylor":
            starts = range(0, images, self.batch)
            chosen = (batches.of(range(start, min(start + self.batch, images))).to(device) for start in starts)
            with _counted(f"{name}_importance", len(starts)) as done:
                return disturbed_gradients(encoder, chosen, self.noise, seed_for(seed, "importance", name), done)
        return None


@contextmanager
def _counted(name: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar that moves by one at each call."""
    with progress_bar(name, total, 0) as show:
        numbers = count(1)
        yield lambda: show(next(numbers), {}, 0.0)
