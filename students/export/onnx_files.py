"""The two parts of a SAM as ONNX files."""

import contextlib
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.feature_layout import layout_of
from core.geometry import Stretched
from students.export.parts import (
    DECODER_OUTPUTS,
    ENCODER_INPUT,
    PROMPT_INPUTS,
    UPSCALED,
    UPSCALING,
    EncoderPart,
    decoder_part,
    example_prompts,
    map_names,
    open_dimensions,
)
from students.quantized.operators import axis_of
from teachers.sam import Sam

GELU_SINCE = 20
"""The opset that brought GELU as one operator."""
INT8, UINT8 = (-128, 127), (0, 255)
"""Lowest and highest code of the two types that ONNX keeps codes in."""


def translations(opset: int) -> dict[Any, Callable[..., Any]]:
    """The table ``custom_translation_table`` of :func:`torch.onnx.export`, for a version of ONNX's operators."""
    return {
        torch.ops.sampress.quantize_dequantize.default: _quantize_dequantize,
        torch.ops.sampress.dequantize.default: _dequantize,
        torch.ops.aten.gelu.default: _gelu if opset >= GELU_SINCE else _gelu_spelt,
    }


def _gelu(x: Any, approximate: str = "none") -> Any:
    from onnxscript import opset20 as op

    return op.Gelu(x, approximate=approximate)


def _gelu_spelt(x: Any, approximate: str = "none") -> Any:
    from onnxscript import opset18 as op

    half, one = _constant(op, 0.5), _constant(op, 1.0)
    if approximate == "tanh":
        cubed = op.Mul(_constant(op, 0.044715), op.Mul(x, op.Mul(x, x)))
        inner = op.Tanh(op.Mul(_constant(op, math.sqrt(2 / math.pi)), op.Add(x, cubed)))
    else:
        inner = op.Erf(op.Div(x, _constant(op, math.sqrt(2))))
    return op.Mul(op.Mul(x, op.Add(inner, one)), half)


def _quantize_dequantize(
    x: Any, scale: Any, zero_point: Any, low: int, high: int, axis: int | None = None
) -> Any:  # graph values, not tensors
    from onnx import TensorProto
    from onnxscript import opset18 as op

    lowest, highest = INT8 if low < 0 else UINT8
    if not lowest <= low <= high <= highest:
        raise ValueError(f"codes from {low} to {high} fit neither int8 nor uint8")
    rank = len(x.shape)
    varying = axis_of(tuple(scale.shape), rank, axis)
    if (low, high) != (lowest, highest):
        # QuantizeLinear fills its type; values beyond a narrower grid are cut before it.
        shape = _constant(op, [1] * rank if varying is None else [-1 if i == varying else 1 for i in range(rank)])
        around = op.Reshape(scale, shape), op.Cast(op.Reshape(zero_point, shape), to=TensorProto.FLOAT)
        least, most = (op.Mul(op.Sub(_constant(op, float(code)), around[1]), around[0]) for code in (low, high))
        x = op.Min(op.Max(x, least), most)
    scale, zero_point = _flat(op, scale, varying), _flat(op, zero_point, varying)
    zero_point = op.Cast(zero_point, to=TensorProto.INT8 if low < 0 else TensorProto.UINT8)
    # The attribute means nothing where there is one scale, but has to be within the rank.
    along = 0 if varying is None else varying
    codes = op.QuantizeLinear(x, scale, zero_point, axis=along)
    return op.DequantizeLinear(codes, scale, zero_point, axis=along)


def _dequantize(codes: Any, scale: Any, zero_point: Any, axis: int | None = None) -> Any:
    from onnxscript import opset18 as op

    varying = axis_of(tuple(scale.shape), len(codes.shape), axis)
    scale, zero_point = _flat(op, scale, varying), _flat(op, zero_point, varying)
    zero_point = op.CastLike(zero_point, codes)
    return op.DequantizeLinear(codes, scale, zero_point, axis=0 if varying is None else varying)


def _flat(op: Any, part: Any, varying: int | None) -> Any:
    """A scale as ONNX wants it: a scalar, or one dimension."""
    return op.Reshape(part, _constant(op, [] if varying is None else [-1]))


def _constant(op: Any, value: Any) -> Any:
    import numpy as np
    from onnx import numpy_helper

    array = np.array(value, np.float32 if isinstance(value, float) else np.int64)
    return op.Constant(value=numpy_helper.from_array(array))


def add_upscaled_masks(path: Path, frame: int) -> None:
    """Add the input ``orig_im_size`` and the output ``masks`` to a decoder's file.

    As :func:`core.geometry.upscale_logits`, for an image of a size that is known only when the file runs: bilinear to
    the frame, crop the padding, bilinear to the image (to the image at once, where the frame is stretched). Written
    node by node, since its shapes depend on values.

    Args:
        frame: side of the model's square input in pixels.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    constants: dict[str, Any] = {
        "frame": np.array(frame, np.float32),
        "frame_size": np.array([frame, frame], np.int64),
        "half": np.array(0.5, np.float32),
        "one": np.array([1, 1], np.int64),
        "zero": np.array([0, 0], np.int64),
        "plane": np.array([2, 3], np.int64),
    }

    def node(kind: str, inputs: str, output: str, **attributes: Any) -> None:
        names = [f"{UPSCALING}{name.removeprefix('.')}" if name.startswith(".") else name for name in inputs.split(" ")]
        target = output if output == UPSCALED else f"{UPSCALING}{output}"
        graph.node.append(helper.make_node(kind, names, [target], name=f"{UPSCALING}{output}", **attributes))

    linear = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    # Prompts and candidates, which resizing leaves alone.
    node("Shape", "low_res_masks", "leading", start=0, end=2)
    if isinstance(frame, Stretched):
        node("Identity", "low_res_masks", "cropped")
    else:
        node("Concat", ".leading .frame_size", "size_in_frame", axis=0)
        node("Resize", "low_res_masks   .size_in_frame", "in_frame", **linear)
        # The resized image: its longer side is the frame, halves are rounded up.
        node("ReduceMax", "orig_im_size", "longer_side", keepdims=0)
        node("Div", ".frame .longer_side", "scale")
        node("Mul", "orig_im_size .scale", "scaled")
        node("Add", ".scaled .half", "scaled_half")
        node("Cast", ".scaled_half", "truncated", to=TensorProto.INT64)
        node("Max", ".truncated .one", "image_in_frame")
        node("Slice", ".in_frame .zero .image_in_frame .plane", "cropped")
    node("Cast", "orig_im_size", "image", to=TensorProto.INT64)
    node("Concat", ".leading .image", "size_in_image", axis=0)
    node("Resize", ".cropped   .size_in_image", UPSCALED, **linear)

    # ONNX Runtime warns of constants that no node reads.
    read = {name for added in graph.node for name in added.input}
    named = {f"{UPSCALING}{key}": value for key, value in constants.items()}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in named.items() if name in read)
    graph.input.append(helper.make_tensor_value_info("orig_im_size", TensorProto.FLOAT, [2]))
    upscaled = helper.make_tensor_value_info(UPSCALED, TensorProto.FLOAT, ["prompts", 4, "height", "width"])
    others = list(graph.output)
    del graph.output[:]
    graph.output.extend([upscaled, *sorted(others, key=lambda value: value.name)])
    onnx.save(model, path)
    onnx.checker.check_model(path, full_check=True)


OPSET = 18
"""Of float files: what the exporter writes without converting, and what onnxruntime, onnxruntime-web, its mobile
builds, OpenVINO and TensorRT (from 8.6 on) read."""
QUANTISED_OPSET = 20
"""Of quantised files. Between two quantised layers a GELU spelt in several operators is not recognised: ONNX Runtime
gives each of its two readers a DequantizeLinear of its own. From here on GELU is one operator (onnxruntime 1.17)."""
LARGEST_FOLDED = 1024
"""Elements beyond which a constant is left to be computed by the runtime."""
LARGEST_FILE = 2**31 - 2**24
"""Bytes of weights beyond which they are kept beside the file: protocol buffers end at 2 GiB."""


def write_encoder(path: Path, model: Sam, facts: Mapping[str, Any], opset: int = OPSET) -> bool:
    """Write the image encoder: ``image`` ``[batch, 3, S, S]`` to ``image_embeddings`` ``[batch, C, g, g]``, or to maps.

    Args:
        model: prepared (:func:`students.export.parts.prepared`).
        facts: kept in the file, by name.

    Returns:
        Whether any number of images may be given at once; some backbones of timm trace for one only.
    """
    part, size = EncoderPart(model), model.input_size
    images, names = torch.randn(2, 3, size, size), list(map_names(layout_of(model.config.encoder)))
    try:
        shapes: Any = ({0: torch.export.Dim("batch")},)
        program = exported(part, (images,), [ENCODER_INPUT], names, shapes, opset)
        dynamic = True
    except torch.onnx.OnnxExporterError:
        program = exported(part, (images[:1],), [ENCODER_INPUT], names, None, opset)
        dynamic = False
    save_program(path, program, facts)
    return dynamic


def write_decoder(path: Path, model: Sam, facts: Mapping[str, Any], upscale: bool = True, opset: int = OPSET) -> None:
    """Write prompt encoder and mask decoder; see :class:`students.export.parts.DecoderPart` for inputs and outputs.

    Args:
        model: prepared.
        facts: kept in the file, by name.
        upscale: whether the file also takes ``orig_im_size`` (float32 ``[2]``: height, width) and gives ``masks``
            (logits ``[N, 4, height, width]``), as SAM's own files do.
    """
    part, inputs = decoder_part(model), example_prompts(model)
    maps = map_names(layout_of(model.config.encoder))
    names, shapes = [*maps, *PROMPT_INPUTS], open_dimensions(len(maps))
    program = exported(part, inputs, names, list(DECODER_OUTPUTS), shapes, opset)
    graph = program.model.graph
    # Either is one for all prompts, or one a prompt: their dimension is not tied to the prompts'.
    for value in graph.inputs:
        if value.name in ("mask_input", "has_mask_input"):
            value.shape[0] = "masks"
    # Runtimes infer shapes on their own; those that were traced would tie the two together again.
    for value in {value for node in graph for value in node.outputs} - set(graph.outputs):
        value.shape = None
    save_program(path, program, facts)
    if upscale:
        add_upscaled_masks(path, model.input_size)


def exported(
    part: nn.Module, inputs: tuple[Any, ...], names: list[str], outputs: list[str], shapes: Any, opset: int = OPSET
) -> Any:
    """A module as PyTorch's ``ONNXProgram``; the exporter gets a table of what this project's operators become.

    Args:
        inputs: an example.
        names, outputs: of the inputs and outputs.
        shapes: the example's open dimensions, as ``dynamic_shapes`` of :func:`torch.onnx.export`.
    """
    import onnxscript.optimizer

    with torch.no_grad(), _quiet():
        program: Any = torch.onnx.export(
            part.eval(),
            inputs,
            dynamo=True,
            opset_version=opset,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=shapes,
            custom_translation_table=translations(opset),
            optimize=False,
            verbose=False,
        )
        # Tables that are looked up in, such as relative positions, stay as small as the model has them: what runtimes
        # fold when they open a file need not be stored in it.
        onnxscript.optimizer.optimize_ir(program.model, output_size_limit=LARGEST_FOLDED)
    _keep_constants(program.model.graph)
    _part_zero_points(program.model.graph)
    _forget_origins(program.model.graph)
    return program


def _keep_constants(graph: Any) -> None:
    """Every constant that a node reads belongs to the graph: the optimizer loses the bounds of some clips it joins."""
    mine = {id(value) for value in (*graph.inputs, *graph.initializers.values())}
    for node in graph:
        for value in node.inputs:
            if (
                value is not None
                and value.producer() is None
                and value.const_value is not None
                and id(value) not in mine
            ):
                if value.name in graph.initializers:
                    value.name = f"{value.name}_{len(mine)}"
                graph.register_initializer(value)
                mine.add(id(value))


def _part_zero_points(graph: Any) -> None:
    """Every quantised weight has zero points of its own.

    ONNX Runtime makes signed weights unsigned where a processor has no VNNI, zero points alike, and fails at the second
    use of one that two weights share.
    """
    import onnx_ir

    shared: set[str] = set()
    for node in graph:
        if node.op_type != "DequantizeLinear" or len(node.inputs) < 3 or node.inputs[0].producer() is not None:
            continue
        zero = node.inputs[2]
        if zero.name in shared:
            constant = zero.const_value
            zero = onnx_ir.val(f"{zero.name}_{len(shared)}", const_value=onnx_ir.tensor(constant.numpy()))
            graph.register_initializer(zero)
            node.replace_input_with(2, zero)
        shared.add(zero.name)


def _forget_origins(graph: Any) -> None:
    """Without the exporter's notes on each node: lines of code and paths of this machine, a third of an int8 file."""
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()


def save_program(path: Path, program: Any, facts: Mapping[str, Any]) -> None:
    """Write what :func:`exported` gave, with facts by name, and check the file."""
    import onnx

    for key, value in facts.items():
        program.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    program.model.producer_name = "sampress"
    weights = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    program.save(path, external_data=weights > LARGEST_FILE)
    onnx.checker.check_model(path, full_check=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own libraries and on shapes that it inferred."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for module in (r"torch\.", r"onnxscript\.", r"onnx_ir\.", r"copyreg", r"onnx\."):
                warnings.filterwarnings("ignore", module=module)
            yield
    finally:
        logger.setLevel(level)
