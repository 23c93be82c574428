"""Meta's state-dict layout of SAM and that of Hugging Face's ``SamModel``, both ways: a table of renames."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from core.errors import InputError
from teachers.hugging_face_config import hugging_face_config
from teachers.sam import SamConfig

POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
"""Meta's name of the one tensor that Hugging Face stores twice."""

# Beginnings of names, Meta's and Hugging Face's; {} is an index. The first that fits is applied, once; what follows
# it, and names that fit none, are the same in both layouts.
_LAYER = "mask_decoder.transformer.layers.{}"
_PERCEPTRON = (("layers.0", "proj_in"), ("layers.1", "layers.0"), ("layers.2", "proj_out"))
SHARED_RENAMES = (
    (POSITIONS, "shared_image_embedding.positional_embedding"),
    (POSITIONS, "prompt_encoder.shared_embedding.positional_embedding"),
    ("prompt_encoder.point_embeddings.{}", "prompt_encoder.point_embed.{}"),
    ("prompt_encoder.mask_downscaling.0", "prompt_encoder.mask_embed.conv1"),
    ("prompt_encoder.mask_downscaling.1", "prompt_encoder.mask_embed.layer_norm1"),
    ("prompt_encoder.mask_downscaling.3", "prompt_encoder.mask_embed.conv2"),
    ("prompt_encoder.mask_downscaling.4", "prompt_encoder.mask_embed.layer_norm2"),
    ("prompt_encoder.mask_downscaling.6", "prompt_encoder.mask_embed.conv3"),
    *((f"{_LAYER}.norm{i}", f"{_LAYER}.layer_norm{i}") for i in range(1, 5)),
    ("mask_decoder.transformer.norm_final_attn", "mask_decoder.transformer.layer_norm_final_attn"),
    ("mask_decoder.output_upscaling.0", "mask_decoder.upscale_conv1"),
    ("mask_decoder.output_upscaling.1", "mask_decoder.upscale_layer_norm"),
    ("mask_decoder.output_upscaling.3", "mask_decoder.upscale_conv2"),
    *(
        (f"mask_decoder.{head}.{ours}", f"mask_decoder.{head}.{theirs}")
        for head in ("output_hypernetworks_mlps.{}", "iou_prediction_head")
        for ours, theirs in _PERCEPTRON
    ),
)
"""Of prompt encoder and mask decoder: those of ``Sam2Model`` too."""
_RENAMES = (
    ("image_encoder.patch_embed.proj", "vision_encoder.patch_embed.projection"),
    *((f"image_encoder.blocks.{{}}.norm{i}", f"vision_encoder.layers.{{}}.layer_norm{i}") for i in (1, 2)),
    ("image_encoder.blocks.{}", "vision_encoder.layers.{}"),
    ("image_encoder.neck.0", "vision_encoder.neck.conv1"),
    ("image_encoder.neck.1", "vision_encoder.neck.layer_norm1"),
    ("image_encoder.neck.2", "vision_encoder.neck.conv2"),
    ("image_encoder.neck.3", "vision_encoder.neck.layer_norm2"),
    ("image_encoder", "vision_encoder"),
    *SHARED_RENAMES,
)


def compiled(pairs: Iterable[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    """Each (from, to) as a pattern of a name's beginning and its replacement."""
    return [
        (re.compile(re.escape(old).replace(r"\{\}", r"(\d+)") + r"(?=\.|$)"), new.replace("{}", r"\1"))
        for old, new in pairs
    ]


_TO_HUGGING_FACE = compiled(_RENAMES)
_FROM_HUGGING_FACE = compiled((theirs, ours) for ours, theirs in _RENAMES)


def renamed_name(name: str, renames: list[tuple[re.Pattern[str], str]]) -> str:
    """A name by the first of some :func:`compiled` renames that fits its beginning; as it is where none does."""
    for pattern, new in renames:
        if found := pattern.match(name):
            return found.expand(new) + name[found.end() :]
    return name


def is_hugging_face(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names of ``SamModel``."""
    return any(name.startswith("vision_encoder.") for name in state)


def to_hugging_face(config: SamConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Meta's layout, of a model of shape ``config``, to that of ``SamModel``.

    Returns:
        The same tensors by Hugging Face's names, and a copy of the position matrix, which ``SamModel`` has twice.

    Raises:
        InputError: ``SamModel`` cannot hold this shape; see :func:`teachers.hugging_face_config.hugging_face_config`.
    """
    hugging_face_config(config)
    renamed = {renamed_name(name, _TO_HUGGING_FACE): tensor for name, tensor in state.items()}
    if POSITIONS in state:
        renamed["prompt_encoder.shared_embedding.positional_embedding"] = state[POSITIONS].clone()
    return renamed


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The layout of ``SamModel`` to Meta's.

    Raises:
        InputError: the two copies of the position matrix differ.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        ours = renamed_name(name, _FROM_HUGGING_FACE)
        if ours in renamed and not torch.equal(renamed[ours], tensor):
            raise InputError(
                f"{name} differs from shared_image_embedding.positional_embedding, which must be the same tensor; "
                "save the model again with SamModel.save_pretrained"
            )
        renamed[ours] = tensor
    return renamed
