"""Spoiled annotation files of every layout: a data set that keeps its promises, or a refusal in one line."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import InputError
from data.coco import Coco
from data.detections import Detections
from data.lvis import Lvis
from data.sa1b import Sa1b
from evaluation.average_precision.figures import average_precision
from tests.unit.mutations import damaged, spoiled

HEIGHT, WIDTH = 8, 10
RLE = {"size": [HEIGHT, WIDTH], "counts": [20, 6, 54]}
SEGMENTATIONS: list[Any] = [[[1, 1, 7, 1, 7, 5]], RLE, {"size": [HEIGHT, WIDTH], "counts": "d06f1"}]
VALID = {
    "info": {"year": 2017},
    "images": [
        {
            "id": number,
            "file_name": f"{number}.png",
            "coco_url": f"http://host/val2017/{number}.png",
            "height": HEIGHT,
            "width": WIDTH,
            "neg_category_ids": [],
            "not_exhaustive_category_ids": [],
        }
        for number in (1, 2)
    ],
    "annotations": [
        {
            "id": 10 + place,
            "image_id": 1 + place % 2,
            "category_id": 1 + place % 2,
            "bbox": [1, 1, 6, 4],
            "area": 12.5,
            "iscrowd": 0,
            "segmentation": segmentation,
        }
        for place, segmentation in enumerate(SEGMENTATIONS)
    ],
    "categories": [{"id": 1, "name": "a", "frequency": "f"}, {"id": 2, "name": "b", "frequency": "r"}],
}
VALID_SA1B = {
    "image": {"image_id": 2, "file_name": "sa_2.jpg", "height": HEIGHT, "width": WIDTH},
    "annotations": [
        {
            "id": 20 + place,
            "bbox": [1, 1, 6, 4],
            "area": 12.5,
            "predicted_iou": 0.9,
            "point_coords": [[2.5, 2.5]],
            "segmentation": segmentation,
        }
        for place, segmentation in enumerate(SEGMENTATIONS)
    ],
}
BOXES = [
    {"image_id": 1 + place % 2, "category_id": 1 + place, "bbox": [1, 1, 6, 4], "score": 0.5 - place / 10}
    for place in range(2)
]
Opened = Callable[[Path, str, str], Any]


def folder_of(kind: str) -> Path:
    """An empty folder with two images in a layout; the file that is spoiled is written into it."""
    root = Path(tempfile.mkdtemp())
    (root / "annotations").mkdir()
    (root / "val2017").mkdir()
    for number in (1, 2):
        place = root / f"sa_{number}.jpg" if kind == "sa1b" else root / "val2017" / f"{number}.png"
        Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 0)).save(place, "PNG")
    return root


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    tempfile.tempdir = str(tmp_path_factory.mktemp("fuzz"))
    try:
        return {kind: folder_of(kind) for kind in ("coco", "lvis", "sa1b")}
    finally:
        tempfile.tempdir = None


def text_of(content: Any) -> bytes:
    return json.dumps(content).encode("utf-8", "surrogatepass")


def opened(root: Path, kind: str, content: bytes, missing: str) -> Any:
    if kind == "sa1b":
        (root / "sa_2.json").write_bytes(content)
        return Sa1b(root, "validation", 1, missing=missing)
    name = {"coco": "instances_val2017.json", "lvis": "lvis_v1_val.json"}[kind]
    (root / "annotations" / name).write_bytes(content)
    return {"coco": Coco, "lvis": Lvis}[kind](root, missing=missing)


def keeps_its_promises(root: Path, kind: str, content: bytes, missing: str) -> None:
    """Open and use a data set; whatever is wrong is reported in one line."""
    try:
        data = opened(root, kind, content, missing)
        for index in range(len(data)):
            sample = data.sample(index)
            count = len(sample.annotation_ids)
            assert sample.masks.shape == (count, HEIGHT, WIDTH) and sample.masks.any((1, 2)).all()
            assert sample.boxes_xyxy.shape == (count, 4) and np.isfinite(sample.boxes_xyxy).all()
            assert (sample.boxes_xyxy[:, :2] < sample.boxes_xyxy[:, 2:]).all()
            assert (sample.areas >= 1).all() and np.isfinite(sample.areas).all()
        json.dumps(dict(data.skipped))
        if kind != "sa1b":
            ids = [data.image_id(index) for index in range(len(data))]
            average_precision(data.truth(), [], style=kind, image_ids=ids)
    except InputError as error:
        message = str(error)
        assert "\n" not in message and (";" in message or "ground truth" in message), message
        assert len(message) < 2000


FAST = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LONG = settings(FAST, max_examples=4000)
skipping = st.sampled_from(["refuse", "skip"])
KINDS = {"coco": VALID, "lvis": VALID, "sa1b": VALID_SA1B}
structures = st.sampled_from(list(KINDS)).flatmap(lambda kind: st.tuples(st.just(kind), spoiled(KINDS[kind])))
texts = st.sampled_from(list(KINDS)).flatmap(lambda kind: st.tuples(st.just(kind), damaged(text_of(KINDS[kind]))))


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(VALID))
    change(content)
    return content


FOUND = [
    # A flag that is text is true in Python: the annotation went as a crowd.
    changed(lambda content: content["annotations"][0].update(iscrowd="0")),
    # pycocotools counts pixels in 32 bits.
    changed(lambda content: content["images"][0].update(height=2**16, width=2**16)),
    # A polygon that pycocotools would have taken gigabytes for.
    changed(lambda content: content["annotations"][0].update(segmentation=[[1e6, 0, -1e6, 0] * 3000])),
]


@pytest.mark.parametrize("content", FOUND, ids=["crowd", "pixels", "outline"])
def test_what_was_found_is_refused(content: dict[str, Any], roots: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"iscrowd|beyond any image|pixels long"):
        opened(roots["coco"], "coco", text_of(content), "skip")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_spoiled_is_read(kind: str, roots: dict[str, Path]) -> None:
    data = opened(roots[kind], kind, text_of(KINDS[kind]), "refuse")
    assert sum(len(data.sample(index).annotation_ids) for index in range(len(data))) == 3


@FAST
@given(case=structures, missing=skipping)
def test_spoiled_structures(case: tuple[str, Any], missing: str, roots: dict[str, Path]) -> None:
    keeps_its_promises(roots[case[0]], case[0], text_of(case[1]), missing)


@FAST
@given(case=texts)
def test_damaged_texts(case: tuple[str, bytes], roots: dict[str, Path]) -> None:
    keeps_its_promises(roots[case[0]], case[0], case[1], "skip")


@pytest.mark.slow
@LONG
@given(case=structures, missing=skipping)
def test_many_spoiled_structures(case: tuple[str, Any], missing: str, roots: dict[str, Path]) -> None:
    keeps_its_promises(roots[case[0]], case[0], text_of(case[1]), missing)


@pytest.mark.slow
@LONG
@given(case=texts)
def test_many_damaged_texts(case: tuple[str, bytes], roots: dict[str, Path]) -> None:
    keeps_its_promises(roots[case[0]], case[0], case[1], "skip")


def detections_are_accounted_for(root: Path, content: bytes) -> None:
    path = root / "boxes.json"
    path.write_bytes(content)
    try:
        found = Detections(path, {1: (HEIGHT, WIDTH), 2: (HEIGHT, WIDTH)}, 2, {1, 2})
    except InputError as error:
        assert "\n" not in str(error) and ";" in str(error)
        return
    assert len(found) + sum(found.skipped.values()) == len(json.loads(content))
    for image_id in (1, 2):
        boxes = found.of(image_id)
        assert len(boxes.scores) <= 2 and np.isfinite(boxes.boxes_xyxy).all() and np.isfinite(boxes.scores).all()


@FAST
@given(content=spoiled(BOXES).map(text_of) | damaged(text_of(BOXES)))
@example(content=b"[]")
@example(content=b"\xef\xbb\xbf[]")
def test_spoiled_detections(content: bytes, roots: dict[str, Path]) -> None:
    detections_are_accounted_for(roots["coco"], content)


@pytest.mark.slow
@LONG
@given(content=spoiled(BOXES).map(text_of) | damaged(text_of(BOXES)))
def test_many_spoiled_detections(content: bytes, roots: dict[str, Path]) -> None:
    detections_are_accounted_for(roots["coco"], content)
