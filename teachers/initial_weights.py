"""Initial weights, for what is trained from scratch."""

from torch import nn

from teachers.sam import Sam


def initialise_linear(module: nn.Module, std: float) -> None:
    """Truncated normal weights and zero biases for every linear layer inside a module."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def initialise_encoder(encoder: nn.Module) -> None:
    """Fill an image encoder as ViTs are usually begun; relative positions start at zero."""
    initialise_linear(encoder, 0.02)
    _initialise_positions(encoder)


def _initialise_positions(encoder: nn.Module) -> None:
    for name, table in encoder.named_parameters():
        # A Hiera has two.
        if "pos_embed" in name:
            nn.init.trunc_normal_(table, std=0.02)


def initialise_sam(model: Sam) -> None:
    """Fill a whole SAM. The decoder starts louder than the encoder: its tokens are few and its input is normalised."""
    initialise_linear(model.image_encoder, 0.02)
    initialise_linear(model.mask_decoder, 0.05)
    _initialise_positions(model.image_encoder)
