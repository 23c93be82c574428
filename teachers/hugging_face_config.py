"""What a folder of Hugging Face's ``SamModel`` says beside its tensors: ``config.json``, both ways.

Each value that the model's function depends on is honoured, or refused by key and value.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from core.errors import InputError
from core.plain_file import read_json
from teachers.sam import META_NORM_EPS, SamConfig

HUB_NORM_EPS = 1e-6
"""Of the mask decoder's two-way blocks where a ``config.json`` does not say it; Meta's code has 1e-5."""
# Of blocks, of a ratio and of any number that is compared as a fraction: far beyond any SAM.
_MOST = 4096

# What a SAM here always is, by transformers' names and with transformers' defaults.
_FIXED: dict[str, dict[str, Any]] = {
    "vision_config": {
        "num_channels": 3,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "use_abs_pos": True,
        "use_rel_pos": True,
    },
    "prompt_encoder_config": {
        "mask_input_channels": 16,
        "num_point_embeddings": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
    },
    "mask_decoder_config": {
        "hidden_act": "relu",
        "num_hidden_layers": 2,
        "attention_downsample_rate": 2,
        "num_multimask_outputs": 3,
        "iou_head_depth": 3,
    },
}
# What may differ, with transformers' defaults.
_FREE: dict[str, dict[str, Any]] = {
    "vision_config": {
        "image_size": 1024,
        "patch_size": 16,
        "hidden_size": 768,
        "output_channels": 256,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "mlp_dim": None,
        "mlp_ratio": 4.0,
        "window_size": 14,
        "global_attn_indexes": [2, 5, 8, 11],
        "num_pos_feats": 128,
    },
    "prompt_encoder_config": {"image_size": 1024, "patch_size": 16, "hidden_size": 256},
    "mask_decoder_config": {
        "hidden_size": 256,
        "num_attention_heads": 8,
        "mlp_dim": 2048,
        "iou_head_hidden_dim": 256,
        "layer_norm_eps": HUB_NORM_EPS,
    },
}

# Of an image processor: what images are like that the model is given.
_PREPARING = (
    *("image_mean", "image_std", "rescale_factor", "do_rescale", "do_normalize", "do_resize", "size", "resample"),
    *("do_pad", "pad_size", "do_flip_channel_order"),
)


class HubConfig:
    """A ``config.json`` of a ``SamModel``, with transformers' own value wherever it says nothing.

    Args:
        path: of the file; ``processor_config.json`` and ``preprocessor_config.json`` beside it are read too.

    Raises:
        InputError: it is missing, not such a one, or asks for what this project's SAM cannot do: the message names key
            and value.
    """

    model: ClassVar[str] = "SamModel"
    kinds: ClassVar[tuple[str, ...]] = ("sam",)
    fixed: ClassVar[dict[str, dict[str, Any]]] = _FIXED
    free: ClassVar[dict[str, dict[str, Any]]] = _FREE

    def __init__(self, path: Path) -> None:
        self.path = path
        stored = read_json(path, f"a folder of {self.model} has it beside its weights")
        try:
            self.sections = {
                name: {**self.fixed[name], **free, **self._given(stored, name)} for name, free in self.free.items()
            }
            kind, quantized = stored.get("model_type", self.kinds[0]), stored.get("quantization_config")
        except (AttributeError, TypeError) as error:
            raise InputError(
                f"{path}: is not the config.json of a {self.model} ({error}); save the model again"
            ) from None
        if kind not in self.kinds or quantized:
            what = f"model_type is {kind!r}" if kind not in self.kinds else "quantization_config is given"
            known = " or ".join(map(repr, self.kinds))
            raise InputError(f"{path}: {what}; only model_type {known} with plain weights is read")
        self._refuse(differences(self.sections, self.fixed), "is not supported here")
        decoder = self.sections["mask_decoder_config"]
        heads, eps = decoder["num_attention_heads"], decoder.get("layer_norm_eps", META_NORM_EPS)
        if type(heads) is not int or heads < 1:
            raise InputError(f"{path}: mask_decoder_config.num_attention_heads is {heads!r}, not a count")
        if type(eps) not in (int, float) or not 0 < eps < 1:
            raise InputError(f"{path}: mask_decoder_config.layer_norm_eps is {eps!r}, not a small positive number")
        self.decoder_heads: int = heads
        self.decoder_norm_eps = float(eps)

    def check(self, config: SamConfig) -> None:
        """Compare it with a model's shape.

        Raises:
            InputError: a value that the function depends on differs, or the folder's preprocessing is not this model's.
        """
        self._refuse(self._unfit(config), "does not fit this model")
        expected = self._preprocessing(config) | {"do_flip_channel_order": False}
        for file, stored in self._processors():
            for key in (key for key in _PREPARING if key in expected):
                value = stored.get(key)
                # What is null has transformers' default.
                if value is not None and not _equal(value, expected[key]):
                    raise InputError(
                        f"{file}: {key} is {_short(value)}, expected {_short(expected[key])}; this project prepares "
                        "images as SAM does, and the model would be given others than it was trained on"
                    )

    def _processors(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """What stands beside the weights of how images are prepared, with its file: one or two, or none.

        Since its fifth version transformers writes ``processor_config.json``, with the image processor in it.
        """
        for name in ("processor_config.json", "preprocessor_config.json"):
            file = self.path.with_name(name)
            if not file.exists():
                continue
            stored = read_json(file, "save the processor again")
            if isinstance(stored, dict) and name == "processor_config.json":
                # Earlier versions wrote into it what is not of images.
                stored = stored.get("image_processor", {})
            if not isinstance(stored, dict):
                raise InputError(f"{file}: describes no image processor; save the processor again")
            yield file, stored

    @staticmethod
    def _given(stored: Any, name: str) -> dict[str, Any]:
        return stored.get(name) or {}

    def _unfit(self, config: SamConfig) -> Iterator[str]:
        """Values that are not those of a model of this shape."""
        expected, encoder = hugging_face_config(config), config.vit
        sections = {name: dict(section) for name, section in self.sections.items()}
        vision = sections["vision_config"]
        if vision["mlp_dim"] is None and type(vision["mlp_ratio"]) in (int, float) and 0 < vision["mlp_ratio"] <= _MOST:
            vision["mlp_dim"] = int(encoder.embed_dim * vision["mlp_ratio"])
        if _windows(vision) == _windows(expected["vision_config"]):
            # Windows as large as the grid are written as either.
            vision.update({key: expected["vision_config"][key] for key in ("window_size", "global_attn_indexes")})
        return differences(sections, {name: expected[name] for name in _FREE})

    @staticmethod
    def _preprocessing(config: SamConfig) -> dict[str, Any]:
        return preprocessing(config)

    def _refuse(self, differences: Iterator[str], why: str) -> None:
        problems = list(differences)
        if problems:
            raise InputError(f"{self.path}: {why}: {'; '.join(problems[:5])}")


def _windows(vision: Mapping[str, Any]) -> list[int] | None:
    """The window of each block, 0 for one that attends over the whole grid; None where the values make no sense."""
    try:
        if max(vision["num_hidden_layers"], len(vision["global_attn_indexes"])) > _MOST:
            return None
        grid = _side(vision["image_size"]) // _side(vision["patch_size"])
        window = 0 if vision["window_size"] == grid else vision["window_size"]
        return [0 if i in vision["global_attn_indexes"] else window for i in range(vision["num_hidden_layers"])]
    except (TypeError, ZeroDivisionError):
        return None


def differences(sections: Mapping[str, Mapping[str, Any]], expected: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, values in expected.items():
        for key, value in values.items():
            if not _equal(_side(sections[name][key]), value):
                yield f"{name}.{key} is {_short(sections[name][key])}, expected {_short(value)}"


def _equal(found: Any, expected: Any) -> bool:
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(_equal, found, expected))
    if isinstance(expected, float) and type(found) in (int, float):
        # Whole numbers may be too large for a float.
        return -_MOST < found < _MOST and math.isclose(found, expected, rel_tol=1e-6)
    return type(found) is type(expected) and bool(found == expected)


def _side(value: Any) -> Any:
    """A side that is given for both axes."""
    return value[0] if isinstance(value, list) and len(value) == 2 and value[0] == value[1] else value


def _short(value: Any) -> str:
    return json.dumps(value)[:80]


def hugging_face_config(config: SamConfig) -> dict[str, Any]:
    """The contents of ``config.json`` with which ``SamModel`` has this shape and computes the same function.

    Raises:
        InputError: its classes cannot hold the shape: widths that differ between blocks, or an attention width other
            than the embedding width.
    """
    encoder = config.vit
    if not encoder.uniform:
        raise InputError(
            f"SamModel cannot hold blocks of different widths (attention {sorted(set(encoder.attention_widths))}, "
            f"MLP {sorted(set(encoder.mlp_widths))}); keep this model in Meta's layout, or prune it uniformly"
        )
    if encoder.attention_widths[0] != encoder.embed_dim:
        raise InputError(
            f"SamModel cannot hold an attention width ({encoder.attention_widths[0]}) other than the embedding width "
            f"({encoder.embed_dim}); keep this model in Meta's layout, or prune both to one width"
        )
    size = {"image_size": encoder.image_size, "patch_size": encoder.patch_size}
    shape: dict[str, dict[str, Any]] = {
        "vision_config": {
            **size,
            "hidden_size": encoder.embed_dim,
            "output_channels": encoder.out_channels,
            "num_hidden_layers": encoder.depth,
            "num_attention_heads": encoder.num_heads,
            "mlp_dim": encoder.mlp_widths[0],
            "window_size": encoder.window_size,
            "global_attn_indexes": list(encoder.global_blocks),
            "num_pos_feats": encoder.out_channels // 2,
        },
        "prompt_encoder_config": {**size, "hidden_size": encoder.out_channels},
        "mask_decoder_config": {
            "hidden_size": encoder.out_channels,
            "num_attention_heads": config.decoder_heads,
            "mlp_dim": config.decoder_mlp_width,
            "iou_head_hidden_dim": config.iou_width,
            "layer_norm_eps": config.decoder_norm_eps,
        },
    }
    sections = {name: {**values, **_FIXED[name]} for name, values in shape.items()}
    return {"architectures": ["SamModel"], "model_type": "sam", **sections}


def preprocessing(config: SamConfig) -> dict[str, Any]:
    """The contents of ``preprocessor_config.json``: SAM's own preparation, for this model's frame."""
    size, low = config.encoder.image_size, 4 * config.encoder.grid
    return {
        "image_processor_type": "SamImageProcessor",
        "processor_class": "SamProcessor",
        "size": {"longest_edge": size},
        "mask_size": {"longest_edge": low},
        "pad_size": {"height": size, "width": size},
        "mask_pad_size": {"height": low, "width": low},
        "do_resize": True,
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_pad": True,
        "do_convert_rgb": True,
    }
