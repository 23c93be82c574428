"""A model by name or by file, whatever its layout, and whether its image encoder works."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError
from core.plain_file import home_path
from core.protocols import Segmenter
from experiments.download import fetched, fetched_folder
from experiments.messages import nearest
from students.catalog import RELEASED
from students.convert.mobile_sam import CONFIG as MOBILE_SAM
from students.convert.mobile_sam import from_mobile_sam, is_mobile_sam
from students.convert.slimsam_pickle import is_slimsam_pickle, read_slimsam_pickle
from students.export.manifest import is_export
from students.files import FORMAT, load_model, read_about, read_facts
from students.self_check import encoder_problem
from students.student import build_model
from teachers.catalog import MODELS
from teachers.inferred_shape import infer_config
from teachers.sam import Sam
from teachers.weights import fill, hugging_face_decoder_heads, load_sam, read_state, sam_from_state


@dataclass(frozen=True)
class Found:
    """A loaded model, and where it comes from.

    Attributes:
        layout: what the file is recognised as, for messages.
        about: what the file says of its making (``method``, ``ratio``, ``seed``, ``teacher``).
        beside: tensors of the file that the model does not use; another file of the layout keeps them.
    """

    model: Sam
    layout: str
    about: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Tensor] = field(default_factory=dict)


def find_model(checkpoint: str) -> Found:
    """Load a catalogue's name, a file of this project (which describes itself), or a file in Meta's layout.

    Raises:
        InputError: neither such a name nor such a file, or the file is damaged.
    """
    if checkpoint in MODELS:
        return Found(load_sam(checkpoint), "of the catalogue", {"method": "teacher", "teacher": checkpoint})
    path = home_path(checkpoint)
    if checkpoint in RELEASED and not path.exists():
        release = RELEASED[checkpoint]
        hub = release.layout == "hugging_face"
        path = fetched_folder(release.url, checkpoint) if hub else fetched(release.url, release.sha256, checkpoint)
        found = _read(path)
        found.model.name = checkpoint
        return replace(found, about={"method": checkpoint})
    if not path.exists():
        known = [*MODELS, *RELEASED]
        raise InputError(f"checkpoint={checkpoint} is neither a file nor a model; {nearest(checkpoint, known)}")
    return _read(path)


def check_encoder(
    checkpoint: str, model: Segmenter, precision: torch.dtype | None = None, setting: str = "evaluation.precision"
) -> None:
    """Refuse a model whose image encoder is broken as it is going to compute; see :mod:`students.self_check`.

    Args:
        checkpoint: as given, for the message.
        precision: what autocast is going to compute in, or None.
        setting: of the precision.

    Raises:
        InputError: it is; the message says in what way, and what to do.
    """
    problem = encoder_problem(model, precision, setting)
    if problem is not None:
        raise InputError(f"{checkpoint}: {problem}")


def _read(path: Path) -> Found:
    """A file or a folder, by what is in it."""
    if is_export(path):
        raise InputError(f"checkpoint={path}: an exported folder, which only evaluate reads; give what it was made of")
    facts = read_facts(path) if path.suffix == ".safetensors" and not path.is_dir() else {}
    # A file of another version says so when it is loaded; taken for another layout it would be read wrongly.
    if str(facts.get("format")).startswith(FORMAT.rpartition("-")[0]):
        return Found(load_model(path), "this project's safetensors", read_about(path))
    name = facts.get("name")
    if isinstance(name, str) and name in MODELS:
        return Found(load_sam(name, path), "this project's safetensors", {"method": "teacher", "teacher": name})
    if path.is_file() and is_slimsam_pickle(path):
        shape, state = read_slimsam_pickle(path)
        model = sam_from_state(shape, state, str(path), path.stem)
        return Found(model, "SlimSAM's pickled model, read as tensors and plain data", {"method": "slimsam"})
    state = read_state(path)
    if is_mobile_sam(state):
        ours, beside = from_mobile_sam(state)
        return Found(fill(build_model(MOBILE_SAM, path.stem), ours, str(path)), "MobileSAM's state dict", {}, beside)
    # The decoder's heads leave no trace in the tensors: a folder's config.json tells them, a known shape has its own.
    if path.is_dir():
        config = infer_config(state, hugging_face_decoder_heads(path), str(path))
        model = sam_from_state(config, state, str(path), path.resolve().name)
        return Found(model, "a Hugging Face folder of SamModel", {"method": "teacher", "teacher": model.name})
    config = infer_config(state, origin=str(path))
    known = next(
        (n for n, m in MODELS.items() if replace(m.config, decoder_heads=config.decoder_heads) == config), None
    )
    config = MODELS[known].config if known else config
    model = sam_from_state(config, state, str(path), known or path.stem)
    return Found(model, "a state dict in Meta's layout", {"method": "teacher", "teacher": known or path.stem})
