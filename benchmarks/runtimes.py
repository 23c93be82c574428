"""The same model in PyTorch, ONNX Runtime and OpenVINO: latency of the image encoder, bytes, difference of answers.

``python -m benchmarks.runtimes``; needs the extra ``export``. Exports a SAM with TinyViT-5M at 1024 pixels and random
weights, or ``--model NAME|FILE``, and lets all of them encode one picture of random numbers on the CPU, in turns. The
ratio is the time of ONNX Runtime in float32 to the row's. The difference is relative (root mean squares), to PyTorch in
float32; that of files given by ``--int8 DIR``, which may hold another model, is not told. Each of those is a row for
every runtime that opens it.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks._timing import machine, seconds_in_turns
from experiments.checkpoints import find_model
from students.convert.mobile_sam import CONFIG as MOBILE_SAM
from students.export.checking import relative_difference
from students.export.folder import export_model
from students.export.runtimes import READS
from students.export.segmenter import ExportedSam
from students.student import build_model
from teachers.sam import Sam

RANDOM = "tiny_vit_5m"


def model_of(name: str) -> Sam:
    """A model by its name or file, or TinyViT-5M with random weights."""
    if name != RANDOM:
        return find_model(name).model
    torch.manual_seed(0)
    return build_model(MOBILE_SAM, RANDOM).eval().requires_grad_(False)


def encodings(model: Sam, folder: Path, images: Tensor) -> tuple[dict[str, Callable[[], Tensor]], dict[str, int]]:
    """By name of a row: what encodes the pictures, and the bytes of the encoder's files."""

    def pytorch(dtype: torch.dtype | None) -> Callable[[], Tensor]:
        def encode() -> Tensor:
            with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not None):
                return model.encode(images)

        return encode

    works = {"PyTorch, float32": pytorch(None), "PyTorch, bfloat16": pytorch(torch.bfloat16)}
    sizes: dict[str, int] = {}
    for to, precision in (("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")):
        exported = folder / f"{to}-{precision}"
        export_model(model, exported, to, precision)
        _add(works, sizes, ExportedSam(exported), images)
    return works, sizes


def _add(works: dict[str, Callable[[], Tensor]], sizes: dict[str, int], model: ExportedSam, images: Tensor) -> None:
    name = f"{model.runtime}, {model.manifest.precision}"
    if name in works:
        name = f"{name}, to={model.manifest.to}"
    works[name] = lambda: model.encode(images)
    sizes[name] = model.manifest.encoder.bytes


def main() -> None:
    """Parse the command line, measure, print one line a runtime."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description=__doc__)
    parser.add_argument("--model", default=RANDOM, help=f"a model's name or file (default: {RANDOM}, random weights)")
    parser.add_argument(
        "--int8", action="append", default=[], help="an exported folder of a quantised model; repeatable"
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = model_of(options.model)
    images = torch.randn(1, 3, model.input_size, model.input_size)
    with tempfile.TemporaryDirectory() as folder:
        works, sizes = encodings(model, Path(folder), images)
        compared = set(works)
        for place in options.int8:
            for runtime in READS[ExportedSam(Path(place)).manifest.to]:
                _add(works, sizes, ExportedSam(Path(place), runtime), images)
        seconds = seconds_in_turns(works, torch.device("cpu"), options.rounds)
        reference = works["PyTorch, float32"]()
        print(f"{model.name} at {model.input_size}, {options.rounds} rounds; {machine(torch.device('cpu'))}")
        print(f"{'image encoder':32} {'seconds':>9} {'ratio':>7} {'file':>10}  difference")
        for name, work in works.items():
            ratio = seconds["onnxruntime, fp32"] / seconds[name]
            size = f"{sizes[name] / 1e6:7.2f} MB" if name in sizes else ""
            difference = f"{relative_difference(work().float(), reference):.1e}" if name in compared else ""
            print(f"{name:32} {seconds[name]:9.3f} {ratio:6.2f}x {size:>10}  {difference}".rstrip())


if __name__ == "__main__":
    main()
