"""From a model to a folder of files with a manifest, checked against the model before it is there."""

import dataclasses
import importlib.util
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.checkpoint import file_sha256, weights_sha256
from core.cost import measure_cost
from core.errors import InputError, RunFailed
from core.feature_layout import layout_of
from core.feature_maps import FeatureMaps, maps_of
from core.geometry import PIXEL_MEAN, PIXEL_STD
from data.images import to_frame
from data.shapes import Shapes
from students.export.manifest import Manifest, Part, write_manifest
from students.export.parts import EncoderPart, decoder_part, example_prompts, map_names, prepared
from students.export.placing import check_folder, replacing_folder
from students.export.runtimes import READS
from students.export.segmenter import ExportedSam
from students.export.weight_groups import BITS, round_linear_layers, write_groups
from students.quantized.bit_operations import Bits
from students.quantized.plan import FEW_BITS, as_float, plan_of, simulated
from teachers.sam import Sam
from teachers.sam2 import Sam2Config

TOLERANCES = {"fp32": 1e-3, "bf16": 0.05, "int8": 0.1, "w8": 1e-3, "w4": 1e-3}
"""Largest relative difference of an answer (root mean squares), by precision.

Float32 differs by the order of sums alone. Bfloat16 has 8 bits. Codes of int8 differ where a value lies between two.
Weights of 8 and 4 bits are compared with the model whose weights are rounded alike.
"""


def check_export(model: Sam, exported: ExportedSam) -> dict[str, float]:
    """Compare a folder's files with PyTorch: the encoder on noise and on an image, the decoder on random prompts.

    Args:
        model: prepared, in float32 (or quantised, where the files are).

    Returns:
        The largest relative differences: ``encoder``, ``decoder_masks``, ``decoder_ious``.

    Raises:
        RunFailed: one is beyond what the precision explains.
    """
    noise = torch.randn(1, 3, model.input_size, model.input_size, generator=torch.Generator().manual_seed(0))
    shapes = to_frame(Shapes("validation", 1).image(0), model.input_size)[None]
    found: dict[str, float] = dict.fromkeys(("encoder", "decoder_masks", "decoder_ious"), 0.0)
    encoder, decoder = EncoderPart(model), decoder_part(model)
    names = map_names(layout_of(model.config.encoder))

    def note(key: str, answer: Tensor, expected: Tensor) -> None:
        found[key] = max(found[key], relative_difference(answer, expected))

    with torch.inference_mode():
        for image in (noise, shapes):
            answered = encoder(image)
            maps = answered if isinstance(answered, tuple) else (answered,)
            for found_map, expected in zip(maps_of(exported.encode(image)).values(), maps, strict=True):
                note("encoder", found_map, expected)
            embedding = FeatureMaps(dict(zip(names, maps, strict=True))) if len(maps) > 1 else maps[0]
        # The decoder answers prompts on the image's own embedding: with masks for some prompts, and with none.
        for count, points in ((1, 2), (3, 4)):
            *_, coords, labels, masks, has_mask = example_prompts(model, count, points)
            for given in (None, masks):
                has_mask = torch.full((count,), float(given is not None))
                logits, iou_pred = decoder(*maps, coords, labels, masks, has_mask)
                answer = exported.decode_frame(embedding, coords, labels, given)
                note("decoder_masks", answer[0], logits)
                note("decoder_ious", answer[1], iou_pred)
    for key, value in found.items():
        part = exported.manifest.encoder if key == "encoder" else exported.manifest.decoder
        limit = TOLERANCES[part.precision]
        if not value <= limit:
            raise RunFailed(
                f"{part.file} answers otherwise than the model in PyTorch ({key}: relative difference {value:.2g}, "
                f"{limit:g} is allowed for {part.precision} in {exported.runtime}); nothing was written"
            )
    return found


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, over that of what was expected."""
    return float((found - expected).double().norm() / expected.double().norm().clamp(min=1e-30))


TARGETS: dict[str, tuple[str, ...]] = {
    "onnx": ("fp32", "int8", "w8", "w4"),
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
    if precision in BITS and to != "onnx":
        raise InputError(f"precision={precision}: is of ONNX files, which OpenVINO reads too; give to=onnx")
    if precision not in TARGETS[to]:
        raise InputError(
            f"precision={precision}: ONNX Runtime computes no {precision} on a CPU; give to=openvino or precision=fp32"
        )
    plan = plan_of(model)
    quantised = plan is not None
    # Fewer bits are stored in eight.
    if plan is not None and (unknown := set(simulated(plan)) - {FEW_BITS}):
        raise InputError(
            f"{model.name}: no runtime computes with its {', '.join(sorted(unknown))}; to export it, quantise with "
            "method.twin=false method.softmax_grid=uniform method.gelu_grid=uniform method.channel_groups=0 "
            "method.products=tensor"
        )
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
    group_size: int = 32,
    licence: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write a model as files of a runtime's format, run them, and compare.

    Args:
        folder: to be made; an earlier export there is replaced.
        to: a key of :data:`TARGETS`.
        precision: of the image encoder. Prompts' positions need more than bfloat16, so the decoder stays float32 there.
        group_size: of ``w8`` and ``w4``: inputs of a linear layer that share a scale (:data:`GROUP_SIZES`).
        upscale: whether ONNX and OpenVINO decoders also give masks of the image's size, as SAM's own files do.

    Raises:
        InputError: see :func:`check_request`; or the folder holds other things.
        RunFailed: the files answer otherwise than the model; nothing is left.
    """
    check_request(model, to, precision)
    check_folder(folder)
    copied = prepared(model)
    if precision in BITS:
        round_linear_layers(copied, BITS[precision], group_size)
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
        # PyTorch's programs bring the encoder they are made of to bfloat16; the answers of `copied` are compared.
        written = prepared(model) if to == "torch" else copied
        files, any_batch = _write(temporary, written, to, precision, upscale, facts)
        if precision in BITS:
            for file in files:
                write_groups(temporary / file, BITS[precision], group_size)
        precisions = (precision, "fp32" if precision == "bf16" else precision)
        encoder, decoder = (part_of(temporary / file, given) for file, given in zip(files, precisions, strict=True))
        shape, plan = model.config.encoder, plan_of(model)
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
            group_size=group_size if precision in BITS else None,
            quantised=None if plan is None else Bits.of(model.config, plan).to_dict(),
            family="sam2" if isinstance(model.config, Sam2Config) else "sam",
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
    """The files of both parts; their names, and whether the encoder takes any number of images."""
    if to == "torch":
        from students.export.parts import write_programs

        names = ("encoder.pt2", "decoder.pt2")
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return names, write_programs(folder / names[0], folder / names[1], model, dtype)
    from students.export.onnx_files import OPSET, QUANTISED_OPSET, write_decoder, write_encoder

    names = ("encoder.onnx", "decoder.onnx")
    opset = QUANTISED_OPSET if precision == "int8" else OPSET
    any_batch = write_encoder(folder / names[0], model, facts, opset)
    write_decoder(folder / names[1], model, facts, upscale, opset)
    if to == "onnx":
        return names, any_batch
    from students.export.parts import convert

    # Half-precision weights are for an encoder that computes in bfloat16 anyway.
    convert(folder / names[0], facts, halve=precision == "bf16")
    convert(folder / names[1], facts, halve=False)
    return ("encoder.xml", "decoder.xml"), any_batch


def part_of(path: Path, precision: str) -> Part:
    """What the manifest says of a part's files, by the main one."""
    # Weights beside the main file share the beginning of its name.
    files = sorted(path.parent.glob(f"{path.stem}.*"))
    beside = {file.name: file_sha256(file) for file in files if file != path}
    return Part(path.name, precision, sum(file.stat().st_size for file in files), file_sha256(path), beside)


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
