"""A detector's boxes: what is counted, what is refused, and in which order they come."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import InputError
from data.detections import DETECTION_REASONS, Detections

SIZES = {7: (8, 10), 3: (20, 30), 5: (8, 10)}


def entry(image_id: int = 7, box: Any = (1, 2, 3, 4), score: Any = 0.5, category_id: int = 1, **more: Any) -> Any:
    return {"image_id": image_id, "category_id": category_id, "bbox": list(box), "score": score, **more}


def detections(folder: Path, *entries: Any, **arguments: Any) -> Detections:
    path = folder / "boxes.json"
    path.write_text(json.dumps(list(entries)))
    return Detections(path, SIZES, **arguments)


def counted(found: Detections) -> dict[str, int]:
    return {reason: count for reason, count in found.skipped.items() if count}


def test_boxes_come_best_first_with_their_places(tmp_path: Path) -> None:
    found = detections(
        tmp_path,
        entry(7, score=0.2),
        entry(3, (0, 0, 2, 2), score=1, category_id=4, segmentation={"size": [20, 30], "counts": "abc"}),
        entry(7, (5, 2, 3, 4), score=0.9, category_id=2),
        entry(7, score=0.2, category_id=0),
        entry(7, (0, 9, 3, 4), score=0.2),
        entry(7, (0, 3, 3, 4), score=0.2),
    )
    assert len(found) == 5 and counted(found) == {"detection_outside_image": 1}
    boxes = found.of(7)
    assert boxes.boxes_xyxy.tolist() == [[5, 2, 8, 6], [1, 2, 4, 6], [1, 2, 4, 6], [0, 3, 3, 7]]
    assert boxes.scores.tolist() == [0.9, 0.2, 0.2, 0.2] and boxes.category_ids.tolist() == [2, 1, 0, 1]
    assert boxes.indices.tolist() == [2, 0, 3, 5]
    assert boxes.boxes_xyxy.dtype == boxes.scores.dtype == np.float64
    assert boxes.category_ids.dtype == boxes.indices.dtype == np.int64
    assert found.of(3).scores.tolist() == [1.0] and found.of(3).category_ids.tolist() == [4]


@pytest.mark.parametrize("image_id", [5, 4, 99, -1])
def test_images_without_boxes_have_empty_arrays(tmp_path: Path, image_id: int) -> None:
    boxes = detections(tmp_path, entry(7)).of(image_id)
    assert boxes.boxes_xyxy.shape == (0, 4) and boxes.indices.shape == boxes.scores.shape == (0,)


RULES = {
    "detection_of_unknown_image": entry(8, (1, 1, -1, 1)),
    "detection_not_finite": entry(score=float("nan")),
    "detection_empty_box": entry(box=(40, 1, 0, 5)),
    "detection_outside_image": entry(box=(10, 1, 5, 5)),
}


@pytest.mark.parametrize("reason", RULES)
def test_what_the_rules_leave_out_is_counted(tmp_path: Path, reason: str) -> None:
    found = detections(tmp_path, entry(), RULES[reason])
    assert counted(found) == {reason: 1} and set(found.skipped) == set(DETECTION_REASONS)
    assert found.of(7).indices.tolist() == [0]


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), 10**400, 1e300])
@pytest.mark.parametrize("place", range(4))
def test_numbers_that_are_no_pixels_are_not_finite(tmp_path: Path, number: float, place: int) -> None:
    box = [1.0, 1.0, 1.0, 1.0]
    box[place] = number
    assert counted(detections(tmp_path, entry(), entry(box=box))) == {"detection_not_finite": 1}


def test_repeated_boxes_and_boxes_partly_outside_stay(tmp_path: Path) -> None:
    found = detections(tmp_path, entry(box=(-3, -3, 100, 100)), entry(), entry())
    assert not counted(found) and found.of(7).boxes_xyxy.tolist() == [[-3, -3, 97, 97], [1, 2, 4, 6], [1, 2, 4, 6]]


def test_the_best_boxes_of_each_image_can_be_kept(tmp_path: Path) -> None:
    entries = [entry(image, score=score / 10, category_id=score) for image in (7, 3) for score in (3, 9, 1, 7)]
    found = detections(tmp_path, *entries, entry(7, (0, 0, 0, 0), score=1.0), entry(5), top=2)
    assert counted(found) == {"detection_below_top": 4, "detection_empty_box": 1} and len(found) == 5
    assert found.of(7).scores.tolist() == found.of(3).scores.tolist() == [0.9, 0.7]
    assert found.of(5).indices.tolist() == [9]
    tied = detections(tmp_path, *(entry(box=(x, 1, 2, 2), score=score) for x, score in ((5, 1), (9, 0), (3, 1))), top=2)
    assert tied.of(7).indices.tolist() == [0, 2]
    with pytest.raises(InputError, match="top=0"):
        detections(tmp_path, entry(), top=0)


def test_a_file_may_hold_no_boxes(tmp_path: Path) -> None:
    found = detections(tmp_path, top=3)
    assert len(found) == 0 and not counted(found) and found.of(7).boxes_xyxy.shape == (0, 4)


def without(key: str) -> dict[str, Any]:
    return {name: each for name, each in entry().items() if name != key}


REFUSED = {
    'entry 1: the key "image_id" is missing': without("image_id"),
    'entry 1: the key "category_id" is missing': without("category_id"),
    'entry 1: the key "bbox" is missing': without("bbox"),
    'entry 1: the key "score" is missing': without("score"),
    "entry 1: \"image_id\" is '7.0', not a whole number": {**entry(), "image_id": 7.0},
    "entry 1: \"image_id\" is 'True', not a whole number": {**entry(), "image_id": True},
    "entry 1: \"category_id\" is 'cat', not a whole number": {**entry(), "category_id": "cat"},
    "entry 1: \"image_id\" is '1000000000000000000000', which does not fit": entry(10**21),
    "entry 1: \"bbox\" is '[1, 2, 3]', not 4 numbers": entry(box=(1, 2, 3)),
    "entry 1: \"bbox\" is '[1, 2, 3, None]', not 4 numbers": entry(box=(1, 2, 3, None)),
    "entry 1: \"bbox\" is '1 2 3 4', not 4 numbers": {**entry(), "bbox": "1 2 3 4"},
    "entry 1: \"score\" is '0.5', not a number": entry(score="0.5"),
    "entry 1: \"score\" is 'False', not a number": entry(score=False),
    "entry 1: is a list, not an object": [7, 1, 2, 3, 4],
    "entry 1: is a NoneType, not an object": None,
}


@pytest.mark.parametrize("problem", REFUSED)
def test_malformed_entries_are_refused(tmp_path: Path, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        detections(tmp_path, entry(), REFUSED[problem])
    assert f"boxes.json: {problem}" in str(caught.value) and ";" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no such file"),
        (b"[{", "not valid JSON, perhaps truncated"),
        (b'{"annotations": []}', "the top level is not a list"),
        (json.dumps(entry()).encode(), "the top level is not a list"),
        (json.dumps([entry(1), entry(2)]).encode(), "none of its 2 entries is of an image of the data set"),
    ],
)
def test_files_of_something_else_are_refused(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "boxes.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        Detections(path, SIZES)
    assert str(caught.value).startswith(f"{path}: {problem}") and "\n" not in str(caught.value)
