"""Annotations that cannot be used: never a reason to refuse where a rule leaves them out, else refused or counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError
from data.annotated_images import AnnotatedImages
from data.coco import Coco
from data.detections import Detections
from data.exclusions import NO_ANNOTATIONS
from data.lvis import Lvis
from data.sa1b import Sa1b
from evaluation.average_precision.figures import BACKENDS, average_precision
from evaluation.protocols import PROTOCOLS
from evaluation.scorer import Scorer
from tests.unit import test_lvis, test_sa1b
from tests.unit.test_coco import add, annotation, counted, refusal, write
from tests.unit.tiny import tiny_sam
from tests.unit.truthful import drawn_labels, write_coco, write_detections

NAN = float("nan")
OF_MASKS: dict[str, Any] = {
    "no polygon": {"segmentation": []},
    "an empty polygon": {"segmentation": [[]]},
    "null": {"segmentation": None},
    "absent": {"segmentation": ...},
    "two points": {"segmentation": [[1, 1, 2, 2]]},
    "odd": {"segmentation": [[1, 1, 7, 1, 7, 5, 3]]},
    "not a number": {"segmentation": [[1, 1, 7, 1, 7, NAN]]},
    "RLE of another size": {"segmentation": {"size": [10, 8], "counts": [80]}},
    "RLE too short": {"segmentation": {"size": [8, 10], "counts": [40, 39]}},
    "RLE of no size": {"segmentation": {"counts": [80]}},
}
OF_FIELDS: dict[str, Any] = {
    "crowd null": {"iscrowd": None},
    "crowd text": {"iscrowd": "0"},
    "no area": {"area": ...},
    "area null": {"area": None},
    "area NaN": {"area": NAN},
    "area text": {"area": "12"},
    "no box": {"bbox": ...},
    "box null": {"bbox": None},
    "box of three": {"bbox": [1, 1, 6]},
    "box NaN": {"bbox": [1, 1, NAN, 4]},
    "no image": {"image_id": ...},
    "image null": {"image_id": None},
    "id text": {"id": "90"},
    "no id": {"id": ...},
}
UNUSABLE = {**OF_MASKS, **OF_FIELDS}


def spoiled(changes: dict[str, Any], **more: Any) -> dict[str, Any]:
    raw = annotation(90, **more) | changes
    return {key: value for key, value in raw.items() if value is not ...}


@pytest.mark.parametrize("name", UNUSABLE)
def test_one_is_refused_by_its_id_and_the_setting_or_counted(name: str, tmp_path: Path) -> None:
    root = write(tmp_path, add(spoiled(UNUSABLE[name]), annotation(91)))
    message = refusal(root)
    assert message.startswith(f"{root}/annotations/instances_val2017.json: ")
    assert ("annotation 90: " in message) or "id" in UNUSABLE[name]
    assert message.endswith("or give data.unusable=skip")
    data = Coco(root, unusable="skip")
    assert counted(data) == {"unusable_annotation": 1, "image_without_instances": 1}
    assert [data.sample(index).annotation_ids for index in range(3)] == [(20, 91), (), (50,)]


RULES: dict[str, tuple[dict[str, Any], str]] = {
    "crowd": ({"iscrowd": 1}, "iscrowd"),
    "area_below_1": ({"area": 0}, "area"),
    "empty_box": ({"bbox": [1, 1, -3, 4]}, "bbox"),
    "unknown_image": ({"image_id": 99}, "image_id"),
}


@pytest.mark.parametrize("rule", RULES)
def test_none_is_refused_that_a_rule_leaves_out_anyway(rule: str, tmp_path: Path) -> None:
    ruled_out, key = RULES[rule]
    left = [changes for changes in UNUSABLE.values() if not {key, "id", "image_id"} & changes.keys()]
    root = write(tmp_path, add(*({**spoiled(each), **ruled_out, "id": 90 + n} for n, each in enumerate(left))))
    for unusable in ("refuse", "skip"):
        data = Coco(root, unusable=unusable)
        assert counted(data) == {rule: len(left), "image_without_instances": 1} and len(left) >= 16


def test_crowds_that_are_admitted_are_checked(tmp_path: Path) -> None:
    root = write(tmp_path, add(annotation(90, iscrowd=1, segmentation=[])))
    assert counted(Coco(root))["crowd"] == 1
    assert "annotation 90: segmentation without polygons" in refusal(root, crowd=True)
    assert counted(Coco(root, crowd=True, unusable="skip"))["unusable_annotation"] == 1


def test_two_of_one_id_are_refused_whatever_is_skipped(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, add(annotation(20))), unusable="skip")
    assert message.endswith("annotation 20: the id occurs twice; give every annotation its own id")
    assert "unusable=ignore is unknown; choose one of refuse, skip" in refusal(tmp_path, unusable="ignore")


def test_a_category_that_one_lacks(tmp_path: Path) -> None:
    def categorised(content: dict[str, Any]) -> None:
        # The first one lacks it: whichever comes first decides nothing.
        content["annotations"] += [annotation(90, category_id=7), annotation(91, category_id=7)]
        content["annotations"] += [annotation(92, category_id=None), annotation(93, category_id="cat")]

    root = write(tmp_path, categorised)
    assert 'annotation 20: the key "category_id" is missing, which others have' in refusal(root)
    data = Coco(root, unusable="skip")
    assert data.skipped["unusable_annotation"] == 4 and data.sample(0).annotation_ids == (90, 91)


@pytest.mark.parametrize("name", OF_MASKS)
def test_lvis_and_sa1b_have_the_same_rule(name: str, tmp_path: Path) -> None:
    bad = {key: value for key, value in OF_MASKS[name].items() if value is not ...}

    def change(content: dict[str, Any]) -> None:
        content["annotations"].append({**spoiled(OF_MASKS[name]), "category_id": 5, "image_id": 1})

    lvis = test_lvis.write(tmp_path / "lvis", change=change)
    with pytest.raises(InputError, match=r"lvis_v1_val\.json: annotation 90: .* or give data\.unusable=skip"):
        Lvis(lvis)
    data = Lvis(lvis, unusable="skip")
    assert data.skipped["unusable_annotation"] == 1 and data.sample(0).annotation_ids == (12, 13)

    of_sa1b = test_sa1b.annotation(90, test_sa1b.square(1), **bad)
    if not bad:
        del of_sa1b["segmentation"]
    small = {**of_sa1b, "id": 91, "area": 0}
    test_sa1b.write(tmp_path / "sa", 1, [test_sa1b.annotation(7, test_sa1b.square(5)), of_sa1b, small])
    with pytest.raises(InputError, match=r"sa_1\.json: annotation 90: .* or give data\.unusable=skip"):
        Sa1b(tmp_path / "sa", "all")
    photos = Sa1b(tmp_path / "sa", "all", unusable="skip")
    for _ in range(2):
        assert photos.sample(0).annotation_ids == (7,) and photos.instance_count(0) == 1
        assert {k: v for k, v in photos.skipped.items() if v} == {"unusable_annotation": 1, "area_below_1": 1}


def rewritten(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    source = root / "annotations" / "instances_val2017.json"
    content = json.loads(source.read_text())
    change(content)
    source.write_text(json.dumps(content))


def test_figures_of_the_others_are_what_they_are_without(tmp_path: Path) -> None:
    """Boxes, points and average precision; the unusable are among instances, crowds and small ones."""
    root = write_coco(tmp_path / "coco", drawn_labels(4))
    boxes = write_detections(tmp_path / "boxes.json", root)
    protocols = [PROTOCOLS[f"{name}@1"] for name in ("box_single", "point_best_of_3", "detector_box_single")]

    def scored(data: Coco) -> tuple[Any, list[dict[str, float | None]], dict[str, int]]:
        detections = Detections(boxes, data.sizes_hw(), category_ids=data.category_ids)
        found = Scorer(tiny_sam(), protocols, detections).score(data)
        results = [record.result() for record in found.detected(protocols[-1].name)]
        return found.records, [average_precision(data.truth(), results, backend=b) for b in BACKENDS], found.skipped

    records, figures, skipped = scored(Coco(root))
    first = json.loads((root / "annotations" / "instances_val2017.json").read_text())["annotations"][0]
    bad = [{**first, "id": 900 + n, **changes} for n, changes in enumerate(UNUSABLE.values()) if "id" not in changes]
    bad = [{key: value for key, value in raw.items() if value is not ...} for raw in bad]
    bad += [
        {**first, "id": 990, "iscrowd": 1, "segmentation": []},
        {**first, "id": 991, "area": 0.5, "segmentation": 0},
    ]
    bad += [{**first, "id": 992, "image_id": 99, "category_id": None}]

    def between(content: dict[str, Any]) -> None:
        rest = content["annotations"]
        content["annotations"] = [each for n, raw in enumerate(rest) for each in (*bad[2 * n : 2 * n + 2], raw)]
        assert len(content["annotations"]) == len(rest) + len(bad)

    rewritten(root, between)
    with pytest.raises(InputError, match=r"data\.unusable=skip"):
        Coco(root)
    data = Coco(root, unusable="skip")
    found = scored(data)
    assert repr(found[0]) == repr(records) and found[1] == figures and not skipped
    assert found[2] == {"unusable_annotation": len(bad) - 3, "crowd": 1, "area_below_1": 1, "unknown_image": 1}
    # Average precision has no use for the crowd and the small one either; it would count them if they were whole.
    assert data.unusable_in_truth == len(bad) - 1


def test_average_precision_refuses_what_only_it_would_read(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco", drawn_labels(2))
    rewritten(root, lambda content: content["annotations"][2].update(iscrowd=1, segmentation=[[1, 1, 2, 2]]))
    data: AnnotatedImages = Coco(root)
    number = json.loads(data.truth_path.read_text())["annotations"][2]["id"]
    assert data.skipped["crowd"] == 1
    with pytest.raises(InputError) as caught:
        data.truth()
    assert f"{data.truth_path}: annotation {number}: polygon with 2 points" in str(caught.value)
    assert str(caught.value).endswith("or give data.unusable=skip")
    skipping = Coco(root, unusable="skip")
    kept = [raw["id"] for raw in skipping.truth()["annotations"]]
    assert number not in kept and len(kept) == 7 and skipping.unusable_in_truth == 1
    assert sum(n for reason, n in skipping.skipped.items() if reason not in NO_ANNOTATIONS) == 1
