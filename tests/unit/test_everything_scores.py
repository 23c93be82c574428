"""Scores of proposals, against COCO's own evaluation and by hand."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from core.errors import InputError
from data.sample import ImageSample
from evaluation.everything import ImageProposals, image_proposals, proposal_scores

SIZE = (24, 30)


def blocks(count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Rectangles ``[count, H, W]`` with whole-number sides, so that equal IoUs occur."""
    masks = np.zeros((count, *SIZE), dtype=bool)
    for mask in masks:
        y, x = rng.integers(0, 12), rng.integers(0, 15)
        mask[y : y + rng.integers(4, 12), x : x + rng.integers(4, 15)] = True
    return masks


def sample_of(masks: NDArray[np.bool_], image_id: int = 1) -> ImageSample:
    count = len(masks)
    areas = masks.sum((1, 2)).astype(float)
    image = np.zeros((*SIZE, 3), np.uint8)
    return ImageSample(image_id, f"{image_id}", image, masks, np.zeros((count, 4)), areas, tuple(range(count)))


def rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    encoded = mask_api.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def records_of(masks: NDArray[np.bool_], rng: np.random.Generator) -> list[dict[str, Any]]:
    # Few different scores, so that equal ones occur.
    return [{"segmentation": rle(mask), "predicted_iou": rng.integers(0, 40) / 40} for mask in masks]


def coco_recall(per_image: list[tuple[ImageSample, list[dict[str, Any]]]], limits: list[int]) -> list[float]:
    """COCO's average recall without categories at numbers of detections."""
    truth, results, number = COCO(), [], 0
    annotations = []
    for sample, records in per_image:
        for mask in sample.masks:
            number += 1
            common = {"image_id": sample.image_id, "category_id": 1}
            annotations.append(
                {"id": number, "segmentation": rle(mask), "area": int(mask.sum()), "iscrowd": 0, "bbox": [0, 0, 1, 1]}
                | common
            )
        results += [
            {
                "image_id": sample.image_id,
                "category_id": 1,
                "segmentation": r["segmentation"],
                "score": r["predicted_iou"],
            }
            for r in records
        ]
    images = [{"id": sample.image_id, "height": SIZE[0], "width": SIZE[1]} for sample, _ in per_image]
    truth.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 1}]}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = limits
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    # [T, K, A, M]
    recall = evaluation.eval["recall"][:, 0, 0]
    return [float(recall[:, i].mean()) for i in range(len(limits))]


@pytest.mark.parametrize("seed", range(4))
def test_average_recall_is_cocos(seed: int) -> None:
    rng = np.random.default_rng(seed)
    per_image = []
    for image_id, (instances, proposals) in enumerate([(9, 160), (4, 30), (1, 3), (6, 1), (3, 1100)], 1):
        sample = sample_of(blocks(instances, rng), image_id)
        per_image.append((sample, records_of(blocks(proposals, rng), rng)))
    scores = proposal_scores([image_proposals(records, sample) for sample, records in per_image])
    expected = coco_recall(per_image, [100, 1000])
    assert 0.1 < expected[0] < expected[1] < 1
    found = [scores["average_recall_100"].value, scores["average_recall_1000"].value]
    np.testing.assert_allclose(found, expected, rtol=1e-15)
    assert scores["average_recall_100"].n == 23


def test_best_iou_by_hand() -> None:
    masks = np.zeros((3, *SIZE), dtype=bool)
    masks[0, :4, :4], masks[1, 10:14, :8], masks[2, 20:, 20:] = True, True, True
    proposals = masks[:2].copy()
    proposals[1, 10:14, 4:8] = False
    records = [
        {"segmentation": rle(proposals[0]), "predicted_iou": 0.1},
        {"segmentation": proposals[1], "predicted_iou": 0.9},
    ]
    found = image_proposals(records, sample_of(masks))
    assert found.best_iou.tolist() == [1.0, 0.5, 0.0] and found.proposals == 2
    assert found.recalled[100].tolist() == [2] + [1] * 9
    metric = proposal_scores([found])["mean_best_iou"]
    assert metric.value == 0.5 and metric.n == 3 and metric.unit == "iou"
    # Of a single image nothing can be said about another.
    assert metric.low is None and metric.high is None


def test_the_interval_of_the_mean_best_iou_is_over_images() -> None:
    none = {budget: np.zeros(10, np.int64) for budget in (100, 1000)}
    images = [ImageProposals(np.array(best), none, 3) for best in ([1.0, 0.0], [0.8], [])]
    metric = proposal_scores(images)["mean_best_iou"]
    assert metric.value == pytest.approx(0.6) and metric.n == 3
    # Images are drawn whole: twice the first gives 0.5, twice the second 0.8. One without instances is never drawn.
    assert (metric.low, metric.high) == (pytest.approx(0.5), pytest.approx(0.8))


def test_the_budget_takes_the_best_predicted() -> None:
    mask = np.zeros((1, *SIZE), dtype=bool)
    mask[0, :4, :4] = True
    other = rle(~mask[0])
    records = [{"segmentation": rle(mask[0]), "predicted_iou": 0.5}]
    records += [{"segmentation": other, "predicted_iou": 0.6}] * 100
    found = image_proposals(records, sample_of(mask))
    assert not found.recalled[100].any() and found.recalled[1000].tolist() == [1] * 10
    scores = proposal_scores([found])
    assert scores["average_recall_100"].value == 0.0 and scores["average_recall_1000"].value == 1.0


def test_nothing_proposed_and_nothing_to_find() -> None:
    rng = np.random.default_rng(0)
    none = image_proposals([], sample_of(blocks(2, rng)))
    assert none.best_iou.tolist() == [0.0, 0.0]
    empty = image_proposals(records_of(blocks(2, rng), rng), sample_of(blocks(0, rng)))
    assert empty.best_iou.shape == (0,)
    scores = proposal_scores([none, empty])
    assert {name: (metric.value, metric.n) for name, metric in scores.items()} == {
        "mean_best_iou": (0.0, 2),
        "average_recall_100": (0.0, 2),
        "average_recall_1000": (0.0, 2),
    }
    assert proposal_scores([empty]) == proposal_scores([]) == {}


def test_a_proposal_of_another_image() -> None:
    wrong = {"segmentation": {"size": [3, 3], "counts": [9]}, "predicted_iou": 1.0}
    with pytest.raises(InputError, match="proposal 0 of 1: RLE of size"):
        image_proposals([wrong], sample_of(blocks(1, np.random.default_rng(0))))
