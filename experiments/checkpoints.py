"""A model by name or by file, for the command ``evaluate``."""

import contextlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.errors import InputError
from experiments.messages import nearest
from students.pruned_vit import FORMAT, load_model
from teachers.catalog import MODELS
from teachers.inferred_shape import infer_config
from teachers.sam import Sam
from teachers.weights import hugging_face_decoder_heads, load_sam, read_state, sam_from_state


@dataclass(frozen=True)
class Found:
    """A loaded model and what its file says of its making (``method``, ``ratio``, ``seed``, ``teacher``)."""

    model: Sam
    about: dict[str, Any] = field(default_factory=dict)


def find_model(checkpoint: str) -> Found:
    """Load a catalogue's name, a file of this project (which describes itself), or a file in Meta's layout.

    Raises:
        InputError: neither such a name nor such a file, or the file is damaged.
    """
    if checkpoint in MODELS:
        return Found(load_sam(checkpoint), {"method": "teacher", "teacher": checkpoint})
    path = Path(checkpoint).expanduser()
    if not path.exists():
        raise InputError(f"checkpoint={checkpoint} is neither a file nor a model; {nearest(checkpoint, MODELS)}")
    facts = _metadata(path) if path.suffix == ".safetensors" else {}
    if facts.get("format") == FORMAT:
        return Found(load_model(path), facts.get("about") or {})
    name = facts.get("name")
    if name in MODELS:
        return Found(load_sam(name, path), {"method": "teacher", "teacher": name})
    state = read_state(path)
    # The decoder's heads leave no trace in the tensors: a folder's config.json tells them, a known shape has its own.
    if path.is_dir():
        config = infer_config(state, hugging_face_decoder_heads(path), str(path))
        return Found(sam_from_state(config, state, str(path), path.resolve().name))
    config = infer_config(state, origin=str(path))
    known = next(
        (n for n, m in MODELS.items() if replace(m.config, decoder_heads=config.decoder_heads) == config), None
    )
    config = MODELS[known].config if known else config
    model = sam_from_state(config, state, str(path), known or path.stem)
    return Found(model, {"method": "teacher", "teacher": known or path.stem})


def _metadata(path: Path) -> dict[str, Any]:
    """The metadata of a safetensors file, without its tensors; empty where there is none to be read."""
    from safetensors import SafetensorError, safe_open

    with contextlib.suppress(SafetensorError, OSError, ValueError), safe_open(path, framework="pt") as stream:
        return {key: json.loads(value) for key, value in (stream.metadata() or {}).items()}
    return {}
