"""Calibration: images go through the float model, and every layer's grids are found from what it saw."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressors.distill.log import progress_bar
from compressors.distill.teacher_outputs import teacher_masks
from compressors.quantize.decoder_attention import clip_by_focus
from compressors.quantize.layer_errors import expected_loss, layer_error
from compressors.quantize.objective import divergence, fisher_loss
from compressors.quantize.recording import LayerTrace, Recorder, recordable
from compressors.quantize.search import Search, begin, correct_bias, search
from core.checkpoint import read_safetensors, write_safetensors
from core.errors import InputError
from core.plain_file import parse_json
from core.protocols import Prompt
from core.seeding import generator_for
from data.batches import ImageBatch
from students.quantized.layers import QuantizedLayer, QuantizedProduct
from students.quantized.plan import set_quantizing
from students.quantized.simulated_grids import Quantizer
from teachers.mask_decoder import Decoded
from teachers.sam import Sam

Call = tuple[Tensor, tuple[Prompt, Prompt]]
"""An image ``[1, 3, S, S]``, its points and its boxes."""


@dataclass(frozen=True)
class Calibration:
    """How a model is calibrated.

    Attributes:
        search: what is tried for each layer.
        gradient: where the hessian metric's gradient comes from (:mod:`compressors.quantize.objective`).
        order: ``parallel``: every layer sees what the float model's layers give it; ``sequential``: what the layers
            before it give it that are quantised already, in the order in which the model computes them.
        bias_correction: whether biases take up the mean error of quantised weights.
        pcc: whether queries and keys of the mask decoder are clipped by where attention looks.
        sensitivity: whether each layer's line also says what the loss is expected to lose by it; needs ``fisher``.
        prompts: points, and as many boxes, an image. They are drawn; no label is read.
        seed: of prompts, drawn parts and drawn masks.
    """

    search: Search
    gradient: str = "fisher"
    order: str = "parallel"
    prompts: int = 8
    seed: int = 0
    bias_correction: bool = False
    pcc: bool = False
    sensitivity: bool = False

    def run(self, model: Sam, images: Sequence[ImageBatch], state: Path, key: str) -> list[dict[str, Any]]:
        """Find every grid of a planned model, in place, continuing what ``state`` holds.

        Args:
            model: with float weights and grids that are not set.
            images: one a batch.
            state: the file in which grids are kept as they are found.
            key: what must be equal for them to be continued.

        Returns:
            how wrong each layer is, in the order of calibration (:func:`.layer_errors.layer_error`).
        """
        layers = recordable(model)
        set_quantizing(model, False)
        calls = self.calls(model, images)
        recorder = Recorder(layers, self.seed)
        with progress_bar("observation", len(images), 0) as show:
            self._observe(model, calls, recorder, lambda done: show(done, {}, 0.0))
        found = GridCheckpoint(state, key, model, self.bias_correction)
        order = recorder.in_order() if self.order == "sequential" else list(layers)
        with progress_bar("calibration", len(layers), len(found.done)) as show:
            for number, path in enumerate(order):
                layer = layers[path]
                if path not in found.done:
                    trace = recorder.traces[path]
                    if self.order == "sequential":
                        self._observe_again(model, calls, path, trace)
                    search(layer, trace, self.search)
                    if self.pcc and path.startswith("mask_decoder.") and path.endswith(".scores"):
                        assert isinstance(layer, QuantizedProduct)
                        clip_by_focus(layer, trace)
                    if self.bias_correction and isinstance(layer, QuantizedLayer):
                        correct_bias(layer, trace)
                    line = layer_error(path, layer, trace)
                    if self.sensitivity:
                        line["expected_loss"] = expected_loss(layer, trace)
                    found.add(path, line)
                layer.quantizing = self.order == "sequential"
                show(number + 1, {}, 0.0)
        set_quantizing(model, True)
        return found.errors

    def calls(self, model: Sam, images: Sequence[ImageBatch]) -> list[Call]:
        """The images, and prompts that are drawn for each by what the float model answers."""
        return [(image.images, self._prompts(model, image, number)) for number, image in enumerate(images)]

    def _prompts(self, model: Sam, image: ImageBatch, number: int) -> tuple[Prompt, Prompt]:
        with torch.no_grad():
            embedding = model.encode(image.images)
        points, boxes = teacher_masks(model, embedding, image.valid, self.prompts, self.seed, number)
        return points.prompt, boxes.prompt

    def _observe(self, model: Sam, calls: Sequence[Call], recorder: Recorder, show: Callable[[int], None]) -> None:
        """What all layers see in the float model, and the gradients where the metric needs them."""
        hessian = self.search.metric == "hessian"
        fisher = self.gradient == "fisher" and (hessian or self.sensitivity)
        for number, call in enumerate(calls):
            if fisher:
                generator = generator_for(self.seed, "fisher", number)
                with recorder.on(number, gradients=True):
                    torch.stack([fisher_loss(a, generator) for a in answers(model, call, True)]).sum().backward()
            else:
                with torch.no_grad(), recorder.on(number):
                    answers(model, call)
            show(number + 1)
        if hessian and self.gradient != "fisher":
            self._differ(model, calls, recorder)

    def _differ(self, model: Sam, calls: Sequence[Call], recorder: Recorder) -> None:
        """Gradients of the divergence from the float model: of the perturbed one, or, as published, of itself."""
        for path, layer in recorder.layers.items():
            begin(layer, recorder.traces[path])
        for number, call in enumerate(calls):
            with torch.no_grad():
                reference = answers(model, call)
            set_quantizing(model, self.gradient == "perturbed")
            with recorder.on(number, values=False, gradients=True):
                pairs = zip(answers(model, call, True), reference, strict=True)
                torch.stack([divergence(answer, other) for answer, other in pairs]).sum().backward()
            set_quantizing(model, False)

    def _observe_again(self, model: Sam, calls: Sequence[Call], path: str, trace: LayerTrace) -> None:
        """Replace what a layer saw by what the quantised layers before it give it; its float output stays."""
        again = Recorder({path: recordable(model)[path]}, self.seed)
        for number, call in enumerate(calls):
            with torch.no_grad(), again.on(number):
                answers(model, call)
        for key, record in again.traces[path].records.items():
            trace.records[key].inputs = record.inputs
        trace.lowest, trace.highest = again.traces[path].lowest, again.traces[path].highest


def answers(model: Sam, call: Call, with_gradient: bool = False) -> list[Decoded]:
    """What a model answers to both kinds of prompts.

    Args:
        with_gradient: whether the image asks for a gradient, so that every layer has one.
    """
    images, prompts = call
    embedding = model.encode(images.clone().requires_grad_() if with_gradient else images)
    return [model.decode_frame(embedding, prompt) for prompt in prompts]


SAVE_EVERY_S = 10.0


class GridCheckpoint:
    """The layers whose grids are found, and the file that keeps them.

    Args:
        path: of the file; what it holds is put into the model if it was written for the same ``key``.
        key: what must be equal.
        model: whose quantisers' buffers are kept.
        biases: whether biases of layers are kept too, as they are corrected.
    """

    def __init__(self, path: Path, key: str, model: nn.Module, biases: bool = False) -> None:
        self.path, self.key, self.model, self.biases = path, key, model, biases
        self.done: list[str] = []
        self.errors: list[dict[str, Any]] = []
        self._saved = time.monotonic()
        if path.is_file():
            self._go_on(path)

    def add(self, layer: str, error: dict[str, Any]) -> None:
        """Note a layer and how wrong it is; now and then everything is written."""
        self.done.append(layer)
        self.errors.append(error)
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self.save()

    def _go_on(self, path: Path) -> None:
        """Take what a file holds; from one that is damaged, of another key or of an earlier version, nothing."""
        try:
            tensors, metadata = read_safetensors(path)
            if metadata.get("key") != json.dumps(self.key):
                return
            done, errors = (parse_json(metadata[name]) for name in ("done", "errors"))
        except (InputError, KeyError, ValueError):
            return
        grids = self._grids()
        same = grids.keys() == tensors.keys() and all(
            (tensor.shape, tensor.dtype) == (grids[name].shape, grids[name].dtype) and bool(tensor.isfinite().all())
            for name, tensor in tensors.items()
        )
        layers = {
            path for path, module in self.model.named_modules() if isinstance(module, QuantizedLayer | QuantizedProduct)
        }
        listed = isinstance(done, list) and isinstance(errors, list) and len(done) == len(errors)
        if not same or not listed or not all(type(name) is str and name in layers for name in done):
            return
        for name, tensor in tensors.items():
            grids[name].copy_(tensor)
        self.done, self.errors = done, errors

    def save(self) -> None:
        """Write the grids of the layers that are done."""
        write_safetensors(self.path, self._grids(), {"key": self.key, "done": self.done, "errors": self.errors})
        self._saved = time.monotonic()

    def _grids(self) -> dict[str, Tensor]:
        grids = {
            f"{path}.{name}": buffer
            for path, module in self.model.named_modules()
            if isinstance(module, Quantizer)
            for name, buffer in module.named_buffers(recurse=False)
        }
        layers = self.model.named_modules() if self.biases else ()
        biases = {p: m.bias for p, m in layers if isinstance(m, QuantizedLayer) and m.bias is not None}
        return grids | {f"{path}.bias": bias.detach() for path, bias in biases.items()}
