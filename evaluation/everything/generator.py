"""All masks of an image, with the habits of ``segment_anything.SamAutomaticMaskGenerator``."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.protocols import Segmenter
from data.annotations import rle_area
from evaluation.adaptive_batch import point_batch
from evaluation.everything.candidates import Candidates, joined
from evaluation.everything.filters import crops_of
from evaluation.everything.run_lengths import cleaned, in_form
from evaluation.everything.strategies import SEARCHES, CropSearch
from evaluation.everything_settings import EverythingSettings
from evaluation.predictor import SamPredictor

_DEFAULTS = EverythingSettings()
_HOST = torch.device("cpu")


@dataclass(frozen=True)
class Everything:
    """What was found in an image, and what it took.

    Attributes:
        records: one dict a mask with SAM's keys: ``segmentation`` (in the form of ``settings.output``), ``area`` in
            pixels, ``bbox`` (xywh, from the first to the last pixel), ``predicted_iou``, ``point_coords``
            (``[[x, y]]``), ``stability_score``, ``crop_box`` (xywh). Coordinates are pixels of the image. The best
            predicted first; with crops, those of smaller crops before.
        prompts: point prompts decoded.
        encodings: images (crops) encoded.
    """

    records: list[dict[str, Any]]
    prompts: int
    encodings: int


class EverythingGenerator:
    """Finds all masks of images. Computes on the model's device, without gradients.

    Memory: the answers to ``settings.points_per_batch`` prompts as the decoder gives them (to fewer from then on, where
    the device has too little), a few masks of the image's size, and the run lengths of what was found.

    Args:
        model: any segmenter, in evaluation mode.
        settings: how to look.
    """

    def __init__(self, model: Segmenter, settings: EverythingSettings = _DEFAULTS) -> None:
        self.model, self.settings, self.prompt_batch = model, settings, point_batch(settings.points_per_batch)

    def generate(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """The records of :meth:`run` on an image uint8 ``[H, W, 3]``, RGB.

        Raises:
            InputError: another type or shape.
        """
        return self.run(image).records

    @torch.inference_mode()
    def run(self, image: NDArray[np.uint8]) -> Everything:
        """Search an image uint8 ``[H, W, 3]``, RGB; where nothing is found there is no record.

        Raises:
            InputError: another type or shape.
            OutOfDeviceMemory: one point alone needs more memory than the device has.
        """
        settings, predictor = self.settings, SamPredictor(self.model)
        # The whole image is the first crop; here it is checked too.
        predictor.set_image(image)
        size_hw = (image.shape[0], image.shape[1])
        crops = crops_of(size_hw, settings.crop_n_layers, settings.crop_overlap_ratio)
        parts, prompts = [], 0
        for crop in crops:
            if crop.layer:
                x0, y0, x1, y1 = crop.box_xyxy
                predictor.set_image(image[y0:y1, x0:x1])
            search = CropSearch(self.model, predictor.get_image_embedding(), crop, size_hw, settings, self.prompt_batch)
            SEARCHES[settings.strategy](search)
            parts.append(search.best().to(_HOST))
            prompts += search.prompts
        found = joined(parts, _HOST)
        if len(crops) > 1:
            # Masks of smaller crops are finer.
            width, height = (found.crops_xyxy[:, 2:] - found.crops_xyxy[:, :2]).unbind(1)
            found = found.without_overlaps(1 / (width * height), settings.crop_nms_thresh)
        if settings.min_mask_region_area > 0:
            strictest = max(settings.box_nms_thresh, settings.crop_nms_thresh)
            found = cleaned(found, settings.min_mask_region_area, strictest)
        return Everything(_records(found, settings.output), prompts, len(crops))


def _records(found: Candidates, output: str) -> list[dict[str, Any]]:
    """One dict a mask, of Python's own numbers."""
    columns = zip(
        found.rles,
        _xywh(found.boxes_xyxy),
        found.iou_pred.tolist(),
        found.points_xy.tolist(),
        found.stability.tolist(),
        _xywh(found.crops_xyxy),
        strict=True,
    )
    return [
        {
            "segmentation": in_form(rle, output),
            "area": rle_area(rle),
            "bbox": box,
            "predicted_iou": iou_pred,
            "point_coords": [point],
            "stability_score": stability,
            "crop_box": crop,
        }
        for rle, box, iou_pred, point, stability, crop in columns
    ]


def _xywh(boxes_xyxy: torch.Tensor) -> list[list[int]]:
    return torch.cat([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], 1).tolist()
