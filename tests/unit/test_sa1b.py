"""SA-1B's layout: the split rule, the points, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api

from core.errors import InputError
from data import sa1b as sa1b_module
from data.sa1b import Sa1b
from data.sample import ImageData


def square(left: int) -> np.ndarray:
    mask = np.zeros((8, 10), dtype=bool)
    mask[2:6, left : left + 3] = True
    return mask


def annotation(annotation_id: int, mask: np.ndarray, **changes: Any) -> dict[str, Any]:
    rle = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    left = int(mask.any(0).argmax())
    base = {"id": annotation_id, "area": 12, "bbox": [left, 2, 3, 4], "point_coords": [[left + 1.5, 3.5]]}
    return {**base, "segmentation": {"size": [8, 10], "counts": rle["counts"].decode()}, **changes}


def write(folder: Path, number: int, annotations: list[dict[str, Any]] | None = None) -> None:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (10, 8), (number, 0, 0)).save(folder / f"sa_{number}.jpg", quality=100)
    if annotations is None:
        annotations = [annotation(10 * number, square(1)), annotation(10 * number + 1, square(5))]
    header = {"image_id": number, "height": 8, "width": 10, "file_name": f"sa_{number}.jpg"}
    (folder / f"sa_{number}.json").write_text(json.dumps({"image": header, "annotations": annotations}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images 1 to 4 and 10 in two shards."""
    for number in (1, 10):
        write(tmp_path / "sa_000000", number)
    for number in (2, 3, 4):
        write(tmp_path / "sa_000001", number)
    return tmp_path


def names(data: Sa1b) -> list[str]:
    return [data.image_name(index) for index in range(len(data))]


def refusal(root: Path, split: str = "validation", **arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        Sa1b(root, split, **arguments)
    message = str(caught.value)
    assert "\n" not in message and ";" in message
    return message


def test_the_last_images_by_number_are_validation(root: Path) -> None:
    assert names(Sa1b(root, "validation", 1)) == ["sa_10.jpg"]
    assert names(Sa1b(root, "train", 1)) == ["sa_1.jpg", "sa_2.jpg", "sa_3.jpg", "sa_4.jpg"]
    assert names(Sa1b(root, "validation")) == ["sa_4.jpg", "sa_10.jpg"], "at most half"
    assert names(Sa1b(root, "train")) == ["sa_1.jpg", "sa_2.jpg", "sa_3.jpg"]
    assert names(Sa1b(root, "train", labels=False)) == ["sa_1.jpg", "sa_2.jpg", "sa_3.jpg"]


def test_samples_and_points_agree(root: Path) -> None:
    data: ImageData = Sa1b(str(root), "validation")
    sample = data.sample(1)
    assert data.name == "sa1b" and (sample.image_id, sample.name, sample.annotation_ids) == (
        10,
        "sa_10.jpg",
        (100, 101),
    )
    assert np.array_equal(sample.masks, np.stack([square(1), square(5)])) and sample.masks.dtype == np.bool_
    assert sample.boxes_xyxy.tolist() == [[1, 2, 4, 6], [5, 2, 8, 6]] and sample.areas.tolist() == [12, 12]
    assert np.array_equal(data.image(1), sample.image)
    points = sample.points_xy
    assert points is not None and points.dtype == np.float64 and points.tolist() == [[2.5, 3.5], [6.5, 3.5]]


def test_rules_are_those_of_coco(tmp_path: Path) -> None:
    nothing = np.zeros((8, 10), dtype=bool)
    write(tmp_path, 1)
    left_out = [annotation(20, square(1), area=0), annotation(21, square(1), bbox=[1, 1, 0, 3])]
    write(tmp_path, 2, [*left_out, annotation(22, nothing), annotation(23, square(5))])
    data = Sa1b(tmp_path, "validation")
    expected = {"area_below_1": 1, "empty_box": 1}
    assert {k: v for k, v in data.skipped.items() if v} == expected
    for _ in range(2):
        sample = data.sample(0)
        assert sample.annotation_ids == (23,)
        assert sample.points_xy is not None and sample.points_xy.tolist() == [[6.5, 3.5]]
        assert {k: v for k, v in data.skipped.items() if v} == {**expected, "empty_mask": 1}


def test_image_without_instances(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2, [])
    data = Sa1b(tmp_path, "validation")
    assert data.skipped["image_without_instances"] == 1
    sample = data.sample(0)
    assert sample.masks.shape == (0, 8, 10) and sample.points_xy is not None and sample.points_xy.shape == (0, 2)


def test_without_labels_no_json_is_needed(root: Path) -> None:
    for path in root.glob("*/*.json"):
        path.unlink()
    data = Sa1b(root, "train", labels=False)
    assert len(data) == 3 and data.image(2).shape == (8, 10, 3) and not any(data.skipped.values())
    with pytest.raises(InputError, match="labels=True"):
        data.sample(0)
    assert "sa_4.json: no such file beside its image" in refusal(root)


def test_missing_files_are_named(root: Path) -> None:
    assert f"{root}/no: no such folder" in refusal(root / "no")
    (root / "empty").mkdir()
    assert "no sa_*.jpg" in refusal(root / "empty")
    assert 'no split "test"' in refusal(root, "test")
    assert "validation_count is 0" in refusal(root, validation_count=0)
    (root / "sa_000001" / "sa_2.jpg").unlink()
    assert "sa_000001/sa_2.jpg: no such image file beside its JSON" in refusal(root)


def test_one_image_cannot_be_split(tmp_path: Path) -> None:
    write(tmp_path, 1)
    assert "put at least 2 there" in refusal(tmp_path)
    assert len(Sa1b(tmp_path, "train")) == 1


def test_an_image_in_two_shards_is_refused(root: Path) -> None:
    write(root / "sa_000001", 10)
    assert "remove one of them" in refusal(root)


def test_images_are_checked_at_construction_of_small_sets(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 10)).save(root / "sa_000000" / "sa_10.jpg")
    assert "the image is 8x10 (width x height)" in refusal(root)
    monkeypatch.setattr(sa1b_module, "HEADER_CHECK_LIMIT", 1)
    data = Sa1b(root, "validation")
    with pytest.raises(InputError, match=r"sa_10\.json lists 10x8"):
        data.sample(1)
    (root / "sa_000000" / "sa_10.jpg").write_text("no image")
    monkeypatch.undo()
    for labels in (True, False):
        assert "sa_10.jpg: is not an image" in refusal(root, labels=labels)


REFUSED: dict[str, dict[str, Any]] = {
    "annotation 7: RLE with a malformed counts string": {"segmentation": {"size": [8, 10], "counts": "o"}},
    "annotation 7: RLE of size [10, 8]": {"segmentation": {"size": [10, 8], "counts": [80]}},
    'annotation 7: "point_coords" is': {"point_coords": [[1, None]]},
    'annotation 7: "point_coords" is not a list of points': {"point_coords": []},
    'annotation 7: "bbox" is': {"bbox": "1 1 2 2"},
}


@pytest.mark.parametrize("problem", REFUSED)
def test_malformed_annotations_are_refused_at_construction(tmp_path: Path, problem: str) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2, [annotation(7, square(1), **REFUSED[problem])])
    message = refusal(tmp_path)
    assert "sa_2.json: " in message and problem in message


def test_ids_are_unique_over_all_files(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4):
        write(tmp_path, number, [annotation(7, square(1))])
    assert "sa_4.json: annotation 7: the id occurs twice" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"image"', "not valid JSON"),
        ('{"annotations": []}', 'the key "image" is missing'),
        ('{"image": {"height": 8, "width": 10}}', 'the key "annotations" is missing'),
        ('{"image": {"height": 8, "width": 10}, "annotations": {}}', '"annotations" is not a list'),
        ('{"image": {"height": 8}, "annotations": []}', 'image: the key "width" is missing'),
    ],
)
def test_files_that_are_no_annotations_are_refused(tmp_path: Path, content: str, problem: str) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    (tmp_path / "sa_2.json").write_text(content)
    assert f"sa_2.json: {problem}" in refusal(tmp_path)


def test_an_annotation_without_its_point_leaves_a_sample_without_points(tmp_path: Path) -> None:
    write(tmp_path, 1)
    without = annotation(7, square(1))
    del without["point_coords"]
    write(tmp_path, 2, [without])
    sample = Sa1b(tmp_path, "validation").sample(0)
    assert sample.annotation_ids == (7,) and sample.points_xy is None


def test_all_takes_the_whole_folder(root: Path) -> None:
    everything = ["sa_1.jpg", "sa_2.jpg", "sa_3.jpg", "sa_4.jpg", "sa_10.jpg"]
    for labels in (True, False):
        data = Sa1b(root, "all", 1, labels=labels)
        assert names(data) == everything == [*names(Sa1b(root, "train", 1)), *names(Sa1b(root, "validation", 1))]
    (root / "sa_000001" / "sa_2.jpg").unlink()
    data = Sa1b(root, "all", missing="skip")
    assert len(data) == 4 and (data.skipped["image_left_out"], data.skipped["unreadable_image"]) == (1, 2)


def test_one_image_is_enough_for_all(tmp_path: Path) -> None:
    write(tmp_path, 1)
    assert names(Sa1b(tmp_path, "all")) == ["sa_1.jpg"]


def test_folders_of_any_depth_and_other_suffixes(tmp_path: Path) -> None:
    for number, folder in enumerate(("a/b/c", "a", ".")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        write(tmp_path / folder, 1 + number)
    Image.open(tmp_path / "a" / "sa_2.jpg").save(tmp_path / "a" / "sa_2.PNG")
    (tmp_path / "a" / "sa_2.jpg").unlink()
    (tmp_path / "sa_3.json").rename(tmp_path / "a" / "SA_3.JSON")
    for name in ("sa_9.txt", "photo.jpg", "a/sources.csv", ".sa_7.jpg", "sa_x.jpg"):
        (tmp_path / name).touch()
    data = Sa1b(tmp_path, "all")
    assert names(data) == ["sa_1.jpg", "sa_2.PNG", "sa_3.jpg"]
    assert [len(data.sample(index).annotation_ids) for index in range(3)] == [2, 2, 2]
    assert {reason: count for reason, count in data.skipped.items() if count} == {"other_file": 4}
    (tmp_path / "a" / "sa_1.webp").touch()
    assert f"{tmp_path}/a/sa_1.webp: the same number is also" in refusal(tmp_path, "all")


def test_a_json_that_cannot_be_read_leaves_its_image_out(root: Path) -> None:
    (root / "sa_000001" / "sa_3.json").write_text('{"image"')
    message = refusal(root, "all")
    assert "sa_3.json: not valid JSON" in message and message.endswith("or give data.missing=skip")
    (root / "sa_000001" / "sa_4.json").unlink()
    data = Sa1b(root, "all", missing="skip")
    assert names(data) == ["sa_1.jpg", "sa_2.jpg", "sa_10.jpg"]
    # Nobody knows how many instances they had.
    assert (data.skipped["image_left_out"], data.skipped["unreadable_image"]) == (2, 0)
