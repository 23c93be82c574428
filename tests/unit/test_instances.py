"""Scoring instances: a segmenter that is right scores 1, the order of records, and the figures made of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from torch import Tensor

from core.geometry import PIXEL_MEAN, PIXEL_STD
from core.protocols import Masks, Prompt, Segmenter
from data.sample import ImageSample
from evaluation.mask_measures import pairwise_iou
from evaluation.metrics import mean_iou
from evaluation.predictions import prompts_of
from evaluation.protocols import PROTOCOLS
from evaluation.records import InstanceRecord
from evaluation.scorer import Scorer

FRAME = 64
BOX, POINT = PROTOCOLS["box_single@1"], PROTOCOLS["point_best_of_3@1"]


def drawn(image_id: int, labels: NDArray[np.int64], first_id: int) -> ImageSample:
    """An image in which instance ``k`` is painted in the grey ``30 * (k + 1)``."""
    count = int(labels.max())
    masks = labels[None] == np.arange(1, count + 1)[:, None, None]
    boxes = [[x.min(), y.min(), x.max() + 1, y.max() + 1] for y, x in (np.nonzero(mask) for mask in masks)]
    return ImageSample(
        image_id=image_id,
        name=f"{image_id}.png",
        image=(30 * labels[..., None].repeat(3, 2)).astype(np.uint8),
        masks=masks,
        boxes_xyxy=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        areas=masks.sum((1, 2)).astype(np.float64),
        annotation_ids=tuple(range(first_id, first_id + count)),
    )


@dataclass
class Drawings:
    """Images whose longer side is the frame, so that nothing is resized."""

    name: str = "drawings"
    opened: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        square, wide, tall, empty = (np.zeros(size, np.int64) for size in ((64, 64), (40, 64), (64, 33), (64, 64)))
        square[5:20, 3:30], square[30:63, 10:12], square[40:64, 40:64] = 1, 2, 3
        wide[0:40, 0:9], wide[8:21, 20:60] = 1, 2
        wide[10:15, 22:28] = 0  # a hole
        tall[0:64, 0:33] = 1
        tall[20:40, 5:30] = 2
        tall[22:37, 7:28] = 1  # a ring
        self.samples = [drawn(7, square, 100), drawn(3, empty, 0), drawn(5, wide, 200), drawn(9, tall, 300)]

    def __len__(self) -> int:
        return len(self.samples)

    def image(self, index: int) -> NDArray[np.uint8]:
        return self.samples[index].image

    def image_name(self, index: int) -> str:
        return self.samples[index].name

    def sample(self, index: int) -> ImageSample:
        self.opened.append(index)
        return self.samples[index]

    @property
    def skipped(self) -> Mapping[str, int]:
        return {}


@dataclass
class Grey:
    """Answers with the pixels that have the grey of the prompted place; logits are as fine as the image.

    Of three candidates the right one is predicted best; the others are everything and nothing.
    """

    right: int = 1
    name: str = "grey"
    input_size: int = FRAME
    encoded: int = 0
    decoded: list[int] = field(default_factory=list)

    def encode(self, images: Tensor) -> Tensor:
        self.encoded += len(images)
        return images

    def place(self, prompt: Prompt, grey: Tensor) -> Tensor:
        """The grey that each prompt means."""
        if prompt.points_xy is not None:
            x, y = prompt.points_xy[:, 0].long().unbind(-1)
            return grey[y, x]
        assert prompt.boxes_xyxy is not None
        # What is not ground on the box's upper edge: all figures reach it.
        found = []
        for x0, y0, x1, _ in prompt.boxes_xyxy.long().tolist():
            edge = grey[y0, x0:x1]
            values, counts = edge[edge > 0].unique(return_counts=True)
            found.append(values[counts.argmax()])
        return torch.stack(found)

    def decode(self, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        self.decoded.append(len(prompt))
        grey = (embedding[0, 0] * PIXEL_STD[0] + PIXEL_MEAN[0]).round()
        grey[size_hw[0] :], grey[:, size_hw[1] :] = -1, -1
        answer = torch.where(grey == self.place(prompt, grey)[:, None, None], 1.0, -1.0)[:, None]
        if not multimask:
            return Masks(answer, torch.full((len(prompt), 1), 0.75), FRAME)
        candidates = [torch.ones_like(answer), -torch.ones_like(answer)]
        candidates.insert(self.right, answer)
        predicted = torch.full((len(prompt), 3), 0.25)
        predicted[:, self.right] = 0.5
        return Masks(torch.cat(candidates, 1), predicted, FRAME)


class Boxes(Grey):
    """Answers with the filled box, or with a square around the point: wrong by different amounts."""

    def decode(self, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        self.decoded.append(len(prompt))
        boxes = prompt.boxes_xyxy
        if boxes is None:
            assert prompt.points_xy is not None
            boxes = torch.cat([prompt.points_xy[:, 0] - 6, prompt.points_xy[:, 0] + 7], 1)
        at = torch.arange(FRAME)
        x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
        inside = ((at >= y0) & (at < y1))[:, :, None] & ((at >= x0) & (at < x1))[:, None]
        logits = torch.where(inside, 1.0, -1.0)[:, None].repeat(1, 3 if multimask else 1, 1, 1)
        return Masks(logits, torch.rand(logits.shape[:2], generator=torch.Generator().manual_seed(0)), FRAME)


def test_pairwise_iou_by_hand() -> None:
    a = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]], [[1, 0], [0, 0]]], dtype=torch.bool)
    b = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]], dtype=torch.bool)
    found = pairwise_iou(a, b)
    assert found.dtype == torch.float64
    assert found.tolist() == [1 / 3, 1.0, 1.0, 0.0]


MASKS = arrays.arrays(np.bool_, (3, 5, 4))


@given(MASKS, MASKS)
def test_pairwise_iou_by_numpy(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> None:
    union = (a | b).sum((1, 2))
    expected = np.where(union > 0, (a & b).sum((1, 2)) / np.maximum(union, 1), 1.0)
    assert np.array_equal(pairwise_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy(), expected)


@pytest.mark.parametrize("right", [0, 1, 2])
def test_a_perfect_segmenter_scores_one(right: int) -> None:
    model = Grey(right)
    assert isinstance(model, Segmenter)
    records = Scorer(model, [BOX, POINT]).score(Drawings()).records
    assert set(records) == {BOX.name, POINT.name}
    for name, of_rule in records.items():
        assert [record.iou for record in of_rule] == [1.0] * 7
        metrics = mean_iou(of_rule)
        assert metrics["miou"].value == metrics["miou"].low == metrics["miou"].high == 1.0
        assert {record.mask_index for record in of_rule} == ({0} if name == BOX.name else {right})
        assert {record.iou_pred for record in of_rule} == ({0.75} if name == BOX.name else {0.5})


def test_records_keep_the_order_and_the_ids() -> None:
    """Ids, areas and images stand in the order of the data set, whatever their numbers."""
    data = Drawings()
    for of_rule in Scorer(Grey(), [BOX, POINT], prompt_batch_size=2).score(data).records.values():
        assert [(record.image_id, record.annotation_id) for record in of_rule] == [
            *((7, 100), (7, 101), (7, 102)),
            *((5, 200), (5, 201)),
            *((9, 300), (9, 301)),
        ]
        assert [record.area for record in of_rule] == [area for sample in data.samples for area in sample.areas]


def test_boxes_score_what_they_should() -> None:
    records = Scorer(Boxes(), [BOX]).score(Drawings()).records[BOX.name]
    by_id = {record.annotation_id: record.iou for record in records}
    assert by_id[100] == 1.0
    assert by_id[201] == pytest.approx(1 - 30 / (13 * 40))
    assert by_id[300] == pytest.approx(1 - (20 * 25 - 15 * 21) / (64 * 33))


@pytest.mark.parametrize("model", [Grey, Boxes])
def test_the_batch_size_does_not_change_the_records(model: type[Grey]) -> None:
    # Boxes draws its predicted IoUs a call, so only what does not hang on them is compared.
    protocols = [BOX] if model is Boxes else [BOX, POINT]
    reference, *others = (
        Scorer(model(), protocols, prompt_batch_size=batch).score(Drawings()).records for batch in (64, 1, 2, 3)
    )
    for other in others:
        for name, of_rule in reference.items():
            assert [(r.annotation_id, r.iou, r.mask_index) for r in other[name]] == [
                (r.annotation_id, r.iou, r.mask_index) for r in of_rule
            ]


def test_each_image_is_encoded_once_and_prompts_are_decoded_in_batches() -> None:
    model = Grey()
    Scorer(model, [BOX, POINT], prompt_batch_size=2).score(Drawings())
    # Three images have instances: 3, 2 and 2 of them, under two protocols.
    assert model.encoded == 3
    assert model.decoded == [2, 2, 1, 1, 2, 2, 2, 2]


def test_images_without_instances_are_passed_over_but_counted() -> None:
    data, model, done = Drawings(), Grey(), list[int]()
    records = Scorer(model, [BOX, POINT]).score(data, on_image=done.append).records
    assert done == [1, 2, 3, 4]
    assert 3 not in {record.image_id for record in records[BOX.name]}
    assert Scorer(model, [BOX, POINT]).score(data, [1]).records == {BOX.name: [], POINT.name: []}


def test_chosen_images_in_the_given_order() -> None:
    data = Drawings()
    records = Scorer(Grey(), [BOX]).score(data, [3, 0]).records[BOX.name]
    assert data.opened == [3, 0]
    assert [record.image_id for record in records] == [9, 9, 7, 7, 7]


def test_the_candidate_with_the_highest_prediction_is_scored() -> None:
    records = Scorer(Boxes(), [POINT]).score(Drawings()).records[POINT.name]
    predicted = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    assert [record.mask_index for record in records[:3]] == predicted.argmax(1).tolist()
    assert [record.iou_pred for record in records[:3]] == predicted.amax(1).tolist()


def test_prompt_rules_by_hand() -> None:
    sample = Drawings().samples[0]
    boxes = prompts_of(sample, BOX)
    assert boxes.boxes_xyxy is not None
    assert boxes.boxes_xyxy.tolist() == [[3, 5, 30, 20], [10, 30, 12, 63], [40, 40, 64, 64]]
    points = prompts_of(sample, POINT)
    assert points.points_xy is not None
    assert points.labels is not None
    # 15 rows of 27: the middle row; two columns: the first pixel; 24 by 24: the first of the middle four.
    assert points.points_xy.tolist() == [[[10, 12]], [[10, 30]], [[51, 51]]]
    assert points.labels.tolist() == [[1], [1], [1]]


def record(area: float, iou: float) -> InstanceRecord:
    return InstanceRecord(0, 0, area, iou, 0.0, 0)


def test_size_classes_are_half_open() -> None:
    areas = {1.0: 0.1, 1023.999: 0.2, 1024.0: 0.3, 9215.999: 0.4, 9216.0: 0.5, 1e7: 0.6}
    metrics = mean_iou([record(area, iou) for area, iou in areas.items()])
    assert list(metrics) == ["miou", "miou_small", "miou_medium", "miou_large"]
    assert {name: metric.n for name, metric in metrics.items()} == {
        "miou": 6,
        "miou_small": 2,
        "miou_medium": 2,
        "miou_large": 2,
    }
    assert [metric.value for metric in metrics.values()] == pytest.approx([0.35, 0.15, 0.35, 0.55])


def test_size_classes_that_do_not_occur_are_left_out() -> None:
    assert set(mean_iou([record(2000, 0.5)])) == {"miou", "miou_medium"}
    assert mean_iou([]) == {}


def test_the_interval_by_hand() -> None:
    metric = mean_iou([record(1, iou) for iou in (0.4, 0.5, 0.6, 0.9)])["miou"]
    # Deviations -0.2, -0.1, 0, 0.3 from 0.6: variance 0.14 / 3, standard error its root over 2.
    half = 1.96 * (0.14 / 3) ** 0.5 / 2
    assert (metric.value, metric.low, metric.high) == pytest.approx((0.6, 0.6 - half, 0.6 + half))
    assert (metric.unit, metric.n) == ("iou", 4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_interval_contains_the_mean_and_stays_between_zero_and_one(ious: list[float]) -> None:
    metric = mean_iou([record(1, iou) for iou in ious])["miou"]
    assert metric.low is not None
    assert metric.high is not None
    assert 0 <= metric.low <= metric.value <= metric.high <= 1
    assert metric.value == pytest.approx(sum(ious) / len(ious))
