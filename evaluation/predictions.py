"""Prompts from an image's annotations, a model's answers to them, the choice among candidates, and further clicks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import InputError
from core.feature_maps import Features
from core.protocols import ImageMasks, ImageSegmenter, Masks, Prompt, Segmenter
from core.seeding import generator_for
from data.prompts import central_point, deepest_pixel, jitter_boxes
from data.sample import ImageSample
from evaluation.mask_measures import Windows, iou_with, pairwise_iou
from evaluation.preprocess import placed_prompt, positive_windows, upscaled_in_parts
from evaluation.protocols import ScoringProtocol


def central_points(sample: ImageSample) -> NDArray[np.float64]:
    """Of each mask the pixel farthest from its border: xy ``[N, 2]``."""
    return np.stack([central_point(mask) for mask in sample.masks])


def box_centres(sample: ImageSample) -> NDArray[np.float64]:
    """xy ``[N, 2]``; it may lie outside of the mask."""
    return (sample.boxes_xyxy[:, :2] + sample.boxes_xyxy[:, 2:]) / 2


def mass_centres(sample: ImageSample) -> NDArray[np.float64]:
    """Of each mask its centre of mass, to the nearest pixel; where that is not of the mask, its central point."""
    found = []
    for mask in sample.masks:
        rows, columns = np.nonzero(mask)
        row, column = round(rows.mean()), round(columns.mean())
        found.append(np.array([column, row], dtype=np.float64) if mask[row, column] else central_point(mask))
    return np.stack(found)


def annotated_points(sample: ImageSample) -> NDArray[np.float64]:
    """The points that annotations were made from: xy ``[N, 2]``.

    Raises:
        InputError: the data set tells none.
    """
    if sample.points_xy is None:
        raise InputError(f"{sample.name}: its annotations name no points; choose a protocol with another prompt")
    return sample.points_xy


POINTS: dict[str, Callable[[ImageSample], NDArray[np.float64]]] = {
    "central_point": central_points,
    "box_centre": box_centres,
    "mass_centre": mass_centres,
    "annotated_point": annotated_points,
}


def prompts_of(sample: ImageSample, protocol: ScoringProtocol, seed: int = 0) -> Prompt:
    """One prompt an instance, in original pixels: a box, or the first point.

    Args:
        seed: of the noise on boxes, together with the image's id: each image has its own, whatever the order.
    """
    if protocol.prompt == "box":
        boxes = sample.boxes_xyxy
        if protocol.jitter:
            number = int(torch.randint(2**31, (), generator=generator_for(seed, "boxes", sample.image_id)))
            rng = np.random.default_rng(number)
            boxes = jitter_boxes(boxes, (sample.image.shape[0], sample.image.shape[1]), protocol.jitter, rng)
        return Prompt(boxes_xyxy=torch.from_numpy(boxes).float())
    points = torch.from_numpy(POINTS[protocol.prompt](sample)).float()[:, None]
    return Prompt.foreground(points)


class Predictions:
    """What a model answers to some prompts on one image; decoded once, however many protocols need it.

    Args:
        embedding: ``[1, C, g, g]``, or what ``encode_image`` gave.
        prompt: in original pixels.
        size_hw: of the original image.
        rounding: of the image's sides in the frame; see :class:`ScoringProtocol`.
    """

    def __init__(
        self,
        model: Segmenter | ImageSegmenter,
        embedding: Any,
        prompt: Prompt,
        size_hw: tuple[int, int],
        rounding: str = "nearest",
    ) -> None:
        self.model, self.embedding, self.size_hw = model, embedding, size_hw
        if not isinstance(model, ImageSegmenter):
            prompt = placed_prompt(prompt, size_hw, model.input_size, rounding)
        self.prompt = prompt.to(embedding.device) if isinstance(embedding, Features) else prompt
        self._known: dict[bool, Masks | ImageMasks] = {}

    def candidates(self, choice: str) -> Masks | ImageMasks:
        """Those that a choice is among: one, three, or all four."""
        if choice == "best_of_4":
            one, three = self._decoded(False), self._decoded(True)
            logits, iou_pred = torch.cat([one.logits, three.logits], 1), torch.cat([one.iou_pred, three.iou_pred], 1)
            return replace(one, logits=logits, iou_pred=iou_pred)
        return self._decoded(choice != "single")

    def _decoded(self, multimask: bool) -> Masks | ImageMasks:
        if multimask not in self._known:
            self._known[multimask] = self.model.decode(self.embedding, self.prompt, self.size_hw, multimask)
        return self._known[multimask]


@dataclass(frozen=True)
class Chosen:
    """The chosen answers to some consecutive prompts.

    Attributes:
        place: which prompts.
        logits: ``[n, H, W]`` at the original size, or bool masks of a model that gives no logits.
        iou_pred: ``[n]``, what the model predicted.
        index: int64 ``[n]``, which candidate.
        iou: float64 ``[n]`` with the ground truth; None where none was given.
        windows: outside of which the logits are below -1; None where that is not known.
    """

    place: slice
    logits: Tensor
    iou_pred: Tensor
    index: Tensor
    iou: Tensor | None
    windows: Windows | None = None


def choose(
    predictions: Predictions, protocol: ScoringProtocol, truth: Callable[[slice], Tensor] | None = None
) -> Iterator[Chosen]:
    """The one rule of choosing an answer, for so few prompts at a time that memory stays bounded.

    The candidate with the best predicted IoU; with ``choice=oracle`` and a ground truth, the one with the best IoU.

    Args:
        truth: ground truth bool ``[n, H, W]`` of some of the prompts, on any device.
    """
    masks, size_hw = predictions.candidates(protocol.choice), predictions.size_hw
    if protocol.choice == "oracle" and truth is not None:
        for place, logits in upscaled_in_parts(masks, size_hw, protocol):
            binary, expected = logits > 0, truth(place).to(logits.device)
            every = torch.stack([pairwise_iou(binary[:, m], expected) for m in range(binary.shape[1])], 1)
            iou, best = every.max(1)
            rows = torch.arange(len(best), device=best.device)
            yield Chosen(place, logits[rows, best], masks.iou_pred[place][rows, best], best, iou)
        return
    index = masks.iou_pred.argmax(1)
    rows = torch.arange(len(index), device=index.device)
    masks = replace(masks, logits=masks.logits[rows, index][:, None], iou_pred=masks.iou_pred[rows, index][:, None])
    windows = positive_windows(masks, size_hw, protocol)
    for place, logits in upscaled_in_parts(masks, size_hw, protocol):
        shown, inside = logits[:, 0], None if windows is None else windows[place]
        found = None if truth is None else iou_with(truth(place).to(shown.device), shown, inside)
        yield Chosen(place, shown, masks.iou_pred[place][:, 0], index[place], found, inside)


def chosen_masks(predictions: Predictions, protocol: ScoringProtocol) -> Tensor:
    """The masks chosen without looking at any truth, bool ``[N, H, W]``."""
    return torch.cat([chosen.logits > 0 for chosen in choose(predictions, protocol)])


def predict_with_clicks(
    model: Segmenter | ImageSegmenter,
    embedding: Any,
    prompt: Prompt,
    size_hw: tuple[int, int],
    protocol: ScoringProtocol,
    truth: Tensor,
) -> Predictions:
    """Answers to prompts and to as many further clicks as a protocol has.

    Args:
        embedding, prompt, size_hw: as of :class:`Predictions`.
        truth: bool ``[N, H, W]``, the instances that the clicks are about.
    """
    predictions = Predictions(model, embedding, prompt, size_hw, protocol.rounding)
    for _ in range(protocol.clicks - 1):
        prompt = with_next_clicks(prompt, chosen_masks(predictions, protocol).cpu(), truth)
        predictions = Predictions(model, embedding, prompt, size_hw, protocol.rounding)
    return predictions


def with_next_clicks(prompt: Prompt, predicted: Tensor, truth: Tensor) -> Prompt:
    """Each prompt with one more point, in the middle of what its answer got most wrong (RITM's clicker).

    That is the pixel farthest from the border of the missed region, or of the region too much, whichever reaches
    deeper; a missed pixel is foreground. No pixel is clicked twice, or an answer that stays empty would get the same
    click for ever. An answer without errors, or whose errors are all clicked, gets padding.

    Args:
        prompt: of points ``[N, P, 2]``.
        predicted, truth: bool ``[N, H, W]``.
    """
    assert prompt.points_xy is not None and prompt.labels is not None
    # Padding is no click, wherever it stands: the pixel there may still be missed.
    given = zip(prompt.points_xy.round().int().tolist(), (prompt.labels >= 0).tolist(), strict=True)
    earlier = [list(compress(points, is_click)) for points, is_click in given]
    parts = zip(predicted.cpu().numpy(), truth.cpu().numpy(), earlier, strict=True)
    points, labels = zip(*(_next_click(*part) for part in parts), strict=True)
    device = prompt.points_xy.device
    more = torch.tensor(points, dtype=torch.float32, device=device)[:, None]
    kinds = torch.tensor(labels, dtype=prompt.labels.dtype, device=device)[:, None]
    return Prompt(points_xy=torch.cat([prompt.points_xy, more], 1), labels=torch.cat([prompt.labels, kinds], 1))


def _next_click(
    predicted: NDArray, truth: NDArray, clicked: Sequence[tuple[int, int]]
) -> tuple[tuple[float, float], int]:
    missed, extra = truth & ~predicted, predicted & ~truth
    deepest = [(deepest_pixel(part, clicked) if part.any() else None) for part in (missed, extra)]
    depth = [0.0 if part is None else part[1] for part in deepest]
    chosen = deepest[0] if depth[0] > depth[1] else deepest[1]
    if chosen is None or not max(depth):
        return (0.0, 0.0), -1
    return (float(chosen[0][0]), float(chosen[0][1])), int(depth[0] > depth[1])
