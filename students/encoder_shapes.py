"""Shapes of students' image encoders: plain data, from which the encoder is built and files describe themselves."""

from dataclasses import dataclass

from core.errors import InputError
from core.feature_layout import Layout, sam2_layout


@dataclass(frozen=True)
class TinyVitConfig:
    """Shape of the encoder.

    Attributes:
        image_size: side of the square input in pixels.
        grid: side of the embedding: ``image_size`` over 4, 8, 16 or 32.
        embed_dims, depths, num_heads, window_sizes: of the four stages; the first is convolutional.
        out_channels: channels of the embedding.
    """

    image_size: int
    grid: int
    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_sizes: tuple[int, ...]
    out_channels: int = 256

    def __post_init__(self) -> None:
        # Images are cut to a fourth by the patch embedding; each later stage may halve once more.
        if self.image_size not in [self.grid * 4 * 2**halvings for halvings in range(len(self.depths))]:
            raise InputError(
                f"a TinyViT cannot bring {self.image_size} pixels to a grid of {self.grid}: the ratio must be "
                f"{', '.join(str(4 * 2**i) for i in range(len(self.depths)))}"
            )

    @property
    def halvings(self) -> int:
        """How many of the stages behind the first halve the grid: the earliest ones."""
        return (self.image_size // self.grid // 4).bit_length() - 1


@dataclass(frozen=True)
class TinyVitMapsConfig(TinyVitConfig):
    """The same beside a teacher with several maps: the high-resolution features are read off the earlier stages."""

    @property
    def maps(self) -> Layout:
        """What the encoder gives."""
        return sam2_layout(self.out_channels)


@dataclass(frozen=True)
class Size:
    """A named size: what does not depend on the teacher."""

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (2, 4, 5, 10)
    window_sizes: tuple[int, ...] = (7, 7, 14, 7)


SIZES = {
    "tiny_vit_5m": Size((64, 128, 160, 320)),
    "tiny_vit_11m": Size((64, 128, 256, 448), num_heads=(2, 4, 8, 14)),
    "tiny_vit_21m": Size((96, 192, 384, 576), num_heads=(3, 6, 12, 18)),
    # For a grid of 16: the windows of its wide stages are the whole grid and a quarter of it.
    "tiny_vit_pocket": Size((16, 32, 64, 96), (1, 1, 3, 1), (1, 2, 4, 6), (8, 8, 16, 8)),
}


@dataclass(frozen=True)
class TimmConfig:
    """Shape of the encoder.

    Attributes:
        name: of the backbone, as in ``timm.list_models()``.
        image_size: side of the square input in pixels.
        grid: side of the embedding.
        stages: which feature maps are used, as timm numbers them; empty for those whose grid is the teacher's or
            coarser, or the last one if none is.
        out_channels: channels of the embedding.
    """

    name: str
    image_size: int
    grid: int
    stages: tuple[int, ...] = ()
    out_channels: int = 256


@dataclass(frozen=True)
class TimmMapsConfig(TimmConfig):
    """The same beside a teacher with several maps: high-resolution features are read off the backbone's finer maps."""

    @property
    def maps(self) -> Layout:
        """What the encoder gives."""
        return sam2_layout(self.out_channels)
