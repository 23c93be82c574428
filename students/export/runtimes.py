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
from students.export.parts import ENCODER_INPUT, PROMPT_INPUTS, UPSCALED, UPSCALING

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


POINTS = PROMPT_INPUTS[0]

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
        precision: ``bf16`` lets it compute in bfloat16, but for the angles of points (:func:`_angles_apart`).
            Otherwise it is set to float32, which it would not do by itself on a processor with instructions for
            bfloat16.
    """
    (check_onnx if path.suffix == ".onnx" else check_openvino)(path)
    import openvino

    core = openvino.Core()

    def compiled(model: Any, hint: str) -> Any:
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            # Otherwise inputs of layers with weights alone in few bits are rounded to 8 bits, though it is set to
            # float32.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        return core.compile_model(model, "CPU", settings).create_infer_request()

    hint = "bf16" if precision == "bf16" else "f32"
    try:
        model = core.read_model(str(path))
        for result in model.get_results():
            if not set(outputs) & result.input_value(0).get_names():
                model.remove_result(result)
        # What only the removed results needed.
        for parameter in model.get_parameters():
            if not parameter.output(0).get_target_inputs():
                model.remove_parameter(parameter)
        first = model.input(0)
        of_images = ENCODER_INPUT in first.get_names() and first.partial_shape[0].is_dynamic
        apart = _angles_apart(model) if hint == "bf16" else None
        angles = compiled(apart, "f32") if apart is not None else None

        @functools.cache
        def request(for_one: bool) -> Any:
            if not for_one:
                return compiled(model, hint)
            fixed = model.clone()
            shape = fixed.input(0).partial_shape
            shape[0] = 1
            fixed.reshape(shape)
            return compiled(fixed, hint)

        request(of_images)
    except RuntimeError as error:
        raise InputError(f"{path}: OpenVINO cannot open it ({first_line(error)}); export it again") from error
    names = [value.get_any_name() for value in model.inputs]

    def run(inputs: Arrays) -> list[NDArray[Any]]:
        if angles is not None:
            angles.infer({POINTS: inputs[POINTS]})
            inputs = {**inputs, _ANGLES: np.array(angles.get_output_tensor(0).data)}
        given = _complete(inputs, names)
        asked = request(of_images and len(given[names[0]]) == 1)
        asked.infer(given)
        return [np.array(asked.get_tensor(name).data) for name in outputs]

    return run


_ANGLES = "angles_of_points"


def _angles_apart(model: Any) -> Any | None:
    """Cut the sines and cosines of points' places off a mask decoder, as a model of their own.

    Coordinates and the angles made of them (Segment Anything, appendix A: random Fourier features) need more digits
    than bfloat16 has.

    Args:
        model: OpenVINO's; a decoder takes the angles as an input afterwards, anything else stays as it is.

    Returns:
        What computes them of the points, or None where there are none.
    """
    import openvino

    def angles(of: Any) -> Any:
        sines = [node for node in of.get_ordered_ops() if node.get_type_name() == "Sin"]
        readers = [reader.get_node() for sine in sines for reader in sine.output(0).get_target_inputs()]
        if len(readers) != 1:
            raise RuntimeError(f"its points become sines {len(readers)} times, one is known")
        return readers[0].output(0)

    def points(of: Any) -> list[Any]:
        return [parameter for parameter in of.get_parameters() if POINTS in parameter.output(0).get_names()]

    if not points(model):
        return None
    copied = model.clone()
    apart = openvino.Model([angles(copied)], points(copied), _ANGLES)
    joined = angles(model)
    given = openvino.opset13.parameter(joined.get_partial_shape(), joined.get_element_type(), name=_ANGLES)
    given.output(0).set_names({_ANGLES})
    for reader in joined.get_target_inputs():
        reader.replace_source_output(given.output(0))
    model.add_parameters([given])
    return apart


def open_openvino_in_bfloat16(path: Path, outputs: Sequence[str], precision: str) -> Run:
    """The same, in bfloat16 whatever the file does not quantise.

    Raises:
        InputError: the processor has no instructions for it, so that OpenVINO would compute in float32, unsaid.
    """
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise InputError("runtime=openvino_bf16: this processor has no bfloat16 instructions; give runtime=openvino")
    return open_openvino(path, outputs, "bf16")


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
    "openvino_bf16": open_openvino_in_bfloat16,
    "pytorch": open_torch,
}
"""By name: what opens a file for some of its outputs, in a precision."""
NEEDS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "openvino_bf16": ("openvino",),
    "pytorch": (),
}
"""What a runtime imports."""
FORMAT_NEEDS: dict[str, tuple[str, ...]] = {"onnx": ("onnx",), "openvino": (), "torch": ()}
"""What looking at a format's files before they run imports, whatever runs them."""
READS = {
    "onnx": ("onnxruntime", "openvino", "openvino_bf16"),
    "openvino": ("openvino", "openvino_bf16"),
    "torch": ("pytorch",),
}
"""Which runtimes open the files of a format; the first is the format's own."""
OWN_FORMAT = {runtime: to for to, runtimes in READS.items() for runtime in runtimes}
"""The format of a runtime that reads several is the last of them: OpenVINO's own, behind ONNX."""


def _complete(inputs: Arrays, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The inputs a file takes. A size of image is requested only to make an output that is not read."""
    return {name: inputs[name] if name in inputs else np.ones(2, np.float32) for name in names}
