"""A model as a folder that ``transformers.SamModel.from_pretrained`` reads."""

import json
from pathlib import Path

from core.checkpoint import replacing, write_text
from teachers.convert import hugging_face_config, to_hugging_face
from teachers.sam import Sam


def save_hugging_face(folder: Path, model: Sam) -> None:
    """Write ``config.json``, ``model.safetensors`` and ``preprocessor_config.json``.

    Raises:
        InputError: ``SamModel`` cannot hold the model's shape; nothing is written.
    """
    from safetensors.torch import save_file

    tensors = to_hugging_face(model.config, model.state_dict())
    config = hugging_face_config(model.config)
    with replacing(folder / "model.safetensors") as temporary:
        # transformers asks the file which framework wrote it.
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, {"format": "pt"})
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_text(folder / "preprocessor_config.json", json.dumps(_preprocessing(model), indent=2) + "\n")


def _preprocessing(model: Sam) -> dict[str, object]:
    """What ``SamImageProcessor`` does to a picture: SAM's own preparation, for this model's frame."""
    size, low = model.input_size, 4 * model.config.encoder.grid
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
