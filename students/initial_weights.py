"""ImageNet weights to begin a student with, from a file the user has."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from core import distributed
from core.checkpoint import is_safetensors, read_safetensors
from core.errors import InputError
from core.plain_file import home_path
from core.state_dict import find_state
from core.terminal import terminal
from core.untrusted import read_torch
from students.convert.layouts import from_microsoft_names
from students.encoder_shapes import TinyVitConfig
from teachers.weights import check_finite

_HEAD = re.compile(r"^(head|norm_head|fc|classifier)\.")


def load_imagenet(encoder: nn.Module, file: str) -> None:
    """Fill a student's backbone from a checkpoint of the same backbone; neck and projections keep their own weights.

    Args:
        encoder: a :class:`students.tiny_vit.TinyVitEncoder` or a :class:`students.timm_encoder.TimmEncoder`.
        file: ``.pth`` or ``.safetensors`` with the names of timm or, for a TinyViT, of Microsoft, in containers and
            behind a prefix or not; the classifier is left out, and a ViT's positions are resampled for another size of
            image.

    Raises:
        InputError: the file is missing or damaged, or its tensors are not those of this backbone.
    """
    path = home_path(file)
    backbone: Any = encoder.backbone
    own = backbone.state_dict()
    stored = read_safetensors(path)[0] if is_safetensors(path) else read_torch(path)
    names = _stored_names(own)
    # By a name of timm's, or of Microsoft's TinyViT.
    found = find_state(stored, [(*_anchor(names), "patch_embed.seq.0.c.weight")], (), str(path))
    if found.note and distributed.is_main():
        terminal(stderr=True).print(f"{path}: {found.note}", soft_wrap=True)
    state = found.tensors
    if isinstance(encoder.config, TinyVitConfig) and any(name.startswith("layers.") for name in state):
        state = from_microsoft_names(state)
    ready = {name: tensor for name, tensor in state.items() if not _HEAD.match(name)}
    # Tables of which weights follow are no weights.
    ready = {name: tensor for name, tensor in ready.items() if not name.endswith("attention_bias_idxs")}
    ready |= {name: ready[kept] for name, others in names.items() for kept in [_present(others, ready)] if kept}
    ready |= _resampled_positions(backbone, own, ready)
    missing = [name for name in own if name not in ready]
    wrong = [name for name in own if name in ready and ready[name].shape != own[name].shape]
    if missing or wrong:
        raise InputError(
            f"{path}: is not the checkpoint of this backbone: "
            f"{'; '.join([*(f'missing {n}' for n in missing[:3]), *(f'{n} has another shape' for n in wrong[:3])])}"
        )
    kinds = [n for n in own if ready[n].is_floating_point() != own[n].is_floating_point() or ready[n].is_complex()]
    if kinds:
        raise InputError(f"{path}: {kinds[0]} holds {ready[kinds[0]].dtype}, expected {own[kinds[0]].dtype}")
    check_finite({name: ready[name] for name in own}, str(path))
    backbone.load_state_dict({name: ready[name] for name in own})


def _stored_names(own: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """By each name of a backbone those that its weights may have in a file.

    What gives timm's feature maps renames: a child of a child becomes one of its own (``stages.0.x`` is
    ``stages_0.x``), or the whole model a child called ``model`` or ``body``.
    """
    found = {}
    for name in own:
        first, dot, rest = name.partition(".")
        joints = [at for at, letter in enumerate(first) if letter == "_"]
        split = [f"{first[:at]}.{first[at + 1 :]}{dot}{rest}" for at in joints]
        found[name] = tuple(dict.fromkeys([name, *split, re.sub(r"^(model|body)\.", "", name)]))
    return found


def _anchor(names: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The names in a file of a tensor whose name does not end another's, as a ResNet's ``conv1.weight`` does."""
    every = [kept for others in names.values() for kept in others]
    ends = {part for kept in every for part in _ends(kept)}
    return next((others for others in names.values() if not ends & set(others)), next(iter(names.values())))


def _ends(name: str) -> list[str]:
    """What a name ends with behind each of its dots."""
    return [name[at + 1 :] for at, letter in enumerate(name) if letter == "."]


def _present(others: Iterable[str], ready: Mapping[str, Tensor]) -> str | None:
    return next((kept for kept in others if kept in ready), None)


def _resampled_positions(backbone: Any, own: Mapping[str, Tensor], ready: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ViT's table of positions ``[1, tokens, C]``, brought from the grid of the file to that of the backbone."""
    # Here, since timm takes a second to import.
    from timm.layers import resample_abs_pos_embed

    grid: tuple[int, int] | None
    grid = getattr(getattr(getattr(backbone, "model", None), "patch_embed", None), "grid_size", None)
    if grid is None:
        return {}
    found = {}
    for name in [name for name in own if name.endswith("pos_embed") and name in ready]:
        table, shape = ready[name], own[name].shape
        if table.ndim == len(shape) == 3 and table.shape[1] != shape[1] and table.is_floating_point():
            prefix = shape[1] - math.prod(grid)
            tokens = table.shape[1] - prefix
            if prefix >= 0 and tokens > 0 and math.isqrt(tokens) ** 2 == tokens:
                found[name] = resample_abs_pos_embed(table, list(grid), num_prefix_tokens=prefix)
    return found
