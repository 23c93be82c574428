"""The prompts that a protocol asks for, from an image's annotations."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import InputError
from core.protocols import Prompt
from core.seeding import generator_for
from data.prompts import central_point, jitter_boxes
from data.sample import ImageSample
from evaluation.protocols import ScoringProtocol


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
