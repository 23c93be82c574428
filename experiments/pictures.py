"""A picture of masks: what was asked, what is true, and what each model answered."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from core.checkpoint import replacing
from core.protocols import Prompt, Segmenter, device_of
from data.images import to_frame
from data.prompts import central_point
from data.readable import readable_samples
from data.sample import ImageSample
from evaluation.mask_measures import pairwise_iou
from experiments.scoring import EvaluationSet

COLOURS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)]
)
"""Okabe and Ito's colours, which the colour-blind can tell apart."""
WIDTH = 2.6
"""Of one picture, in inches."""
PICTURES = 4
"""Drawn at most."""
OBJECTS = 5
"""Prompts shown a picture, the largest objects first."""


def draw_masks(path: Path, models: Mapping[str, Segmenter], held: EvaluationSet) -> None:
    """Draw the first pictures that have objects: prompts, ground truth, each model's masks with their IoUs."""
    samples = samples_shown(held)
    titles = ["boxes asked", "ground truth", *models]
    heights = [sample.image.shape[0] / sample.image.shape[1] for sample in samples]
    size = (WIDTH * len(titles), sum(WIDTH * height + 0.25 for height in heights))
    figure = Figure(figsize=size, dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(samples), len(titles), squeeze=False, height_ratios=heights)
    # A quarter of an inch for titles. (Matplotlib's own layouts draw everything several times to find it.)
    space = 0.25 / (WIDTH * float(np.mean(heights)))
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.25 / size[1], wspace=0.04, hspace=space)
    for place, (row, sample) in enumerate(zip(axes, samples, strict=True)):
        chosen = np.argsort(-sample.areas)[:OBJECTS]
        truth = sample.masks[chosen]
        for axis, title in zip(row, titles, strict=True):
            axis.set_axis_off()
            masks = answers(models[title], sample, chosen) if title in models else truth
            axis.imshow(sample.image if title == titles[0] else overlaid(sample.image, masks))
            for number, box in enumerate(sample.boxes_xyxy[chosen] if title == titles[0] else ()):
                axis.add_patch(_outline(box, number))
            if title in models:
                iou = pairwise_iou(torch.from_numpy(masks), torch.from_numpy(truth)).tolist()
                _label(axis, truth, iou)
                axis.set_title(f"mean IoU {np.mean(iou):.3f}", fontsize=8, loc="right", color="0.3")
            if place == 0:
                axis.set_title(title, fontsize=10, loc="left")
        row[0].set_title(sample.name, fontsize=6, loc="right", color="0.4")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def samples_shown(held: EvaluationSet) -> list[ImageSample]:
    """The first pictures that have objects, at most :data:`PICTURES`."""
    read = readable_samples(held.data, held.indices)
    return list(islice((sample for _, sample in read if sample is not None and len(sample.masks)), PICTURES))


def answers(model: Segmenter, sample: ImageSample, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
    """A model's single masks for some boxes of a picture: bool ``[N, H, W]``."""
    device = device_of(model)
    size_hw = (sample.image.shape[0], sample.image.shape[1])
    boxes = torch.from_numpy(sample.boxes_xyxy[chosen]).float().to(device)
    with torch.inference_mode():
        embedding = model.encode(to_frame(sample.image, model.input_size)[None].to(device))
        return model.decode(embedding, Prompt(boxes_xyxy=boxes), size_hw).binary(size_hw)[:, 0].cpu().numpy()


def overlaid(image: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A greyed picture with each mask in its colour, its border opaque."""
    shown = np.repeat(image.mean(2, keepdims=True), 3, 2) * 0.75 + 40
    for number, mask in enumerate(masks):
        colour = COLOURS[number % len(COLOURS)]
        shown[mask] = 0.4 * shown[mask] + 0.6 * colour
        shown[border_of(mask)] = colour
    return shown.clip(0, 255).astype(np.uint8)


def border_of(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask ``[H, W]`` that touch what is not of it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def _outline(box: NDArray[np.float64], number: int) -> Rectangle:
    x0, y0, x1, y1 = box
    colour = COLOURS[number % len(COLOURS)] / 255
    # Pixel centres lie at whole numbers in matplotlib's pictures, pixel corners half a pixel before.
    return Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=tuple(colour), linewidth=1.6)


def _label(axis: Any, truth: NDArray[np.bool_], iou: list[float]) -> None:
    """The IoU of each answer in the middle of its object."""
    for target, value in zip(truth, iou, strict=True):
        x, y = central_point(target)
        box = {"facecolor": "black", "alpha": 0.55, "linewidth": 0, "pad": 0.8}
        text = f"{value:.2f}"
        axis.text(x, y, text, fontsize=6, color="white", ha="center", va="center", bbox=box)
