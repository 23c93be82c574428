"""What a folder of ``transformers.Sam2Model`` says beside its tensors; see :mod:`teachers.hugging_face_config`.

Tensors of a SAM 2 show neither heads nor windows nor the size of images: its shape is read off ``config.json``.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

from core.errors import InputError
from teachers.hiera import HieraConfig
from teachers.hugging_face_config import HubConfig, differences
from teachers.sam import SamConfig
from teachers.sam2 import STABILITY_DELTA, STABLE, Sam2Config

_BACKBONE = "vision_config.backbone_config"
_BACKGROUND = "window_positional_embedding_background_size"
# Of sides, widths and heads: no SAM comes near it.
_LARGEST = 4096


class Sam2HubConfig(HubConfig):
    """A ``config.json`` of a ``Sam2Model``, or of a ``Sam2VideoModel``, as Meta's folders on the hub have it."""

    model: ClassVar[str] = "Sam2Model"
    kinds: ClassVar[tuple[str, ...]] = ("sam2", "sam2_video")
    fixed: ClassVar[dict[str, dict[str, Any]]] = {
        "vision_config": {
            "fpn_kernel_size": 1,
            "fpn_stride": 1,
            "fpn_padding": 0,
            "fpn_top_down_levels": [2, 3],
            "num_feature_levels": 3,
        },
        _BACKBONE: {
            "num_channels": 3,
            "patch_kernel_size": 7,
            "patch_stride": 4,
            "patch_padding": 3,
            "query_stride": 2,
            "num_query_pool_stages": 3,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
        },
        "prompt_encoder_config": {
            "mask_input_channels": 16,
            "num_point_embeddings": 4,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
        },
        "mask_decoder_config": {
            "num_hidden_layers": 2,
            "attention_downsample_rate": 2,
            "num_multimask_outputs": 3,
            "iou_head_depth": 3,
            "dynamic_multimask_via_stability": True,
            "dynamic_multimask_stability_delta": STABILITY_DELTA,
            "dynamic_multimask_stability_thresh": STABLE,
        },
    }
    free: ClassVar[dict[str, dict[str, Any]]] = {
        "vision_config": {
            "backbone_channel_list": [768, 384, 192, 96],
            "backbone_feature_sizes": [[256, 256], [128, 128], [64, 64]],
            "fpn_hidden_size": 256,
        },
        _BACKBONE: {
            "hidden_size": 96,
            _BACKGROUND: 7,
            "blocks_per_stage": [1, 2, 7, 2],
            "embed_dim_per_stage": [96, 192, 384, 768],
            "num_attention_heads_per_stage": [1, 2, 4, 8],
            "window_size_per_stage": [8, 4, 14, 7],
            "global_attention_blocks": [5, 7, 9],
            "mlp_ratio": 4.0,
        },
        "prompt_encoder_config": {"image_size": 1024, "patch_size": 16, "hidden_size": 256},
        "mask_decoder_config": {
            "hidden_size": 256,
            "num_attention_heads": 8,
            "mlp_dim": 2048,
            "iou_head_hidden_dim": 256,
        },
    }

    @staticmethod
    def _given(stored: Any, name: str) -> dict[str, Any]:
        for part in name.split("."):
            stored = stored.get(part) or {}
        return {key: value for key, value in stored.items() if value is not None}

    def shape(self, tensors: int) -> Sam2Config:
        """The shape that it describes.

        Args:
            tensors: how many the folder has; there are no more blocks than that.

        Raises:
            InputError: its values describe none.
        """
        trunk, decoder = self.sections[_BACKBONE], self.sections["mask_decoder_config"]
        size = self.sections["prompt_encoder_config"]["image_size"]
        background = trunk[_BACKGROUND]
        try:
            dims, depths, heads, windows = (
                _counts(f"{key}_per_stage", trunk[f"{key}_per_stage"])
                for key in ("embed_dim", "blocks", "num_attention_heads", "window_size")
            )
            if sum(depths) > tensors:
                raise ValueError(f"blocks_per_stage is {_shown(depths)}, more blocks than the {tensors} tensors")
            blocks, ratio = trunk["global_attention_blocks"], trunk["mlp_ratio"]
            if type(blocks) is not list or not all(type(b) is int and 0 <= b < sum(depths) for b in blocks):
                raise ValueError(f"global_attention_blocks is {_shown(blocks)}, no list of blocks")
            if type(ratio) not in (int, float) or not 0 < ratio <= _LARGEST:
                raise ValueError(f"mlp_ratio is {_shown(ratio)}, no factor")
            channels = _count("fpn_hidden_size", self.sections["vision_config"]["fpn_hidden_size"])
            # A side may stand for both axes; that the two are one is compared later.
            side = _count("image_size", size[0] if isinstance(size, list) else size)
            ground = _count(_BACKGROUND, background[0] if isinstance(background, list) else background)
            widths = tuple(dim for dim, depth in zip(dims, depths, strict=True) for _ in range(depth))
            encoder = HieraConfig(
                side,
                dims,
                depths,
                heads,
                windows,
                tuple(blocks),
                ground,
                widths,
                tuple(int(width * ratio) for width in widths),
                channels,
            )
        except (TypeError, ValueError, IndexError) as error:
            raise InputError(f"{self.path}: describes no SAM 2 ({error}); save the model again") from None
        return Sam2Config(encoder, self.decoder_heads, decoder["mlp_dim"], decoder["iou_head_hidden_dim"])

    def _unfit(self, config: SamConfig) -> Iterator[str]:
        assert isinstance(config, Sam2Config)
        expected = hub_config_of(config)
        vision = expected["vision_config"]
        flat = {**expected, _BACKBONE: vision["backbone_config"]}
        own = {name: {key: flat[name][key] for key in free} for name, free in self.free.items()}
        own[_BACKBONE][_BACKGROUND] = config.hiera.background
        return differences(self.sections, own)

    @staticmethod
    def _preprocessing(config: SamConfig) -> dict[str, Any]:
        return sam2_preprocessing(config)


def _counts(key: str, values: Any) -> tuple[int, ...]:
    """The numbers of the four stages under a key, each from 1 to :data:`_LARGEST`.

    Raises:
        ValueError: they are none.
    """
    if type(values) is not list or len(values) != 4:
        raise ValueError(f"{key} is {_shown(values)}, expected a number of each of 4 stages")
    return tuple(_count(key, value) for value in values)


def _count(key: str, value: Any) -> int:
    if type(value) is not int or not 0 < value <= _LARGEST:
        raise ValueError(f"{key} is {_shown(value)}, expected a number from 1 to {_LARGEST:,}")
    return value


def _shown(value: Any) -> str:
    return str(value)[:50]


def hub_config_of(config: Sam2Config) -> dict[str, Any]:
    """The contents of ``config.json`` with which ``Sam2Model`` has this shape and computes the same function.

    Raises:
        InputError: its classes cannot hold the shape: widths that differ within a stage, or MLPs that are not one
            multiple of them.
    """
    encoder = config.hiera
    stages = [encoder.embed_dims[stage] for stage in encoder.stages]
    ratio = encoder.mlp_widths[0] / stages[0]
    if list(encoder.attention_widths) != stages or [int(dim * ratio) for dim in stages] != list(encoder.mlp_widths):
        raise InputError(
            "Sam2Model cannot hold attention widths other than the embedding width of their stage, nor MLPs that are "
            "not one multiple of it; keep this model in this project's layout"
        )
    grid, fixed, channels = encoder.grid, Sam2HubConfig.fixed, encoder.out_channels
    backbone = {
        **fixed[_BACKBONE],
        **{key: [fixed[_BACKBONE][key]] * 2 for key in ("patch_kernel_size", "patch_stride", "patch_padding")},
        "query_stride": [2, 2],
        "model_type": "sam2_hiera_det_model",
        "image_size": [encoder.image_size] * 2,
        "hidden_size": encoder.embed_dims[0],
        "num_attention_heads": encoder.num_heads[0],
        _BACKGROUND: [encoder.background] * 2,
        "blocks_per_stage": list(encoder.depths),
        "embed_dim_per_stage": list(encoder.embed_dims),
        "num_attention_heads_per_stage": list(encoder.num_heads),
        "window_size_per_stage": list(encoder.window_sizes),
        "global_attention_blocks": list(encoder.global_blocks),
        "mlp_ratio": ratio,
    }
    return {
        "architectures": ["Sam2Model"],
        "model_type": "sam2",
        "vision_config": {
            **fixed["vision_config"],
            "model_type": "sam2_vision_model",
            "backbone_config": backbone,
            "backbone_channel_list": list(reversed(encoder.embed_dims)),
            "backbone_feature_sizes": [[scale * grid] * 2 for scale in (4, 2, 1)],
            "fpn_hidden_size": channels,
        },
        "prompt_encoder_config": {
            **fixed["prompt_encoder_config"],
            "image_size": encoder.image_size,
            "patch_size": 16,
            "hidden_size": channels,
        },
        "mask_decoder_config": {
            **fixed["mask_decoder_config"],
            "hidden_size": channels,
            "num_attention_heads": config.decoder_heads,
            "mlp_dim": config.decoder_mlp_width,
            "iou_head_hidden_dim": config.iou_width,
        },
    }


def sam2_preprocessing(config: SamConfig) -> dict[str, Any]:
    """The contents of ``preprocessor_config.json``: images are stretched to the frame."""
    size, low = config.encoder.image_size, 4 * config.encoder.grid
    return {
        "image_processor_type": "Sam2ImageProcessor",
        "processor_class": "Sam2Processor",
        "size": {"height": size, "width": size},
        "mask_size": {"height": low, "width": low},
        "do_resize": True,
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_convert_rgb": True,
    }
