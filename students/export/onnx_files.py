"""The two parts of a SAM as ONNX files."""

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from students.export.onnx_operators import translations
from students.export.onnx_upscaling import add_upscaled_masks
from students.export.parts import (
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    ENCODER_INPUT,
    ENCODER_OUTPUT,
    DecoderPart,
    EncoderPart,
    example_prompts,
    open_dimensions,
)
from teachers.sam import Sam

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
    """Write the image encoder: ``image`` ``[batch, 3, S, S]`` to ``image_embeddings`` ``[batch, C, g, g]``.

    Args:
        model: prepared (:func:`students.export.parts.prepared`).
        facts: kept in the file, by name.

    Returns:
        Whether any number of pictures may be given at once; some backbones of timm trace for one only.
    """
    part, size = EncoderPart(model), model.input_size
    images = torch.randn(2, 3, size, size)
    try:
        shapes: Any = ({0: torch.export.Dim("batch")},)
        program = exported(part, (images,), [ENCODER_INPUT], [ENCODER_OUTPUT], shapes, opset)
        dynamic = True
    except torch.onnx.OnnxExporterError:
        program = exported(part, (images[:1],), [ENCODER_INPUT], [ENCODER_OUTPUT], None, opset)
        dynamic = False
    _save(path, program, facts)
    return dynamic


def write_decoder(path: Path, model: Sam, facts: Mapping[str, Any], upscale: bool = True, opset: int = OPSET) -> None:
    """Write prompt encoder and mask decoder; see :class:`students.export.parts.DecoderPart` for inputs and outputs.

    Args:
        model: prepared.
        facts: kept in the file, by name.
        upscale: whether the file also takes ``orig_im_size`` (float32 ``[2]``: height, width) and gives ``masks``
            (logits ``[N, 4, height, width]``), as SAM's own files do.
    """
    part, inputs = DecoderPart(model), example_prompts(model)
    program = exported(part, inputs, list(DECODER_INPUTS), list(DECODER_OUTPUTS), open_dimensions(), opset)
    graph = program.model.graph
    # Either is one for all prompts, or one a prompt: their dimension is not tied to the prompts'.
    for value in graph.inputs:
        if value.name in ("mask_input", "has_mask_input"):
            value.shape[0] = "masks"
    # Runtimes infer shapes on their own; those that were traced would tie the two together again.
    for value in {value for node in graph for value in node.outputs} - set(graph.outputs):
        value.shape = None
    _save(path, program, facts)
    if upscale:
        add_upscaled_masks(path, model.input_size)


def exported(
    part: nn.Module, inputs: tuple[Any, ...], names: list[str], outputs: list[str], shapes: Any, opset: int = OPSET
) -> Any:
    """A module as PyTorch's ``ONNXProgram``; the exporter is told what this project's operators become.

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


def _save(path: Path, program: Any, facts: Mapping[str, Any]) -> None:
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
