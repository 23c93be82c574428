"""The filled box and the filled ellipse against ten lines of numpy; the ground truth itself scores 1."""

import numpy as np
import pytest
import torch
from torch import Tensor

from core.geometry import boxes_to_frame
from core.protocols import Masks, Prompt
from data.sample import ImageSample
from data.shapes import Shapes
from evaluation.baselines import filled_boxes, filled_ellipses, score_baselines
from evaluation.metrics import mean_iou
from evaluation.protocols import PROTOCOLS
from evaluation.scorer import Scorer

DATA = Shapes("validation", 6, seed=3, size=64)


def test_equal_to_a_short_script() -> None:
    expected: dict[str, list[float]] = {"filled_box": [], "filled_ellipse": []}
    for index in range(len(DATA)):
        sample = DATA.sample(index)
        for truth, (x0, y0, x1, y1) in zip(sample.masks, sample.boxes_xyxy, strict=True):
            y, x = np.mgrid[: truth.shape[0], : truth.shape[1]] + 0.5
            u, v = (x - (x0 + x1) / 2) / ((x1 - x0) / 2), (y - (y0 + y1) / 2) / ((y1 - y0) / 2)
            masks = {"filled_box": (abs(u) < 1) & (abs(v) < 1), "filled_ellipse": u**2 + v**2 <= 1}
            for name, mask in masks.items():
                expected[name].append((mask & truth).sum() / (mask | truth).sum())
    records = score_baselines(DATA)
    for name, ious in expected.items():
        assert [record.iou for record in records[name]] == pytest.approx(ious, abs=1e-12)
        assert mean_iou(records[name])["miou"].value == pytest.approx(np.mean(ious), abs=1e-12)


def test_records_are_those_of_the_evaluator() -> None:
    seen: list[int] = []
    records = score_baselines(DATA, indices=[4, 1], on_image=seen.append)
    assert seen == [1, 2]
    needed = [(i, a, area) for i in (4, 1) for a, area in _instances(DATA.sample(i))]
    for of_baseline in records.values():
        assert [(r.image_id, r.annotation_id, r.area) for r in of_baseline] == needed


def _instances(sample: ImageSample) -> list[tuple[int, float]]:
    return list(zip(sample.annotation_ids, sample.areas.tolist(), strict=True))


def test_a_box_on_whole_pixels_is_filled_exactly() -> None:
    mask = filled_boxes(np.array([[2.0, 1.0, 5.0, 3.0]]), (4, 6))[0]
    needed = np.zeros((4, 6), bool)
    needed[1:3, 2:5] = True
    assert (mask == needed).all()


def test_a_pixel_counts_by_its_centre() -> None:
    boxes = np.array([[0.4, 0.0, 1.6, 1.0], [0.6, 0.0, 1.4, 1.0]])
    assert filled_boxes(boxes, (1, 3)).tolist() == [[[True, True, False]], [[False, False, False]]]
    # An ellipse in a box of 2 x 2 has all four centres inside (0.5² + 0.5² = 0.5 of the unit circle).
    assert filled_ellipses(np.array([[0.0, 0.0, 2.0, 2.0]]), (3, 3)).sum() == 4


def test_an_ellipse_fills_a_quarter_of_pi_of_its_box() -> None:
    box = np.array([[10.0, 20.0, 410.0, 320.0]])
    share = filled_ellipses(box, (400, 500)).sum() / filled_boxes(box, (400, 500)).sum()
    assert share == pytest.approx(np.pi / 4, abs=1e-3)
    assert not (filled_ellipses(box, (400, 500)) & ~filled_boxes(box, (400, 500))).any()


class _Truth:
    """Answers a box with the very mask it was taken from; boxes of ``shapes`` are unique within an image."""

    name = "ground truth"

    def __init__(self, data: Shapes) -> None:
        self.input_size, self._data, self._next = data.size, data, 0

    def encode(self, images: Tensor) -> Tensor:
        self._sample = self._data.sample(self._next)
        self._next += 1
        return images.new_zeros(1, 1, 1, 1)

    def decode(self, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        assert prompt.boxes_xyxy is not None
        boxes = boxes_to_frame(torch.from_numpy(self._sample.boxes_xyxy), size_hw, self.input_size)
        requested = boxes_to_frame(prompt.boxes_xyxy, size_hw, self.input_size)
        chosen = torch.cdist(requested, boxes).argmin(1)
        height, width = size_hw
        logits = torch.full((len(chosen), 1, self.input_size, self.input_size), -1.0)
        logits[:, 0, :height, :width] = 2 * torch.from_numpy(self._sample.masks)[chosen].float() - 1
        return Masks(logits, torch.ones(len(chosen), 1), self.input_size)


def test_the_ground_truth_scores_one() -> None:
    records = Scorer(_Truth(DATA), [PROTOCOLS["box_single@1"]], prompt_batch_size=2).score(DATA).records["box_single@1"]
    assert len(records) == sum(len(DATA.sample(i).masks) for i in range(len(DATA)))
    assert {record.iou for record in records} == {1.0}
    assert mean_iou(records)["miou"].value == 1.0
