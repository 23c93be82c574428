"""The procedural data set: determinism, exact masks, both written layouts, messages."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from core.errors import InputError
from data.shapes import Shapes
from data.shapes_drawing import KINDS, fill_polygon
from data.shapes_export import main

FROZEN: dict[tuple[str, int], str] = {
    ("train", 0): "6668c6b70c071928",
    ("train", 1): "46a166520ca9da86",
    ("train", 4321): "28ee0484a00936c4",
    ("validation", 0): "7dc15b33b980034f",
}
ITEMS = 40


def digest(data: Shapes, index: int) -> str:
    image, labels = data.label_map(index)
    return hashlib.sha256(image.tobytes() + labels.tobytes()).hexdigest()[:16]


def test_an_item_is_the_same_twice_and_whatever_the_count() -> None:
    few, many = Shapes(count=4), Shapes(count=4000)
    for index in range(4):
        first, second = few.sample(index), many.sample(index)
        assert np.array_equal(first.image, second.image)
        assert np.array_equal(first.masks, second.masks)
        assert np.array_equal(few.image(index), few.label_map(index)[0])


@pytest.mark.parametrize("other", [Shapes("validation"), Shapes(seed=1), Shapes(difficulty=0.4)])
def test_splits_seeds_and_difficulties_differ(other: Shapes) -> None:
    assert all(digest(Shapes(), index) != digest(other, index) for index in range(3))


@pytest.mark.parametrize(("split", "index"), list(FROZEN))
def test_images_and_labels_are_frozen(split: str, index: int) -> None:
    assert digest(Shapes(split), index) == FROZEN[split, index]


@pytest.mark.parametrize("difficulty", [0.0, 1.0])
def test_masks_are_disjoint_visible_and_tightly_boxed(difficulty: float) -> None:
    data = Shapes(count=ITEMS, difficulty=difficulty)
    for index in range(ITEMS):
        sample, scene = data.sample(index), data.scene(index)
        count, height, width = sample.masks.shape
        assert sample.image.dtype == np.uint8 and sample.image.shape == (height, width, 3)
        assert sample.masks.dtype == np.bool_ and max(height, width) == 128
        assert 2 <= count <= 7 and len(scene.kinds) == count and set(scene.kinds) <= set(KINDS)
        assert sample.masks.sum(axis=0).max() == 1
        assert np.array_equal(sample.areas, sample.masks.sum(axis=(1, 2)))
        assert sample.areas.min() * 1000 >= 12 * height * width
        assert np.array_equal(scene.labels > 0, sample.masks.any(axis=0))
        assert sample.annotation_ids == tuple(16 * index + k for k in range(count))
        for mask, box in zip(sample.masks, sample.boxes_xyxy, strict=True):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_half_are_square_and_the_rest_lie_or_stand() -> None:
    data = Shapes(count=80, size=32)
    shapes = [data.image(index).shape[:2] for index in range(80)]
    assert set(shapes) == {(32, 32), (24, 32), (32, 24)}
    assert 25 <= shapes.count((32, 32)) <= 55


def test_every_object_stands_out_from_what_surrounds_it() -> None:
    data = Shapes(count=ITEMS)
    for index in range(ITEMS):
        image, labels = data.label_map(index)
        colours = image.astype(np.float64)
        for number in range(1, int(labels.max()) + 1):
            mask = labels == number
            steps = []
            for axis in (0, 1):
                # Pairs of pixels two apart across the border, so that the soft edge lies between them.
                inside, outside = np.moveaxis(mask, axis, 0)[2:], np.moveaxis(mask, axis, 0)[:-2]
                pixels = np.moveaxis(colours, axis, 0)
                steps.append((pixels[2:] - pixels[:-2])[inside != outside])
            assert np.sqrt((np.concatenate(steps) ** 2).sum(axis=1)).mean() > 20.0


def test_a_polygon_is_filled_where_pixel_centres_lie_in_it() -> None:
    square = np.array([[1.0, 1.0], [3.0, 1.0], [3.0, 4.0], [1.0, 4.0]])
    centers: NDArray[np.float64] = np.linspace(0.5, 4.5, 5)
    filled = fill_polygon(square, centers, centers)
    expected = np.zeros((5, 5), dtype=np.bool_)
    expected[1:4, 1:3] = True
    assert np.array_equal(filled, expected)


# pycocotools' own conversion to an array predates numpy 2's copy keyword.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("split", "folder"), [("train", "train2017"), ("validation", "val2017")])
def test_both_written_layouts_give_the_masks_back(tmp_path: Path, split: str, folder: str) -> None:
    assert main(["--out", str(tmp_path), "--count", "3", "--split", split]) == 0
    data = Shapes(split, 3)
    coco = COCO(str(tmp_path / "coco" / "annotations" / f"instances_{folder}.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(KINDS)
    for index in range(3):
        sample = data.sample(index)
        record = json.loads((tmp_path / "sa1b" / f"sa_{index:06d}.json").read_text())
        with Image.open(tmp_path / "sa1b" / record["image"]["file_name"]) as image:
            assert image.size == (record["image"]["width"], record["image"]["height"])
            assert np.abs(np.asarray(image).astype(int) - sample.image).mean() < 6.0
        masks = np.stack([coco_mask.decode(one["segmentation"]).astype(bool) for one in record["annotations"]])
        assert np.array_equal(masks, sample.masks)
        for mask, box, one in zip(masks, sample.boxes_xyxy, record["annotations"], strict=True):
            (x, y), (left, top, width, height) = one["point_coords"][0], one["bbox"]
            assert mask[int(y), int(x)] and one["area"] == mask.sum()
            assert [left, top, left + width, top + height] == box.tolist()
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=index))
        assert np.array_equal(np.stack([coco.annToMask(one) for one in annotations]).astype(bool), sample.masks)
        assert [KINDS[one["category_id"] - 1] for one in annotations] == list(data.scene(index).kinds)
        assert all(one["id"] > 0 for one in annotations)
        with Image.open(tmp_path / "coco" / folder / coco.loadImgs(index)[0]["file_name"]) as image:
            assert np.array_equal(np.asarray(image), sample.image)
    assert not list(tmp_path.rglob("*.part"))


def test_a_shorter_run_leaves_nothing_of_a_longer_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path), "--size", "32", "--count"]
    assert main([*arguments, "3"]) == 0
    assert main([*arguments, "2"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "2", "--overwrite"]) == 0
    assert len(list((tmp_path / "sa1b").iterdir())) == 4


@pytest.mark.parametrize("foreign", ["sa1b/sa_223750.jpg", "coco/annotations/instances_train2017.json"])
def test_what_another_program_wrote_is_never_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], foreign: str
) -> None:
    (tmp_path / foreign).parent.mkdir(parents=True)
    (tmp_path / foreign).write_text("somebody's")
    arguments = ["--out", str(tmp_path), "--size", "32", "--count", "2"]
    for more in ([], ["--overwrite"]):
        assert main([*arguments, *more]) == 2
        assert f"{foreign}: was not written by this command" in capsys.readouterr().err
        assert (tmp_path / foreign).read_text() == "somebody's"
    # Nor beside what this command wrote.
    (tmp_path / foreign).unlink()
    assert main(arguments) == 0
    (tmp_path / "sa1b" / "note.txt").write_text("somebody's")
    assert main([*arguments, "--overwrite"]) == 2 and (tmp_path / "sa1b" / "sa_000000.jpg").is_file()


def test_contact_sheet(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["--contact-sheet", str(sheet), "--size", "32"]) == 0
    with Image.open(sheet) as image:
        assert image.size == (2 * 8 * 36, 6 * 36)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--count", "0"], "count is 0"),
        (["--count", "1", "--size", "31"], "size is 31"),
        (["--count", "1", "--split", "test"], "unknown split 'test'; use one of train, validation"),
        (["--count", "1", "--difficulty", "1.5"], "difficulty is 1.5"),
        (["--count", "1", "--difficulty", "nan"], "difficulty is nan"),
        ([], "--count N"),
    ],
)
def test_wrong_values_are_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["--out", str(tmp_path / "out"), *arguments]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    assert main(["--out", str(tmp_path / "taken"), "--count", "1"]) == 2
    assert "a file is in its way" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--contact-sheet", str(tmp_path)]) == 2


def test_constructor_and_index_errors() -> None:
    with pytest.raises(InputError, match="count is 0"):
        Shapes(count=0)
    with pytest.raises(IndexError):
        Shapes(count=2).sample(2)
    data = Shapes("validation", 2)
    assert len(data) == 2 and data.skipped == {} and data.name == "shapes"
    assert data.image_name(1) == "shapes_validation_000001"
