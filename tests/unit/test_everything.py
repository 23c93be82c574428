"""Segment everything: what the strategies decode, and images that are out of the ordinary."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_api
from torch import Tensor
from torchvision.ops import nms

from core.errors import InputError
from core.protocols import Masks, Prompt
from data.shapes import Shapes
from evaluation.everything import EverythingGenerator, EverythingSettings
from evaluation.latency import peak_memory
from teachers.weights import load_sam
from tests.unit.tiny import tiny_sam

FRAME, SIDE = 64, 16
ALL: dict[str, Any] = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}


class Drawn:
    """A segmenter without weights: draws a mask a point, and notes the points.

    Args:
        draw: points xy ``[N, 2]`` in shares of the image's sides to logits ``[N, SIDE, SIDE]``.
    """

    name, input_size = "drawn", FRAME

    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        self.draw, self.requested, self.largest_batch = draw, [], 0  # type: ignore[var-annotated]

    def encode(self, images: Tensor) -> Tensor:
        assert images.shape == (1, 3, FRAME, FRAME)
        return images[:, :1, ::16, ::16]

    def decode(self, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        assert multimask and prompt.points_xy is not None and prompt.points_xy.shape[1:] == (1, 2)
        self.requested += prompt.points_xy[:, 0].tolist()
        self.largest_batch = max(self.largest_batch, len(prompt))
        logits = self.draw(prompt.points_xy[:, 0] / torch.tensor([size_hw[1], size_hw[0]]))
        # The second and third candidate are predicted worse, and dropped.
        return Masks(
            logits[:, None].expand(-1, 3, -1, -1), torch.tensor([[0.9, 0.1, 0.1]]).expand(len(prompt), 3), FRAME
        )


def full(points: Tensor) -> Tensor:
    return torch.full((len(points), SIDE, SIDE), 20.0)


def left_half(points: Tensor) -> Tensor:
    logits = full(points)
    logits[:, :, SIDE // 2 :] = -20.0
    return logits


def image(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_mask_is_what_lies_above_the_threshold() -> None:
    areas = []
    for threshold in (0.0, -30.0):
        settings = EverythingSettings(points_per_side=1, mask_threshold=threshold, **ALL)
        (record,) = EverythingGenerator(Drawn(left_half), settings).run(image(64, 64)).records[:1]
        areas.append(record["area"])
    assert areas == [64 * 32, 64 * 64]


@pytest.mark.parametrize("coarse", [1, 2, 3, 10, 32])
def test_where_all_is_covered_only_the_coarse_grid_is_decoded(coarse: int) -> None:
    model = Drawn(full)
    settings = EverythingSettings("hierarchical", 32, coarse_points_per_side=coarse)
    found = EverythingGenerator(model, settings).run(image(40, 60))
    assert found.prompts == len(model.requested) == coarse**2 and found.encodings == 1
    (record,) = found.records
    assert record["area"] == 2400 and record["bbox"] == [0, 0, 59, 39] and record["crop_box"] == [0, 0, 60, 40]


@pytest.mark.parametrize("high_score", [8.5, 25.0])
def test_points_on_confident_pixels_are_skipped(high_score: float) -> None:
    model = Drawn(left_half)
    settings = EverythingSettings("hierarchical", 8, 5, coarse_points_per_side=2, high_score_thresh=high_score)
    found = EverythingGenerator(model, settings).run(image(64, 64))
    requested = np.array(model.requested)
    assert (requested[:4] == [[16, 16], [48, 16], [16, 48], [48, 48]]).all() and model.largest_batch == 5
    assert found.prompts == len(requested) == 4 + (32 if high_score < 20 else 64)
    if high_score < 20:
        assert (requested[4:, 0] > 32).all()


def test_a_coarse_mask_that_is_dropped_covers_nothing() -> None:
    settings = EverythingSettings("hierarchical", 8, coarse_points_per_side=2, pred_iou_thresh=0.95)
    found = EverythingGenerator(Drawn(full), settings).run(image(30, 30))
    assert found.prompts == 4 + 64 and found.records == []


def test_a_point_of_both_grids_is_decoded_once() -> None:
    settings = EverythingSettings("hierarchical", 6, coarse_points_per_side=2, high_score_thresh=float("inf"))
    model = Drawn(left_half)
    assert EverythingGenerator(model, settings).run(image(30, 40)).prompts == len(model.requested) == 36
    assert len({tuple(np.round(point, 3)) for point in model.requested}) == 36


def test_unreachable_confidence_gives_both_grids_merged() -> None:
    model, image = load_sam("sam_pocket"), Shapes("validation", 1, difficulty=0.2).image(0)
    lenient: dict[str, Any] = {"pred_iou_thresh": 0.4, "stability_score_thresh": 0.4}
    merged: list[dict[str, Any]] = []
    for side in (3, 8):
        # Nothing overlaps by more than all.
        settings = EverythingSettings("dense", side, box_nms_thresh=1.0, **lenient)
        merged += EverythingGenerator(model, settings).generate(image)
    boxes = torch.tensor([record["bbox"] for record in merged], dtype=torch.float32)
    boxes[:, 2:] += boxes[:, :2]
    kept = nms(boxes, torch.tensor([record["predicted_iou"] for record in merged]), 0.7)
    settings = EverythingSettings(
        "hierarchical", 8, coarse_points_per_side=3, high_score_thresh=float("inf"), **lenient
    )
    found = EverythingGenerator(model, settings).run(image)
    assert found.prompts == 9 + 64 and len(found.records) == len(kept) >= 5
    for record, i in zip(found.records, kept.tolist(), strict=True):
        assert record["point_coords"] == merged[i]["point_coords"]
        (iou,) = mask_api.iou([record["segmentation"]], [merged[i]["segmentation"]], [0])[0]
        assert iou > 0.99
    json.dumps(found.records)


@pytest.mark.parametrize("strategy", ["dense", "hierarchical"])
@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 50), (300, 2), (40, 64)])
def test_any_size(size_hw: tuple[int, int], layers: int, strategy: str) -> None:
    image = np.zeros((*size_hw, 3), np.uint8)
    settings = EverythingSettings(strategy, 2, crop_n_layers=layers, **ALL)
    for model in (tiny_sam(), Drawn(left_half)) if layers < 2 else (Drawn(left_half),):
        found = EverythingGenerator(model, settings).run(image)
        assert found.records and found.encodings <= 21
        for record in found.records:
            assert record["segmentation"]["size"] == list(size_hw)
            x, y, width, height = record["bbox"]
            assert 0 <= x <= x + width < size_hw[1] and 0 <= y <= y + height < size_hw[0]


@pytest.mark.parametrize("strategy", ["dense", "hierarchical"])
def test_a_blank_image_may_have_nothing(strategy: str) -> None:
    # The trained model finds a line at the border or nothing, never a figure.
    generator = EverythingGenerator(load_sam("sam_pocket"), EverythingSettings(strategy, 4))
    assert all(record["area"] <= 70 for record in generator.generate(np.zeros((50, 70, 3), np.uint8)))
    empty = EverythingGenerator(Drawn(lambda points: -full(points)), EverythingSettings(strategy, 4, crop_n_layers=1))
    found = empty.run(image(20, 20))
    assert found.records == [] and found.encodings == 5


def test_crops_prefer_the_smaller_and_drop_what_they_cut() -> None:
    settings = EverythingSettings("dense", 1, crop_n_layers=1, **ALL)
    records = EverythingGenerator(Drawn(full), settings).generate(image(200, 200))
    # What fills a crop is cut by it, so only the whole image's is left.
    assert [record["crop_box"] for record in records] == [[0, 0, 200, 200]]

    def dot(points: Tensor) -> Tensor:
        logits = -full(points)
        logits[:, 7:9, 7:9] = 20.0
        return logits

    records = EverythingGenerator(Drawn(dot), settings).generate(image(200, 200))
    assert len(records) == 5 and records[-1]["crop_box"] == [0, 0, 200, 200]
    assert [record["point_coords"][0] for record in records[:4]] == [[67, 67], [67, 133], [133, 67], [133, 133]]


@pytest.mark.parametrize(("strategy", "size_hw"), [("dense", (3000, 4000)), ("hierarchical", (1500, 2000))])
def test_memory_is_bounded(strategy: str, size_hw: tuple[int, int]) -> None:
    image = np.zeros((*size_hw, 3), np.uint8)
    peaks = []
    for side in (1, 2):
        settings = EverythingSettings(strategy, side, high_score_thresh=25.0, **(ALL | {"pred_iou_thresh": 0.5}))
        generator = EverythingGenerator(Drawn(full), settings)
        peaks.append(peak_memory(lambda generator=generator: generator.run(image), [], torch.device("cpu")))
    # Of one mask of twelve million pixels, however many points are decoded: 48 MB a time as float32, 12 MB as bytes.
    assert peaks[1] < 1.2 * peaks[0] < 240e6


def test_a_model_in_half_precision() -> None:
    settings = EverythingSettings("hierarchical", 3, **ALL)
    records = EverythingGenerator(tiny_sam().to(torch.bfloat16), settings).generate(image(40, 64))
    assert records and isinstance(records[0]["predicted_iou"], float)


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["dense", "hierarchical"])
def test_on_a_gpu(strategy: str) -> None:
    image, model = Shapes("validation", 1).image(0), load_sam("sam_pocket")
    settings = EverythingSettings(strategy, 8, crop_n_layers=1, pred_iou_thresh=0.5, stability_score_thresh=0.6)
    expected = EverythingGenerator(model, settings).run(image)
    found = EverythingGenerator(model.to("cuda"), settings).run(image)
    assert found.prompts == expected.prompts and len(found.records) == len(expected.records)
    for record, other in zip(found.records, expected.records, strict=True):
        assert mask_api.iou([record["segmentation"]], [other["segmentation"]], [0])[0, 0] > 0.99


def test_a_wrong_image_is_said() -> None:
    with pytest.raises(InputError, match=r"an image must be uint8 \[H, W, 3\]"):
        EverythingGenerator(Drawn(full)).generate(np.zeros((5, 5), np.uint8))
