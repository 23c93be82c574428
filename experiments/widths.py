"""How wide a model is, block by block: what was cut shows beside its teacher."""

from typing import Any

from torch import nn

from students.encoder_shapes import TinyVitConfig
from students.kinds import kind_of
from students.quantized.plan import as_float
from teachers.hiera import HieraConfig
from teachers.image_encoder import EncoderConfig
from teachers.sam import Sam

_LISTS = (nn.Sequential, nn.ModuleList)
_INSIDE = ("backbone", "model", "trunk")
"""Modules of an image encoder that only wrap others."""


def widths_of(model: Sam) -> dict[str, Any]:
    """Widths and parameters, as plain values.

    Returns:
        ``kind`` of image encoder, ``parts``: parameters by part, in order, which sum to the whole model's (of a
        quantised model, of the float one). Of a SAM's ViT also ``embedding`` (width of the residual stream), ``heads``,
        and by block ``attention`` (heads times their dimension) and ``mlp``; of a TinyViT ``channels``, ``depths`` and
        ``heads`` by stage; of a Hiera these three by stage and those two by block; of a backbone of timm ``channels``
        by feature map.
    """
    model = as_float(model)
    shape: Any = model.config.encoder
    found: dict[str, Any] = {"kind": kind_of(shape)}
    if isinstance(shape, EncoderConfig):
        found |= {"embedding": shape.embed_dim, "heads": shape.num_heads}
    elif isinstance(shape, TinyVitConfig | HieraConfig):
        found |= {"channels": list(shape.embed_dims), "depths": list(shape.depths), "heads": list(shape.num_heads)}
    else:
        found["channels"] = list(model.image_encoder.backbone.feature_info.channels())
    if isinstance(shape, EncoderConfig | HieraConfig):
        found |= {"attention": list(shape.attention_widths), "mlp": list(shape.mlp_widths)}
    parts = _parts(model.image_encoder)
    parts["other"] = _count(model.image_encoder) - sum(parts.values())
    parts |= {"prompt encoder": _count(model.prompt_encoder), "mask decoder": _count(model.mask_decoder)}
    found["parts"] = {name: count for name, count in parts.items() if count}
    return found


def _parts(module: nn.Module) -> dict[str, int]:
    """Parameters by part; members of lists count each by itself."""
    found: dict[str, int] = {}
    for name, child in module.named_children():
        if name in _INSIDE:
            found |= _parts(child)
        elif isinstance(child, _LISTS) and name != "neck":
            found |= {f"{name} {number}": _count(part) for number, part in child.named_children()}
        else:
            found[name] = _count(child)
    return found


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
