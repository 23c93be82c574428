"""What COCO's options admit, how unusable images are skipped, and the truth as the file has it."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from core.errors import InputError
from data import annotated_images
from data.coco import Coco
from data.exclusions import NO_ANNOTATIONS, REASONS
from data.sa1b import Sa1b
from data.sample import UnreadableImage
from data.shapes import Shapes
from tests.unit.test_coco import Change, add, annotation, counted, refusal, write
from tests.unit.test_sa1b import write as write_sa1b

CROWD = annotation(90, iscrowd=1, segmentation={"size": [8, 10], "counts": [40, 40]})


def categorised(content: dict[str, Any]) -> None:
    content["categories"] = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 1, "name": "unused"}]
    for place, each in enumerate(content["annotations"]):
        each["category_id"] = 7 if place % 2 else 3


def both(*changes: Change) -> Change:
    def change(content: dict[str, Any]) -> None:
        for each in changes:
            each(content)

    return change


def test_crowds_can_be_admitted(tmp_path: Path) -> None:
    root = write(tmp_path, add(CROWD, annotation(91, area=0.2, iscrowd=1)))
    data = Coco(root, crowd=True)
    assert counted(data) == {"area_below_1": 1, "image_without_instances": 1}
    sample = data.sample(0)
    assert sample.annotation_ids == (20, 90) and sample.masks[1].sum() == 40


@pytest.mark.parametrize(("least", "reason", "kept"), [(12.5, "area_below_12.5", 0), (0, "area_below_0", 4)])
def test_the_least_area_is_a_setting_and_names_its_reason(tmp_path: Path, least: float, reason: str, kept: int) -> None:
    data = Coco(write(tmp_path, add(annotation(90, area=0.5), annotation(91, area=0))), least_area=least)
    assert sum(len(data.sample(i).annotation_ids) for i in range(3)) == kept
    assert data.skipped[reason] == 4 - kept and "area_below_1" not in data.skipped
    assert len(data.skipped) == len(REASONS) and set(REASONS) > NO_ANNOTATIONS


@pytest.mark.parametrize("least", [-1.0, float("nan"), float("inf")])
def test_settings_out_of_range_are_refused(tmp_path: Path, least: float) -> None:
    root = write(tmp_path)
    assert f"least_area={least} is no area" in refusal(root, least_area=least)
    assert "missing=ignore is unknown; choose one of refuse, skip" in refusal(root, missing="ignore")


def test_categories_come_with_the_instances(tmp_path: Path) -> None:
    outside = [[30.0, 30.0, 40.0, 30.0, 40.0, 40.0]]
    extra = add(annotation(90, segmentation=outside), annotation(91))
    data = Coco(write(tmp_path, both(extra, categorised)))
    assert data.sample(0).annotation_ids == (20, 91) and data.sample(0).category_ids == (3, 7)
    assert data.sample(1).category_ids == () and data.sample(2).category_ids == (7,)


def test_data_without_categories_has_none(tmp_path: Path) -> None:
    assert Coco(write(tmp_path)).sample(0).category_ids == ()
    for number in (1, 2):
        write_sa1b(tmp_path / "sa", number)
    sample = Sa1b(tmp_path / "sa", "validation").sample(0)
    assert len(sample.annotation_ids) == 2 and sample.category_ids == ()
    assert Shapes(count=1).sample(0).category_ids == ()


def test_some_categories_are_not_enough(tmp_path: Path) -> None:
    extra = add(annotation(90, category_id=1))
    assert 'annotation 20: the key "category_id" is missing, which others have' in refusal(write(tmp_path, extra))
    mixed = both(categorised, add(annotation(90)))
    assert 'annotation 90: the key "category_id" is missing, which others have' in refusal(write(tmp_path, mixed))
    named = both(categorised, add(annotation(90, category_id="cat")))
    assert "\"category_id\" is 'cat', not a whole number" in refusal(write(tmp_path, named))


def test_the_truth_is_the_file(tmp_path: Path) -> None:
    data = Coco(write(tmp_path, both(add(CROWD), categorised, lambda content: content.update(info={}))))
    assert data.truth_path == tmp_path / "annotations" / "instances_val2017.json"
    content = json.loads(data.truth_path.read_bytes())
    assert data.truth() == {key: content[key] for key in ("images", "annotations", "categories")}
    assert [data.image_id(i) for i in range(3)] == [2, 3, 5] and data.sizes_hw() == dict.fromkeys((2, 3, 5), (8, 10))
    with pytest.raises(InputError, match='"categories" is missing'):
        Coco(write(tmp_path)).truth()


def test_without_labels_there_is_no_truth(tmp_path: Path) -> None:
    data = Coco(write(tmp_path), labels=False)
    for read in (data.truth, data.sizes_hw, lambda: data.truth_path):
        with pytest.raises(InputError, match="labels=True"):
            read()


def test_missing_images_can_be_skipped(tmp_path: Path) -> None:
    root = write(tmp_path, add(annotation(51, 5), annotation(52, 5, area=0)))
    for name in ("0003.png", "0005.png"):
        (root / "val2017" / name).unlink()
    assert "0003.png: no such image file (2 of 3 are missing)" in refusal(root)
    data = Coco(root, missing="skip")
    assert [data.image_name(i) for i in range(len(data))] == ["0002.png"] and data.sizes_hw() == {2: (8, 10)}
    expected = {"unreadable_image": 2, "area_below_1": 1, "image_left_out": 2, "image_without_instances": 1}
    assert counted(data) == expected
    (root / "val2017" / "0002.png").unlink()
    assert "none of the 3 images can be read" in refusal(root, missing="skip")


def test_headers_tell_which_images_to_skip(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "val2017" / "0002.png").write_text("no image")
    Image.new("RGB", (8, 10)).save(root / "val2017" / "0005.png")
    data = Coco(root, missing="skip")
    assert [data.image_id(i) for i in range(len(data))] == [3]
    assert counted(data) == {"unreadable_image": 2, "image_left_out": 2, "image_without_instances": 1}
    unlabelled = Coco(root, labels=False, missing="skip")
    assert len(unlabelled) == 1 and counted(unlabelled) == {"image_left_out": 2}, "the same images as with labels"
    (root / "annotations" / "instances_val2017.json").unlink()
    unlisted = Coco(root, labels=False, missing="skip")
    assert len(unlisted) == 2 and counted(unlisted) == {"image_left_out": 1}, "nobody knows the size it should have"


def test_damage_that_shows_on_reading_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path)
    path = root / "val2017" / "0002.png"
    path.write_bytes(path.read_bytes()[:45])
    Image.new("RGB", (8, 10)).save(root / "val2017" / "0005.png")
    monkeypatch.setattr(annotated_images, "HEADER_CHECK_LIMIT", 1)
    data = Coco(root, missing="skip")
    assert len(data) == 3
    for _ in range(2):
        with pytest.raises(UnreadableImage, match=r"0002\.png: truncated or damaged"):
            data.sample(0)
        with pytest.raises(UnreadableImage, match=r"0005\.png: the image is 8x10"):
            data.image(2)
    assert data.sample(1).image_id == 3
    assert counted(data) == {"unreadable_image": 2, "image_left_out": 2, "image_without_instances": 1}
    with pytest.raises(InputError) as caught:
        Coco(root).sample(0)
    assert not isinstance(caught.value, UnreadableImage), "refused, not skipped"
