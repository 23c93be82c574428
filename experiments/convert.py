"""The command ``convert``: a checkpoint in another layout."""

from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import DictConfig

from core.checkpoint import replacing
from core.errors import InputError
from core.plain_file import home_path
from core.result import ResultRow
from core.terminal import terminal
from experiments.checkpoints import Found, check_encoder, find_model
from experiments.messages import nearest
from experiments.out_place import check_out, writing_to
from experiments.schema import ConvertConfig
from students.convert.hugging_face import save_hugging_face
from students.convert.mobile_sam import CONFIG as MOBILE_SAM
from students.convert.mobile_sam import to_mobile_sam
from students.files import save_model
from students.student import kind_of


def _to_hugging_face(path: Path, found: Found) -> None:
    if path.suffix or path.is_file():
        raise InputError(f"out={path}: Hugging Face's layout is a folder; give a name without an ending")
    save_hugging_face(path, found.model)


def _to_meta(path: Path, found: Found) -> None:
    if path.suffix not in (".pth", ".pt"):
        raise InputError(f"out={path}: Meta's layout is a file that ends in .pth; give such a name")
    if kind_of(found.model.config.encoder) != "vit":
        raise InputError(f"to=meta: {found.model.name} has no ViT as Meta's layout needs; give to=sampress")
    with replacing(path) as temporary:
        torch.save(found.model.state_dict(), temporary)


def _to_mobile_sam(path: Path, found: Found) -> None:
    if path.suffix not in (".pth", ".pt"):
        raise InputError(f"out={path}: MobileSAM's layout is a file that ends in .pt; give such a name")
    if found.model.config != MOBILE_SAM:
        raise InputError(
            f"to=mobile_sam: {found.model.name} is no SAM with TinyViT-5M at 1024 pixels; give to=sampress"
        )
    with replacing(path) as temporary:
        torch.save(to_mobile_sam(found.model.state_dict(), found.beside), temporary)


def _to_sampress(path: Path, found: Found) -> None:
    if path.suffix != ".safetensors":
        raise InputError(f"out={path}: this project's layout is a file that ends in .safetensors; give such a name")
    save_model(path, found.model, found.about)


LAYOUTS: dict[str, Callable[[Path, Found], None]] = {
    "hf": _to_hugging_face,
    "meta": _to_meta,
    "mobile_sam": _to_mobile_sam,
    "sampress": _to_sampress,
}
"""Hugging Face's ``SamModel`` folder, Meta's and MobileSAM's state dicts, this project's self-describing file."""


def convert(settings: ConvertConfig, cfg: DictConfig) -> list[ResultRow]:
    """Read a model in any layout that ``evaluate`` reads and write it in another."""
    if settings.to not in LAYOUTS:
        raise InputError(f"to={settings.to} is unknown; {nearest(settings.to, LAYOUTS)}")
    out = home_path(settings.out)
    check_out(settings.out, out)
    found = find_model(settings.checkpoint)
    check_encoder(settings.checkpoint, found.model)
    with writing_to(settings.out):
        LAYOUTS[settings.to](out, found)
    terminal(stderr=True).print(f"{found.model.name} ({found.layout}) written to {out}", soft_wrap=True)
    return []
