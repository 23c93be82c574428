"""Models in files that describe themselves: weights, shape and facts of their making in one safetensors file."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from core.checkpoint import check_fit, is_safetensors, note_of, read_metadata, read_safetensors, write_safetensors
from core.errors import InputError
from core.plain_file import parse_json
from core.untrusted import NOTE, read_torch
from students.convert.slimsam_pickle import is_slimsam_pickle
from students.kinds import KINDS, build_model, kind_of
from students.quantized.plan import Plan, apply_plan, pack, plan_of
from students.quantized.simulated_grids import check_grids
from teachers.inferred_shape import check_shape
from teachers.sam import META_NORM_EPS, Sam, SamConfig
from teachers.sam2 import Sam2Config
from teachers.weights import fill, parsed_note, weight_files

FORMAT = "sampress-sam-1"
FAMILIES: dict[str, type[SamConfig]] = {"sam": SamConfig, "sam2": Sam2Config}
"""What the rest of a model is, around its image encoder; a file that says nothing holds a SAM."""
# What timm tabulates for a shape before there are weights grows with the fourth power of the one, with the second of
# the other.
_LARGEST_WINDOW, _LARGEST_FRAME = 32, 4096
_LONGEST_NAME = 200
# Tables hold numbers of 64 bits.
_LARGEST_NUMBER = 1 << 63
# What making a model of a shape that is none ends with; timm asserts what its blocks need of heads and windows.
_UNSOUND = (TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, LookupError, AssertionError)
# Facts that become columns of tables.
_ABOUT: dict[str, tuple[type, ...]] = {
    "run_id": (str,),
    "method": (str,),
    "ratio": (int, float),
    "teacher": (str,),
    "seed": (int,),
    "images_seen": (int,),
    "importance_images": (int,),
    "training_precision": (str,),
}


def save_model(path: Path, model: Sam, about: Mapping[str, Any] | None = None) -> None:
    """Write a model with its shape: safetensors, loadable without the recipe that made it.

    Args:
        about: facts to keep beside the weights (method, ratio, seed, hash of the teacher).
    """
    metadata = {"format": FORMAT, **describe(model, about)}
    plan = plan_of(model)
    if plan is not None:
        metadata["plan"] = plan.to_dict()
    write_safetensors(path, model.state_dict(), metadata)


def describe(model: Sam, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What tensors do not say of a model, as plain data: its name, its shape, and facts of its making.

    Files of other layouts keep it where their own readers take no notice of it.
    """
    config = asdict(model.config)
    if config["decoder_norm_eps"] == META_NORM_EPS:
        # It came later, and says something only where it is another.
        del config["decoder_norm_eps"]
    family = {"family": "sam2"} if isinstance(model.config, Sam2Config) else {}
    return {
        "name": model.name,
        **family,
        "encoder": kind_of(model.config.encoder),
        "config": config,
        "about": dict(about or {}),
    }


def read_facts(path: Path) -> dict[str, Any]:
    """All that a safetensors file says beside its tensors, as plain data; texts that are no JSON are left out.

    Raises:
        InputError: not a safetensors file.
    """
    facts = {}
    for key, text in read_metadata(path).items():
        try:
            facts[key] = parse_json(text)
        except ValueError:
            continue
    return facts


def read_model_metadata(path: Path) -> dict[str, Any]:
    """The facts that this project kept beside the weights, in whatever layout; none where it kept none.

    Raises:
        InputError: the file is missing or damaged, or a fact that tables show is of another type than theirs.
    """
    (file, *_) = weight_files(path)
    if is_slimsam_pickle(file):
        return {"method": "slimsam"}
    if not is_safetensors(file):
        return about_of(parsed_note(note_of(read_torch(file)), file), path)
    metadata = read_metadata(file)
    return about_of(parsed_note(metadata[NOTE], file) if NOTE in metadata else read_facts(file), path)


def name_of(facts: Mapping[str, Any], path: Path, remedy: str = "save it again") -> str | None:
    """The model's name among all that stands beside its tensors; folders are called by it.

    Args:
        remedy: the end of the refusal.

    Raises:
        InputError: it is none that a file could have.
    """
    name = facts.get("name")
    if name is None:
        return None
    if not isinstance(name, str) or not name or not is_name(name):
        raise InputError(f"{path}: calls itself {str(name)[:50]!r}, which is no name of a model; {remedy}")
    return name


def about_of(facts: Mapping[str, Any], path: Path, remedy: str = "save it again") -> dict[str, Any]:
    """The facts of a model's making among all that stands beside its tensors; see :func:`read_model_metadata`.

    Names of runs and their folders, and columns of tables, are made of them.

    Args:
        remedy: the end of the refusal.

    Raises:
        InputError: a fact that tables show is of another type than theirs, a text that no file could be called, or no
            number that they can hold.
    """
    about = facts.get("about")
    if not isinstance(about, dict):
        return {}
    for key, kinds in _ABOUT.items():
        value = about.get(key)
        if value is None:
            continue
        expected = " or ".join(kind.__name__ for kind in kinds)
        if type(value) not in kinds:
            raise InputError(f"{path}: says of its {key} {str(value)[:50]!r}, expected {expected}; {remedy}")
        # NaN is not below anything.
        if not (is_name(value) if isinstance(value, str) else abs(value) < _LARGEST_NUMBER):
            raise InputError(f"{path}: says of its {key} {str(value)[:50]!r}, which no {key} can be; {remedy}")
    return about


def is_name(text: str) -> bool:
    """Whether a file or folder could be called so, or by a name that it is a part of."""
    return len(text) <= _LONGEST_NAME and text.isprintable() and not set("/\\") & set(text)


def load_model(path: Path) -> Sam:
    """Read a model that :func:`save_model` wrote; frozen, in eval mode.

    The shape that it states takes memory only once its tensors have been found to fit.

    Raises:
        InputError: not such a file, its weights do not fit the shape it states, or are not finite.
    """
    tensors, metadata = read_safetensors(path)
    try:
        if parse_json(metadata["format"]) != FORMAT:
            raise InputError(f"{path}: written in format {metadata['format']}, this version reads {FORMAT!r}")
        stated: dict[str, Any] = {
            key: parse_json(metadata[key]) for key in ("config", "encoder", "family") if key in metadata
        }
        name = name_of({"name": parse_json(metadata["name"])}, path)
        if name is None:
            raise ValueError("it has no name")
        config = stated_shape(stated, len(tensors), str(path))
        plan = Plan.from_dict(parse_json(metadata["plan"])) if "plan" in metadata else None
        with torch.device("meta"):
            check_fit(_made(config, name, plan), tensors, str(path))
        with torch.random.fork_rng(devices=[]):
            model = _made(config, name, plan)
    except _UNSOUND as error:
        if isinstance(error, InputError):
            raise error if str(error).startswith(str(path)) else InputError(f"{path}: {error}") from None
        raise InputError(f"{path}: its metadata does not describe a model ({type(error).__name__}: {error})") from error
    filled = fill(model, tensors, str(path))
    check_grids(filled, str(path))
    return filled


def stated_shape(facts: Mapping[str, Any], tensors: int, origin: str) -> SamConfig:
    """The shape among what stands beside a model's tensors; see :func:`describe`.

    Args:
        tensors: how many there are.

    Raises:
        InputError: the message names ``origin``.
    """
    try:
        shape = dict(facts["config"])
        # Before there were other kinds, a file did not say it.
        kind, _ = KINDS[facts.get("encoder", "vit")]
        encoder = {key: tuple(v) if isinstance(v, list) else v for key, v in shape.pop("encoder").items()}
        for key, most in (("depths", tensors), ("window_sizes", _LARGEST_WINDOW), ("image_size", _LARGEST_FRAME)):
            sizes = encoder.get(key, 0)
            if any(
                not isinstance(size, int) or size > most for size in (sizes if isinstance(sizes, tuple) else (sizes,))
            ):
                raise ValueError(f"{key} of {str(sizes)[:50]}, at most {most} is possible")
        config = FAMILIES[facts.get("family", "sam")](kind(**encoder), **shape)
        check_shape(config, origin)
    except _UNSOUND as error:
        if isinstance(error, InputError):
            raise error if str(error).startswith(origin) else InputError(f"{origin}: {error}") from None
        raise InputError(
            f"{origin}: its metadata does not describe a model ({type(error).__name__}: {error})"
        ) from error
    return config


def _made(config: SamConfig, name: str, plan: Plan | None) -> Sam:
    """A model of a shape, quantised if there is a plan; random weights stand in for those that a file has."""
    model = build_model(config, name)
    if plan is not None:
        apply_plan(model, plan)
        pack(model)
    return model
