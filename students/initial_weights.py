"""ImageNet weights to begin a student with, from a file the user has."""

import re
from typing import Any

from torch import nn

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
            behind a prefix or not; the classifier is left out.

    Raises:
        InputError: the file is missing or damaged, or its tensors are not those of this backbone.
    """
    path = home_path(file)
    backbone: Any = encoder.backbone
    own = backbone.state_dict()
    stored = read_safetensors(path)[0] if is_safetensors(path) else read_torch(path)
    # By the first name of timm's, or of Microsoft's TinyViT.
    found = find_state(stored, [(next(iter(own)), "patch_embed.seq.0.c.weight")], (), str(path))
    if found.note and distributed.is_main():
        terminal(stderr=True).print(f"{path}: {found.note}", soft_wrap=True)
    state = found.tensors
    if isinstance(encoder.config, TinyVitConfig) and any(name.startswith("layers.") for name in state):
        state = from_microsoft_names(state)
    ready = {name: tensor for name, tensor in state.items() if not _HEAD.match(name)}
    # Tables of which weights follow are no weights.
    ready = {name: tensor for name, tensor in ready.items() if not name.endswith("attention_bias_idxs")}
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
