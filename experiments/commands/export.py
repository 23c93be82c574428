"""The command ``export``: a model as files of another runtime, checked against PyTorch."""

import torch
from omegaconf import DictConfig

from core.errors import InputError
from core.plain_file import home_path
from core.progress import say
from core.result import ResultRow
from experiments.config.files import nearest
from experiments.config.schema import ExportConfig
from experiments.out_place import check_out, writing_to
from experiments.reporting.columns import size
from experiments.runs.checkpoints import LoadedModel, check_encoder, chosen_model
from students.catalog import RELEASED
from students.export.folder import TARGETS, check_request, export_model
from students.export.manifest import PRECISIONS
from students.export.placing import check_folder
from students.export.runtimes import WRITES, require
from students.export.weight_groups import BITS, GROUP_SIZES
from teachers.catalog import MODELS


def export(settings: ExportConfig, cfg: DictConfig) -> list[ResultRow]:
    """Export a model that ``evaluate`` reads to a folder that ``evaluate`` reads too."""
    to, precision, out = settings.to, settings.precision, home_path(settings.out)
    if to not in TARGETS:
        raise InputError(f"to={to} is unknown; {nearest(to, TARGETS)}")
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision} is unknown; {nearest(precision, PRECISIONS)}")
    if settings.group_size not in GROUP_SIZES:
        raise InputError(f"group_size={settings.group_size} is not one of {', '.join(map(str, GROUP_SIZES))}")
    if settings.group_size != ExportConfig.group_size and precision not in BITS:
        raise InputError(
            f"group_size={settings.group_size} is of precision=w8 and w4, whose weights are in groups; leave it out "
            f"with precision={precision}"
        )
    if not settings.upscale and to == "torch":
        raise InputError(
            "upscale=false is of to=onnx and to=openvino; decoders of to=torch never give masks of the image's size: "
            "leave it out"
        )
    require(WRITES[to], f"to={to}")
    check_folder(out)
    check_out(settings.out, out)
    found = chosen_model(settings)
    check_request(found.model, to, precision)
    check_encoder(settings.checkpoint, found.model, torch.bfloat16 if precision == "bf16" else None, "precision")
    with writing_to(settings.out):
        manifest = export_model(
            found.model,
            out,
            to,
            precision,
            upscale=settings.upscale,
            group_size=settings.group_size,
            licence=licence_of(settings.checkpoint, found),
            about=found.about,
        )
    measured = ", ".join(f"{part.replace('_', ' ')} {value:.1e}" for part, value in manifest.difference.items())
    files = f"{manifest.encoder.file}, {manifest.decoder.file}"
    say(f"{found.model.name} ({found.layout}) written to {out}: {files}, {size(manifest.bytes)}, {precision}")
    say(f"relative difference from PyTorch: {measured}")
    if not manifest.any_batch:
        say("the image encoder takes one image at a time")
    return []


def licence_of(checkpoint: str, found: LoadedModel) -> str | None:
    """The licence of a catalogue's weights; None where nothing is known of a file."""
    if checkpoint in RELEASED:
        return RELEASED[checkpoint].licence
    if checkpoint not in MODELS:
        return None
    release = MODELS[checkpoint].release
    # What is packaged has the licence of the package.
    return release.licence if release else "Apache-2.0"
