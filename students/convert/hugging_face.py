"""A model as a folder that ``transformers.SamModel.from_pretrained`` reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.checkpoint import write_safetensors, write_text
from core.inert_pickle import NOTE
from students.files import describe
from teachers.convert import to_hugging_face
from teachers.hugging_face_config import hugging_face_config, preprocessing
from teachers.sam import Sam


def save_hugging_face(folder: Path, model: Sam, about: Mapping[str, Any] | None = None) -> None:
    """Write ``config.json``, ``model.safetensors`` and ``preprocessor_config.json``.

    Args:
        about: facts to keep in the metadata of the weights; gone once transformers saves others in their place.

    Raises:
        InputError: ``SamModel`` cannot hold the model's shape; nothing is written.
    """
    tensors = to_hugging_face(model.config, model.state_dict())
    config = hugging_face_config(model.config)
    # transformers asks the file which framework wrote it.
    metadata = {"format": "pt", NOTE: json.dumps(describe(model, about))}
    write_safetensors(folder / "model.safetensors", tensors, metadata, encode=str)
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_text(folder / "preprocessor_config.json", json.dumps(preprocessing(model.config), indent=2) + "\n")
