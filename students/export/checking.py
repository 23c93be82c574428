"""Does an exported file answer as the model it was made of? Asked of every file that is written."""

import torch
from torch import Tensor

from core.errors import RunFailed
from data.images import to_frame
from data.shapes import Shapes
from students.export.parts import DecoderPart, EncoderPart, example_prompts
from students.export.segmenter import ExportedSam
from teachers.sam import Sam

TOLERANCES = {"fp32": 1e-3, "bf16": 0.05, "int8": 0.1}
"""Largest relative difference of an answer (root mean squares), by precision.

Float32 differs by the order of sums alone. Bfloat16 has 8 bits. Codes of int8 differ where a value lies between two.
"""


def check_export(model: Sam, exported: ExportedSam) -> dict[str, float]:
    """Compare a folder's files with PyTorch: the encoder on noise and on a picture, the decoder on random prompts.

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
    encoder, decoder = EncoderPart(model), DecoderPart(model)

    def note(key: str, answer: Tensor, expected: Tensor) -> None:
        found[key] = max(found[key], relative_difference(answer, expected))

    with torch.inference_mode():
        for image in (noise, shapes):
            embedding = encoder(image)
            note("encoder", exported.encode(image), embedding)
        # The decoder is asked about the picture's own embedding: with masks for some prompts, and with none.
        for count, points in ((1, 2), (3, 4)):
            _, coords, labels, masks, has_mask = example_prompts(model, count, points)
            for given in (None, masks):
                has_mask = torch.full((count,), float(given is not None))
                logits, iou_pred = decoder(embedding, coords, labels, masks, has_mask)
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
