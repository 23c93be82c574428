"""From a name or a file to a loaded model: frozen, in eval mode, float32. Nothing is fetched, and no code is run."""

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from core.checkpoint import check_fit, file_sha256, is_safetensors, load_strictly, note_of, read_safetensors
from core.errors import InputError
from core.geometry import PIXEL_MEAN, PIXEL_STD
from core.plain_file import home_path, parse_json, read_json, reraise_access
from core.state_dict import find_state
from core.untrusted import NOTE, one_line, read_torch
from teachers.catalog import MODELS, NamedModel
from teachers.convert import from_hugging_face, is_hugging_face
from teachers.hugging_face_config import HUB_NORM_EPS, HubConfig
from teachers.inferred_shape import check_shape
from teachers.sam import META_NORM_EPS, Sam, SamConfig
from teachers.sam2_hub_config import Sam2HubConfig
from teachers.sam2_layouts import from_sam2_layout, sam2_layout, without_memory

ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".th", ".pkl", ".safetensors")
"""Of names of checkpoints, in small or capital letters; a file without any is read too."""
# As transformers looks for them, in this order.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_ANCHORS = (
    (
        "image_encoder.neck.0.weight",
        "vision_encoder.neck.conv1.weight",
        "image_encoder.neck.convs.0.conv.weight",
        "vision_encoder.neck.convs.0.weight",
        "image_encoder.neck.convs.0.weight",
    ),
    ("mask_decoder.iou_token.weight", "sam_mask_decoder.iou_token.weight"),
)
Hub = TypeVar("Hub", bound=HubConfig)
_PIXELS = {"pixel_mean": PIXEL_MEAN, "pixel_std": PIXEL_STD}
_PARTS = (
    *("image_encoder", "vision_encoder", "shared_image_embedding", "prompt_encoder", "mask_decoder"),
    *("sam_prompt_encoder", "sam_mask_decoder", "memory_attention", "memory_encoder"),
)


@dataclass(frozen=True)
class Stored:
    """What a checkpoint holds.

    Attributes:
        tensors: by Meta's names; dtypes and values as stored.
        facts: what this project wrote beside them (:func:`students.files.describe`), not looked at yet.
        decoder_heads: of the mask decoder, which tensors do not show; None where nothing says them.
        decoder_norm_eps: of :class:`teachers.sam.SamConfig`.
        hub: the folder's ``config.json``, of Hugging Face's layout.
        note: what was left out of names and containers, in words; empty where nothing was.
        is_published: False of weights known to be others than those of the catalogue that have their shape (SAM 2's,
            before 2.1).
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    decoder_heads: int | None = None
    decoder_norm_eps: float = META_NORM_EPS
    hub: HubConfig | None = None
    note: str = ""
    is_published: bool = True


def read_stored(path: Path, entry: str | None = None) -> Stored:
    """Read a checkpoint: a file of ``torch.save`` or safetensors, or a folder of Hugging Face's ``SamModel``.

    Of a SAM 2 likewise (a folder of ``Sam2Model``), the image part alone.

    Args:
        path: a state dict may lie in containers and have a prefix before its names; tensors may have Meta's names or
            those of ``SamModel``. Weights of a folder may be in shards, and in either format.
        entry: which of several models in the file is meant; see :func:`core.state_dict.find_state`.

    Raises:
        InputError: the file is missing, closed, damaged, asks for code to be run, or holds no one dict of tensors; the
            folder's ``config.json`` asks for what this project's SAM cannot do.
    """
    files = weight_files(path)
    parts = {file.name: _read(file) for file in files}
    stored, facts = parts[files[0].name] if len(files) == 1 else (_joined(path, parts), {})
    found = find_state(stored, _ANCHORS, _PARTS, str(path), entry)
    for name, values in _PIXELS.items():
        _check_pixels(found.tensors.pop(name, None), name, values, path)
    if (layout := sam2_layout(found.tensors)) is not None:
        state, left_out, newest = without_memory(found.tensors)
        note = "; ".join(part for part in (found.note, left_out) if part)
        hub2 = _beside_weights(path, Sam2HubConfig) if layout == "hub" else None
        heads, eps = _beside(facts, META_NORM_EPS)
        try:
            state = from_sam2_layout(state, layout)
        except InputError as error:
            raise InputError(f"{files[0]}: {error}") from None
        return Stored(state, facts, heads if hub2 is None else hub2.decoder_heads, eps, hub2, note, newest)
    if not is_hugging_face(found.tensors):
        return Stored(found.tensors, facts, *_beside(facts, META_NORM_EPS), note=found.note)
    try:
        tensors = from_hugging_face(found.tensors)
    except InputError as error:
        raise InputError(f"{files[0]}: {error}") from None
    hub = _beside_weights(path, HubConfig)
    if hub is not None:
        return Stored(tensors, facts, hub.decoder_heads, hub.decoder_norm_eps, hub, found.note)
    return Stored(tensors, facts, *_beside(facts, HUB_NORM_EPS), note=found.note)


def _beside_weights(path: Path, kind: type[Hub]) -> Hub | None:
    """The ``config.json`` of a folder, or of the folder that a file of weights by transformers' name lies in."""
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or (path.name in _WEIGHTS and (folder / "config.json").exists()):
        return kind(folder / "config.json")
    return None


def _check_pixels(stored: Tensor | None, name: str, values: tuple[float, ...], path: Path) -> None:
    """What SAM's images are normalised by is no weight, and always the same, but some programs save it."""
    # Of half precision too.
    if stored is not None and (
        stored.numel() != 3 or not stored.allclose(torch.tensor(values).view_as(stored).to(stored), 1e-3)
    ):
        raise InputError(f"{path}: {name} is not SAM's {values}; the model was trained on images prepared otherwise")


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files that a checkpoint's weights are in: the path itself, or of a folder the file or shards.

    Raises:
        InputError: the folder is closed, or its index is damaged or names files outside of it.
    """
    with reraise_access(path):
        is_folder = path.is_dir()
    if not is_folder:
        if path.suffix.lower() not in (*ENDINGS, ""):
            raise InputError(
                f"{path}: not a checkpoint by its name; give a {', '.join(ENDINGS[:4])} or .safetensors file, or a "
                "folder of SamModel"
            )
        return (path,)
    weights = _weights(path)
    if weights.suffix != ".json":
        return (weights,)
    return tuple(path / shard for shard in sorted(set(_index(weights).values())))


def holds_weights(folder: Path) -> bool:
    """Whether a folder has a file that holds or lists weights; False for one that cannot be entered."""
    return os.path.lexists(_weights(folder))


def _weights(folder: Path) -> Path:
    """The file of a folder that holds or lists its weights."""
    return next((folder / name for name in _WEIGHTS if os.path.lexists(folder / name)), folder / _WEIGHTS[0])


def _index(path: Path) -> dict[str, str]:
    """The shard of each tensor."""
    remedy = "save the model again with save_pretrained"
    stored = read_json(path, remedy)
    shards = stored.get("weight_map") if isinstance(stored, dict) else None
    if not isinstance(shards, dict) or not shards or not all(isinstance(file, str) for file in shards.values()):
        raise InputError(f"{path}: has no weight_map of names to files; {remedy}")
    for file in shards.values():
        if file in ("", ".", "..") or Path(file).name != file or not file.endswith((".safetensors", ".bin")):
            raise InputError(f"{path}: names {one_line(file)!r}, which is no weight file of its folder; {remedy}")
    return shards


def _joined(folder: Path, shards: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Tensors of several files, each from the one that the index names."""
    joined: dict[str, Any] = {}
    for tensor, file in _index(_weights(folder)).items():
        shard = shards[file][0]
        if not isinstance(shard, dict) or tensor not in shard:
            raise InputError(f"{folder / file}: has no {one_line(tensor)}, though the index says so; fetch it again")
        joined[tensor] = shard[tensor]
    return joined


def _read(file: Path) -> tuple[Any, dict[str, Any]]:
    """What a file holds, and the facts that this project wrote into it."""
    if is_safetensors(file):
        tensors, metadata = read_safetensors(file)
        return tensors, parsed_note(metadata.get(NOTE), file)
    stored = read_torch(file)
    return stored, parsed_note(note_of(stored), file)


def parsed_note(text: str | None, path: Path) -> dict[str, Any]:
    """The facts in the text that :func:`core.checkpoint.write_torch` keeps; none where there is none.

    Raises:
        InputError: it is damaged.
    """
    try:
        facts = {} if text is None else parse_json(text)
        if not isinstance(facts, dict) or not isinstance(facts.get("config", {}), dict):
            raise ValueError("no object")
        if facts and (type(heads := facts.get("config", {}).get("decoder_heads")) is not int or heads < 1):
            raise ValueError(f"decoder_heads is {heads!r}")
    except ValueError as error:
        raise InputError(f"{path}: what stands beside its tensors is damaged ({error}); convert it again") from None
    return facts


def _beside(facts: dict[str, Any], norm_eps: float) -> tuple[int | None, float]:
    """Heads of the decoder, if facts say them, and the eps of its layer norms, which is the layout's if they do not."""
    config = facts.get("config", {})
    return config.get("decoder_heads"), config.get("decoder_norm_eps", norm_eps if not config else META_NORM_EPS)


def load_sam(name: str, checkpoint: str | Path | None = None, say: Callable[[str], object] | None = None) -> Sam:
    """A named model with its weights: float32, on the CPU, frozen and in eval mode.

    Args:
        name: a key of :data:`teachers.catalog.MODELS`.
        checkpoint: a file or folder for :func:`read_stored`. Without one: the file inside this package,
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
    """The tensors of :func:`teachers.weights.read_stored`."""
    return read_stored(path).tensors


def sam_from_state(config: SamConfig, state: Mapping[str, Tensor], origin: str, name: str = "sam") -> Sam:
    """Build a SAM with its own encoder and load it; see :func:`fill`.

    A shape that the tensors contradict is refused before memory is taken for it.
    """
    check_shape(config, origin)
    try:
        with torch.device("meta"):
            check_fit(config.make(name), state, origin)
    except (RuntimeError, TypeError, ArithmeticError) as error:
        raise InputError(f"{origin}: its tensors have shapes that no SAM has ({error})") from None
    # Strict loading replaces every initial value, so drawing them must not show elsewhere.
    with torch.random.fork_rng(devices=[]):
        model = config.make(name)
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
    expected = model.state_dict()
    ready = dict(state)
    for key in [key for key in expected if key in state]:
        value, number = state[key], expected[key]
        if value.layout != torch.strided or value.is_meta or value.dtype not in _numbers(number):
            floats = "dense floating-point tensors (float16, bfloat16, float32 or float64)"
            must = floats if number.is_floating_point() else str(number.dtype)
            raise InputError(f"{origin}: {key} holds {value.dtype}, weights must be {must}")
        ready[key] = value.float() if number.is_floating_point() else value
    check_finite({key: ready[key] for key in expected if key in ready}, origin)
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


def _numbers(tensor: Tensor) -> tuple[torch.dtype, ...]:
    """The types that hold what a tensor of a model holds: 8-bit floats have scales that no tensor of a SAM keeps."""
    if tensor.is_floating_point():
        return torch.float16, torch.bfloat16, torch.float32, torch.float64
    return (tensor.dtype,)


def _found(name: str, model: NamedModel) -> Path:
    """The weight file of a named model on this machine."""
    if model.packaged is not None and model.packaged.is_file():
        return model.packaged
    if model.release is None:
        raise InputError(
            f"{name}: its weights {model.packaged} are not part of this installation; "
            f"install the package again, train them by `python -m experiments.pretrain --model {name}`, or give "
            "teacher.checkpoint=FILE"
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
