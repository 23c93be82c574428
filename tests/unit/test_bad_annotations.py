"""Annotation files that are wrong as a whole or strange in places: refused, or counted while no other figure moves."""

import gzip
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import InputError
from data.coco import Coco
from data.detections import Detections
from evaluation.average_precision.figures import average_precision
from evaluation.protocols import PROTOCOLS
from evaluation.records import PartialRecords
from evaluation.scorer import Scored, Scorer
from tests.unit.test_coco import Change, add, annotation, counted, refusal, write
from tests.unit.tiny import tiny_sam
from tests.unit.truthful import drawn_labels, write_coco, write_detections

FILE = "instances_val2017.json"
PROTOCOLS_USED = [PROTOCOLS[f"{name}@1"] for name in ("box_single", "point_best_of_3", "detector_box_single")]


@pytest.mark.parametrize("flag", ["0", "1", "false", 2, -1, 0.5, None, [], {}, float("nan")])
def test_strange_crowd_flags_are_refused(flag: object, tmp_path: Path) -> None:
    root = write(tmp_path, add(annotation(90, iscrowd=flag)))
    assert 'annotation 90: "iscrowd" is' in refusal(root) and "not 0 or 1" in refusal(root, crowd=True)


@pytest.mark.parametrize(("flag", "crowds"), [(0, 0), (False, 0), (0.0, 0), (1, 1), (True, 1), (1.0, 1)])
def test_crowd_flags_that_mean_something(flag: object, crowds: int, tmp_path: Path) -> None:
    assert Coco(write(tmp_path, add(annotation(90, iscrowd=flag)))).skipped["crowd"] == crowds


def twice(key: str, kind: str | None) -> bytes:
    """A file in which an object has a key twice: the top level, or the first of a list."""
    content: dict[str, Any] = {
        "images": [{"id": 2, "file_name": "0002.png", "height": 8, "width": 10}],
        "annotations": [annotation(20)],
    }
    text = json.dumps(content)
    place = text.index("{") if kind is None else text.index("{", text.index(f'"{kind}"'))
    return (text[: place + 1] + f'"{key}": [], ' + text[place + 1 :]).encode()


@pytest.mark.parametrize(("key", "kind"), [("annotations", None), ("id", "images"), ("bbox", "annotations")])
def test_keys_that_occur_twice_are_refused(key: str, kind: str | None, tmp_path: Path) -> None:
    source = write(tmp_path) / "annotations" / FILE
    source.write_bytes(twice(key, kind))
    assert refusal(tmp_path) == f"{source}: the key '{key}' occurs twice in one object; correct the file"


def test_many_keys_take_no_time(tmp_path: Path) -> None:
    source = write(tmp_path) / "annotations" / FILE
    keys = ", ".join(f'"{number}": 0' for number in range(200_000))
    source.write_text(f'{{{keys}, "7": 0}}')
    started = time.monotonic()
    assert "the key '7' occurs twice" in refusal(tmp_path)
    assert time.monotonic() - started < 60, "quadratic in the number of keys"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_of_unicode_are_read(encoding: str, tmp_path: Path) -> None:
    source = write(tmp_path) / "annotations" / FILE
    expected = [Coco(tmp_path).sample(index).annotation_ids for index in range(3)]
    source.write_bytes(source.read_text().encode(encoding))
    assert [Coco(tmp_path).sample(index).annotation_ids for index in range(3)] == expected


def files() -> dict[str, tuple[bytes, str]]:
    """Contents that are no annotations, and what is said of them."""
    deep = b'{"a":' * 900_000
    return {
        "gzip": (gzip.compress(b"{}"), "is compressed by gzip; unpack it"),
        "latin-1": ('{"images": ["\u00e9"]}'.encode("latin-1"), "not valid JSON"),
        "deep": (deep, "not valid JSON"),
        "deep lists": (b"[" * 3_000_000, "not valid JSON"),
        "digits": (b'{"images": [' + b"9" * 5_000 + b"]}", "not valid JSON"),
        "two files": (b"{}{}", "not valid JSON"),
        "zeros": (bytes(10_000), "not valid JSON"),
        "null": (b"null", "the top level is a NoneType"),
    }


@pytest.mark.parametrize("name", files())
def test_files_that_are_no_annotations(name: str, tmp_path: Path) -> None:
    content, problem = files()[name]
    source = write(tmp_path) / "annotations" / FILE
    source.write_bytes(content)
    message = refusal(tmp_path)
    assert message.startswith(f"{source}: {problem}") and len(message) < 1000


def listed(**changes: Any) -> Change:
    return lambda content: content["images"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (listed(height=10**9, width=10**9), "image 5: the listed size 1000000000x1000000000 is beyond any image"),
        (listed(height=2**16, width=2**16), "is beyond any image"),
        (listed(height=-8), "\"height\" is '-8', not a whole number of at least 1"),
        (listed(file_name="a\nb.png"), "not a path below the images"),
        (listed(file_name="\udcff.png"), "not a path below the images"),
        (add(annotation(90, segmentation=[[0, 0, 9, 9] * 200_000])), "points whose outline is"),
        (add(annotation(90, segmentation={"size": [8, 10], "counts": [0] * 100_000})), "add up to 0 of 80"),
        (add(annotation(90, segmentation={"size": [10**9] * 2, "counts": [10**18]})), "RLE of size"),
    ],
)
def test_sizes_and_names_that_no_image_has(change: Change, problem: str, tmp_path: Path) -> None:
    assert problem in refusal(write(tmp_path, change), missing="skip")


def test_a_polygon_of_very_many_points(tmp_path: Path) -> None:
    turn = np.linspace(0, 2 * np.pi, 200_000)
    circle = np.stack([5 + 3 * np.cos(turn), 4 + 3 * np.sin(turn)], 1).ravel().tolist()
    sample = Coco(write(tmp_path, add(annotation(90, segmentation=[circle])))).sample(0)
    assert 20 < sample.masks[1].sum() < 40


def scored(root: Path, boxes: Path, folder: Path) -> tuple[Scored, dict[str, float | None]]:
    """Boxes, points and a detector's boxes; and average precision."""
    data = Coco(root, missing="skip")
    detections = Detections(boxes, data.sizes_hw(), category_ids=data.category_ids)
    found = Scorer(tiny_sam(), PROTOCOLS_USED, detections).score(data, partial=PartialRecords(folder, ""))
    results = [record.result() for record in found.detected(PROTOCOLS_USED[2].name)]
    return found, average_precision(data.truth(), results, image_ids=[data.image_id(i) for i in range(len(data))])


def oddities(content: dict[str, Any]) -> None:
    """One annotation of each kind that is counted and not scored, on an image that has others."""
    first = content["annotations"][0]
    for place, changes in enumerate(
        (
            {"image_id": 99},
            {"image_id": 99, "segmentation": "what nobody reads"},
            {"iscrowd": 1, "segmentation": {"size": [64, 64], "counts": [64 * 64]}, "bbox": [0, 0, 1, 1]},
            {"area": -5.0},
            {"bbox": [3, 3, -2, 5]},
            {"bbox": [1000, 3, 5, 5]},
            {"segmentation": [[300, 300, 400, 300, 400, 400]]},
        )
    ):
        content["annotations"].append({**first, "id": 900 + place, **changes})


def test_what_is_counted_moves_no_other_figure(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "plain", drawn_labels(4))
    boxes = write_detections(tmp_path / "boxes.json", root)
    expected, _ = scored(root, boxes, tmp_path / "a")
    content = json.loads((root / "annotations" / FILE).read_text())
    oddities(content)
    (root / "annotations" / FILE).write_text(json.dumps(content))
    found, _ = scored(root, boxes, tmp_path / "b")
    assert repr(found.records) == repr(expected.records)
    assert found.skipped == {"unknown_image": 2, "crowd": 1, "area_below_1": 1, "empty_box": 2, "empty_mask": 1}


def test_categories_that_are_not_listed_are_counted(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "plain", drawn_labels(4))
    boxes = write_detections(tmp_path / "boxes.json", root)
    found, expected = scored(root, boxes, tmp_path / "a")
    content = json.loads((root / "annotations" / FILE).read_text())
    content["annotations"].append({**content["annotations"][0], "id": 900, "category_id": 77})
    (root / "annotations" / FILE).write_text(json.dumps(content))
    strange, figures = scored(root, boxes, tmp_path / "b")
    assert strange.skipped == {"unknown_category": 1} and not found.skipped and figures == expected
    assert len(strange.instances(PROTOCOLS_USED[0].name)) == 1 + len(found.instances(PROTOCOLS_USED[0].name))
    (tmp_path / "unlisted").mkdir()
    assert counted(Coco(write(tmp_path / "unlisted"))) == {"image_without_instances": 1}, "no list, nothing to compare"


@pytest.mark.parametrize("line", ["", "{", "null", "[1]", '{"key": 3}', "\x00" * 50])
def test_damaged_records_of_a_stopped_pass_are_made_again(line: str, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "plain", drawn_labels(3))
    boxes = write_detections(tmp_path / "boxes.json", root)
    expected, _ = scored(root, boxes, tmp_path / "a")
    part = tmp_path / "a" / "part-0.jsonl"
    whole = part.read_text().splitlines(keepends=True)
    # A line in the middle that was overwritten, with the others behind it.
    part.write_text("".join([whole[0], whole[1], line + "\n", *whole[3:]]))
    found, _ = scored(root, boxes, tmp_path / "a")
    assert repr(found.records) == repr(expected.records) and found.skipped == expected.skipped


def test_refusals_of_the_reader_are_input_errors(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations" / FILE).mkdir()
    with pytest.raises(InputError, match="no such file"):
        Coco(tmp_path)
