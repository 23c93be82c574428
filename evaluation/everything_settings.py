"""The settings of a search for all masks of an image."""

import math
from dataclasses import dataclass

from core.errors import InputError

STRATEGIES = ("dense", "hierarchical")
OUTPUTS = ("coco_rle", "uncompressed_rle", "binary_mask")

# Key, least and greatest value. Infinity is allowed where it has a meaning: nothing is covered, all are too small.
_WHOLE = {
    "points_per_side": 1,
    "points_per_batch": 1,
    "crop_n_layers": 0,
    "crop_n_points_downscale_factor": 1,
    "min_mask_region_area": 0,
}
_REAL = {
    "pred_iou_thresh": (-math.inf, math.inf),
    "stability_score_thresh": (-math.inf, math.inf),
    "stability_score_offset": (0.0, 1e6),
    "box_nms_thresh": (0.0, 1.0),
    "crop_nms_thresh": (0.0, 1.0),
    "crop_overlap_ratio": (0.0, 1.0),
    "mask_threshold": (-1e6, 1e6),
    "high_score_thresh": (-math.inf, math.inf),
}


@dataclass(frozen=True)
class EverythingSettings:
    """How to look for all masks; names and defaults are those of ``SamAutomaticMaskGenerator`` where it has them.

    Attributes:
        strategy: ``dense`` asks every point of the grid. ``hierarchical`` asks a coarse grid first, and then those
            points of the dense grid that no confident mask of the coarse grid covers.
        points_per_side: of the dense grid, in both strategies.
        points_per_batch: prompts decoded together.
        pred_iou_thresh: masks are kept whose predicted IoU is above it; 0 and below keeps all.
        stability_score_thresh: masks are kept whose stability is at least this; 0 and below keeps all.
        stability_score_offset: in logits. Stability is the IoU of the masks cut this much above and below.
        box_nms_thresh: of two masks of a crop whose boxes overlap more, the better predicted is kept.
        crop_n_layers: layer ``i`` of these searches ``4 ** i`` overlapping crops; layer 0, the image, always is.
        crop_nms_thresh: of two masks of different crops whose boxes overlap more, that of the smaller crop is kept.
        crop_overlap_ratio: of the crops of layer 1, as a share of the image's shorter side.
        crop_n_points_downscale_factor: grids of layer ``i`` have ``factor ** i`` times fewer points a side.
        min_mask_region_area: holes and separate parts of fewer pixels are removed; 0 leaves masks as they are.
        mask_threshold: logits above it are mask.
        coarse_points_per_side: of the first grid of ``hierarchical``; None is a quarter of ``points_per_side``.
        high_score_thresh: ``hierarchical``: mask logits above it cover their pixels; infinity covers none.
        output: form of a record's ``segmentation``: ``coco_rle`` (counts as str), ``uncompressed_rle`` (counts as
            list), or ``binary_mask`` (bool ``[H, W]``).

    Raises:
        InputError: a value outside its range.
    """

    strategy: str = "dense"
    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 0
    mask_threshold: float = 0.0
    coarse_points_per_side: int | None = None
    high_score_thresh: float = 8.5
    output: str = "coco_rle"

    def __post_init__(self) -> None:
        for key, known in (("strategy", STRATEGIES), ("output", OUTPUTS)):
            value = getattr(self, key)
            if value not in known:
                raise InputError(f"{key} is {value!r}; use one of {', '.join(known)}")
        for key, least in _WHOLE.items():
            _check_whole(key, getattr(self, key), least)
        if self.coarse_points_per_side is not None:
            _check_whole("coarse_points_per_side", self.coarse_points_per_side, 1, optional=True)
        for key, (low, high) in _REAL.items():
            value = getattr(self, key)
            # Written so that NaN fails too.
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                between = "any number" if low == -math.inf else f"a number from {low:g} to {high:g}"
                raise InputError(f"{key} is {value!r}; give {between}")
        if self.crop_overlap_ratio >= 1:
            raise InputError(f"crop_overlap_ratio is {self.crop_overlap_ratio!r}; give a number below 1")
        if self.points_per_side < self.crop_n_points_downscale_factor**self.crop_n_layers:
            raise InputError(
                f"crop_n_points_downscale_factor is {self.crop_n_points_downscale_factor}: no point is left of "
                f"{self.points_per_side} a side in crop layer {self.crop_n_layers}; lower it or crop_n_layers"
            )

    def dense_side(self, layer: int) -> int:
        """Points a side of the dense grid in a crop layer."""
        return self.points_per_side // self.crop_n_points_downscale_factor**layer

    def coarse_side(self, layer: int) -> int:
        """Points a side of the coarse grid in a crop layer, at least 1."""
        first = self.coarse_points_per_side
        return max(
            1, (self.points_per_side // 4 if first is None else first) // self.crop_n_points_downscale_factor**layer
        )


def _check_whole(key: str, value: object, least: int, optional: bool = False) -> None:
    if type(value) is not int or value < least:
        raise InputError(f"{key} is {value!r}; give a whole number of at least {least}{', or null' * optional}")
