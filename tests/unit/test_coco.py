"""COCO's layout: the rules that are counted, the inputs that are refused, and pycocotools as the judge of masks."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from core.errors import InputError
from data import annotated_images
from data.coco import FOLDERS, Coco
from data.exclusions import REASONS
from data.sample import ImageData

TRIANGLE = [[1.0, 1.0, 7.0, 1.0, 7.0, 5.0]]
Change = Callable[[dict[str, Any]], object]


def annotation(annotation_id: int, image_id: int = 2, **changes: Any) -> dict[str, Any]:
    base = {"id": annotation_id, "image_id": image_id, "bbox": [1, 1, 6, 4], "area": 12.0, "iscrowd": 0}
    return {**base, "segmentation": TRIANGLE, **changes}


def write(root: Path, change: Change = lambda content: None) -> Path:
    """Three images of 10x8 pixels, listed out of order; 2 and 5 have one instance each, 3 has none."""
    content = {
        "images": [{"id": i, "file_name": f"{i:04d}.png", "height": 8, "width": 10} for i in (5, 2, 3)],
        "annotations": [annotation(20), annotation(50, 5)],
    }
    change(content)
    for folder in ("annotations", "val2017", "train2017"):
        (root / folder).mkdir(exist_ok=True)
    for number in (2, 3, 5):
        Image.new("RGB", (10, 8), (number, 0, 0)).save(root / "val2017" / f"{number:04d}.png")
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


def add(*annotations: dict[str, Any]) -> Change:
    return lambda content: content["annotations"].extend(annotations)


def counted(data: Coco) -> dict[str, int]:
    return {reason: count for reason, count in data.skipped.items() if count}


def refusal(root: Path, **arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        Coco(root, **arguments)
    message = str(caught.value)
    assert "\n" not in message and ";" in message
    return message


@pytest.mark.parametrize("split", ["train", "validation"])
def test_masks_equal_pycocotools(shared: Path, split: str) -> None:
    root = shared / "data" / "coco_tiny"
    data = Coco(root, split)
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCO(str(root / "annotations" / f"instances_{FOLDERS[split]}.json"))
    assert len(data) == 80 and counted(data) == {"crowd": sum(a["iscrowd"] for a in judge.anns.values())}
    seen = 0
    for index in range(0, len(data), 4):
        sample = data.sample(index)
        expected = [a for a in judge.imgToAnns[sample.image_id] if not a["iscrowd"]]
        assert sample.annotation_ids == tuple(a["id"] for a in expected)
        for mask, box, area, ann in zip(sample.masks, sample.boxes_xyxy, sample.areas, expected, strict=True):
            assert np.array_equal(mask, judge.annToMask(ann).astype(bool))
            x, y, width, height = ann["bbox"]
            assert area == ann["area"] and np.allclose(box, [x, y, x + width, y + height], atol=0.02)
            seen += 1
    assert seen > 100


def test_images_are_ordered_by_id_and_samples_are_complete(tmp_path: Path) -> None:
    data: ImageData = Coco(write(tmp_path, add(annotation(21))))
    assert data.name == "coco" and [data.image_name(i) for i in range(len(data))] == [
        "0002.png",
        "0003.png",
        "0005.png",
    ]
    sample = data.sample(0)
    assert (sample.image_id, sample.name, sample.annotation_ids) == (2, "0002.png", (20, 21))
    assert sample.image.shape == (8, 10, 3) and sample.masks.shape == (2, 8, 10) and sample.masks.dtype == np.bool_
    assert sample.boxes_xyxy.dtype == sample.areas.dtype == np.float64
    assert sample.boxes_xyxy.tolist() == [[1, 1, 7, 5]] * 2 and sample.areas.tolist() == [12, 12]


def test_image_without_instances_stays_and_is_empty(tmp_path: Path) -> None:
    data = Coco(write(tmp_path))
    assert [len(data.sample(i).annotation_ids) for i in range(3)] == [1, 0, 1]
    sample = data.sample(1)
    assert sample.masks.shape == (0, 8, 10) and sample.boxes_xyxy.shape == (0, 4) and sample.areas.shape == (0,)
    assert data.image(1)[0, 0, 0] == 3 and set(data.skipped) == set(REASONS)


RULES = {
    "crowd": annotation(90, iscrowd=1, segmentation={"size": [8, 10], "counts": [40, 40]}),
    "area_below_1": annotation(90, area=0.5),
    "empty_box": annotation(90, bbox=[1, 1, 0, 4]),
    "unknown_image": annotation(90, image_id=99),
}


@pytest.mark.parametrize("reason", RULES)
def test_what_the_rules_leave_out_is_counted(tmp_path: Path, reason: str) -> None:
    data = Coco(write(tmp_path, add(RULES[reason])))
    assert counted(data) == {reason: 1, "image_without_instances": 1}
    assert 90 not in data.sample(0).annotation_ids


@pytest.mark.parametrize("box", [[1, 1, 4, 0], [1, 1, -3, 4], [20, 1, 5, 5], [-9, 1, 5, 5]])
def test_boxes_without_extent_in_the_image_are_empty(tmp_path: Path, box: list[float]) -> None:
    assert counted(Coco(write(tmp_path, add(annotation(90, bbox=box)))))["empty_box"] == 1


def test_clipped_boxes_are_kept_and_counted(tmp_path: Path) -> None:
    rounded = annotation(91, bbox=[4.0, 4.0, 6.01, 4.0])
    data = Coco(write(tmp_path, add(annotation(90, bbox=[-1, 2, 50, 3]), rounded)))
    assert counted(data) == {"clipped_box": 1, "image_without_instances": 1}
    assert data.sample(0).boxes_xyxy[1:].tolist() == [[0, 2, 10, 5], [4, 4, 10, 8]]


def test_empty_masks_are_counted_once_when_read(tmp_path: Path) -> None:
    outside = [[30.0, 30.0, 40.0, 30.0, 40.0, 40.0]]
    data = Coco(write(tmp_path, add(annotation(90, segmentation=outside))))
    assert data.skipped["empty_mask"] == 0
    for _ in range(2):
        assert data.sample(0).annotation_ids == (20,)
        assert data.skipped["empty_mask"] == 1


def test_paths_can_be_given(tmp_path: Path) -> None:
    root = write(tmp_path)
    source = root / "annotations" / "instances_val2017.json"
    data = Coco("nowhere", "train", annotations=source, images=str(root / "val2017"))
    assert len(data) == 3


def test_without_labels_no_annotations_are_needed(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "annotations" / "instances_val2017.json").unlink()
    (root / "val2017" / "._0002.png").write_bytes(b"left behind")
    (root / "val2017" / "notes.txt").touch()
    data = Coco(root, labels=False)
    assert [data.image_name(i) for i in range(len(data))] == ["0002.png", "0003.png", "0005.png"]
    assert data.image(2)[0, 0, 0] == 5 and counted(data) == {"other_file": 1}
    with pytest.raises(InputError, match="labels=True"):
        data.sample(0)
    (root / "train2017" / "notes.txt").touch()
    assert "train2017: no image among its 1 files" in refusal(root, split="train", labels=False)


def test_missing_files_are_named(tmp_path: Path) -> None:
    assert f"{tmp_path}/no/val2017: no such folder" in refusal(tmp_path / "no")
    root = write(tmp_path)
    assert "instances_train2017.json: no such file" in refusal(root, split="train")
    assert 'no split "test"' in refusal(root, split="test")
    (root / "val2017" / "0003.png").unlink()
    # It has no instances, but is read when the set is scored: hours later, in a large one.
    assert "0003.png: no such image file (1 of 3 are missing)" in refusal(root)
    (root / "val2017" / "0005.png").unlink()
    assert "0003.png: no such image file (2 of 3 are missing)" in refusal(root)


def test_images_are_checked_at_construction_of_small_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path)
    (root / "val2017" / "0005.png").write_text("no image")
    assert "0005.png: is not an image" in refusal(root)
    assert "0005.png: is not an image" in refusal(root, labels=False)
    Image.new("RGB", (8, 10)).save(root / "val2017" / "0005.png")
    assert "the image is 8x10" in refusal(root)
    monkeypatch.setattr(annotated_images, "HEADER_CHECK_LIMIT", 1)
    data = Coco(root)
    with pytest.raises(InputError, match=r"0005\.png: the image is 8x10 .* lists 10x8"):
        data.sample(2)


def edit(kind: str, key: str, new: Any) -> Change:
    """Set (or with ``...`` remove) a key of the first image or annotation."""

    def change(content: dict[str, Any]) -> None:
        if new is ...:
            del content[kind][0][key]
        else:
            content[kind][0][key] = new

    return change


REFUSED: dict[str, Change] = {
    "annotation 20: polygon with 2 points": edit("annotations", "segmentation", [[1, 1, 2, 2]]),
    "annotation 20: segmentation of type NoneType": edit("annotations", "segmentation", None),
    'annotation 20: the key "segmentation" is missing': edit("annotations", "segmentation", ...),
    'annotation 20: the key "bbox" is missing': edit("annotations", "bbox", ...),
    'annotation 20: the key "area" is missing': edit("annotations", "area", ...),
    'annotation 20: the key "image_id" is missing': edit("annotations", "image_id", ...),
    'an annotation: the key "id" is missing': edit("annotations", "id", ...),
    "\"bbox\" is '[1, 2, 3]', not 4 number(s)": edit("annotations", "bbox", [1, 2, 3]),
    "\"bbox\" is '[1, 2, 3, None]', not 4 number(s)": edit("annotations", "bbox", [1, 2, 3, None]),
    "\"area\" holds '[nan]', which is not finite": edit("annotations", "area", float("nan")),
    '"area" holds': edit("annotations", "area", 10**400),
    "\"image_id\" is '2.0', not a whole number": edit("annotations", "image_id", 2.0),
    "annotation 50: the id occurs twice": edit("annotations", "id", 50),
    "image 2: the id occurs twice": edit("images", "id", 2),
    "image 2: the file 0002.png is also that of image 5": edit("images", "file_name", ".//0002.png"),
    "image 5: \"height\" is '0', not a whole number of at least 1": edit("images", "height", 0),
    "image 5: \"width\" is 'True', not a whole number": edit("images", "width", True),
    'image 5: the key "file_name" is missing': edit("images", "file_name", ...),
    "image 5: \"file_name\" is '../0005.png'": edit("images", "file_name", "../0005.png"),
    "image 5: \"file_name\" is '/0005.png'": edit("images", "file_name", "/0005.png"),
    "image 5: \"file_name\" is '3'": edit("images", "file_name", 3),
    'the key "images" is missing': lambda content: content.pop("images"),
    'the key "annotations" is missing': lambda content: content.pop("annotations"),
    '"annotations" is not a list': lambda content: content.update(annotations={}),
    "an annotation: is a int, not an object": lambda content: content["annotations"].append(3),
    "lists no images": lambda content: content.update(images=[]),
}


@pytest.mark.parametrize("problem", REFUSED)
def test_malformed_annotations_are_refused_at_construction(tmp_path: Path, problem: str) -> None:
    message = refusal(write(tmp_path, REFUSED[problem]))
    assert "instances_val2017.json: " in message and problem in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"images": [', "not valid JSON, perhaps truncated"),
        (b"", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b"[]", "the top level is a list"),
    ],
)
def test_files_that_are_no_annotations_are_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    source = write(tmp_path) / "annotations" / "instances_val2017.json"
    source.write_bytes(content)
    assert refusal(tmp_path).startswith(f"{source}: {problem}")
