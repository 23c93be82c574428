"""One cut of an encoder: score the channels of some groups, choose, remove."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count

from compressors.distill.progress import progress_bar
from compressors.prune.gradients import Gradients, disturbed_gradients, label_gradients
from compressors.prune.groups import find_groups
from compressors.prune.importance import IMPORTANCE, LABELLED, score
from compressors.prune.masked import check_cut
from compressors.prune.selection import NORMALISATIONS, keep_globally, keep_locally
from compressors.prune.surgery import prune
from compressors.settings import check_at_least, check_choices, check_ratio
from core.errors import InputError
from core.seeding import seed_for
from data.batches import ImageBatches
from data.readable import first_readable
from students.pruned_vit import pruned_shape
from teachers.image_encoder import ImageEncoder
from teachers.sam import Sam, SamConfig

CHOICES = {
    "importance": IMPORTANCE,
    "scope": ("local", "global"),
    "normalisation": NORMALISATIONS,
    "embedding": ("free", "tied"),
    "rel_pos": ("keep", "reset"),
    "softmax": ("fold", "rescale"),
}


@dataclass(frozen=True)
class Slimming:
    """How channels are scored, chosen and cut.

    Attributes:
        ratio: share of the channels removed, in (0, 1).
        importance: ``disturbed_taylor`` (SlimSAM, section 3.3), ``taylor`` or ``hessian`` (both read labels),
            ``magnitude``, ``random``.
        importance_images: pictures behind the gradients.
        noise: standard deviation of the disturbance of the embedding.
        scope: ``local`` cuts every block alike; ``global`` cuts where scores are lowest, and leaves ragged blocks.
        normalisation: how ``global`` makes the scores of blocks comparable.
        embedding: ``free`` keeps the best channels of the residual stream; ``tied`` keeps one pattern in every head's
            slice of it, as the released code does.
        rel_pos: ``keep`` indexes the tables of relative positions by the kept channels; ``reset`` zeroes them.
        softmax: ``fold`` keeps the temperature of attention when heads get narrower; ``rescale`` lets it change.
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

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        check_choices(self, CHOICES)
        check_at_least(self, importance_images=1)
        if not self.noise > 0:
            raise InputError(f"method.noise={self.noise} must be above 0, or every channel scores the same")

    def width_config(self, config: SamConfig) -> SamConfig:
        """What is left of a shape: every width cut by the ratio, to a multiple of the number of heads.

        Raises:
            NotImplementedError: the weights decide.
        """
        if self.scope == "global":
            raise NotImplementedError("global pruning chooses widths by the weights")
        return pruned_shape(config, self.ratio)

    def slim(
        self, sam: Sam, encoder: ImageEncoder, parts: Collection[str], batches: ImageBatches, seed: int, batch: int
    ) -> ImageEncoder:
        """A smaller encoder, with fewer channels in ``parts`` (of ``embedding``, ``attention``, ``mlp``).

        Args:
            sam: whose decoder turns embeddings into masks, where labels are read.
            encoder: left as it is.
            batches: of the training pictures; the first ones are looked at.
            seed: of the run.
            batch: pictures at one time.
        """
        name = "_and_".join(parts)
        groups = {n: g for n, g in find_groups(encoder.config).items() if n.partition(".")[0] in parts}
        heads = encoder.config.num_heads
        if self.embedding == "tied" and "embedding" in groups:
            groups["embedding"] = replace(groups["embedding"], slices=heads)
        gradients = self._gradients(sam, encoder, batches, seed, name, batch)
        scores = {n: score(self.importance, group, encoder, gradients, seed) for n, group in groups.items()}
        local = {n: s for n, s in scores.items() if self.scope == "local" or n == "embedding"}
        ragged = {n: s for n, s in scores.items() if n not in local}
        kept = keep_locally(local, groups, self.ratio, heads)
        kept |= keep_globally(ragged, groups, self.ratio, self.normalisation, heads)
        fold = self.softmax == "fold"
        cut = prune(encoder, kept, self.rel_pos, fold)
        check_cut(encoder, cut, kept, self.rel_pos, fold)
        return cut

    def _gradients(
        self, sam: Sam, encoder: ImageEncoder, batches: ImageBatches, seed: int, name: str, batch: int
    ) -> Gradients | None:
        images = min(self.importance_images, len(batches.data))
        device = encoder.pos_embed.device
        if self.importance in LABELLED:
            samples = (first_readable(batches.data, index, batches.data.sample)[1] for index in range(images))
            with _counted(f"{name}_importance", images) as done:
                return label_gradients(sam, encoder, samples, done)
        if self.importance == "disturbed_taylor":
            starts = range(0, images, batch)
            chosen = (batches.of(range(start, min(start + batch, images))).to(device) for start in starts)
            with _counted(f"{name}_importance", len(starts)) as done:
                return disturbed_gradients(encoder, chosen, self.noise, seed_for(seed, "importance", name), done)
        return None


@contextmanager
def _counted(name: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar that moves by one at each call."""
    with progress_bar(name, total, 0) as show:
        numbers = count(1)
        yield lambda: show(next(numbers), {}, 0.0)
