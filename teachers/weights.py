"""From a name or a file to a loaded model: frozen, in eval mode, float32. Nothing is fetched, and no code is run."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.checkpoint import check_fit, file_sha256, load_strictly, read_safetensors, read_torch
from core.errors import InputError
from core.plain_file import access_told, home_path, read_json
from teachers.catalog import MODELS, NamedModel
from teachers.convert import from_hugging_face, hugging_face_config, is_hugging_face
from teachers.inferred_shape import check_shape
from teachers.sam import Sam, SamConfig

# What a SamModel's config.json says that its tensors do not show, and what it means where it is left out.
_NOT_IN_TENSORS: dict[str, dict[str, Any]] = {
    "vision_config": {
        "image_size": 1024,
        "num_attention_heads": 12,
        "window_size": 14,
        "global_attn_indexes": [2, 5, 8, 11],
    },
    "mask_decoder_config": {"num_attention_heads": 8},
}


def load_sam(name: str, checkpoint: str | Path | None = None) -> Sam:
    """A named model with its weights: float32, on the CPU, frozen and in eval mode.

    Args:
        name: a key of :data:`teachers.catalog.MODELS`.
        checkpoint: a file or folder for :func:`read_state`. Without one: the file inside this package, else the
            published file where ``torch.hub`` keeps downloads, if its SHA-256 is right.

    Raises:
        InputError: an unknown name; no weights at hand (the message has the command that fetches them); a file that
            is damaged, of another layout or shape, or holds values that are not finite.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(MODELS)}"
        raise InputError(f"teacher {name!r} is unknown; {hint}")
    model = MODELS[name]
    path = _found(name, model) if checkpoint is None else home_path(checkpoint)
    state = read_state(path)
    if path.is_dir():
        _check_folder(path, model.config)
    return sam_from_state(model.config, state, str(path), name)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict of SAM, by Meta's names; dtypes and values as stored.

    Args:
        path: a ``.pth`` or ``.pt`` file (a state dict, or a dict with one under ``model`` or ``state_dict``), a
            ``.safetensors`` file, or a folder of Hugging Face's ``SamModel``. Tensors may have Meta's names or those
            of ``SamModel``.

    Raises:
        InputError: the file is missing, closed, damaged, asks for code to be run, or is no dict of tensors.
    """
    with access_told(path):
        file = path / "model.safetensors" if path.is_dir() else path
    if file.suffix == ".safetensors":
        state = read_safetensors(file)[0]
    elif file.suffix in (".pth", ".pt", ".bin"):
        state = tensors_in(read_torch(file), file)
    else:
        raise InputError(f"{path}: not a checkpoint by its name; give a .pth, .pt or .safetensors file, or a folder")
    if not is_hugging_face(state):
        return state
    try:
        return from_hugging_face(state)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def sam_from_state(config: SamConfig, state: Mapping[str, Tensor], origin: str, name: str = "sam") -> Sam:
    """Build a SAM with its own ViT and load it; see :func:`fill`.

    A shape that the tensors contradict is refused before memory is taken for it.
    """
    check_shape(config, origin)
    try:
        with torch.device("meta"):
            check_fit(Sam(config, name), state, origin)
    except (RuntimeError, TypeError, ArithmeticError) as error:
        raise InputError(f"{origin}: its tensors have shapes that no SAM has ({error})") from None
    # Strict loading replaces every initial value, so drawing them must not show elsewhere.
    with torch.random.fork_rng(devices=[]):
        model = Sam(config, name)
    return fill(model, state, origin)


def fill(model: Sam, state: Mapping[str, Tensor], origin: str) -> Sam:
    """Load a state dict into a model: float32, frozen, in eval mode.

    Args:
        state: tensors by the model's names, of any floating-point dtype (counters as integers).
        origin: where they came from, for messages.

    Raises:
        InputError: keys or shapes differ, a tensor is of another kind of numbers, or a value is not finite; the message
            names ``origin`` and the first offending keys.
    """
    wanted = model.state_dict()
    ready = dict(state)
    for key in [key for key in wanted if key in state]:
        value, number = state[key], wanted[key]
        if value.layout != torch.strided or value.is_meta or value.dtype not in _numbers(number):
            floats = "dense floating-point tensors (float16, bfloat16, float32 or float64)"
            must = floats if number.is_floating_point() else str(number.dtype)
            raise InputError(f"{origin}: {key} holds {value.dtype}, weights must be {must}")
        ready[key] = value.float() if number.is_floating_point() else value
    check_finite({key: ready[key] for key in wanted if key in ready}, origin)
    load_strictly(model, ready, origin)
    return model.requires_grad_(False).eval()


def check_finite(tensors: Mapping[str, Tensor], origin: str) -> None:
    """Refuse weights that are no numbers.

    Raises:
        InputError: the message names the first such tensor, how many of its values are NaN or infinite, and how many
            other tensors have some.
    """
    wrong = [(key, int((~value.isfinite()).sum())) for key, value in tensors.items() if not value.isfinite().all()]
    if not wrong:
        return
    (key, count), others = wrong[0], len(wrong) - 1
    more = f", as do {others} more tensors" if others else ""
    raise InputError(
        f"{origin}: {key} holds NaN or infinite values ({count} of {tensors[key].numel()}){more}; "
        "use another copy of this checkpoint"
    )


def _numbers(wanted: Tensor) -> tuple[torch.dtype, ...]:
    """The types that hold what a tensor of a model holds: 8-bit floats have scales that no tensor of a SAM keeps."""
    if wanted.is_floating_point():
        return torch.float16, torch.bfloat16, torch.float32, torch.float64
    return (wanted.dtype,)


def _found(name: str, model: NamedModel) -> Path:
    """The weight file of a named model on this machine."""
    if model.packaged is not None and model.packaged.is_file():
        return model.packaged
    if model.release is None:
        raise InputError(
            f"{name}: its weights {model.packaged} are not part of this installation; "
            "install the package again, or give teacher.checkpoint=FILE"
        )
    url, expected = model.release.url, model.release.sha256
    file = url.rsplit("/", 1)[-1]
    fetch = f"curl -L -o {file} {url}"
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not cached.is_file():
        raise InputError(
            f"{name}: no weights on this machine; fetch them with `{fetch}` (sha256 {expected}) "
            f"and give teacher.checkpoint={file}"
        )
    found = file_sha256(cached)
    if found != expected:
        raise InputError(
            f"{cached}: sha256 is {found}, expected {expected}; remove it, fetch it again with `{fetch}` "
            f"and give teacher.checkpoint={file}"
        )
    return cached


def tensors_in(stored: object, path: Path) -> dict[str, Tensor]:
    """The one dict of tensors in what a file holds: it itself, or an entry ``model`` or ``state_dict`` of it.

    Raises:
        InputError: there is none, or more than one; the message names ``path``.
    """
    candidates: list[object] = [stored]
    if isinstance(stored, Mapping):
        candidates += [stored[key] for key in ("model", "state_dict") if key in stored]
    states = [dict(part) for part in candidates if isinstance(part, Mapping) and _all_tensors(part)]
    if len(states) == 1:
        return states[0]
    what = f"a {type(stored).__name__}"
    if isinstance(stored, Mapping):
        what += f" with keys {', '.join(map(str, list(stored)[:5]))}" if stored else " that is empty"
    raise InputError(
        f"{path}: holds {what}, not a dict of tensors by name; save it with torch.save(model.state_dict())"
    )


def _all_tensors(part: Mapping[object, object]) -> bool:
    return bool(part) and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in part.items())


def hugging_face_decoder_heads(folder: Path) -> int:
    """Heads of the mask decoder, from the config.json of a SamModel's folder.

    Raises:
        InputError: the file is missing or not such a one.
    """
    heads = _sections(folder)["mask_decoder_config"]["num_attention_heads"]
    if type(heads) is not int or heads < 1:
        raise InputError(f"{folder / 'config.json'}: mask_decoder_config.num_attention_heads is {heads!r}, not a count")
    return heads


def _sections(folder: Path) -> dict[str, dict[str, Any]]:
    """What only a SamModel's config.json tells."""
    path = folder / "config.json"
    stored = read_json(path, "a folder of SamModel has it beside model.safetensors")
    try:
        return {section: {**left_out, **stored.get(section, {})} for section, left_out in _NOT_IN_TENSORS.items()}
    except (AttributeError, TypeError) as error:
        raise InputError(f"{path}: is not the config.json of a SamModel ({error}); save the model again") from None


def _check_folder(folder: Path, config: SamConfig) -> None:
    """Compare what only a SamModel's config.json tells with the named model."""
    path, sections = folder / "config.json", _sections(folder)
    wanted = hugging_face_config(config)
    problems = [
        f"{section}.{key} is {sections[section][key]}, expected {wanted[section][key]}"
        for section, left_out in _NOT_IN_TENSORS.items()
        for key in left_out
        if sections[section][key] != wanted[section][key]
    ]
    if problems:
        raise InputError(f"{path}: does not fit this model: {'; '.join(problems)}")
