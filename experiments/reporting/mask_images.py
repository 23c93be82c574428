"""Masks drawn over images: of a run's models beside each other, and of a single prediction."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from core.checkpoint import replacing
from core.protocols import Prompt, Segmenter, device_of
from data.exclusions import readable_samples
from data.images import to_frame
from data.prompts import central_point
from data.sample import ImageSample
from evaluation.mask_measures import pairwise_iou
from experiments.scoring import EvaluationSet

if TYPE_CHECKING:
    from experiments.commands.typed_prompt import TypedPrompt

COLOURS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)]
)
"""Okabe and Ito's colours, which the colour-blind can tell apart."""
WIDTH = 2.6
"""Of one image of a grid, in inches."""
IMAGES = 4
"""Drawn at most."""
OBJECTS = 5
"""Prompts shown an image, the largest objects first."""
SIDE, NARROWEST = 8.0, 2.5
"""Longer side of a prediction in inches of 120 pixels, and the least of the shorter one, so that the title has room."""
PIXELS = 1024
"""Longer side of a prediction that is drawn; larger images are scaled down before."""


def draw_masks(path: Path, models: Mapping[str, Segmenter], evaluation_set: EvaluationSet, run_id: str) -> None:
    """Draw the first images that have objects: prompts, ground truth, each model's masks with their IoUs.

    Args:
        models: by what they are in the run, such as ``student``. Above all stand their own names.
        run_id: of the run that made them, which has the seed.
    """
    samples = samples_shown(evaluation_set)
    titles = ["box prompts", "ground truth", *models]
    # A line more than the titles need, for what is shown.
    figure, axes = grid([sample.image for sample in samples], len(titles), 2)
    names = ", ".join(f"{title} {model.name}" for title, model in models.items())
    about = f"{names}; {evaluation_set.name}, a box for each object, single masks; run {run_id}"
    top = 1 - 0.03 / figure.get_size_inches()[1]
    figure.suptitle(about, fontsize=8, color="0.3", x=0.005, y=top, horizontalalignment="left")
    for place, (row, sample) in enumerate(zip(axes, samples, strict=True)):
        chosen = np.argsort(-sample.areas)[:OBJECTS]
        truth = sample.masks[chosen]
        for axis, title in zip(row, titles, strict=True):
            masks = predicted_masks(models[title], sample, chosen) if title in models else truth
            axis.imshow(sample.image if title == titles[0] else overlaid(sample.image, masks))
            for number, box in enumerate(sample.boxes_xyxy[chosen] if title == titles[0] else ()):
                draw_box(axis, box, number % len(COLOURS), 1.6)
            if title in models:
                iou = pairwise_iou(torch.from_numpy(masks), torch.from_numpy(truth)).tolist()
                for target, value in zip(truth, iou, strict=True):
                    # In the middle of its object.
                    box = {"facecolor": "black", "alpha": 0.55, "linewidth": 0, "pad": 0.8}
                    style = {"fontsize": 6, "color": "white", "ha": "center", "va": "center", "bbox": box}
                    axis.text(*central_point(target), f"{value:.2f}", **style)
                axis.set_title(f"mean IoU {np.mean(iou):.3f}", fontsize=8, loc="right", color="0.3")
            if place == 0:
                axis.set_title(title, fontsize=10, loc="left")
        row[0].set_title(sample.name, fontsize=6, loc="right", color="0.4")
    save(figure, path, Description=about)


def samples_shown(evaluation_set: EvaluationSet) -> list[ImageSample]:
    """The first images that have objects, at most :data:`IMAGES`."""
    read = readable_samples(evaluation_set.data, evaluation_set.indices)
    return list(islice((sample for _, sample in read if sample is not None and len(sample.masks)), IMAGES))


def predicted_masks(model: Segmenter, sample: ImageSample, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
    """A model's single masks for some boxes of an image: bool ``[N, H, W]``."""
    device = device_of(model)
    size_hw = (sample.image.shape[0], sample.image.shape[1])
    boxes = torch.from_numpy(sample.boxes_xyxy[chosen]).float().to(device)
    with torch.inference_mode():
        embedding = model.encode(to_frame(sample.image, model.input_size)[None].to(device))
        return model.decode(embedding, Prompt(boxes_xyxy=boxes), size_hw).binary(size_hw)[:, 0].cpu().numpy()


def draw_prediction(
    path: Path,
    image: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    iou_pred: NDArray[np.float32],
    prompt: "TypedPrompt",
    **texts: str,
) -> None:
    """Draw masks ``[M, H, W]`` over their image ``[H, W, 3]``, side by side, with the prompt and the predicted IoUs.

    Args:
        prompt: in pixels of the image.
        texts: that the file holds.
    """
    height, width = image.shape[:2]
    scale = min(1.0, PIXELS / max(height, width))
    size_hw = max(1, round(height * scale)), max(1, round(width * scale))
    inch = SIDE / max(height, width)
    size = max(NARROWEST, width * inch) * len(masks), max(NARROWEST, height * inch) + 0.35
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    for index, axis in enumerate(figure.subplots(1, len(masks), squeeze=False)[0]):
        axis.set_axis_off()
        small, mask = scaled(image, size_hw), scaled(masks[index].astype(np.uint8) * 255, size_hw) > 127
        # Coordinates stay those of the image, whatever is shown: pixel centres lie at whole numbers.
        axis.imshow(overlaid(small, mask[None]), extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        if prompt.box_xyxy is not None:
            draw_box(axis, prompt.box_xyxy, 1, 2)
        if prompt.points_xy is not None and prompt.labels is not None:
            for label, marker, colour in ((1, "o", COLOURS[2]), (0, "X", COLOURS[5])):
                x, y = prompt.points_xy[prompt.labels == label].T
                style = {"marker": marker, "edgecolors": "white", "linewidths": 1.5, "zorder": 3}
                axis.scatter(x, y, s=90, c=[tuple(colour / 255)], **style)
        name = f"mask {index}, " if len(masks) > 1 else ""
        axis.set_title(f"{name}predicted IoU {iou_pred[index]:.3f}", fontsize=10)
    save(figure, path, **texts)


def scaled(pixels: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Pixels uint8 ``[H, W]`` or ``[H, W, 3]`` at another size ``(h, w)``."""
    if pixels.shape[:2] == size_hw:
        return pixels
    # Averages on the way down; on the way up borders stay smooth.
    smaller = size_hw[0] * size_hw[1] < pixels.shape[0] * pixels.shape[1]
    kernel = Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC
    return np.array(Image.fromarray(pixels).resize((size_hw[1], size_hw[0]), kernel))


def overlaid(image: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A greyed image with each mask in its colour, its border opaque."""
    shown = np.repeat(image.mean(2, keepdims=True), 3, 2) * 0.75 + 40
    for number, mask in enumerate(masks):
        colour = COLOURS[number % len(COLOURS)]
        shown[mask] = 0.4 * shown[mask] + 0.6 * colour
        shown[border_of(mask)] = colour
    return shown.clip(0, 255).astype(np.uint8)


def border_of(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask ``[H, W]`` that touch what is not of it."""
    return mask & ~binary_erosion(mask)


def grid(images: Sequence[NDArray[np.uint8]], columns: int, lines: int = 1) -> tuple[Figure, NDArray[Any]]:
    """A figure of one row an image, each as wide as the others, and its axes ``[len(images), columns]``.

    Args:
        lines: of the titles above the first row; the others have one.
    """
    heights = [image.shape[0] / image.shape[1] for image in images]
    above = 0.25 + 0.12 * (lines - 1)
    size = WIDTH * columns, sum(WIDTH * height + 0.25 for height in heights) + above - 0.25
    figure = Figure(figsize=size, dpi=110)
    axes = figure.subplots(len(images), columns, squeeze=False, height_ratios=heights)
    # A quarter of an inch for titles. (Matplotlib's own layouts draw everything several times to find it.)
    space = 0.25 / (WIDTH * float(np.mean(heights)))
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - above / size[1], wspace=0.04, hspace=space)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def draw_box(axis: Any, box_xyxy: NDArray[np.float64], colour: int, linewidth: float) -> None:
    """Outline a box, its corners in pixels, in one of :data:`COLOURS`."""
    x0, y0, x1, y1 = box_xyxy
    # Pixel centres lie at whole numbers in matplotlib's images, pixel corners half a pixel before.
    edge = tuple(COLOURS[colour] / 255)
    axis.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=edge, linewidth=linewidth))


def save(figure: Figure, path: Path, **texts: str) -> None:
    """Write a figure as PNG, atomically, with texts that its file holds."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata=texts)
