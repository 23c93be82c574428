"""Which files of a folder are images, and what training reads of folders as people have them."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from core.errors import InputError
from data.coco import Coco
from data.image_files import SUFFIXES, files_below, files_beside, images_below, is_image
from data.images import read_image
from tests.unit.test_coco import counted, refusal, write


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_suffixes_in_either_case_and_in_subfolders(tmp_path: Path) -> None:
    images = ["IMG_1.JPG", "a/b/c.webp", "a/x.Tiff", "img_1.jpg", "z.jpeg"]
    touch(tmp_path, *images, "notes.txt", "a/labels.json", "a/clip.mp4", "jpg")
    # What systems leave behind is not looked at, and not counted.
    touch(tmp_path, ".DS_Store", "._IMG_1.JPG", "a/.thumbs/c.jpg", ".cache/c.png")
    assert images_below(tmp_path) == (images, 4)


def test_every_suffix_is_one_that_is_read(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        path = tmp_path / f"image{suffix.upper()}"
        assert is_image(path.name)
        try:
            Image.new("RGB", (6, 4), (200, 10, 10)).save(path)
        except (KeyError, ValueError, OSError):
            pytest.fail(f"Pillow has no format for {suffix}")
        assert read_image(path).shape == (4, 6, 3)


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "root/a.jpg", "elsewhere/b.jpg", "elsewhere/c/d.jpg")
    root = tmp_path / "root"
    (root / "m").symlink_to(tmp_path / "elsewhere")
    (root / "n").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(root)
    (root / "nowhere.jpg").symlink_to(root / "gone.jpg")
    (root / "itself.jpg").symlink_to(root / "itself.jpg")
    os.mkfifo(root / "pipe.jpg")
    (root / "folder.jpg").mkdir()
    # A link that leads nowhere is an image that cannot be read, and so is a folder with an image's name.
    assert images_below(root)[0] == ["a.jpg", "folder.jpg", "itself.jpg", "m/b.jpg", "m/c/d.jpg", "nowhere.jpg"]
    assert sorted(files_below(root)) == images_below(root)[0]


def test_files_beside_others(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/2.png", "a/deep/3.jpg", "b/4.jpg", "5.jpg")
    assert files_beside(tmp_path, ["a/1.jpg", "gone/9.jpg", "a/1.jpg/9.jpg"]) == {"a/1.jpg", "a/2.png"}


def mixed(root: Path) -> Path:
    """Ten PNG, four WebP in subfolders and one TIFF, all listed, in COCO's layout for either split."""
    names = [f"{n:03d}.png" for n in range(10)] + [f"w{n % 2}/{n:03d}.webp" for n in range(10, 14)] + ["014.TIF"]
    images = []
    for number, name in enumerate(names):
        for folder in ("train2017", "val2017"):
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (10, 8), (number, 0, 0)).save(root / folder / name, lossless=True)
        images.append({"id": 100 - number, "file_name": name, "height": 8, "width": 10})
    annotation = {"id": 1, "image_id": 90, "bbox": [1, 1, 6, 4], "area": 12.0, "segmentation": [[1, 1, 7, 1, 7, 5]]}
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        content = json.dumps({"images": images, "annotations": [annotation], "categories": []})
        (root / "annotations" / f"instances_{split}2017.json").write_text(content)
    return root


def names(data: Coco) -> list[str]:
    return [data.image_name(index) for index in range(len(data))]


def test_training_and_scoring_take_the_images_of_the_list(tmp_path: Path) -> None:
    root = mixed(tmp_path)
    scored, trained = Coco(root), Coco(root, "train", labels=False)
    assert names(scored) == names(trained) and len(trained) == 15 and names(trained)[0] == "014.TIF"
    assert [trained.image_id(index) for index in range(15)] == list(range(86, 101))
    assert [int(trained.image(index)[0, 0, 0]) for index in range(15)] == list(range(14, -1, -1))
    assert not counted(trained)
    touch(root, "train2017/more.png", "train2017/w0/more.jpg", "train2017/notes.txt", "train2017/.hidden.png")
    trained = Coco(root, "train", labels=False)
    assert len(trained) == 15 and counted(trained) == {"unlisted_image": 2}
    (root / "train2017" / "003.png").unlink()
    message = refusal(root, split="train", labels=False)
    assert "003.png: no such image file (1 of 15 are missing)" in message and "data.missing=skip" in message
    trained = Coco(root, "train", labels=False, missing="skip")
    assert len(trained) == 14 and counted(trained) == {"unlisted_image": 2, "image_left_out": 1}


def test_training_takes_the_folder_where_there_is_no_list(tmp_path: Path) -> None:
    root = mixed(tmp_path)
    (root / "annotations" / "instances_train2017.json").unlink()
    (root / "train2017" / "notes.txt").touch()
    trained = Coco(root, "train", labels=False)
    assert names(trained) == sorted(names(Coco(root))) and counted(trained) == {"other_file": 1}
    with pytest.raises(InputError, match=r"instances_train2017\.json: no such file"):
        Coco(root, "train")
    # Only WebP, in subfolders.
    for path in (root / "train2017").glob("*.*"):
        path.unlink()
    assert names(Coco(root, "train", labels=False)) == ["w0/010.webp", "w0/012.webp", "w1/011.webp", "w1/013.webp"]


def test_a_folder_of_its_own_is_not_that_of_the_layouts_list(tmp_path: Path) -> None:
    root = mixed(tmp_path / "coco")
    own = tmp_path / "own"
    own.mkdir()
    Image.new("RGB", (5, 5)).save(own / "photo.bmp")
    assert names(Coco(root, "train", images=own, labels=False)) == ["photo.bmp"]
    given = root / "annotations" / "instances_val2017.json"
    assert "(15 of 15 are missing)" in refusal(root, split="train", images=own, annotations=given, labels=False)


def test_a_list_that_is_damaged_is_not_passed_over(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "annotations" / "instances_val2017.json").write_text('{"images": [')
    assert "instances_val2017.json: not valid JSON" in refusal(root, labels=False)


def test_the_real_training_set_is_what_it_was(shared: Path) -> None:
    root = shared / "data" / "coco_tiny"
    for split, folder in (("train", "train2017"), ("validation", "val2017")):
        data = Coco(root, split, labels=False)
        assert names(data) == sorted(path.name for path in (root / folder).iterdir()) and not counted(data)
