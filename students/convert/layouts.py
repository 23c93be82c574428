"""Names of weights in the layouts of MobileSAM's and of Hugging Face's files, and back."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.checkpoint import write_safetensors, write_text
from core.untrusted import NOTE
from students.encoder_shapes import SIZES, TinyVitConfig
from students.files import describe
from teachers.convert import to_hugging_face
from teachers.hugging_face_config import hugging_face_config, preprocessing
from teachers.sam import Sam, SamConfig
from teachers.sam2 import Sam2Config
from teachers.sam2_hub_config import hub_config_of, sam2_preprocessing
from teachers.sam2_layouts import to_hub

DEAD_HEAD = {
    "image_encoder.norm_head.weight": (320,),
    "image_encoder.norm_head.bias": (320,),
    "image_encoder.head.weight": (1000, 320),
    "image_encoder.head.bias": (1000,),
}
"""Tensors of the released files that no forward pass reads: the ImageNet classifier."""

CONFIG = SamConfig(
    TinyVitConfig(
        1024,
        64,
        SIZES["tiny_vit_5m"].embed_dims,
        SIZES["tiny_vit_5m"].depths,
        SIZES["tiny_vit_5m"].num_heads,
        SIZES["tiny_vit_5m"].window_sizes,
    )
)
"""The shape of the released models."""

# Beginnings of names below the backbone: theirs (Microsoft's TinyViT), timm's.
_RENAMES = (
    (r"patch_embed\.seq\.0\.", "patch_embed.conv1."),
    (r"patch_embed\.seq\.2\.", "patch_embed.conv2."),
)


def is_mobile_sam(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names of ``mobile_sam.pt``."""
    return "image_encoder.patch_embed.seq.0.c.weight" in state


def from_microsoft_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A TinyViT by Microsoft's names to one by timm's, the classifier included if there is one."""
    return {_to_timm(name): tensor for name, tensor in state.items()}


def from_mobile_sam(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state dict of the released layout to this project's.

    Returns:
        The model's tensors, and what the released layout holds beside them (the dead classifier).
    """
    ours: dict[str, Tensor] = {}
    beside: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in DEAD_HEAD:
            beside[name] = tensor
        elif name.startswith("image_encoder.") and not name.startswith("image_encoder.neck."):
            ours["image_encoder.backbone." + _to_timm(name.removeprefix("image_encoder."))] = tensor
        else:
            ours[name] = tensor
    return ours, beside


def to_mobile_sam(state: Mapping[str, Tensor], beside: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This project's state dict to the released layout, in which MobileSAM's own code loads it.

    Args:
        beside: the dead classifier; what is missing of it is filled with zeros, since nothing reads it.
    """
    theirs: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("image_encoder.backbone."):
            name = "image_encoder." + _from_timm(name.removeprefix("image_encoder.backbone."))
        theirs[name] = tensor
    return theirs | {name: beside.get(name, torch.zeros(shape)) for name, shape in DEAD_HEAD.items()}


def _to_timm(name: str) -> str:
    for pattern, new in _RENAMES:
        name = re.sub(rf"^{pattern}", new, name)
    name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.", name)
    name = re.sub(r"^layers\.", "stages.", name)
    name = re.sub(r"\.c\.(weight|bias)$", r".conv.\1", name)
    return re.sub(r"^head\.", "head.fc.", re.sub(r"^norm_head\.", "head.norm.", name))


def _from_timm(name: str) -> str:
    name = re.sub(r"^patch_embed\.conv1\.", "patch_embed.seq.0.", name)
    name = re.sub(r"^patch_embed\.conv2\.", "patch_embed.seq.2.", name)
    name = re.sub(r"^stages\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.", name)
    name = re.sub(r"^stages\.", "layers.", name)
    return re.sub(r"\.conv\.(weight|bias)$", r".c.\1", name)


HUGGING_FACE = ("model.safetensors", "config.json", "preprocessor_config.json")
"""The files of a folder in Hugging Face's layout, in the order in which they are written."""


def save_hugging_face(folder: Path, model: Sam, about: Mapping[str, Any] | None = None) -> None:
    """Write the three files of :data:`HUGGING_FACE`.

    Args:
        about: facts to keep in the metadata of the weights; gone once transformers saves others in their place.

    Raises:
        InputError: ``SamModel`` (``Sam2Model``) cannot hold the model's shape; nothing is written.
    """
    if isinstance(model.config, Sam2Config):
        config, prepared = hub_config_of(model.config), sam2_preprocessing(model.config)
        tensors = to_hub(model.config, model.state_dict())
    else:
        config, prepared = hugging_face_config(model.config), preprocessing(model.config)
        tensors = to_hugging_face(model.config, model.state_dict())
    # transformers asks the file which framework wrote it.
    metadata = {"format": "pt", NOTE: json.dumps(describe(model, about))}
    weights, *texts = HUGGING_FACE
    write_safetensors(folder / weights, tensors, metadata, encode=str)
    for name, content in zip(texts, (config, prepared), strict=True):
        write_text(folder / name, json.dumps(content, indent=2) + "\n")
