"""Calibration: pictures go through the float model, and every layer's grids are found from what it saw."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressors.distill.progress import progress_bar
from compressors.mask_distillation import ask
from compressors.quantize.gradients import divergence, fisher_loss
from compressors.quantize.layer_errors import layer_error
from compressors.quantize.recording import Recorder, Seen, recordable
from compressors.quantize.search import Search, begin, search
from compressors.quantize.state import Found
from core.protocols import Prompt
from core.seeding import generator_for
from data.batches import ImageBatch
from students.quantized.plan import set_quantizing
from teachers.mask_decoder import Decoded
from teachers.sam import Sam


@dataclass(frozen=True)
class Calibration:
    """How a model is calibrated.

    Attributes:
        search: what is tried for each layer.
        gradient: where the hessian metric's gradient comes from (:mod:`compressors.quantize.gradients`).
        order: ``parallel``: every layer sees what the float model's layers give it; ``sequential``: what the layers
            before it give it that are quantised already.
        prompts: points, and as many boxes, a picture. They are drawn; no label is read.
        seed: of prompts, drawn parts and drawn masks.
    """

    search: Search
    gradient: str = "fisher"
    order: str = "parallel"
    prompts: int = 8
    seed: int = 0

    def run(self, model: Sam, pictures: Sequence[ImageBatch], state: Path, key: str) -> list[dict[str, Any]]:
        """Find every grid of a planned model, in place, continuing what ``state`` holds.

        Args:
            model: with float weights and grids that are not set.
            pictures: one a batch.
            state: the file in which grids are kept as they are found.
            key: what must be equal for them to be continued.

        Returns:
            how wrong each layer is, in the order of the model (:func:`compressors.quantize.layer_errors.layer_error`).
        """
        layers = recordable(model)
        set_quantizing(model, False)
        asked = [self._ask(model, picture, number) for number, picture in enumerate(pictures)]
        recorder = Recorder(layers, self.seed)
        with progress_bar("observation", len(pictures), 0) as show:
            self._observe(model, pictures, asked, recorder, lambda done: show(done, {}, 0.0))
        found = Found(state, key, model)
        with progress_bar("calibration", len(layers), len(found.done)) as show:
            for number, (path, layer) in enumerate(layers.items()):
                if path not in found.done:
                    seen = recorder.seen[path]
                    if self.order == "sequential":
                        self._look_again(model, pictures, asked, path, seen)
                    search(layer, seen, self.search)
                    found.add(path, layer_error(path, layer, seen))
                layer.quantizing = self.order == "sequential"
                show(number + 1, {}, 0.0)
        set_quantizing(model, True)
        return found.errors

    def _ask(self, model: Sam, picture: ImageBatch, number: int) -> tuple[Prompt, Prompt]:
        with torch.no_grad():
            embedding = model.encode(picture.images)
        points, boxes = ask(model, embedding, picture.valid, self.prompts, self.seed, number)
        return points.prompt, boxes.prompt

    def _observe(
        self,
        model: Sam,
        pictures: Sequence[ImageBatch],
        asked: Sequence[tuple[Prompt, Prompt]],
        recorder: Recorder,
        show: Callable[[int], None],
    ) -> None:
        """What all layers see in the float model, and the gradients where the metric wants them."""
        hessian = self.search.metric == "hessian"
        for number, (picture, prompts) in enumerate(zip(pictures, asked, strict=True)):
            if hessian and self.gradient == "fisher":
                generator = generator_for(self.seed, "fisher", number)
                with recorder.on(number, gradients=True):
                    answers = _answers(model, picture.images.clone().requires_grad_(), prompts)
                    torch.stack([fisher_loss(answer, generator) for answer in answers]).sum().backward()
            else:
                with torch.no_grad(), recorder.on(number):
                    _answers(model, picture.images, prompts)
            show(number + 1)
        if hessian and self.gradient != "fisher":
            self._differ(model, pictures, asked, recorder)

    def _differ(
        self,
        model: Sam,
        pictures: Sequence[ImageBatch],
        asked: Sequence[tuple[Prompt, Prompt]],
        recorder: Recorder,
    ) -> None:
        """Gradients of the divergence from the float model: of the perturbed one, or, as published, of itself."""
        for path, layer in recorder.layers.items():
            begin(layer, recorder.seen[path])
        for number, (picture, prompts) in enumerate(zip(pictures, asked, strict=True)):
            with torch.no_grad():
                reference = _answers(model, picture.images, prompts)
            set_quantizing(model, self.gradient == "perturbed")
            with recorder.on(number, values=False, gradients=True):
                answers = _answers(model, picture.images.clone().requires_grad_(), prompts)
                torch.stack([divergence(a, r) for a, r in zip(answers, reference, strict=True)]).sum().backward()
            set_quantizing(model, False)

    def _look_again(
        self,
        model: Sam,
        pictures: Sequence[ImageBatch],
        asked: Sequence[tuple[Prompt, Prompt]],
        path: str,
        seen: Seen,
    ) -> None:
        """Replace what a layer saw by what the quantised layers before it give it; its float output is still wanted."""
        again = Recorder({path: recordable(model)[path]}, self.seed)
        for number, (picture, prompts) in enumerate(zip(pictures, asked, strict=True)):
            with torch.no_grad(), again.on(number):
                _answers(model, picture.images, prompts)
        for call, record in again.seen[path].records.items():
            seen.records[call].inputs = record.inputs
        seen.lowest, seen.highest = again.seen[path].lowest, again.seen[path].highest


def _answers(model: Sam, images: Tensor, prompts: tuple[Prompt, ...]) -> list[Decoded]:
    embedding = model.encode(images)
    return [model.decode_frame(embedding, prompt) for prompt in prompts]
