"""Annotation files and detections are kept as arrays: a second opening parses nothing and finds the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.synthetic.coco import write_coco
from core.errors import InputError
from data import annotation_file, detections, kept
from data.annotated_images import AnnotatedImages
from data.coco import Coco
from data.detections import Detections
from data.lvis import Lvis


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """COCO and LVIS over the same images, with everything that the rules know in COCO's."""
    monkeypatch.setattr(annotation_file, "_KEPT_FROM", 0)
    monkeypatch.setattr(detections, "_KEPT_FROM", 0)
    root = tmp_path / "root"
    write_coco(root, "coco", 6, 40, 5, 12, detections=200)
    write_coco(tmp_path / "lvis", "lvis", 6, 40, 5, 12)
    (tmp_path / "lvis/annotations/lvis_v1_val.json").rename(root / "annotations/lvis_v1_val.json")
    path = root / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    listed = content["annotations"]
    runs = {"size": [480, 640], "counts": [5, 480, 480 * 640 - 485]}
    listed[0] |= {"iscrowd": 1, "segmentation": runs}
    listed[1] |= {"segmentation": runs, "point_coords": [[3.5, 4.25]]}
    listed[2] |= {"segmentation": [[1 / 3, 2, 9, -0.0, 8, 7], [20, 20, 30, 20, 30, 30]]}
    listed[3] |= {"area": 0.25}
    listed[4] |= {"bbox": [600.0, 0.0, 100.0, 10.0]}
    listed[5] |= {"category_id": 77}
    listed[6] |= {"image_id": 99}
    listed[7] |= {"segmentation": [[1, 2, 3]]}
    path.write_text(json.dumps(content))
    return root


def coco(root: Path, **rules: Any) -> Coco:
    return Coco(root, **{"unusable": "skip", **rules})


def found(data: AnnotatedImages) -> tuple[Any, ...]:
    """All that is found of a file, in a form that compares."""
    instances = [
        (
            *(one.annotation_id, one.category_id, one.box_xyxy, one.area, one.point_xy),
            [part.tobytes() for part in one.segmentation]
            if isinstance(one.segmentation, tuple)
            else json.dumps(one.segmentation),
        )
        for entry in data._entries
        for one in entry.instances
    ]
    about = [
        (data.image_id(k), data.image_name(k), data.instance_count(k), data.without_point(k)) for k in range(len(data))
    ]
    return instances, about, dict(data.skipped), data.sizes_hw(), data.category_ids, data._rules.categorised


@pytest.mark.parametrize("opened", [coco, Lvis], ids=["coco", "lvis"])
def test_a_second_opening_parses_nothing_and_finds_the_same(
    opened: Callable[..., AnnotatedImages], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = opened(root)
    with kept.keeping(tmp_path / "kept"):
        first = opened(root)
        monkeypatch.setattr(annotation_file, "read_json", lambda path, *_: pytest.fail(f"{path} was read"))
        second = opened(root)
    assert found(without) == found(first) == found(second)
    assert sum(second.instance_count(k) for k in range(6)) == len(found(second)[0]) > 30
    for index in range(6):
        ours, theirs = without.sample(index), second.sample(index)
        assert ours.annotation_ids == theirs.annotation_ids and np.array_equal(ours.masks, theirs.masks)
        assert np.array_equal(ours.boxes_xyxy, theirs.boxes_xyxy) and ours.category_ids == theirs.category_ids
    assert without.truth() == second.truth() and without.unusable_in_truth == second.unusable_in_truth


def test_everything_the_rules_know_takes_part(root: Path) -> None:
    counts = {reason: count for reason, count in coco(root).skipped.items() if count}
    expected = {"crowd": 1, "area_below_1": 1, "clipped_box": 1, "unknown_category": 1, "unknown_image": 1}
    assert counts == {**expected, "unusable_annotation": 1}


def test_other_rules_and_other_files_are_parsed_anew(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    parse = annotation_file.read_json
    monkeypatch.setattr(annotation_file, "read_json", lambda path, *rest: read.append(path) or parse(path, *rest))
    with kept.keeping(tmp_path / "kept"):
        for rules in (
            {},
            {},
            {"crowd": True},
            {"crowd": True},
            {"least_area": 0},
            {"labels": False},
            {"labels": False},
        ):
            assert len(coco(root, **rules)) == 6
        assert len(read) == 4
        with pytest.raises(InputError, match="annotation 8: polygon"):
            coco(root, unusable="refuse")
        assert coco(root, crowd=True).skipped["crowd"] == 0 and len(read) == 5
        path = root / "annotations/instances_val2017.json"
        path.write_text(path.read_text().replace('"area": 0.25', '"area": 2.25'))
        assert coco(root).skipped["area_below_1"] == 0 and len(read) == 6
        for file in (tmp_path / "kept").iterdir():
            file.write_bytes(file.read_bytes()[:-20])
        assert coco(root).skipped["area_below_1"] == 0 and len(read) == 7


def test_what_earlier_rules_found_is_found_anew(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    parse = annotation_file.read_json
    monkeypatch.setattr(annotation_file, "read_json", lambda path, *rest: read.append(path) or parse(path, *rest))
    with kept.keeping(tmp_path / "kept"):
        for version, times in ((1, 1), (1, 1), (2, 2)):
            monkeypatch.setattr("data.instances.RULES_VERSION", version)
            assert len(coco(root)) == 6 and len(read) == times


def test_an_image_that_is_listed_twice_is_refused_at_each_opening(root: Path, tmp_path: Path) -> None:
    path = root / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = content["images"][0]["file_name"]
    path.write_text(json.dumps(content))
    with kept.keeping(tmp_path / "kept"):
        for _ in range(2):
            with pytest.raises(InputError, match=r"image 2: the file 0+1\.jpg is also that of image 1; list"):
                coco(root)


def test_detections_are_kept(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sizes = root / "detections.json", coco(root).sizes_hw()
    with kept.keeping(tmp_path / "kept"):
        first = Detections(path, sizes)
        with monkeypatch.context() as patched:
            patched.setattr(detections, "parse_json", lambda path, *_: pytest.fail(f"{path} was read"))
            second = Detections(path, sizes)
        for image_id in sizes:
            ours, theirs = first.of(image_id), second.of(image_id)
            assert np.array_equal(ours.boxes_xyxy, theirs.boxes_xyxy) and np.array_equal(ours.scores, theirs.scores)
            assert np.array_equal(ours.indices, theirs.indices)
        assert len(first) == len(second) == 200
        path.write_text(json.dumps(json.loads(path.read_text())[:7]))
        assert len(Detections(path, sizes)) == 7


def test_small_files_are_not_kept(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with kept.keeping(tmp_path / "kept"):
        coco(root)
        Detections(root / "detections.json", coco(root).sizes_hw())
    assert not (tmp_path / "kept").exists()
