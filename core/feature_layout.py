"""The maps that an image encoder gives, by name: their channels and sizes, known without PyTorch."""

from collections.abc import Mapping
from typing import Any

EMBEDDING = "image_embed"
"""The map that every set has: the image embedding ``[B, C, g, g]``."""
HIGH_RES = ("high_res_feats_0", "high_res_feats_1")
"""SAM 2's high-resolution features, finest first: ``[B, C / 8, 4g, 4g]`` and ``[B, C / 4, 2g, 2g]``."""
Layout = Mapping[str, tuple[int, int]]
"""Channels of each map, and how many of its cells lie along one side of a cell of the embedding."""


def sam2_layout(channels: int) -> Layout:
    """The maps of a SAM 2 whose image embedding has so many channels."""
    return {EMBEDDING: (channels, 1), HIGH_RES[0]: (channels // 8, 4), HIGH_RES[1]: (channels // 4, 2)}


def layout_of(shape: Any) -> Layout:
    """The maps that an image encoder of some shape gives; of one that names none, the embedding alone."""
    layout: Layout = getattr(shape, "maps", None) or {EMBEDDING: (shape.out_channels, 1)}
    return layout
