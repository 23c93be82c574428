"""The same model in PyTorch, ONNX Runtime and OpenVINO: latency of both parts, bytes, mIoU of the files.

``python -m benchmarks.runtimes``; needs the extra ``export``. Exports a SAM with TinyViT-5M at 1024 pixels and random
weights, or ``--model NAME|FILE``, and lets all of them encode one image of random numbers on the CPU, in turns, and
then decode ``--prompts`` boxes on its embedding at once, without upscaling their masks to an image's size. The
first ratio is the time of ONNX Runtime in float32 to the row's, *own* that of the row's runtime in float32. The
difference is relative (root mean squares), to PyTorch in float32. ``openvino_bf16`` is OpenVINO in bfloat16 whatever
the files do not quantise, where the processor has instructions for it.

Files given by ``--int8 DIR`` (an export of the model, quantised) are a row for every runtime that opens them; with
``--quantise`` the model is quantised here, quickly (grids over the full range), which is enough for time and bytes:
by the defaults of ``method=ptq``, and with the grids that OpenVINO computes with fastest (``int8, symmetric``).
``--images N`` scores every row on N held-out images of shapes, or of ``--coco ROOT``: mIoU with ground-truth boxes.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._timing import busy, machine, seconds_in_turns
from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.ptq import Ptq
from core.feature_layout import EMBEDDING
from core.feature_maps import Features, maps_of
from core.protocols import Masks, Prompt, Segmenter
from data.coco import Coco
from data.sample import ImageData
from data.shapes import Shapes
from evaluation.metrics import mean_iou
from evaluation.protocols import PROTOCOLS
from evaluation.scorer import Scorer
from experiments.runs.checkpoints import find_model
from students.convert.layouts import CONFIG as MOBILE_SAM
from students.export.folder import export_model, relative_difference
from students.export.runtimes import READS
from students.export.segmenter import ExportedSam
from students.kinds import build_model
from teachers.sam import Sam

RANDOM = "tiny_vit_5m"
QUICKLY: dict[str, dict[str, Any]] = {
    "": {},
    ", symmetric": {
        "linear_activations": "symmetric",
        "product_activations": "symmetric",
        "convolution_outputs": "float",
    },
}
"""Settings of ``--quantise``, by what their rows are called."""


class Bfloat16:
    """A model under autocast."""

    def __init__(self, model: Sam) -> None:
        self.model, self.name, self.input_size = model, model.name, model.input_size

    def encode(self, images: Tensor) -> Tensor:
        """As the model, in bfloat16."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.model.encode(images)

    def decode(self, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        """As the model, in bfloat16."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.model.decode(embedding, prompt, size_hw, multimask)


def model_of(name: str) -> Sam:
    """A model by its name or file, or TinyViT-5M with random weights."""
    if name != RANDOM:
        return find_model(name).model
    torch.manual_seed(0)
    return build_model(MOBILE_SAM, RANDOM).eval().requires_grad_(False)


def quickly_quantised(model: Sam, folder: Path, settings: Mapping[str, Any] | None = None) -> Path:
    """A folder of int8 files of the model, its grids over the full range of one image."""
    context = RunContext(0, folder / "ptq", Engine(folder / "ptq"))
    method = Ptq(metric="minmax", images=1, prompts=1, **(settings or {}))
    student = method.compress(model, Shapes(count=1), context).student
    export_model(student, folder / "onnx-int8", "onnx", "int8", upscale=False)
    return folder / "onnx-int8"


def rows_of(
    model: Sam, folder: Path, int8: Sequence[tuple[str, Path]]
) -> tuple[dict[str, Segmenter], dict[str, tuple[int, int]]]:
    """By name of a row: the model that is timed, and the bytes of its encoder's and its decoder's files.

    Args:
        int8: exported folders, and what is added to the names of their rows.
    """
    rows: dict[str, Segmenter] = {"PyTorch, float32": model, "PyTorch, bfloat16": Bfloat16(model)}
    sizes: dict[str, tuple[int, int]] = {}

    def add(found: ExportedSam, label: str = "") -> None:
        name = f"{found.runtime}, {found.manifest.precision}{label}"
        while name in rows:
            name += "'"
        rows[name], sizes[name] = found, (found.manifest.encoder.bytes, found.manifest.decoder.bytes)

    for to, precision in (("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")):
        export_model(model, folder / f"{to}-{precision}", to, precision, upscale=False)
        add(ExportedSam(folder / f"{to}-{precision}"))
    computes_in_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if computes_in_bfloat16:
        add(ExportedSam(folder / "openvino-bf16", "openvino_bf16"))
    for label, place in int8:
        for runtime in READS[ExportedSam(place).manifest.to]:
            if computes_in_bfloat16 or runtime != "openvino_bf16":
                add(ExportedSam(place, runtime), label)
    return rows, sizes


def miou(model: Segmenter, data: ImageData, images: int) -> tuple[float, int]:
    """Mean over instances with ground-truth boxes, and their number."""
    protocol = PROTOCOLS["box_single@1"]
    records = Scorer(model, [protocol]).score(data, range(min(images, len(data)))).instances(protocol.name)
    return mean_iou(records)["miou"].value, len(records)


def main() -> None:
    """Parse the command line, measure, print one line a runtime."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description=__doc__)
    parser.add_argument("--model", default=RANDOM, help=f"a model's name or file (default: {RANDOM}, random weights)")
    parser.add_argument("--int8", action="append", default=[], help="an exported folder of the model, quantised")
    parser.add_argument("--quantise", action="store_true", help="quantise the model here, for time and bytes alone")
    parser.add_argument("--keep", type=Path, help="a folder for the files, for benchmarks.runtime_profile")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=16, help="boxes that are decoded at once (default: 16)")
    parser.add_argument("--images", type=int, default=0, help="score all rows on so many images")
    parser.add_argument("--coco", type=Path, help="of COCO's layout at this folder, not of shapes")
    options = parser.parse_args()
    model = model_of(options.model)
    images = torch.randn(1, 3, model.input_size, model.input_size)
    data: ImageData = Coco(options.coco) if options.coco else Shapes("validation", max(1, options.images))
    place = nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory()
    with place as folder, torch.inference_mode(False), torch.no_grad():
        int8 = [("", Path(place)) for place in options.int8]
        for label, settings in QUICKLY.items() if options.quantise else ():
            int8.append((label, quickly_quantised(model, Path(folder) / f"quantised{label}", settings)))
        rows, sizes = rows_of(model, Path(folder), int8)
        embedding, frame = model.encode(images), (model.input_size, model.input_size)
        corners = torch.rand(options.prompts, 2, 2).sort(1).values * model.input_size
        boxes = Prompt(boxes_xyxy=corners.flatten(1))
        parts: dict[str, Callable[[Segmenter], Any]] = {
            "image encoder": lambda row: row.encode(images),
            f"mask decoder, {options.prompts} boxes": lambda row: row.decode(embedding, boxes, frame).logits,
        }
        print(f"{model.name} at {model.input_size}, {options.rounds} rounds; {machine(torch.device('cpu'))}")
        for number, (part, run) in enumerate(parts.items()):
            works = {name: (lambda row=row, run=run: run(row)) for name, row in rows.items()}
            seconds = seconds_in_turns(works, torch.device("cpu"), options.rounds)
            reference = run(model)
            scoring = options.images if number == 0 else 0
            scored = f"  mIoU, {scoring} images of {data.name}" if scoring else ""
            print(f"{part:30} {'seconds':>9} {'ratio':>7} {'own':>7} {'file':>10}  difference{scored}")
            for name, row in rows.items():
                ratio = seconds["onnxruntime, fp32"] / seconds[name]
                size = f"{sizes[name][number] / 1e6:7.2f} MB" if name in sizes else ""
                runtime = name.partition(",")[0].removesuffix("_bf16")
                own = seconds.get(f"{runtime}, fp32", seconds["PyTorch, float32"]) / seconds[name]
                line = f"{name:30} {seconds[name]:9.4f} {ratio:6.2f}x {own:6.2f}x {size:>10}  "
                line += f"{relative_difference(_tensor(run(row)).float(), _tensor(reference)):.1e}"
                if scoring:
                    value, count = miou(row, data, scoring)
                    line += f"     {value:.4f} ({count} instances)"
                print(line.rstrip(), flush=True)


def _tensor(found: Features) -> Tensor:
    """Maps as one tensor, whose first is the embedding."""
    return maps_of(found)[EMBEDDING]


if __name__ == "__main__":
    main()
    print(busy())
