"""``segment_anything``'s automatic mask generator against this project's, with the same trained weights."""

import pytest

pytest.importorskip("segment_anything", reason="segment_anything is not installed (sampress[test])")

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_api
from scipy import ndimage
from segment_anything import SamAutomaticMaskGenerator

from benchmarks.everything import meta_sam
from data.shapes import Shapes
from evaluation.everything import EverythingGenerator, EverythingSettings
from teachers.sam import Sam
from teachers.weights import load_sam

# The packaged model is trained: its masks are masks, not noise. Thresholds that many of them pass, also duplicates.
LENIENT: dict[str, Any] = {
    "points_per_side": 6,
    "pred_iou_thresh": 0.5,
    "stability_score_thresh": 0.6,
    "box_nms_thresh": 0.9,
}
# size, settings, at least so many masks
CASES: dict[str, tuple[tuple[int, int], dict[str, Any], int]] = {
    "lenient": ((96, 128), {}, 9),
    "batches that do not divide": ((128, 128), {"points_per_batch": 13, "box_nms_thresh": 0.7}, 5),
    "offset and thresholds": (
        (75, 201),
        {"stability_score_offset": 2.5, "stability_score_thresh": 0.4, "pred_iou_thresh": 0.6},
        7,
    ),
    "nothing is filtered": (
        (50, 40),
        {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "points_per_side": 3},
        15,
    ),
    "crops": ((201, 151), {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "crop_nms_thresh": 0.8}, 8),
    "small regions": (
        (128, 96),
        {"min_mask_region_area": 12, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.2},
        10,
    ),
    "nothing is found": ((60, 60), {"pred_iou_thresh": 2.0}, 0),
}


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Sam]:
    """Meta's model and ours, with the weights of sam_pocket."""
    ours = load_sam("sam_pocket")
    return meta_sam(ours), ours


def resized_image(height: int, width: int) -> NDArray[np.uint8]:
    """Figures, stretched to a size."""
    return np.array(Image.fromarray(Shapes("validation", 2, difficulty=0.2).image(1)).resize((width, height)))


def components(mask: NDArray[np.uint8], connectivity: int) -> tuple[int, NDArray[np.int32], NDArray[np.int64], None]:
    """OpenCV's ``connectedComponentsWithStats``, of which only the areas are used; OpenCV is not installed."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    return count + 1, labels, np.bincount(labels.reshape(-1), minlength=count + 1)[:, None], None


@pytest.mark.parametrize("name", CASES)
def test_the_masks_are_metas(pair: tuple[Any, Sam], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(connectedComponentsWithStats=components))
    size_hw, changes, least = CASES[name]
    settings, image = {**LENIENT, **changes}, resized_image(*size_hw)
    theirs = SamAutomaticMaskGenerator(pair[0], output_mode="coco_rle", **settings).generate(image)
    ours = EverythingGenerator(pair[1], EverythingSettings(**settings)).generate(image)
    assert len(theirs) >= least and len(ours) == len(theirs)
    if name == "crops":
        assert len({tuple(record["crop_box"]) for record in theirs}) > 2
    if not theirs:
        return
    for found, expected in zip(ours, theirs, strict=True):
        assert found.keys() == expected.keys()
        # A pixel whose logit is within rounding of the threshold may fall on either side.
        (iou,) = mask_api.iou([found["segmentation"]], [expected["segmentation"]], [0])[0]
        assert iou > 0.999 or found["area"] == expected["area"] == 0
        assert abs(found["area"] - expected["area"]) <= 1
        np.testing.assert_allclose(found["bbox"], expected["bbox"], atol=1 if iou < 1 else 0)
        np.testing.assert_allclose(found["predicted_iou"], expected["predicted_iou"], atol=1e-5)
        if expected["area"]:
            np.testing.assert_allclose(found["stability_score"], expected["stability_score"], atol=2e-3)
        assert found["point_coords"] == expected["point_coords"]
        assert found["crop_box"] == expected["crop_box"]
        assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize("output", ["binary_mask", "uncompressed_rle", "coco_rle"])
def test_forms_of_a_mask(pair: tuple[Any, Sam], output: str) -> None:
    image = resized_image(90, 60)
    settings = {**LENIENT, "points_per_side": 3}
    theirs = SamAutomaticMaskGenerator(pair[0], output_mode=output, **settings).generate(image)
    ours = EverythingGenerator(pair[1], EverythingSettings(output=output, **settings)).generate(image)
    assert len(ours) == len(theirs) > 3
    for found, expected in zip(ours, theirs, strict=True):
        if output == "binary_mask":
            assert found["segmentation"].dtype == np.bool_
            np.testing.assert_array_equal(found["segmentation"], expected["segmentation"])
        else:
            assert found["segmentation"] == expected["segmentation"]
