"""Models of random weights: times depend on shapes alone."""

import torch

from teachers.catalog import MODELS
from teachers.image_encoder import EncoderConfig
from teachers.initial_weights import initialise_sam
from teachers.sam import Sam

VITS = sorted(name for name, model in MODELS.items() if isinstance(model.config.encoder, EncoderConfig))
"""Names of shapes with SAM's own ViT, of which the benchmarks' references know."""


def random_sam(name: str) -> Sam:
    """A SAM of a named shape with weights from seed 0, frozen, in evaluation mode."""
    torch.manual_seed(0)
    sam = Sam(MODELS[name].config, name).eval().requires_grad_(False)
    initialise_sam(sam)
    return sam
