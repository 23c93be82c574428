"""The parts of "segment everything", each against the plain way to do it."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_api
from torch.testing import assert_close

from core.errors import InputError
from core.geometry import upscale_logits
from evaluation.everything import EverythingSettings
from evaluation.everything.filters import axes, crops_of, grid_points, shared_points, windows
from evaluation.everything.run_lengths import in_form, without_small_regions
from evaluation.mask_measures import encode_windows, mask_boxes, stability_scores

WRONG = [
    ({"strategy": "sparse"}, "strategy is 'sparse'; use one of dense, hierarchical"),
    ({"output": "png"}, "output is 'png'; use one of coco_rle"),
    ({"points_per_side": 0}, "points_per_side is 0; give a whole number of at least 1"),
    ({"points_per_batch": 2.5}, "points_per_batch is 2.5; give a whole number"),
    ({"crop_n_layers": True}, "crop_n_layers is True; give a whole number"),
    ({"coarse_points_per_side": 0}, "coarse_points_per_side is 0; give a whole number of at least 1, or null"),
    ({"min_mask_region_area": -1}, "min_mask_region_area is -1"),
    ({"pred_iou_thresh": float("nan")}, "pred_iou_thresh is nan; give any number"),
    ({"box_nms_thresh": 1.5}, "box_nms_thresh is 1.5; give a number from 0 to 1"),
    ({"stability_score_offset": -1.0}, "stability_score_offset is -1.0; give a number from 0"),
    ({"crop_overlap_ratio": 1.0}, "crop_overlap_ratio is 1.0; give a number below 1"),
    ({"crop_n_layers": 3, "crop_n_points_downscale_factor": 4}, "no point is left of 32 a side in crop layer 3"),
]


@pytest.mark.parametrize(("settings", "said"), WRONG, ids=[said for _, said in WRONG])
def test_wrong_settings_are_said(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        EverythingSettings(**settings)  # type: ignore[arg-type]


def test_sides_of_grids() -> None:
    settings = EverythingSettings(crop_n_layers=2, crop_n_points_downscale_factor=4)
    assert [settings.dense_side(layer) for layer in range(3)] == [32, 8, 2]
    assert [settings.coarse_side(layer) for layer in range(3)] == [8, 2, 1]
    assert EverythingSettings(coarse_points_per_side=10).coarse_side(0) == 10
    assert EverythingSettings(points_per_side=2).coarse_side(0) == 1


@pytest.mark.parametrize(("side", "other"), [(32, 8), (32, 10), (6, 2), (9, 3), (5, 5), (4, 1), (3, 9)])
def test_points_of_two_grids(side: int, other: int) -> None:
    points, others = grid_points(side, (70, 50)), grid_points(other, (70, 50))
    expected = np.abs(points[:, None] - others[None]).max(2).min(1) < 1e-9
    np.testing.assert_array_equal(shared_points(side, other), expected)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 7), (2, 2), (100, 60), (57, 201)])
def test_crops_cover_the_image(size_hw: tuple[int, int]) -> None:
    for layer in range(3):
        seen = np.zeros(size_hw, dtype=bool)
        for crop in crops_of(size_hw, 2, 0.3):
            if crop.layer == layer:
                x0, y0, x1, y1 = crop.box_xyxy
                assert crop.size_hw == (y1 - y0, x1 - x0) and min(crop.size_hw) > 0
                seen[y0:y1, x0:x1] = True
        assert seen.all()


def bumps(count: int, side: int) -> torch.Tensor:
    """Logits ``[count, side, side]`` of small and large figures, here and there, and one that is nowhere above."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    at, width = torch.rand(count, 2) * side, side ** torch.rand(count) * 0.6
    distance = ((y - at[:, :1, None]) ** 2 + (x - at[:, 1:, None]) ** 2).sqrt()
    logits = 4 * (1 - distance / width[:, None, None]) + 0.2 * torch.randn(count, side, side)
    logits[0] = -9.0
    return logits


@pytest.mark.parametrize("cut", [-1.0, 2.0])
@pytest.mark.parametrize("size_hw", [(64, 64), (40, 64), (30, 17), (130, 201), (1, 1), (1, 90), (300, 2), (64, 63)])
def test_windows_hold_all_that_is_above(size_hw: tuple[int, int], cut: float) -> None:
    low_res = bumps(20, 16)
    expected = upscale_logits(low_res[:, None], size_hw, 64)[:, 0]
    seen, computed = [], 0
    for part in windows(low_res, cut, *axes(size_hw, 16, 64, low_res.device), pixels=5000):
        height, width = part.logits.shape[1:]
        computed += part.logits.numel()
        for which, top, left, logits in zip(*part, strict=True):
            window = expected[which, top : top + height, left : left + width]
            assert_close(logits, window, rtol=1e-5, atol=1e-5)
            assert (window > cut).sum() == (expected[which] > cut).sum()
            seen.append(int(which))
    assert sorted(seen) == list(range(20))
    if min(size_hw) > 100:
        assert computed < 0.6 * expected.numel()


def test_windows_of_half_precision_and_of_no_masks() -> None:
    sides = axes((30, 40), 16, 64, torch.device("cpu"))
    assert list(windows(torch.zeros(0, 16, 16), 0.0, *sides, pixels=100)) == []
    for part in windows(bumps(3, 16).to(torch.bfloat16), 0.0, *sides, pixels=100):
        assert part.logits.dtype == torch.float32


@pytest.mark.parametrize("size_hw", [(9, 12), (1, 5), (6, 1), (1, 1)])
def test_run_lengths_of_windows(size_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for height, width in {(size_hw[0], size_hw[1]), (size_hw[0], (size_hw[1] + 1) // 2), ((size_hw[0] + 1) // 2, 1)}:
        masks = rng.random((12, height, width)) < np.linspace(0, 1, 12)[:, None, None]
        masks[0], masks[-1] = False, True
        top = rng.integers(0, size_hw[0] - height + 1, 12)
        left = rng.integers(0, size_hw[1] - width + 1, 12)
        whole = np.zeros((12, *size_hw), dtype=np.uint8)
        for i in range(12):
            whole[i, top[i] : top[i] + height, left[i] : left[i] + width] = masks[i]
        rles = encode_windows(masks, top, left, size_hw)
        assert rles == mask_api.encode(whole.transpose(1, 2, 0).copy(order="F"))
        for rle, mask in zip(rles, whole, strict=True):
            np.testing.assert_array_equal(in_form(rle, "binary_mask"), mask.astype(bool))
            counts = in_form(rle, "uncompressed_rle")["counts"]
            assert sum(counts) == mask.size and sum(counts[1::2]) == mask.sum()


def test_boxes_and_stability() -> None:
    logits = torch.cat([bumps(10, 20), torch.full((1, 20, 20), 5.0)])
    boxes, scores = mask_boxes(logits > 0), stability_scores(logits, 0.0, 1.0)
    for box, score, mask in zip(boxes.tolist(), scores.tolist(), logits, strict=True):
        y, x = (mask > 0).nonzero().unbind(1)
        assert box == ([int(v) for v in (x.min(), y.min(), x.max(), y.max())] if len(y) else [0, 0, 0, 0])
        outer = int((mask > -1).sum())
        assert score == pytest.approx(int((mask > 1).sum()) / outer if outer else 0.0)
    assert scores[0] == 0 and boxes[-1].tolist() == [0, 0, 19, 19]


def drawing(*rows: str) -> NDArray[np.bool_]:
    return np.array([[character == "#" for character in row] for row in rows])


def test_small_regions() -> None:
    mask = drawing("####..", "#.##..", "####.#", "......")
    filled = drawing("####..", "####..", "####..", "......")
    np.testing.assert_array_equal(without_small_regions(mask, 2), filled)
    assert without_small_regions(mask, 1) is mask
    # A part that touches by a corner belongs to it; of parts that are all too small the largest stays.
    corner = drawing("##..", "##..", "..#.", "....")
    assert without_small_regions(corner, 5) is corner
    small = drawing("#...##", "......", "......", "......")
    np.testing.assert_array_equal(without_small_regions(small, 9), drawing("....##", "......", "......", "......"))
    nothing = np.zeros((5, 5), dtype=bool)
    assert without_small_regions(nothing, 5) is nothing
