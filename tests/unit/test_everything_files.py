"""Names of what is made of images, what counts as done, and the drawing."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api

from core.errors import InputError
from evaluation.everything import EverythingSettings
from experiments.everything.drawing import TITLE, draw_everything, drawn_size, painted
from experiments.everything.files import Made, finished_annotations, places, write_annotations

MADE = Made("tiny", "0" * 64, EverythingSettings(high_score_thresh=float("inf")))
IMAGE = {"file": "a.png", "sha256": "1" * 64, "height": 4, "width": 6}


def record(mask: np.ndarray) -> dict:
    rle = mask_api.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}, "area": int(mask.sum())}


def names(folder: Path, *files: str) -> list[str]:
    folder.mkdir()
    for file in files:
        (folder / file).touch()
    return [place.annotations.name for place in places(folder, folder.parent / "out", draw=True)[0]]


def test_no_two_images_share_a_file(tmp_path: Path) -> None:
    assert names(tmp_path / "alone", "a.jpg", "b.PNG") == ["a.json", "b.json"]
    assert names(tmp_path / "clash", "a.jpg", "a.png", "b.png") == ["a.jpg.json", "a.png.json", "b.json"]
    assert names(tmp_path / "case", "A.jpg", "a.png") == ["A.jpg.json", "a.png.json"]
    assert names(tmp_path / "twice", "a.jpg", "a.png", "a.jpg.gif") == ["a.jpg.json", "a.jpg.gif.json", "a.png.json"]


def test_other_files_are_counted_and_hidden_ones_are_not_seen(tmp_path: Path) -> None:
    for name in ("a.jpg", "notes.txt", ".b.jpg.part", ".c.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    found, others = places(tmp_path, tmp_path / "out", draw=True)
    assert [place.image.name for place in found] == ["a.jpg"] and others == 2
    # A file that is given by itself may be called anything.
    assert len(places(tmp_path / "notes.txt", tmp_path / "out", draw=True)[0]) == 1


def test_no_drawing_replaces_or_joins_the_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match="would join the images"):
        places(tmp_path, tmp_path / "." / "", draw=True)
    with pytest.raises(InputError, match="would replace the image"):
        places(tmp_path / "a.png", tmp_path, draw=True)
    assert places(tmp_path, tmp_path, draw=False)[0][0].annotations == tmp_path / "a.json"


@pytest.mark.parametrize(("path", "said"), [("nowhere", "no such file or folder"), ("", "no image among its 1")])
def test_nothing_to_do_is_refused(path: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=said):
        places(tmp_path / path, tmp_path / "out", draw=True)


def test_what_was_made_alike_is_done(tmp_path: Path) -> None:
    (place,), _ = places(_touched(tmp_path / "a.png"), tmp_path / "out", draw=True)
    assert finished_annotations(place, MADE, "1" * 64) is None
    write_annotations(place, MADE, IMAGE, 1024, [record(np.eye(4, 6))])
    content = finished_annotations(place, MADE, "1" * 64)
    assert content is not None and content["prompts"] == 1024 and content["settings"]["high_score_thresh"] == "inf"
    assert list(content) == ["image", "model", "weights_sha256", "settings", "prompts", "annotations"]
    assert finished_annotations(place, MADE, "2" * 64) is None, "another image of the same name"
    for other in (
        Made("other", MADE.weights_sha256, MADE.settings),
        Made("tiny", "f" * 64, MADE.settings),
        Made("tiny", MADE.weights_sha256, EverythingSettings()),
    ):
        assert finished_annotations(place, other, "1" * 64) is None
    twice = json.dumps(content).replace('"prompts": 1024', '"prompts": 9, "prompts": 1024')
    for damaged in ("", "[]", "{}", json.dumps(content)[:-9], json.dumps({**content, "annotations": None}), twice):
        place.annotations.write_text(damaged)
        assert finished_annotations(place, MADE, "1" * 64) is None
    for damaged in ("[" * 99_999, f'{{"a": {"[" * 99_999}'):
        place.annotations.write_text(damaged)
        assert finished_annotations(place, MADE, "1" * 64) is None
    place.annotations.unlink()
    os.mkfifo(place.annotations)
    assert finished_annotations(place, MADE, "1" * 64) is None


def _touched(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize("size_hw", [(1, 1), (3000, 40), (1, 500), (600, 700)])
def test_any_size_is_drawn(size_hw: tuple[int, int], tmp_path: Path) -> None:
    image = np.zeros((*size_hw, 3), np.uint8)
    draw_everything(tmp_path / "drawn.png", image, [record(np.ones(size_hw))])
    height, width = drawn_size(size_hw)
    assert 512 <= max(height, width) <= 1024
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.size == (max(width, 300), height + TITLE)


def test_the_smallest_is_seen_and_neighbours_differ() -> None:
    image = np.full((40, 60, 3), 128, np.uint8)
    whole, left, right = (np.zeros((40, 60), bool) for _ in range(3))
    whole[:], left[5:35, 5:30], right[5:35, 30:55] = True, True, True
    shown = painted(image, [record(left), record(whole), record(right)], (40, 60))
    colours = {tuple(shown[y, x]) for y, x in ((2, 2), (20, 15), (20, 45))}
    assert len(colours) == 3 and (128, 128, 128) not in colours
    assert (painted(image, [], (40, 60)) == 128).all()
    with pytest.raises(InputError, match="mask 0"):
        painted(image, [record(np.ones((2, 2)))], (40, 60))
