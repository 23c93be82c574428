"""Kinds of image encoders, and models with any of them."""

from collections.abc import Callable
from typing import Any

from torch import nn

from students.encoder_shapes import TimmConfig, TimmMapsConfig, TinyVitConfig, TinyVitMapsConfig
from teachers.hiera import HieraConfig, HieraEncoder
from teachers.image_encoder import EncoderConfig, ImageEncoder
from teachers.sam import Sam, SamConfig


def _tiny_vit(shape: TinyVitConfig) -> nn.Module:
    # timm takes a second to import, which only its own students wait for.
    from students.tiny_vit import TinyVitEncoder, TinyVitMapsEncoder

    return TinyVitMapsEncoder(shape) if isinstance(shape, TinyVitMapsConfig) else TinyVitEncoder(shape)


def _timm(shape: TimmConfig) -> nn.Module:
    from students.timm_encoder import TimmEncoder, TimmMapsEncoder

    return TimmMapsEncoder(shape) if isinstance(shape, TimmMapsConfig) else TimmEncoder(shape)


KINDS: dict[str, tuple[type[Any], Callable[[Any], nn.Module]]] = {
    "vit": (EncoderConfig, ImageEncoder),
    "hiera": (HieraConfig, HieraEncoder),
    # Before those that they derive from.
    "tiny_vit_maps": (TinyVitMapsConfig, _tiny_vit),
    "timm_maps": (TimmMapsConfig, _timm),
    "tiny_vit": (TinyVitConfig, _tiny_vit),
    "timm": (TimmConfig, _timm),
}
"""Kinds of image encoders: the class of their shape, and what makes one of a shape."""


def kind_of(shape: object) -> str:
    """The kind of an encoder's shape."""
    return next(kind for kind, (config, _) in KINDS.items() if isinstance(shape, config))


def build_model(config: SamConfig, name: str = "sam") -> Sam:
    """A SAM of any kind of encoder, its weights as its modules make them."""
    _, make = KINDS[kind_of(config.encoder)]
    return config.make(name, make(config.encoder))
