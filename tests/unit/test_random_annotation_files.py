"""Annotation files at random, wrong ones among them: a clear refusal, or every annotation is accounted for once."""

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_api

from core.errors import InputError
from data.coco import Coco
from data.exclusions import NO_ANNOTATIONS
from data.lvis import Lvis
from data.sample import UnreadableImage

HEIGHT, WIDTH = 8, 10
LAYOUTS = {"coco": "instances_val2017.json", "v1": "lvis_v1_val.json", "v0.5": "lvis_v0.5_val.json"}


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "png")
    return file.getvalue()


IMAGES = {
    "good": png(WIDTH, HEIGHT),
    "truncated": png(WIDTH, HEIGHT)[:45],
    "no image": b"no image",
    "empty": b"",
    "other size": png(HEIGHT, WIDTH),
    "missing": None,
}


def compressed(mask: np.ndarray) -> str:
    text: str = mask_api.encode(np.asfortranarray(mask))["counts"].decode()
    return text


def some_mask(seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.3).astype(np.uint8)


runs = st.integers(0, HEIGHT * WIDTH).map(lambda first: [first, HEIGHT * WIDTH - first])
strings = st.integers(0, 9).map(lambda seed: compressed(some_mask(seed) if seed else np.zeros((HEIGHT, WIDTH), "u1")))
polygons = st.lists(
    st.lists(st.floats(-15, 25), min_size=3, max_size=6).flatmap(
        lambda xs: st.just([c for x in xs for c in (x, x / 2)])
    )
    | st.just([1, 1, 7, 1, 7, 5])
    | st.just([30.0, 30.0, 40.0, 30.0, 40.0, 40.0]),
    min_size=1,
    max_size=3,
)
segmentations = polygons | (runs | strings).map(lambda counts: {"size": [HEIGHT, WIDTH], "counts": counts})
malformed = st.sampled_from(
    [
        None,
        [],
        [[]],
        [[1, 1, 2]],
        [[1, 1, 2, 2]],
        {"size": [10, 8], "counts": [80]},
        {"size": [8, 10], "counts": "o"},
        "1 1",
    ]
)
coordinates = st.sampled_from([-30.0, -0.01, 0, 3, 4.5, 9, 10, 40])
annotations = st.fixed_dictionaries(
    {
        "id": st.integers(-5, 10**6),
        "image_id": st.sampled_from([1, 2, 3, 1, 2, 3, 0]),
        "bbox": st.just([1, 1, 6, 4]) | st.just([0.5, 2, 9.5, 6]) | st.lists(coordinates, min_size=4, max_size=4),
        "area": st.sampled_from([12.5, 5000, 30, 1, 0.5, 0]),
        "segmentation": segmentations,
        "category_id": st.integers(1, 3),
    },
    optional={"iscrowd": st.integers(0, 1)},
)

UNUSABLE = ("malformed", "category_id", "bbox", "area", "iscrowd", "segmentation")
"""What may be wrong with a single annotation: the mask, or a field that is null or missing."""


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """The content of a file (image 0 is not listed), the state of its images, and what is wrong with which entry."""
    unique = draw(st.lists(annotations, min_size=2, max_size=8, unique_by=lambda each: each["id"]))
    flaw = draw(st.sampled_from(["none"] * 12 + ["same id", "same image", *UNUSABLE]))
    images = draw(st.permutations([1, 2, 3]))[: draw(st.sampled_from([3, 3, 2, 1]))]
    for each in unique:
        each["image_id"] = images[each["image_id"] % len(images)] if each["image_id"] else 0
    target = draw(st.sampled_from([each for each in unique if each["image_id"]] or unique))
    if flaw == "same image":
        images = [*images, images[0]]
    elif not target["image_id"]:
        flaw = "none"
    elif flaw == "same id":
        unique.append({**target})
    elif flaw == "malformed":
        target["segmentation"] = draw(malformed)
    elif flaw != "none" and draw(st.booleans()) and flaw != "category_id":
        target[flaw] = None
    elif flaw != "none":
        target.pop(flaw, None)
    states = {image: draw(st.sampled_from(["good"] * 12 + list(IMAGES))) for image in images}
    return {"images": images, "annotations": unique, "states": states, "flaw": flaw, "target": target}


def ruled_out(raw: dict[str, Any], crowd: bool, least_area: float) -> bool:
    """Whether the written rules leave an annotation out whose fields may be missing."""
    if (raw.get("iscrowd") == 1 and not crowd) or ((raw.get("area") or 0) < least_area and raw.get("area") is not None):
        return True
    x, y, width, height = raw.get("bbox") or (0, 0, 1, 1)
    return width <= 0 or height <= 0 or x >= WIDTH or y >= HEIGHT or x + width <= 0 or y + height <= 0


def write(root: Path, layout: str, content: dict[str, Any]) -> type[Coco] | type[Lvis]:
    (root / "annotations").mkdir()
    folders = ["val2017"] if layout == "coco" else ["val2017", "train2017"]
    for folder in folders:
        (root / folder).mkdir()
    images = []
    for number in content["images"]:
        folder, name = folders[number % len(folders)], f"{number:012d}.png"
        image = IMAGES[content["states"][number]]
        if image is not None:
            (root / folder / name).write_bytes(image)
        named = {"coco": {"file_name": name}, "v0.5": {"file_name": f"COCO_val2014_{name}"}}
        images.append({"id": number, "height": HEIGHT, "width": WIDTH})
        images[-1].update(named.get(layout, {"coco_url": f"http://host/{folder}/{name}"}))
    listed = {"images": images, "annotations": content["annotations"], "categories": [{"id": i} for i in range(1, 6)]}
    (root / "annotations" / LAYOUTS[layout]).write_text(json.dumps(listed))
    return Coco if layout == "coco" else Lvis


def expect_one_line(error: InputError) -> None:
    message = str(error)
    assert "\n" not in message and ";" in message


def account_for_every_annotation(
    content: dict[str, Any], layout: str, crowd: bool, least_area: float, missing: str, unusable: str
) -> None:
    states, flaw, target = content["states"].values(), content["flaw"], content["target"]
    # An annotation that says nothing of crowds is none.
    harmless = flaw == "iscrowd" and "iscrowd" not in target
    is_unusable = flaw in UNUSABLE and not harmless and not ruled_out(target, crowd, least_area)
    refused = flaw in ("same id", "same image") or (is_unusable and unusable == "refuse")
    with tempfile.TemporaryDirectory() as folder:
        kind = write(Path(folder), layout, content)
        try:
            data = kind(folder, crowd=crowd, least_area=least_area, missing=missing, unusable=unusable)
        except InputError as error:
            expect_one_line(error)
            usable = set(states) & {"good", "truncated"} if missing == "skip" else set(states) <= {"good"}
            assert refused or not usable
            assert not is_unusable or not refused or str(error).endswith("or give data.unusable=skip")
            return
        assert not refused and data.skipped["unusable_annotation"] == is_unusable
        seen: list[int] = []
        for index in range(len(data)):
            try:
                sample = data.sample(index)
            except InputError as error:
                expect_one_line(error)
                assert content["states"][data.image_id(index)] != "good"
                assert isinstance(error, UnreadableImage) == (missing == "skip")
                if missing == "refuse":
                    return
                continue
            count = len(sample.annotation_ids)
            assert sample.image_id == data.image_id(index) and data.sizes_hw()[sample.image_id] == (HEIGHT, WIDTH)
            assert sample.masks.shape == (count, HEIGHT, WIDTH) and sample.masks.any((1, 2)).all()
            assert sample.boxes_xyxy.shape == (count, 4) and (sample.areas >= least_area).all()
            assert (sample.boxes_xyxy[:, :2] < sample.boxes_xyxy[:, 2:]).all() and len(sample.category_ids) == count
            assert (sample.boxes_xyxy >= 0).all() and (sample.boxes_xyxy <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
            seen += sample.annotation_ids
    left_out = sum(count for reason, count in data.skipped.items() if reason not in NO_ANNOTATIONS)
    assert len(set(seen)) == len(seen) and len(seen) + left_out == len(content["annotations"])
    assert data.skipped["image_left_out"] == sum(state != "good" for state in states) or missing == "refuse"
    by_id = {each["id"]: each for each in content["annotations"]}
    assert crowd or not any(by_id[annotation_id].get("iscrowd") for annotation_id in seen)


FAST = settings(max_examples=8, deadline=None, derandomize=True)
LONG = settings(FAST, max_examples=300)
CASES = {
    "content": files(),
    "layout": st.sampled_from(list(LAYOUTS)),
    "crowd": st.booleans(),
    "least_area": st.sampled_from([0.0, 1.0, 20.0]),
    "missing": st.sampled_from(["refuse", "skip", "skip"]),
    "unusable": st.sampled_from(["refuse", "skip"]),
}


@FAST
@given(**CASES)
def test_every_annotation_is_accounted_for(**case: Any) -> None:
    account_for_every_annotation(**case)


@pytest.mark.slow
@LONG
@given(**CASES)
def test_every_annotation_of_many_files_is_accounted_for(**case: Any) -> None:
    account_for_every_annotation(**case)
