"""The runtimes of exported files, and the packages they need."""

import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import InputError, first_line
from students.export.checking import check_onnx, check_openvino, checked_program
from students.export.parts import UPSCALED, UPSCALING

WRITES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
"""What writing a format, and checking what was written, imports."""


def require(packages: Iterable[str], what: str) -> None:
    """Refuse in one line what cannot work here.

    Args:
        what: key and value that ask for the packages, for the message.

    Raises:
        InputError: one is not installed.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{what} needs {', '.join(missing)}; install with: pip install 'sampress[export]'")


Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays], list[NDArray[Any]]]
"""Inputs by name to the requested outputs, in order."""


def sum_exactly(options: Any) -> None:
    """Let ONNX Runtime's session, by its options, add 8-bit products exactly on a processor without VNNI.

    Pairs of unsigned and signed products are added in 16 bits there, which saturates; unsigned ones are not. With VNNI
    sums have 32 bits, and this would make int8 slower than float32.
    """
    if not torch.cpu._is_vnni_supported():
        options.add_session_config_entry("session.x64quantprecision", "1")


def open_onnxruntime(path: Path, outputs: Sequence[str], precision: str) -> Run:
    """An ONNX file in ONNX Runtime, with as many threads as PyTorch uses."""
    check_onnx(path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    # Errors only: its warnings are about shapes that it leaves to the run.
    options.log_severity_level = 3
    # Idle threads sleep: spinning ones take a core from whatever else runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    sum_exactly(options)
    # It turns signed weights into unsigned ones, and fails where weights share a zero point: sharing is left out.
    try:
        given = _without_upscaling(path) if UPSCALED not in outputs else str(path)
        session = onnxruntime.InferenceSession(
            given, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantSharing"]
        )
    except Exception as error:
        raise InputError(f"{path}: ONNX Runtime cannot open it ({first_line(error)}); export it again") from error
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: Arrays) -> list[NDArray[Any]]:
        found: list[NDArray[Any]] = session.run(list(outputs), _complete(inputs, names))
        return found

    return run


def _without_upscaling(path: Path) -> bytes | str:
    """A file without the nodes behind its output ``masks``, which ONNX Runtime would compute unasked."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    if UPSCALED not in [value.name for value in graph.output]:
        return str(path)
    kept = {
        "node": [node for node in graph.node if not node.name.startswith(UPSCALING)],
        "input": [value for value in graph.input if value.name != "orig_im_size"],
        "output": [value for value in graph.output if value.name != UPSCALED],
        "initializer": [value for value in graph.initializer if not value.name.startswith(UPSCALING)],
    }
    for field, values in kept.items():
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    serialised: bytes = model.SerializeToString()
    return serialised


def open_openvino(path: Path, outputs: Sequence[str], precision: str) -> Run:
    """An ONNX file or OpenVINO's own in OpenVINO, with as many threads as PyTorch uses.

    An image encoder is compiled for one image, which makes it faster by an eighth, and again for any number of them
    when several come at once.

    Args:
        precision: ``bf16`` lets it compute in bfloat16. Otherwise it is set to float32, which it would not do by
            itself on a processor with instructions for bfloat16.
    """
    (check_onnx if path.suffix == ".onnx" else check_openvino)(path)
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        # Otherwise inputs of layers with weights alone in few bits are rounded to 8 bits, though it is set to float32.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    try:
        model = core.read_model(str(path))
        for result in model.get_results():
            if not set(outputs) & result.input_value(0).get_names():
                model.remove_result(result)
        # What only the removed results needed.
        for parameter in model.get_parameters():
            if not parameter.output(0).get_target_inputs():
                model.remove_parameter(parameter)
        of_images = len(model.inputs) == 1 and model.input(0).partial_shape[0].is_dynamic

        @functools.cache
        def request(for_one: bool) -> Any:
            if not for_one:
                return core.compile_model(model, "CPU", settings).create_infer_request()
            fixed = model.clone()
            shape = fixed.input(0).partial_shape
            shape[0] = 1
            fixed.reshape(shape)
            return core.compile_model(fixed, "CPU", settings).create_infer_request()

        request(of_images)
    except RuntimeError as error:
        raise InputError(f"{path}: OpenVINO cannot open it ({first_line(error)}); export it again") from error
    names = [value.get_any_name() for value in model.inputs]

    def run(inputs: Arrays) -> list[NDArray[Any]]:
        given = _complete(inputs, names)
        asked = request(of_images and len(given[names[0]]) == 1)
        asked.infer(given)
        return [np.array(asked.get_tensor(name).data) for name in outputs]

    return run


def open_torch(path: Path, outputs: Sequence[str], precision: str) -> Run:
    """A program of ``torch.export`` in PyTorch. It gives its outputs in the order of ``outputs``."""
    program = checked_program(path)
    try:
        with warnings.catch_warnings():
            # PyTorch 2.11 takes weights from bytes, of which it says that one could write to them; nothing does.
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            module = torch.export.load(program).module()
    except Exception as error:
        raise InputError(f"{path}: PyTorch cannot open it ({first_line(error)}); export it again") from error

    def run(inputs: Arrays) -> list[NDArray[Any]]:
        with torch.inference_mode():
            found = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs.values()))
        return [part.numpy() for part in (found if isinstance(found, tuple) else (found,))]

    return run


RUNTIMES: dict[str, Callable[[Path, Sequence[str], str], Run]] = {
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
    "pytorch": open_torch,
}
"""By name: what opens a file for some of its outputs, in a precision."""
READS = {"onnx": ("onnxruntime", "openvino"), "openvino": ("openvino",), "torch": ("pytorch",)}
"""Which runtimes open the files of a format; the first is the format's own."""


def _complete(inputs: Arrays, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The inputs a file takes. A size of image is requested only to make an output that is not read."""
    return {name: inputs[name] if name in inputs else np.ones(2, np.float32) for name in names}
