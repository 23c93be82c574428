"""From a model to a folder of files with a manifest, checked against the model before it is there."""

import dataclasses
import importlib.util
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from core.checkpoint import file_sha256, weights_sha256
from core.cost import measure_cost
from core.errors import InputError
from core.geometry import PIXEL_MEAN, PIXEL_STD
from students.export.checking import check_export
from students.export.manifest import Manifest, Part, write_manifest
from students.export.parts import prepared
from students.export.placing import check_folder, replacing_folder
from students.export.runtimes import READS
from students.export.segmenter import ExportedSam
from students.quantized.plan import as_float, plan_of
from teachers.sam import Sam

TARGETS: dict[str, tuple[str, ...]] = {
    "onnx": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "torch": ("fp32", "bf16", "int8"),
}
"""Formats, and the precisions each can hold."""
_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "timm")


def check_request(model: Sam, to: str, precision: str) -> None:
    """Refuse what cannot be exported, before anything is computed.

    Raises:
        InputError: the precision is not the format's or not the model's.
    """
    if precision not in TARGETS[to]:
        raise InputError(
            f"precision={precision}: ONNX Runtime computes no {precision} on a CPU; give to=openvino or precision=fp32"
        )
    quantised = plan_of(model) is not None
    if precision == "int8" and not quantised:
        raise InputError(
            f"precision=int8: {model.name} is a float model; an int8 file is made of a quantised checkpoint, which "
            "method=ptq writes"
        )
    if precision != "int8" and quantised:
        raise InputError(f"precision={precision}: {model.name} is quantised; give precision=int8")


def export_model(
    model: Sam,
    folder: Path,
    to: str,
    precision: str = "fp32",
    *,
    upscale: bool = True,
    licence: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write a model as files of a runtime's format, run them, and compare.

    Args:
        folder: to be made; an earlier export there is replaced.
        to: a key of :data:`TARGETS`.
        precision: of the image encoder. Prompts' positions need more than bfloat16, so the decoder stays float32 there.
        upscale: whether ONNX and OpenVINO decoders also give masks of the picture's size, as SAM's own files do.

    Raises:
        InputError: see :func:`check_request`; or the folder holds other things.
        RunFailed: the files answer otherwise than the model; nothing is left.
    """
    check_request(model, to, precision)
    check_folder(folder)
    copied = prepared(model)
    facts = {
        "model": model.name,
        "frame": model.input_size,
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
        "precision": precision,
        "licence": licence or "unknown",
        "weights_sha256": weights_sha256(model),
    }
    with replacing_folder(folder) as temporary:
        files, any_batch = _write(temporary, copied, to, precision, upscale, facts)
        precisions = (precision, "fp32" if precision == "bf16" else precision)
        encoder, decoder = (_part(temporary / file, given) for file, given in zip(files, precisions, strict=True))
        shape = model.config.encoder
        manifest = Manifest(
            model.name,
            to,
            precision,
            model.input_size,
            shape.grid,
            shape.out_channels,
            encoder,
            decoder,
            any_batch=any_batch,
            cost=dataclasses.asdict(measure_cost(as_float(model))),
            weights_sha256=str(facts["weights_sha256"]),
            licence=licence,
            about=dict(about or {}),
            versions={name: metadata.version(name) for name in _LIBRARIES if _installed(name)},
        )
        write_manifest(temporary, manifest)
        difference = check_export(copied.float(), ExportedSam(temporary, READS[to][0]))
        manifest = dataclasses.replace(manifest, difference=difference)
        write_manifest(temporary, manifest)
    return manifest


def _write(
    folder: Path, model: Sam, to: str, precision: str, upscale: bool, facts: Mapping[str, Any]
) -> tuple[tuple[str, str], bool]:
    """The files of both parts; their names, and whether the encoder takes any number of pictures."""
    if to == "torch":
        from students.export.torch_files import write_programs

        names = ("encoder.pt2", "decoder.pt2")
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return names, write_programs(folder / names[0], folder / names[1], prepared(model), dtype)
    from students.export.onnx_files import OPSET, QUANTISED_OPSET, write_decoder, write_encoder

    names = ("encoder.onnx", "decoder.onnx")
    opset = QUANTISED_OPSET if precision == "int8" else OPSET
    any_batch = write_encoder(folder / names[0], model, facts, opset)
    write_decoder(folder / names[1], model, facts, upscale, opset)
    if to == "onnx":
        return names, any_batch
    from students.export.openvino_files import convert

    # Half-precision weights are for an encoder that computes in bfloat16 anyway.
    convert(folder / names[0], facts, halve=precision == "bf16")
    convert(folder / names[1], facts, halve=False)
    return ("encoder.xml", "decoder.xml"), any_batch


def _part(path: Path, precision: str) -> Part:
    # Weights beside the main file share the beginning of its name.
    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*"))
    return Part(path.name, precision, size, file_sha256(path))


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
