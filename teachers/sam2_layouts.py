"""Names of SAM 2's weights: Meta's ``.pt`` files and Hugging Face's ``Sam2Model``, to this project's and back.

Both also hold what a video model remembers by. It is recognised by name, counted, and left out.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from core.errors import InputError
from teachers.convert import POSITIONS, SHARED_RENAMES, compiled, renamed_name
from teachers.sam2 import Sam2Config
from teachers.sam2_hub_config import hub_config_of

_LAYER = "mask_decoder.transformer.layers.{}"
_TO_META = (
    ("image_encoder.conv_s0", "sam_mask_decoder.conv_s0"),
    ("image_encoder.conv_s1", "sam_mask_decoder.conv_s1"),
    ("image_encoder.no_mem_embed", "no_mem_embed"),
    ("image_encoder.neck.convs.{}", "image_encoder.neck.convs.{}.conv"),
    ("image_encoder.trunk.blocks.{}.mlp.fc1", "image_encoder.trunk.blocks.{}.mlp.layers.0"),
    ("image_encoder.trunk.blocks.{}.mlp.fc2", "image_encoder.trunk.blocks.{}.mlp.layers.1"),
    (f"{_LAYER}.mlp.lin1", f"sam_{_LAYER}.mlp.layers.0"),
    (f"{_LAYER}.mlp.lin2", f"sam_{_LAYER}.mlp.layers.1"),
    ("prompt_encoder", "sam_prompt_encoder"),
    ("mask_decoder", "sam_mask_decoder"),
)
_TO_HUB = (
    ("image_encoder.conv_s0", "mask_decoder.conv_s0"),
    ("image_encoder.conv_s1", "mask_decoder.conv_s1"),
    ("image_encoder.no_mem_embed", "no_memory_embedding"),
    ("image_encoder.neck", "vision_encoder.neck"),
    ("image_encoder.trunk.patch_embed.proj", "vision_encoder.backbone.patch_embed.projection"),
    *(
        (f"image_encoder.trunk.blocks.{{}}.{ours}", f"vision_encoder.backbone.blocks.{{}}.{theirs}")
        for ours, theirs in (
            ("norm1", "layer_norm1"),
            ("norm2", "layer_norm2"),
            ("mlp.fc1", "mlp.proj_in"),
            ("mlp.fc2", "mlp.proj_out"),
        )
    ),
    ("image_encoder.trunk", "vision_encoder.backbone"),
    (f"{_LAYER}.mlp.lin1", f"{_LAYER}.mlp.proj_in"),
    (f"{_LAYER}.mlp.lin2", f"{_LAYER}.mlp.proj_out"),
    *(
        (f"{attention}.out_proj", f"{attention}.o_proj")
        for attention in (
            *(f"{_LAYER}.{part}" for part in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")),
            "mask_decoder.transformer.final_attn_token_to_image",
        )
    ),
    *SHARED_RENAMES,
    *(
        (f"mask_decoder.pred_obj_score_head.{ours}", f"mask_decoder.pred_obj_score_head.{theirs}")
        for ours, theirs in (("layers.0", "proj_in"), ("layers.1", "layers.0"), ("layers.2", "proj_out"))
    ),
)
_RENAMES = {
    "meta": (compiled(_TO_META), compiled((theirs, ours) for ours, theirs in _TO_META)),
    "hub": (compiled(_TO_HUB), compiled((theirs, ours) for ours, theirs in _TO_HUB)),
}
_POINTS, _POINT_TABLE = "prompt_encoder.point_embeddings.{}.weight", "prompt_encoder.point_embed.weight"
_ONLY_2_1 = ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter")
# By Meta's names, and by transformers'.
_MEMORY = re.compile(
    r"(memory_attention|memory_encoder|mask_downsample|obj_ptr_proj|obj_ptr_tpos_proj|object_pointer_proj"
    r"|temporal_positional_encoding_projection_layer)\."
    r"|(maskmem_tpos_enc|no_mem_pos_enc|no_obj_ptr|no_obj_embed_spatial|memory_temporal_positional_encoding"
    r"|no_memory_positional_encoding|no_object_pointer|occlusion_spatial_embedding_parameter)$"
)


def sam2_layout(state: Mapping[str, Tensor]) -> str | None:
    """Which names of SAM 2 a state dict has: ``meta``, ``hub``, ``sampress`` (this project's); None: it is no SAM 2."""
    marks = {
        "meta": "image_encoder.neck.convs.0.conv.weight",
        "hub": "vision_encoder.neck.convs.0.weight",
        "sampress": "image_encoder.neck.convs.0.weight",
    }
    return next((layout for layout, mark in marks.items() if mark in state), None)


def without_memory(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str, bool]:
    """A state dict without the weights of a video model's memory.

    Returns:
        The rest, what was left out in words (empty where nothing was), and whether the weights are SAM 2.1's as far as
        one can see: those of SAM 2 have a memory that lacks a part.
    """
    memory = {name: tensor for name, tensor in state.items() if _MEMORY.match(name)}
    if not memory:
        return dict(state), "", True
    count = sum(tensor.numel() for tensor in memory.values())
    note = f"without the memory of the video model ({len(memory)} tensors, {count:,} parameters)"
    newest = any(name in memory for name in _ONLY_2_1)
    note += "" if newest else "; these are weights of SAM 2, before 2.1"
    return {name: tensor for name, tensor in state.items() if name not in memory}, note, newest


def from_sam2_layout(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Tensors by this project's names.

    Args:
        layout: of :func:`sam2_layout`.

    Raises:
        InputError: the two copies of the position matrix differ, or the table of points has another shape.
    """
    if layout == "sampress":
        return dict(state)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == _POINT_TABLE and layout == "hub":
            if tensor.ndim != 2 or len(tensor) != 4:
                raise InputError(f"{name} has shape {tuple(tensor.shape)}, expected four points")
            renamed |= {_POINTS.format(kind): tensor[kind : kind + 1].clone() for kind in range(4)}
            continue
        ours = renamed_name(name, _RENAMES[layout][1])
        if ours in renamed and not torch.equal(renamed[ours], tensor):
            raise InputError(
                f"{name} differs from shared_image_embedding.positional_embedding, which must be the same tensor; "
                "save the model again with Sam2Model.save_pretrained"
            )
        renamed[ours] = tensor
    return renamed


def to_meta(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This project's tensors by the names of Meta's ``.pt`` files, the image part alone."""
    return {renamed_name(name, _RENAMES["meta"][0]): tensor for name, tensor in state.items()}


def to_hub(config: Sam2Config, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This project's tensors, of a model of shape ``config``, by the names of ``Sam2Model``.

    Raises:
        InputError: ``Sam2Model`` cannot hold this shape; see :func:`teachers.sam2_hub_config.hub_config_of`.
    """
    hub_config_of(config)
    points = [state[_POINTS.format(kind)] for kind in range(4)]
    rest = {name: tensor for name, tensor in state.items() if not name.startswith("prompt_encoder.point_embeddings.")}
    renamed = {renamed_name(name, _RENAMES["hub"][0]): tensor for name, tensor in rest.items()}
    renamed[_POINT_TABLE] = torch.cat(points)
    renamed["prompt_encoder.shared_embedding.positional_embedding"] = state[POSITIONS].clone()
    return renamed
