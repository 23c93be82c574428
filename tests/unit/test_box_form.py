"""Boxes and points that do not fit their masks: files of corners are refused, boxes apart from their masks counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import InputError
from data.box_form import LOOKED_AT, are_corners, meets
from data.coco import Coco
from data.sa1b import Sa1b
from data.sa1b_annotations import read_plain
from tests.unit import test_sa1b
from tests.unit.test_coco import add, annotation, counted, refusal, write
from tests.unit.truthful import drawn_labels, write_coco

Change = Callable[[dict[str, Any]], object]


def rewritten(path: Path, change: Change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def as_corners(raws: list[dict[str, Any]]) -> None:
    for raw in raws:
        x, y, width, height = raw["bbox"]
        raw["bbox"] = [x, y, x + width, y + height]


def test_a_file_of_corners_is_refused_by_its_first_annotation(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "coco_tiny"
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    as_corners(content["annotations"])
    source = tmp_path / "corners.json"
    source.write_text(json.dumps(content))
    for rules in ({}, {"unusable": "skip", "missing": "skip"}, {"crowd": True, "least_area": 0}):
        with pytest.raises(InputError) as caught:
            Coco(root, annotations=source, **rules)
        first = content["annotations"][0]
        problem = f'"bbox" {first["bbox"]} is [left, top, right, bottom], as most of this file are'
        assert str(caught.value) == f"{source}: annotation {first['id']}: {problem}; give [x, y, width, height]"
    # Nobody reads them where there are no labels.
    assert len(Coco(root, annotations=source, labels=False)) == 80


def test_run_lengths_tell_it_too_and_some_corners_among_others_do_not(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco", drawn_labels(4))
    source = root / "annotations" / "instances_val2017.json"
    sound = source.read_text()
    rewritten(source, lambda content: as_corners(content["annotations"][:6]))
    assert len(Coco(root)) == 4
    source.write_text(sound)
    rewritten(source, lambda content: as_corners(content["annotations"]))
    assert "is [left, top, right, bottom], as most of this file are; give [x, y, width, height]" in refusal(root)


def test_only_so_many_masks_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr("data.box_form.to_rle", lambda *given: seen.append(1) or pytest.fail("no mask is needed"))
    # Read as corners they would end before they begin.
    low = [[7.0, 5.0, 9.0, 5.0, 9.0, 7.0]]
    Coco(write(tmp_path, add(*(annotation(90 + n, bbox=[7, 5, 2, 2], segmentation=low) for n in range(9)))))
    monkeypatch.undo()
    boxes = [annotation(1000 + n) for n in range(LOOKED_AT)]
    late = [annotation(5000 + n, bbox=[4, 4, 9, 7], segmentation=[[4, 4, 9, 4, 9, 7]]) for n in range(2 * LOOKED_AT)]
    assert len(Coco(write(tmp_path, lambda content: content.update(annotations=[*boxes, *late])))) == 3
    assert "annotation 5000: " in refusal(write(tmp_path, lambda content: content.update(annotations=late)))


def test_boxes_that_fit_either_way_are_no_corners() -> None:
    boxes = np.array([[0, 0, 8, 6], [0.2, 0.1, 8, 6], [10, 10, 20, 18], [10, 10, 20, 18], [10, 10, 5, 5]], np.float64)
    masks = np.array([[0, 0, 8, 6], [0, 0, 8, 6], [10, 10, 20, 18], [10, 10, 30, 28], [10, 10, 15, 15]])
    assert are_corners(boxes, masks).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("more", [{}, {"iscrowd": 0}], ids=["read column by column", "read by the rules"])
def test_a_json_of_sa1b_is_a_file_of_its_own(more: dict[str, Any], tmp_path: Path) -> None:
    test_sa1b.write(tmp_path, 1)
    boxes = [test_sa1b.annotation(20 + n, test_sa1b.square(n), bbox=[n, 2, n + 3, 6], **more) for n in (3, 4, 5)]
    test_sa1b.write(tmp_path, 2, boxes)
    assert (read_plain((tmp_path / "sa_2.json").read_bytes()) is None) == bool(more)
    problem = '"bbox" [3, 2, 6, 6] is [left, top, right, bottom], as most of this file are'
    for rules in ({}, {"unusable": "skip", "missing": "skip"}):
        assert test_sa1b.refusal(tmp_path, "all", **rules) == (
            f"{tmp_path / 'sa_2.json'}: annotation 23: {problem}; give [x, y, width, height]"
        )


def test_a_box_apart_from_its_mask_is_counted_once_and_kept(tmp_path: Path) -> None:
    # The triangle ends where the second box begins, which polygons and their pixels may do.
    data = Coco(write(tmp_path, add(annotation(90, bbox=[9, 1, 1, 4]), annotation(91, bbox=[7, 1, 3, 4]))))
    assert counted(data) == {"image_without_instances": 1}
    for _ in range(2):
        assert data.sample(0).annotation_ids == (20, 90, 91)
        assert counted(data) == {"image_without_instances": 1, "box_apart": 1}
    test_sa1b.write(tmp_path / "sa", 1, [test_sa1b.annotation(7, test_sa1b.square(0), bbox=[6, 2, 3, 4])])
    photos = Sa1b(tmp_path / "sa", "all")
    assert photos.sample(0).annotation_ids == (7,) and photos.skipped["box_apart"] == 1


def test_a_mask_meets_a_box_where_they_share_a_pixel_or_lie_side_by_side() -> None:
    mask = np.zeros((8, 10), dtype=bool)
    mask[2:6, 0] = mask[2:6, 9] = True
    assert meets(mask, (0, 0, 1, 3)) and meets(mask, (8.5, 5.5, 10, 8)) and meets(mask, (1, 2, 2, 3))
    # Between the two columns there is nothing, though the mask's own box is all around.
    assert not meets(mask, (3, 2, 7, 6)) and not meets(mask, (0, 7.5, 10, 8)) and not meets(mask, (2, 3, 3.5, 4))


OUTSIDE = [[900, 900], [-1, 3.5], [10, 3.5], [2, 8], [2, -0.5]]


@pytest.mark.parametrize("point", OUTSIDE)
def test_a_point_outside_of_its_image_is_an_annotation_that_cannot_be_used(point: list[float], tmp_path: Path) -> None:
    inside = test_sa1b.annotation(8, test_sa1b.square(5), point_coords=[[9.99, 7.99]])
    test_sa1b.write(tmp_path, 1, [test_sa1b.annotation(7, test_sa1b.square(1), point_coords=[point]), inside])
    problem = f'"point_coords" is {point}, outside of its image, which is 10 wide and 8 high'
    assert test_sa1b.refusal(tmp_path, "all") == (
        f"{tmp_path / 'sa_1.json'}: annotation 7: {problem}; correct the annotation, or give data.unusable=skip"
    )
    data = Sa1b(tmp_path, "all", unusable="skip")
    assert data.skipped["unusable_annotation"] == 1
    sample, trained = data.sample(0), data.training_sample(0, 64)
    assert sample.annotation_ids == (8,) and len(trained.masks) == 1
    assert sample.points_xy is not None and sample.points_xy.tolist() == [[9.99, 7.99]]
    root = write(tmp_path, add(annotation(90, point_coords=[point])))
    assert f"annotation 90: {problem}" in refusal(root)
    assert counted(Coco(root, unusable="skip")) == {"unusable_annotation": 1, "image_without_instances": 1}
