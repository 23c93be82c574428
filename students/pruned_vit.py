"""Pruned SAMs: their widths (SlimSAM's rule)."""

from collections.abc import Sequence
from dataclasses import replace

from teachers.catalog import MODELS
from teachers.hiera import HieraConfig
from teachers.sam import SamConfig


def kept_width(width: int, ratio: float, multiple: int) -> int:
    """Channels left of ``width`` after pruning ``ratio`` of them, rounded down to a multiple (SlimSAM's rule).

    At least one multiple stays (one channel a head), however high the ratio.
    """
    # The small addend keeps 1280 * (1 - 0.9) from becoming 127.
    kept = int(width * (1 - ratio) + 1e-9)
    return max(multiple, kept - kept % multiple)


def kept_embedding(width: int, ratio: float, multiple: int) -> int:
    """The same of an embedding, of which two channels stay: layer normalisation makes a constant of one."""
    return max(2, kept_width(width, ratio, multiple))


def pruned_shape(config: SamConfig, ratio: float, embedding_alone: bool = False) -> SamConfig:
    """The shape of a uniformly pruned SAM: embedding, attention and MLP widths all cut by ``ratio``.

    Args:
        embedding_alone: attention and MLPs keep their widths, as after SlimSAM's first step.
    """
    if isinstance(config.encoder, HieraConfig):
        return replace(config, encoder=_pruned_hiera(config.encoder, ratio, embedding_alone))
    encoder, heads = config.vit, config.vit.num_heads
    if embedding_alone:
        return replace(config, encoder=replace(encoder, embed_dim=kept_embedding(encoder.embed_dim, ratio, heads)))
    return replace(
        config,
        encoder=replace(
            encoder,
            embed_dim=kept_embedding(encoder.embed_dim, ratio, heads),
            attention_widths=tuple(kept_width(a, ratio, heads) for a in encoder.attention_widths),
            mlp_widths=tuple(kept_width(m, ratio, heads) for m in encoder.mlp_widths),
        ),
    )


def _pruned_hiera(encoder: HieraConfig, ratio: float, embedding_alone: bool) -> HieraConfig:
    """The same, each stage by its own number of heads."""
    heads = [encoder.num_heads[stage] for stage in encoder.stages]

    def cut(widths: tuple[int, ...], multiples: Sequence[int]) -> tuple[int, ...]:
        return tuple(kept_width(width, ratio, multiple) for width, multiple in zip(widths, multiples, strict=True))

    embeddings = zip(encoder.embed_dims, encoder.num_heads, strict=True)
    narrower = replace(encoder, embed_dims=tuple(kept_embedding(width, ratio, number) for width, number in embeddings))
    if embedding_alone:
        return narrower
    return replace(
        narrower,
        attention_widths=cut(encoder.attention_widths, heads),
        mlp_widths=cut(encoder.mlp_widths, heads),
    )


UNIFORM = {
    f"slimsam_{name}_uniform": pruned_shape(MODELS["sam_vit_b"].config, ratio)
    for name, ratio in (("50", 0.5), ("77", 0.77))
}
"""Shapes of SlimSAM's uniform releases (``vit_p50`` and ``vit_p77`` in Meta's layout)."""
