"""A picture with the prompt and each mask that answers it."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from core.checkpoint import replacing
from experiments.commands.typed_prompt import TypedPrompt
from experiments.pictures import COLOURS, overlaid

SIDE = 8.0
"""Longer side of a picture in inches, of 120 pixels each."""
NARROWEST = 2.5
"""Of a shorter side, in inches, so that the title has room."""
PIXELS = 1024
"""Longer side of what is drawn; larger pictures are scaled down before."""


def draw_prediction(
    path: Path,
    image: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    iou_pred: NDArray[np.float32],
    prompt: TypedPrompt,
) -> None:
    """Draw masks ``[M, H, W]`` over their picture ``[H, W, 3]``, side by side, with the prompt and the predicted IoUs.

    Args:
        prompt: in pixels of the picture.
    """
    height, width = image.shape[:2]
    inch = SIDE / max(height, width)
    size = max(NARROWEST, width * inch) * len(masks), max(NARROWEST, height * inch) + 0.35
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for index, axis in enumerate(figure.subplots(1, len(masks), squeeze=False)[0]):
        axis.set_axis_off()
        small, mask = _scaled_down(image, masks[index])
        # Coordinates stay those of the picture, whatever is shown: pixel centres lie at whole numbers.
        axis.imshow(overlaid(small, mask[None]), extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        _draw_prompt(axis, prompt)
        name = f"mask {index}, " if len(masks) > 1 else ""
        axis.set_title(f"{name}predicted IoU {iou_pred[index]:.3f}", fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _scaled_down(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A picture and its mask with a longer side of at most :data:`PIXELS`."""
    scale = PIXELS / max(mask.shape)
    if scale >= 1:
        return image, mask
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    small = np.array(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    return small, np.array(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)) > 127


def _draw_prompt(axis: Any, prompt: TypedPrompt) -> None:
    if prompt.box_xyxy is not None:
        x0, y0, x1, y1 = prompt.box_xyxy
        colour = tuple(COLOURS[1] / 255)
        corner = (x0 - 0.5, y0 - 0.5)
        axis.add_patch(Rectangle(corner, x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=2))
    if prompt.points_xy is not None and prompt.labels is not None:
        for label, marker, colour in ((1, "o", COLOURS[2]), (0, "X", COLOURS[5])):
            x, y = prompt.points_xy[prompt.labels == label].T
            axis.scatter(
                x, y, s=90, c=[tuple(colour / 255)], marker=marker, edgecolors="white", linewidths=1.5, zorder=3
            )
