"""A model by name or by file, whatever its layout, and whether its image encoder works."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.checkpoint import file_sha256, is_safetensors, weights_sha256
from core.errors import InputError
from core.plain_file import home_path
from core.progress import say
from core.protocols import Segmenter
from experiments.config.files import nearest
from experiments.config.schema import ModelConfig
from experiments.runs.download import fetched, fetched_folder
from students.catalog import RELEASED
from students.convert.layouts import CONFIG as MOBILE_SAM
from students.convert.layouts import HUGGING_FACE, from_mobile_sam, is_mobile_sam
from students.convert.slimsam_pickle import is_slimsam_pickle, read_slimsam_pickle
from students.export.manifest import MANIFEST, holds_part, is_export
from students.files import FORMAT, about_of, load_model, name_of, read_facts, read_model_metadata, stated_shape
from students.kinds import build_model
from students.pruned_vit import UNIFORM
from students.self_check import encoder_problem
from teachers.catalog import MODELS
from teachers.inferred_shape import infer_config, known_sam2_config
from teachers.sam import Sam, SamConfig
from teachers.sam2_hub_config import Sam2HubConfig
from teachers.sam2_layouts import sam2_layout
from teachers.weights import Stored, fill, holds_weights, load_sam, read_stored, sam_from_state

STUDENT = "student.safetensors"
"""The name of the student in a run's folder."""


@dataclass(frozen=True)
class LoadedModel:
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


def chosen_model(settings: ModelConfig) -> LoadedModel:
    """The model of a command's ``checkpoint=``; see :func:`find_model`."""
    return find_model(settings.checkpoint, settings.decoder_heads, settings.entry)


def find_model(
    checkpoint: str, decoder_heads: int | None = None, entry: str | None = None, setting: str = "checkpoint"
) -> LoadedModel:
    """Load a catalogue's name, a file of this project (which describes itself), or a file or folder of another layout.

    Args:
        decoder_heads: heads of the mask decoder, for a file that does not say them.
        entry: which of several models of a file is meant.
        setting: that names it, for messages.

    Raises:
        InputError: neither such a name nor such a file; the file is damaged, holds several models, or does not say how
            many heads its mask decoder has and is not of a known shape.
    """
    check_named(checkpoint, setting)
    path = home_path(checkpoint)
    name = None
    if checkpoint in MODELS:
        found = LoadedModel(load_sam(checkpoint), "of the catalogue", {"method": "teacher", "teacher": checkpoint})
    elif checkpoint in RELEASED and not path.exists():
        name, release = checkpoint, RELEASED[checkpoint]
        hub = release.layout == "hugging_face"
        path = fetched_folder(release.url, checkpoint) if hub else fetched(release.url, release.sha256, checkpoint)
        found = replace(_read(path, decoder_heads, entry), about={"method": checkpoint})
        found.model.name = checkpoint
    else:
        found = _read(path, decoder_heads, entry, setting)
    if decoder_heads not in (None, found.model.config.decoder_heads):
        raise InputError(
            f"checkpoint.decoder_heads={decoder_heads}: the decoder of {name or checkpoint} has "
            f"{found.model.config.decoder_heads}; leave it out"
        )
    return found


def check_named(checkpoint: str, setting: str = "checkpoint") -> None:
    """Refuse what is neither a model's name nor a file or folder.

    Raises:
        InputError: it is; the message has the nearest name.
    """
    known = [*MODELS, *RELEASED]
    if checkpoint not in known and not home_path(checkpoint).exists():
        # All other settings that name a model may be left unset.
        known += [] if setting == "checkpoint" else ["null"]
        raise InputError(f"{setting}={checkpoint} is neither a file nor a model; {nearest(checkpoint, known)}")


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


def check_model_folder(path: Path, setting: str = "checkpoint") -> None:
    """Refuse a folder that holds no model; a file, and a folder that cannot be entered, are left to who reads them.

    Raises:
        InputError: it is a run's, an exported one without its manifest, or has no weights.
    """
    if not path.is_dir() or not os.access(path, os.X_OK):
        return
    if (path / STUDENT).is_file():
        raise InputError(f"{setting}={path}: a run's folder; give its student, {setting}={path / STUDENT}")
    if is_export(path) or holds_weights(path):
        return
    if holds_part(path):
        raise InputError(f"{path / MANIFEST}: no such file, though this looks like an exported folder; export it again")
    raise InputError(
        f"{path / HUGGING_FACE[0]}: no such checkpoint file, nor is there an {MANIFEST}; give a folder of Hugging "
        "Face's SamModel or Sam2Model, an exported folder, or a file of weights"
    )


def _read(path: Path, decoder_heads: int | None, entry: str | None, setting: str = "checkpoint") -> LoadedModel:
    """A file or a folder, by what is in it."""
    if is_export(path):
        raise InputError(
            f"{setting}={path}: an exported folder, which evaluate, predict, everything and latency read; "
            "give what it was made of"
        )
    check_model_folder(path, setting)
    if is_export(path.parent) and (path.name == MANIFEST or path.stem in ("encoder", "decoder")):
        raise InputError(f"{setting}={path}: a file of an exported folder; give {setting}={path.parent}")
    facts = read_facts(path) if not path.is_dir() and is_safetensors(path) else {}
    # A file of another version says so when it is loaded; taken for another layout it would be read wrongly.
    if str(facts.get("format")).startswith(FORMAT.rpartition("-")[0]):
        # First, as it is quick and may refuse the file.
        about = read_model_metadata(path)
        return LoadedModel(load_model(path), "this project's safetensors", about)
    name = facts.get("name")
    if isinstance(name, str) and name in MODELS:
        return LoadedModel(load_sam(name, path), "this project's safetensors", {"method": "teacher", "teacher": name})
    if path.is_file() and is_slimsam_pickle(path):
        shape, state = read_slimsam_pickle(path)
        model = sam_from_state(shape, state, str(path), path.stem)
        return LoadedModel(model, "SlimSAM's pickled model, read as tensors and plain data", read_model_metadata(path))
    stored = read_stored(path, entry)
    if stored.note:
        say(f"{path}: {stored.note}")
    about = about_of(stored.facts, path)
    name = name_of(stored.facts, path) or (path.resolve().name if path.is_dir() else path.stem)
    if is_mobile_sam(stored.tensors):
        if "encoder" in stored.facts and stated_shape(stored.facts, len(stored.tensors), str(path)) != MOBILE_SAM:
            # Tensors are the same for any frame.
            raise InputError(
                f"{path}: says beside its tensors that it is no TinyViT-5M at {MOBILE_SAM.encoder.image_size} pixels, "
                "as MobileSAM's layout is; give the file that it was made of"
            )
        ours, beside = from_mobile_sam(stored.tensors)
        return LoadedModel(
            fill(build_model(MOBILE_SAM, name), ours, str(path)), "MobileSAM's state dict", about, beside
        )
    layout = "a state dict in Meta's layout" if stored.hub is None else f"a Hugging Face folder of {stored.hub.model}"
    model, known = _sam(stored, decoder_heads, str(path), name)
    # What has a note is what that says, and no teacher where it does not say so.
    if known and not stored.facts:
        about, model.name = {"method": "teacher", "teacher": known}, known
        if not _is_published(path, model, known):
            say(f"{path}: called {known} by its shape; nothing shows that its weights are the published ones")
    return LoadedModel(model, layout, about)


def _is_published(path: Path, model: Sam, name: str) -> bool:
    """Whether a model has the weights that a name of the catalogue stands for, as far as one can see here."""
    known = MODELS[name]
    if known.packaged is not None and known.packaged.is_file():
        return weights_sha256(model) == weights_sha256(load_sam(name))
    return known.release is not None and path.is_file() and file_sha256(path) == known.release.sha256


def _sam(stored: Stored, decoder_heads: int | None, origin: str, name: str) -> tuple[Sam, str | None]:
    """A SAM with its ViT, and the teacher of whose shape it is.

    Heads of the decoder leave no trace in tensors: the file says them, its shape is a known one, or they are given.
    """
    config = _shape_of(stored, origin)
    shape = replace(config, decoder_heads=0, decoder_norm_eps=0)
    alike = {other: m for other, m in _SHAPES.items() if replace(m, decoder_heads=0, decoder_norm_eps=0) == shape}
    heads = stored.decoder_heads or decoder_heads or next((m.decoder_heads for m in alike.values()), None)
    model = sam_from_state(replace(config, decoder_heads=heads or 1), stored.tensors, origin, name)
    if heads is None:
        raise InputError(
            f"{origin}: its tensors do not say how many heads the mask decoder has, and its shape is no published one; "
            "give checkpoint.decoder_heads=NUMBER (Meta's models have 8, sam_pocket and its students 4), to convert "
            "to=sampress too, whose file keeps it"
        )
    if stored.hub is not None:
        stored.hub.check(model.config)
    if not stored.is_published:
        return model, None
    return model, next((other for other, m in alike.items() if other in MODELS and m.decoder_heads == heads), None)


def _shape_of(stored: Stored, origin: str) -> SamConfig:
    """The shape of a stored model but for its decoder's heads, as far as it is stored or known."""
    if sam2_layout(stored.tensors) is None:
        # With one head, every width fits.
        return infer_config(stored.tensors, stored.decoder_heads or 1, origin, stored.decoder_norm_eps)
    if isinstance(stored.hub, Sam2HubConfig):
        return stored.hub.shape(len(stored.tensors))
    if "config" in stored.facts:
        return stated_shape(stored.facts, len(stored.tensors), origin)
    return known_sam2_config(stored.tensors, _SHAPES.values(), origin)


_SHAPES = {**{name: model.config for name, model in MODELS.items()}, **UNIFORM}
"""Shapes whose number of heads is published."""
