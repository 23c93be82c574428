"""LVIS's layouts: two versions of the file, two folders of images."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api

from core.errors import InputError
from data.lvis import Lvis
from data.sample import ImageData
from tests.unit.test_coco import Change, annotation, counted

FOLDERS = {1: "val2017", 2: "train2017", 3: "val2017"}
V1, V05 = "lvis_v1_val.json", "lvis_v0.5_val.json"


def write(root: Path, file: str = V1, change: Change = lambda content: None, prefix: str = "") -> Path:
    """Three images of 10x8 pixels in two folders, with 2, 1 and no instances."""
    images: list[dict[str, Any]] = []
    for number, folder in FOLDERS.items():
        name = f"{number:012d}.png"
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 8), (number, 0, 0)).save(root / folder / (prefix + name))
        size = {"id": number, "height": 8, "width": 10}
        named = {"coco_url": f"http://images.cocodataset.org/{folder}/{name}"}
        images.append({**size, **(named if file == V1 else {"file_name": f"COCO_val2014_{name}"})})
    of = [(11, 2, 5), (12, 1, 9), (13, 1, 5)]
    annotations = [annotation(number, image, category_id=category) for number, image, category in of]
    for each in annotations:
        del each["iscrowd"]
    content = {"images": images[::-1], "annotations": annotations, "categories": [{"id": 5}, {"id": 9}]}
    change(content)
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / file).write_text(json.dumps(content))
    return root


def refusal(root: Path, **arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        Lvis(root, **arguments)
    message = str(caught.value)
    assert "\n" not in message and ";" in message
    return message


@pytest.mark.parametrize(("file", "prefix"), [(V1, ""), (V05, ""), (V05, "COCO_val2014_")])
def test_images_lie_in_both_folders(tmp_path: Path, file: str, prefix: str) -> None:
    data = Lvis(write(tmp_path, file, prefix=prefix))
    typed: ImageData = data
    assert typed.name == "lvis" and len(data) == 3 and counted(data) == {"image_without_instances": 1}
    for index, (number, folder) in enumerate(FOLDERS.items()):
        assert data.image_id(index) == number
        assert data.image_name(index) == f"{folder}/{prefix}{number:012d}.png"
        assert data.image(index)[0, 0, 0] == number
    sample = data.sample(0)
    assert sample.annotation_ids == (12, 13) and sample.category_ids == (9, 5)
    assert sample.masks.shape == (2, 8, 10) and sample.boxes_xyxy.tolist() == [[1, 1, 7, 5]] * 2
    assert data.truth_path == tmp_path / "annotations" / file and len(data.truth()["annotations"]) == 3


def test_the_address_decides_where_both_folders_have_the_name(tmp_path: Path) -> None:
    root = write(tmp_path)
    Image.new("RGB", (10, 8), (99, 0, 0)).save(root / "train2017" / "000000000001.png")
    assert Lvis(root).image(0)[0, 0, 0] == 1


def test_only_the_prefix_of_2014_is_taken_off(tmp_path: Path) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["images"][-1]["file_name"] = "my_000000000003.png"

    root = write(tmp_path, V05, rename)
    assert "train2017/my_000000000003.png: no such image file" in refusal(root)
    (root / "val2017" / "000000000001.png").rename(root / "val2017" / "my_000000000003.png")
    assert Lvis(root).image_name(0) == "val2017/my_000000000003.png"


def test_the_first_version_is_read_unless_set(tmp_path: Path) -> None:
    write(tmp_path, V05, lambda content: content["annotations"].pop())
    assert len(Lvis(tmp_path).sample(0).annotation_ids) == 1
    write(tmp_path)
    assert len(Lvis(tmp_path).sample(0).annotation_ids) == 2
    assert len(Lvis(tmp_path, annotations=tmp_path / "annotations" / V05).sample(0).annotation_ids) == 1
    (tmp_path / "annotations" / V1).rename(tmp_path / "annotations" / "lvis_v1_train.json")
    assert len(Lvis(tmp_path, "train").sample(0).annotation_ids) == 2


def test_missing_files_are_named(tmp_path: Path) -> None:
    assert 'no split "test"' in refusal(tmp_path, split="test")
    assert f"lvis_v1_val.json: no such file, and no {V05}" in refusal(tmp_path)
    root = write(tmp_path)
    assert "nowhere.json: no such file" in refusal(root, annotations=root / "nowhere.json")
    for path in sorted(root.glob("train2017/*")):
        path.unlink()
    (root / "train2017").rmdir()
    assert "train2017/000000000002.png: no such image file (1 of 3 are missing)" in refusal(root)
    data = Lvis(root, missing="skip")
    assert [data.image_id(i) for i in range(len(data))] == [1, 3]
    assert counted(data) == {"unreadable_image": 1, "image_left_out": 1, "image_without_instances": 1}
    (root / "val2017").rename(root / "elsewhere")
    assert "train2017: no such folder, nor val2017 beside it" in refusal(root, missing="skip")


def test_without_labels_the_file_still_tells_the_images(tmp_path: Path) -> None:
    data = Lvis(write(tmp_path, change=lambda content: content["annotations"].append("unread")), labels=False)
    assert len(data) == 3 and data.image(1)[0, 0, 0] == 2 and not counted(data)
    with pytest.raises(InputError, match="labels=True"):
        data.sample(0)


def test_images_need_a_name(tmp_path: Path) -> None:
    def unnamed(content: dict[str, Any]) -> None:
        content["images"][0].update(coco_url=3, file_name="..")

    message = refusal(write(tmp_path, change=unnamed))
    assert 'image 3: neither "coco_url" nor "file_name" names an image' in message


def test_an_image_is_listed_once(tmp_path: Path) -> None:
    def repeated(content: dict[str, Any]) -> None:
        content["images"].append({**content["images"][0], "id": 7})

    message = "image 7: the file val2017/000000000003.png is also that of image 3"
    assert message in refusal(write(tmp_path, change=repeated))
    assert message in refusal(tmp_path, labels=False)


def test_an_official_file_gives_what_it_holds(tmp_path: Path, shared: Path) -> None:
    source = shared / "data" / "lvis_val_100.json"
    content = json.loads(source.read_bytes())
    (tmp_path / "val2017").mkdir()
    for raw in content["images"]:
        image = Image.new("L", (raw["width"], raw["height"]))
        image.save(tmp_path / "val2017" / raw["coco_url"].rpartition("/")[2], quality=1)
    data = Lvis(tmp_path, annotations=source)
    expected: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for raw in content["annotations"]:
        if raw["area"] >= 1:
            expected[raw["image_id"]].append(raw)
    assert [data.image_id(i) for i in range(len(data))] == sorted(raw["id"] for raw in content["images"])
    assert [len(data.sample(i).annotation_ids) for i in range(len(data))] == [len(expected[i]) for i in data.sizes_hw()]
    seen: Counter[int] = Counter()
    for index in range(len(data)):
        sample = data.sample(index)
        assert sample.annotation_ids == tuple(raw["id"] for raw in expected[sample.image_id])
        assert sample.category_ids == tuple(raw["category_id"] for raw in expected[sample.image_id])
        seen.update(sample.category_ids)
        for mask, raw in list(zip(sample.masks, expected[sample.image_id], strict=True))[:2]:
            judge = mask_api.decode(mask_api.merge(mask_api.frPyObjects(raw["segmentation"], *mask.shape)))
            assert np.array_equal(mask, judge.astype(bool))
    listed = {raw["id"]: raw["instance_count"] for raw in content["categories"] if raw["instance_count"]}
    assert seen == listed and not any(data.skipped[reason] for reason in ("empty_mask", "empty_box", "unknown_image"))
