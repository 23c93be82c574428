"""The two parts of a SAM as programs of ``torch.export``, which load where this project is not installed."""

import warnings
from pathlib import Path
from typing import Any

import torch

from core.checkpoint import replacing
from students.export.parts import DecoderPart, EncoderPart, example_prompts, open_dimensions
from students.quantized.operators import DECOMPOSITIONS
from teachers.sam import Sam


def write_programs(encoder: Path, decoder: Path, model: Sam, dtype: torch.dtype = torch.float32) -> bool:
    """Write both parts; inputs and outputs by position, as of :mod:`students.export.parts`.

    Args:
        model: prepared (:func:`students.export.parts.prepared`); its encoder is brought to ``dtype``.
        dtype: what the encoder computes in. Positions of prompts need float32, so the decoder keeps it.

    Returns:
        Whether the encoder takes any number of pictures.
    """
    _write(decoder, DecoderPart(model), example_prompts(model), open_dimensions())
    part, images = EncoderPart(model, dtype), torch.randn(2, 3, model.input_size, model.input_size)
    try:
        _write(encoder, part, (images,), ({0: torch.export.Dim("batch")},))
    except (torch._dynamo.exc.UserError, RuntimeError, ValueError):
        _write(encoder, part, (images[:1],), None)
        return False
    return True


def _write(path: Path, part: torch.nn.Module, inputs: tuple[Any, ...], shapes: Any) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        # Of PyTorch's own modules about each other.
        warnings.filterwarnings("ignore", module=r"(torch\.|copyreg)")
        program = torch.export.export(part.eval(), inputs, dynamic_shapes=shapes)
        if any(node.target in DECOMPOSITIONS for node in program.graph.nodes):
            program = program.run_decompositions(DECOMPOSITIONS)
        # The example would be stored with the weights.
        program.example_inputs = None
        with replacing(path) as temporary, open(temporary, "wb") as stream:
            torch.export.save(program, stream)
