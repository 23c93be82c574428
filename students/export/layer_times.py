"""How long each layer of a quantised model takes in a runtime, in int8 and in float32: two small files a layer.

A layer's int8 file has the grids of its inputs, and of its output where it has one, as the file of the whole model has.
Its first dimension is open where that of the model is: ONNX Runtime makes a product and a sum of known shapes one
``Gemm``, which it does not compute in int8, so that a file of fixed shapes would be timed in float. OpenVINO compiles
an image encoder for one image (:func:`students.export.runtimes.open_openvino`), so that its shapes are fixed there.
What stands between layers (normalisations, softmax, GELU, windows) is the same in both and is not measured.
"""

import copy
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from core.checkpoint import write_text
from core.errors import InputError
from core.plain_file import read_json
from core.protocols import Prompt
from students.export.onnx_files import QUANTISED_OPSET, exported, save_program
from students.export.runtimes import RUNTIMES, WRITES, require
from students.export.token_decoder import as_linear, is_upsampling
from students.quantized.layers import QuantizedLayer, QuantizedProduct
from students.quantized.plan import set_quantizing
from students.quantized.quantizers import UniformQuantizer
from teachers.sam import Sam

Shapes = tuple[tuple[int, ...], ...]
RUNTIME_NEEDS = {"onnxruntime": WRITES["onnx"], "openvino": WRITES["openvino"]}
"""The packages that measuring in a runtime imports."""
FILES = 2
"""Of kept times: how the files that were timed are made. Times of the first kind were of fixed shapes, many of them not
of int8 but of float, and are not gone by."""


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds of all calls of a layer for one image and one box."""

    int8: float
    float32: float


def kept_layer_times(path: Path, key: str, model: Sam, runtime: str) -> dict[str, LayerTime]:
    """The times that a file keeps, or new ones, which it then keeps; model and runtime as of
    :func:`measure_layer_times`.

    Args:
        key: what must be equal for kept times to be gone by; of another key, or of other :data:`FILES`, layers are
            timed again.

    Raises:
        InputError: the file is damaged, or keeps times of other layers than the model's.
    """
    if path.exists() and (kept := _read_times(path, key, model)) is not None:
        return kept
    times = measure_layer_times(model, runtime)
    about = {"key": key, "files": FILES, "runtime": runtime, "threads": torch.get_num_threads()}
    about["milliseconds"] = {layer: [one.int8, one.float32] for layer, one in times.items()}
    write_text(path, json.dumps(about, indent=1) + "\n")
    return times


def _read_times(path: Path, key: str, model: Sam) -> dict[str, LayerTime] | None:
    """What :func:`kept_layer_times` wrote; None of another key, or of files that are made otherwise."""
    remedy = "remove it; layers are timed again"
    found = read_json(path, remedy)
    if not isinstance(found, dict) or type(found.get("key")) is not str:
        raise InputError(f"{path}: keeps no times of layers; {remedy}")
    if found["key"] != key or found.get("files") != FILES:
        return None
    kept = found.get("milliseconds")
    if not isinstance(kept, dict):
        raise InputError(f"{path}: milliseconds is {str(kept)[:50]!r}, no times by layer; {remedy}")
    if differing := sorted(kept.keys() ^ _calls(model).keys()):
        raise InputError(f"{path}: times are not of the model's layers, as for {differing[0][:100]!r}; {remedy}")
    for layer, pair in kept.items():
        if not isinstance(pair, list) or len(pair) != 2 or not all(_is_time(each) for each in pair):
            raise InputError(f"{path}: {layer} takes {str(pair)[:50]}, no milliseconds of int8 and float32; {remedy}")
    return {layer: LayerTime(*pair) for layer, pair in kept.items()}


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and 0 < value <= sys.float_info.max  # type: ignore[operator]


def measure_layer_times(model: Sam, runtime: str, rounds: int = 15) -> dict[str, LayerTime]:
    """Every quantised layer and product of a model, by its path, with a progress bar.

    Layers of equal shape and input are measured once. Both files of a layer take turns, so that a change of the
    machine's load meets both; medians are kept.

    Args:
        model: planned (:func:`students.quantized.plan.planned_copy`), its weights in float and its grids uniform.
        runtime: ``onnxruntime`` or ``openvino``, with as many threads as PyTorch uses.
        rounds: timed calls of each file, after one that is not.

    Raises:
        InputError: the runtime is not installed.
    """
    require(RUNTIME_NEEDS[runtime], f"method.runtime={runtime}")
    calls = _calls(model)
    kinds: dict[str, LayerTime] = {}
    found: dict[str, LayerTime] = {}
    described = f"times of layers in {runtime}"
    with tempfile.TemporaryDirectory() as folder:
        for path, shapes in track(calls.items(), described, len(calls), console=Console(stderr=True), transient=True):
            layer = model.get_submodule(path)
            if is_upsampling(layer):
                # As the decoder's file computes it: [N, C, h, w] as tokens.
                layer, shapes = as_linear(layer), [((n, h * w, c),) for ((n, c, h, w),) in shapes]
            assert isinstance(layer, QuantizedLayer | QuantizedProduct)
            is_open = runtime == "onnxruntime" or not path.startswith("image_encoder.")
            each = []
            for shape in shapes:
                kind = json.dumps([layer.description(), shape, is_open])
                if kind not in kinds:
                    kinds[kind] = _measured(layer, shape, runtime, rounds, is_open, Path(folder))
                each.append(kinds[kind])
            found[path] = LayerTime(sum(one.int8 for one in each), sum(one.float32 for one in each))
    return found


def _calls(model: Sam) -> dict[str, list[Shapes]]:
    """The shapes of the inputs of each call, by the path of the layer or product."""
    calls: dict[str, list[Shapes]] = {}

    def watch(path: str, part: nn.Module) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            calls.setdefault(path, []).append(tuple(tuple(x.shape) for x in args))

        return part.register_forward_pre_hook(hook)

    parts = {path: part for path, part in model.named_modules() if isinstance(part, QuantizedLayer | QuantizedProduct)}
    quantizing = {part: part.quantizing for part in parts.values()}
    set_quantizing(model, False)
    hooks = [watch(path, part) for path, part in parts.items()]
    size, device = model.input_size, next(model.parameters()).device
    try:
        with torch.no_grad():
            embedding = model.encode(torch.zeros(1, 3, size, size, device=device))
            box = torch.tensor([[size / 4, size / 4, size / 2, size / 2]], device=device)
            model.decode_frame(embedding, Prompt(boxes_xyxy=box))
    finally:
        for hook in hooks:
            hook.remove()
        for part, was in quantizing.items():
            part.quantizing = was
    return calls


def _measured(
    layer: QuantizedLayer | QuantizedProduct, shapes: Shapes, runtime: str, rounds: int, is_open: bool, folder: Path
) -> LayerTime:
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.randn(shape, generator=generator) for shape in shapes)
    names = [f"input_{number}" for number in range(len(inputs))]
    arrays = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    runs = []
    for precision in ("int8", "fp32"):
        path = folder / f"{precision}.onnx"
        _write_layer(path, _in_int8(layer) if precision == "int8" else _in_float(layer), inputs, names, is_open)
        runs.append(RUNTIMES[runtime](path, ["output"], precision))
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for run, times in zip(runs, taken, strict=True):
            began = time.perf_counter()
            run(arrays)
            if number:
                times.append(1000 * (time.perf_counter() - began))
    return LayerTime(median(taken[0]), median(taken[1]))


def _write_layer(path: Path, part: nn.Module, inputs: tuple[Tensor, ...], names: list[str], is_open: bool) -> None:
    """A layer as a file.

    Args:
        is_open: whether the file takes any first dimension, one for all inputs whose is equal.
    """
    shapes: Any = None
    if is_open:
        first = {len(x): torch.export.Dim(f"first_{len(x)}") for x in inputs}
        shapes = tuple({0: first[len(x)]} for x in inputs)
        # A dimension of one would be taken for a constant.
        inputs = tuple(torch.cat((x, x)) for x in inputs)
    save_program(path, exported(part, inputs, names, ["output"], shapes, QUANTISED_OPSET), {})


def _in_float(layer: QuantizedLayer | QuantizedProduct) -> nn.Module:
    part = copy.deepcopy(layer).cpu().eval()
    part.quantizing = False
    return part


def _in_int8(layer: QuantizedLayer | QuantizedProduct) -> nn.Module:
    """With grids over a range that random inputs have; which one changes no time."""
    part = copy.deepcopy(layer).cpu().eval()
    part.quantizing = True
    for grid in part.modules():
        if isinstance(grid, UniformQuantizer):
            grid.set_range(torch.full_like(grid.scale, -4.0), torch.full_like(grid.scale, 4.0))
    if isinstance(part, QuantizedLayer):
        part.pack()
        part.prepare_export()
    return part
