"""What an image encoder gives where it is more than one map: a small named set, the image embedding among them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.feature_layout import EMBEDDING, Layout


class FeatureMaps:
    """Maps of ``B`` images by name, each ``[B, channels, height, width]``.

    What is done to the one tensor of a model with one map (moved, rounded, split into images, counted) is done to all
    maps here; ``shape``, ``dtype`` and ``device`` are those of the image embedding.

    Args:
        maps: :data:`EMBEDDING` first.
    """

    def __init__(self, maps: Mapping[str, Tensor]) -> None:
        if next(iter(maps), None) != EMBEDDING:
            raise ValueError(f"the first of feature maps must be {EMBEDDING}, got {', '.join(maps) or 'none'}")
        self.maps = dict(maps)

    def each(self, change: Callable[[Tensor], Tensor]) -> "FeatureMaps":
        """The same set with every map changed."""
        return FeatureMaps({name: change(tensor) for name, tensor in self.maps.items()})

    @property
    def embedding(self) -> Tensor:
        """The image embedding ``[B, C, g, g]``."""
        return self.maps[EMBEDDING]

    @property
    def shape(self) -> torch.Size:
        """Of the image embedding."""
        return self.embedding.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the image embedding."""
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Of the image embedding."""
        return self.embedding.device

    def __len__(self) -> int:
        """How many images."""
        return len(self.embedding)

    def __getitem__(self, images: Any) -> "FeatureMaps":
        """The maps of some images, or of one (without its dimension)."""
        return self.each(lambda tensor: tensor[images])

    def split(self, size: int) -> tuple["FeatureMaps", ...]:
        """The maps of ``size`` images each."""
        return tuple(self[start : start + size] for start in range(0, len(self), size))

    def to(self, *args: Any, **kwargs: Any) -> "FeatureMaps":
        """As :meth:`torch.Tensor.to`."""
        return self.each(lambda tensor: tensor.to(*args, **kwargs))

    def float(self) -> "FeatureMaps":
        """In float32."""
        return self.each(Tensor.float)

    def half(self) -> "FeatureMaps":
        """In float16."""
        return self.each(Tensor.half)

    def detach(self) -> "FeatureMaps":
        """Without gradients."""
        return self.each(Tensor.detach)

    def new_zeros(self, *size: Any) -> Tensor:
        """A tensor of zeros of the embedding's dtype, on its device."""
        return self.embedding.new_zeros(*size)


Features = Tensor | FeatureMaps
"""What an image encoder gives: one map, the image embedding, or a named set with it."""


def maps_of(features: Features) -> dict[str, Tensor]:
    """The maps by name; one map is the image embedding."""
    return features.maps if isinstance(features, FeatureMaps) else {EMBEDDING: features}


def packed(features: Features) -> Tensor:
    """Maps as one tensor ``[B, channels, g, g]``: the cells of finer ones become channels. One map is itself."""
    if not isinstance(features, FeatureMaps):
        return features
    side = features.shape[-1]
    maps = [F.pixel_unshuffle(x, x.shape[-1] // side) if x.shape[-1] > side else x for x in features.maps.values()]
    return torch.cat(maps, 1)


def packed_channels(layout: Layout) -> int:
    """How many channels :func:`packed` gives."""
    return sum(channels * scale**2 for channels, scale in layout.values())


def unpacked(tensor: Tensor, layout: Layout) -> Features:
    """Undo :func:`packed`: ``[B, channels, g, g]`` to maps of a layout."""
    if len(layout) == 1:
        return tensor
    parts = tensor.split([channels * scale**2 for channels, scale in layout.values()], 1)
    maps = zip(layout.items(), parts, strict=True)
    return FeatureMaps({name: F.pixel_shuffle(x, scale) if scale > 1 else x for (name, (_, scale)), x in maps})


def sized(x: Tensor, side: int) -> Tensor:
    """A map ``[B, C, h, w]`` as ``[B, C, side, side]``: bilinear, where it has another size."""
    return x if x.shape[-1] == side else F.interpolate(x, (side, side), mode="bilinear")


def joined(parts: Sequence[Any], how: Callable[[list[Tensor]], Tensor] = torch.cat) -> Any:
    """Features of several images or batches as one.

    Args:
        parts: of one kind, with the same maps.
        how: ``torch.cat`` of batches, or ``torch.stack`` of single images.
    """
    if not isinstance(parts[0], FeatureMaps):
        return how(list(parts))
    return FeatureMaps({name: how([part.maps[name] for part in parts]) for name in parts[0].maps})
