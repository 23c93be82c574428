"""From a name or a file to a loaded model: frozen, in eval mode, float32. Nothing is fetched, and no code is run."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from core.checkpoint import check_fit, file_sha256, load_strictly
from core.errors import InputError
from core.plain_file import home_path
from teachers.catalog import MODELS, NamedModel
from teachers.inferred_shape import check_shape
from teachers.sam import Sam, SamConfig
from teachers.stored import read_stored


def load_sam(name: str, checkpoint: str | Path | None = None, say: Callable[[str], object] | None = None) -> Sam:
    """A named model with its weights: float32, on the CPU, frozen and in eval mode.

    Args:
        name: a key of :data:`teachers.catalog.MODELS`.
        checkpoint: a file or folder for :func:`teachers.stored.read_stored`. Without one: the file inside this package,
            else the published file where ``torch.hub`` keeps downloads, if its SHA-256 is right.
        say: takes the line that says what was left out of a file's containers and names, if anything was.

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
    stored, config = read_stored(path), model.config
    if stored.decoder_heads not in (None, config.decoder_heads) and stored.hub is None:
        raise InputError(
            f"{path}: says that its decoder has {stored.decoder_heads} heads, {name} has {config.decoder_heads}; "
            "give the weights of this model"
        )
    loaded = sam_from_state(replace(config, decoder_norm_eps=stored.decoder_norm_eps), stored.tensors, str(path), name)
    if stored.hub is not None:
        stored.hub.check(loaded.config)
    if stored.note and say is not None:
        say(f"{path}: {stored.note}")
    return loaded


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of :func:`teachers.stored.read_stored`."""
    return read_stored(path).tensors


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
