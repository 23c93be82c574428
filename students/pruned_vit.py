"""Pruned SAMs: their widths (SlimSAM's rule)."""

from dataclasses import replace

from teachers.catalog import MODELS
from teachers.sam import SamConfig


def kept_width(width: int, ratio: float, multiple: int) -> int:
    """Channels left of ``width`` after pruning ``ratio`` of them, rounded down to a multiple (SlimSAM's rule).

    At least one multiple stays (one channel a head), however high the ratio.
    """
    # The small addend keeps 1280 * (1 - 0.9) from becoming 127.
    kept = int(width * (1 - ratio) + 1e-9)
    return max(multiple, kept - kept % multiple)


def pruned_shape(config: SamConfig, ratio: float, embedding_alone: bool = False) -> SamConfig:
    """The shape of a uniformly pruned SAM: embedding, attention and MLP widths all cut by ``ratio``.

    Args:
        embedding_alone: attention and MLPs keep their widths, as after SlimSAM's first step.
    """
    encoder, heads = config.vit, config.vit.num_heads
    if embedding_alone:
        return replace(config, encoder=replace(encoder, embed_dim=kept_width(encoder.embed_dim, ratio, heads)))
    return replace(
        config,
        encoder=replace(
            encoder,
            embed_dim=kept_width(encoder.embed_dim, ratio, heads),
            attention_widths=tuple(kept_width(a, ratio, heads) for a in encoder.attention_widths),
            mlp_widths=tuple(kept_width(m, ratio, heads) for m in encoder.mlp_widths),
        ),
    )


UNIFORM = {
    f"slimsam_{name}_uniform": pruned_shape(MODELS["sam_vit_b"].config, ratio)
    for name, ratio in (("50", 0.5), ("77", 0.77))
}
"""Shapes of SlimSAM's uniform releases (``vit_p50`` and ``vit_p77`` in Meta's layout)."""
