"""The command ``convert``: a checkpoint in another layout."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from core.checkpoint import is_safetensors, note_of, read_metadata, write_torch
from core.errors import InputError
from core.plain_file import home_path
from core.progress import say
from core.result import ResultRow
from core.untrusted import NOTE, read_torch
from experiments.config.files import nearest
from experiments.config.schema import ConvertConfig
from experiments.out_place import check_out, writing_to
from experiments.result_file import NAME as RESULT
from experiments.runs.checkpoints import LoadedModel, check_encoder, chosen_model
from students.convert.layouts import CONFIG as MOBILE_SAM
from students.convert.layouts import HUGGING_FACE, save_hugging_face, to_mobile_sam
from students.export.manifest import is_export
from students.files import FORMAT, describe, read_facts, save_model
from students.kinds import kind_of
from students.quantized.plan import plan_of
from teachers.sam import META_NORM_EPS
from teachers.sam2_layouts import to_meta
from teachers.weights import ENDINGS


def _to_hugging_face(path: Path, found: LoadedModel) -> None:
    # Names of folders may hold dots: only an ending of checkpoints means that a file was meant.
    if path.is_file() or (path.suffix.lower() in ENDINGS and not path.is_dir()):
        raise InputError(f"out={path}: Hugging Face's layout is a folder; give a name without an ending")
    _check_own(path)
    save_hugging_face(path, found.model, found.about)


def _check_own(folder: Path) -> None:
    """Refuse a folder whose files would be replaced though ``convert`` did not write them, or that ``export`` wrote."""
    if is_export(folder):
        raise InputError(f"out={folder}: is an exported folder; give a new one")
    taken = [name for name in HUGGING_FACE if os.path.lexists(folder / name)]
    weights = folder / HUGGING_FACE[0]
    try:
        own = weights.is_file() and NOTE in read_metadata(weights)
    except InputError:
        own = False
    if taken and not own:
        raise InputError(f"out={folder}: holds a {taken[0]} that convert did not write; give a new folder")


def _check_file(path: Path, layout: str, *endings: str) -> None:
    """Refuse what is no name of a layout's files, and a file that ``convert`` did not write."""
    if path.suffix.lower() not in endings or path.is_dir():
        raise InputError(f"out={path}: {layout} layout is a file that ends in {endings[0]}; give such a name")
    # A link is replaced itself, and what it leads to stays.
    if path.is_file() and not path.is_symlink() and not _is_converted(path):
        raise InputError(f"out={path}: is a file that convert did not write; give a new name")


def _is_converted(path: Path) -> bool:
    try:
        if is_safetensors(path):
            return read_facts(path).get("format") == FORMAT and not (path.parent / RESULT).exists()
        return note_of(read_torch(path)) is not None
    except InputError:
        return False


def _to_meta(path: Path, found: LoadedModel) -> None:
    model = found.model
    if kind_of(model.config.encoder) == "hiera":
        _check_file(path, "Meta's", ".pt", ".pth")
        # As SAM 2's own code reads it, but for the weights of a video's memory.
        write_torch(path, to_meta(model.state_dict()), json.dumps(describe(model, found.about)), inside="model")
        say(f"{path}: the image part of {model.name}; SAM 2's own code wants a video model's memory too")
        return
    _check_file(path, "Meta's", ".pth", ".pt")
    if kind_of(model.config.encoder) != "vit":
        raise InputError(f"to=meta: {model.name} has no ViT as Meta's layout needs; give to=sampress")
    write_torch(path, model.state_dict(), json.dumps(describe(model, found.about)))
    eps = model.config.decoder_norm_eps
    if eps != META_NORM_EPS:
        say(
            f"{path}: Meta's code computes the mask decoder's layer norms with an eps of {META_NORM_EPS:g}, this model "
            f"with {eps:g}, as it is written beside the weights for this project"
        )


def _to_mobile_sam(path: Path, found: LoadedModel) -> None:
    _check_file(path, "MobileSAM's", ".pt", ".pth")
    model = found.model
    if model.config != MOBILE_SAM:
        raise InputError(f"to=mobile_sam: {model.name} is no SAM with TinyViT-5M at 1024 pixels; give to=sampress")
    tensors = to_mobile_sam(model.state_dict(), found.beside)
    write_torch(path, tensors, json.dumps(describe(model, found.about)))


def _to_sampress(path: Path, found: LoadedModel) -> None:
    _check_file(path, "this project's", ".safetensors")
    save_model(path, found.model, found.about)


LAYOUTS: dict[str, Callable[[Path, LoadedModel], None]] = {
    "hf": _to_hugging_face,
    "meta": _to_meta,
    "mobile_sam": _to_mobile_sam,
    "sampress": _to_sampress,
}
"""Hugging Face's folders (``SamModel``, ``Sam2Model``), Meta's and MobileSAM's state dicts, this project's file."""


def convert(settings: ConvertConfig, cfg: DictConfig) -> list[ResultRow]:
    """Read a model in any layout that ``evaluate`` reads and write it in another."""
    if settings.to not in LAYOUTS:
        raise InputError(f"to={settings.to} is unknown; {nearest(settings.to, LAYOUTS)}")
    out = home_path(settings.out)
    check_out(settings.out, out)
    found = chosen_model(settings)
    if settings.to != "sampress" and plan_of(found.model) is not None:
        raise InputError(
            f"to={settings.to}: {found.model.name} is quantised, and other layouts hold no codes and scales; give "
            "to=sampress, take it to a runtime by export precision=int8, or convert the model it was made of"
        )
    check_encoder(settings.checkpoint, found.model)
    with writing_to(settings.out):
        LAYOUTS[settings.to](out, found)
    say(f"{found.model.name} ({found.layout}) written to {out}")
    return []
