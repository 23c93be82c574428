"""The shape of a SAM, read off its tensors."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from core.errors import InputError
from teachers.hiera import HieraConfig
from teachers.image_encoder import EncoderConfig
from teachers.sam import META_NORM_EPS, SamConfig
from teachers.sam2 import Sam2Config


def infer_config(
    state: Mapping[str, Tensor],
    decoder_heads: int = 8,
    origin: str = "state dict",
    decoder_norm_eps: float = META_NORM_EPS,
) -> SamConfig:
    """The shape of the model that a state dict by Meta's names belongs to.

    Every block may have widths of its own. A block whose relative positions span the whole grid counts as global
    (with windows as large as the grid that is the same function).

    Args:
        decoder_heads, decoder_norm_eps: of the mask decoder, which leave no trace in the tensors.
        origin: where the tensors came from, for messages.

    Raises:
        InputError: a tensor that shows the shape is missing, or they contradict each other.
    """

    def size(key: str, axis: int) -> int:
        if key not in state or state[key].ndim <= axis:
            what = f"{key} has shape {tuple(state[key].shape)}" if key in state else f"there is no {key}"
            raise InputError(f"{origin}: {what}, {_instead(state)}")
        return state[key].shape[axis]

    prefix = "image_encoder.blocks."
    depth = len({key.split(".")[2] for key in state if key.startswith(prefix)})
    grid, patch = size("image_encoder.pos_embed", 1), size("image_encoder.patch_embed.proj.weight", 3)
    if min(grid, patch) < 1:
        raise InputError(f"{origin}: a grid of {grid} patches of {patch} pixels is no image; its shape is damaged")
    attention = tuple(size(f"{prefix}{i}.attn.proj.weight", 1) for i in range(depth))
    head_dims = [size(f"{prefix}{i}.attn.rel_pos_h", 1) for i in range(depth)]
    heads = {width / max(dim, 1) for width, dim in zip(attention, head_dims, strict=True)}
    if len(heads) != 1 or not min(heads).is_integer():
        raise InputError(f"{origin}: attention widths {attention} and head widths {head_dims} give no one head count")
    sides = [(size(f"{prefix}{i}.attn.rel_pos_h", 0) + 1) // 2 for i in range(depth)]
    windows = set(sides) - {grid}
    if len(windows) > 1:
        raise InputError(f"{origin}: relative positions for windows of {sorted(windows)} tokens, expected one size")
    encoder = EncoderConfig(
        image_size=grid * patch,
        patch_size=patch,
        embed_dim=size("image_encoder.pos_embed", 3),
        num_heads=int(heads.pop()),
        attention_widths=attention,
        mlp_widths=tuple(size(f"{prefix}{i}.mlp.lin1.weight", 0) for i in range(depth)),
        window_size=windows.pop() if windows else grid,
        global_blocks=tuple(i for i, side in enumerate(sides) if side == grid),
        out_channels=size("image_encoder.neck.0.weight", 0),
    )
    return SamConfig(
        encoder,
        decoder_heads,
        decoder_mlp_width=size("mask_decoder.transformer.layers.0.mlp.lin1.weight", 0),
        iou_width=size("mask_decoder.iou_prediction_head.layers.0.weight", 0),
        decoder_norm_eps=decoder_norm_eps,
    )


def known_sam2_config(state: Mapping[str, Tensor], known: Iterable[SamConfig], origin: str) -> Sam2Config:
    """Which known shape a SAM 2's tensors have: they show neither heads nor windows nor the size of images.

    Raises:
        InputError: none of the known ones.
    """

    def width(key: str) -> int:
        return len(state[key]) if key in state and state[key].ndim else 0

    prefix = "image_encoder.trunk.blocks."
    depth = len({key.split(".")[3] for key in state if key.startswith(prefix)})
    widths = [width(f"{prefix}{i}.norm2.weight") for i in range(depth)]
    for config in known:
        encoder = config.encoder
        if (
            isinstance(config, Sam2Config)
            and isinstance(encoder, HieraConfig)
            and widths == [encoder.embed_dims[stage] for stage in encoder.stages]
            and [width(f"{prefix}{i}.mlp.fc1.weight") for i in range(depth)] == list(encoder.mlp_widths)
        ):
            return config
    raise InputError(
        f"{origin}: a SAM 2 of {depth} blocks of widths {sorted(set(widths))}, which is no published one, and its "
        "tensors say neither heads nor windows; give a folder of Sam2Model with its config.json"
    )


def _instead(state: Mapping[str, Tensor]) -> str:
    """What tensors are that lack one of a SAM's."""
    parts, found = ("image_encoder", "prompt_encoder", "mask_decoder"), {key.partition(".")[0] for key in state}
    if found.issuperset(parts):
        return (
            "which a SAM in Meta's layout has (fused qkv, relative positions); it is incomplete, or laid out otherwise"
        )
    if (found and found.issubset(parts)) or "neck.0.weight" in state:
        alone = " and ".join(part for part in parts if part in found) or "an image encoder"
        return f"as this is {alone} alone; give the whole model"
    return "so this is not a SAM in Meta's layout"


def check_shape(config: SamConfig, origin: str) -> None:
    """Refuse a shape that can be built and then computes nothing: sizes below one, heads that do not divide a width.

    Raises:
        InputError: the message names ``origin`` and the size.
    """
    sizes = {
        "decoder_heads": config.decoder_heads,
        "decoder_mlp_width": config.decoder_mlp_width,
        "iou_width": config.iou_width,
        "image_size": config.encoder.image_size,
        "grid": config.encoder.grid,
        "out_channels": config.encoder.out_channels,
    }
    # The decoder's attention to and from the image has half of its width.
    widths: dict[str, tuple[int, int]] = {"decoder_heads": (config.decoder_heads, config.encoder.out_channels // 2)}
    if isinstance(config.encoder, EncoderConfig):
        sizes |= {"num_heads": config.encoder.num_heads, "window_size": config.encoder.window_size}
        for i, width in enumerate(config.encoder.attention_widths):
            sizes[f"attention_widths[{i}]"] = width
            widths[f"num_heads of block {i}"] = config.encoder.num_heads, width
    if isinstance(config.encoder, HieraConfig):
        hiera = config.encoder
        sizes["background"] = hiera.background
        for stage in range(4):
            sizes |= {f"embed_dims[{stage}]": hiera.embed_dims[stage], f"depths[{stage}]": hiera.depths[stage]}
            sizes |= {
                f"num_heads[{stage}]": hiera.num_heads[stage],
                f"window_sizes[{stage}]": hiera.window_sizes[stage],
            }
        for i, stage in enumerate(hiera.stages):
            sizes |= {f"attention_widths[{i}]": hiera.attention_widths[i], f"mlp_widths[{i}]": hiera.mlp_widths[i]}
            widths[f"num_heads of block {i}"] = hiera.num_heads[stage], hiera.attention_widths[i]
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise InputError(f"{origin}: a model of {name} {str(size)[:50]} computes nothing; its shape is damaged")
    eps = config.decoder_norm_eps
    if type(eps) not in (int, float) or not 0 < eps < 1:
        raise InputError(
            f"{origin}: decoder_norm_eps is {str(eps)[:50]}, no small positive number; its shape is damaged"
        )
    for name, (heads, width) in widths.items():
        if width % heads:
            raise InputError(f"{origin}: {name} is {heads}, which does not divide the width {width}")
