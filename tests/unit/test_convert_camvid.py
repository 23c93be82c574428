"""CamVid's label maps: numbers or colours by the file's mode, what is no class by the folder, and whose they are."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from data.convert.writing import Conversion, convert
from data.sa1b import Sa1b
from tests.unit.test_convert import HEIGHT, WIDTH, labels, photo

SKY, CAR, BLACK = (128, 128, 128), (64, 0, 128), (0, 0, 0)


def frame(root: Path, label_map: Image.Image, name: str = "a", folder: str = "train") -> None:
    photo(root / folder / f"{name}.png")
    (root / f"{folder}annot").mkdir(exist_ok=True)
    label_map.save(root / f"{folder}annot" / f"{name}.png")


def areas(root: Path, out: Path, part: str | None = None) -> list[list[int]]:
    """Of each converted frame's masks."""
    convert(Conversion("camvid", part=part), root, out)
    data = Sa1b(out, "all")
    return [data.sample(index).masks.sum((1, 2)).tolist() for index in range(len(data))]


def with_palette(indices: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    found = Image.frombytes("P", (WIDTH, HEIGHT), indices.astype(np.uint8).tobytes())
    found.putpalette([level for colour in colours for level in colour])
    return found


THREE = labels(car_3=(0, 0, 10, 30), none_11=(10, 0, 20, 12))
"""Class 3 on 300 pixels, no class on 120, class 0 on the other 180."""
HIGH = labels(high_57=(0, 0, 10, 30))
MANY = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3))
FOREIGN = [(0, 0, 0), *((k, 255 - k, 7) for k in range(1, 12))]


@pytest.mark.parametrize(
    "label_map",
    [
        Image.fromarray(THREE),
        Image.fromarray(THREE.astype(np.uint16)),
        Image.fromarray(THREE).convert("LA"),
        # The first entry is black, and yet a class.
        with_palette(THREE, *FOREIGN),
        Image.fromarray(np.where(THREE == 11, 255, THREE).astype(np.uint8)),
        with_palette(np.where(THREE == 11, 255, THREE), *FOREIGN, *[(9, 9, 9)] * 244),
    ],
    ids=["L", "I;16", "LA", "P", "L, 255", "P, 255"],
)
def test_grey_levels_and_indices_of_palettes_are_numbers(label_map: Image.Image, tmp_path: Path) -> None:
    frame(tmp_path / "source", label_map)
    assert areas(tmp_path / "source", tmp_path / "out") == [[180, 300]]


def test_two_levels_are_two_classes(tmp_path: Path) -> None:
    frame(tmp_path / "source", Image.fromarray(THREE == 3))
    assert areas(tmp_path / "source", tmp_path / "out") == [[300, 300]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_classes_and_black_is_none(mode: str, tmp_path: Path) -> None:
    indices = np.select([THREE == 3, THREE == 11], [1, 0], 2)
    found = with_palette(indices, BLACK, SKY, CAR)
    frame(tmp_path / "source", found if mode == "P" else found.convert(mode))
    # Only sky and black: grey levels, and yet colours.
    found = with_palette(indices % 2, BLACK, SKY)
    frame(tmp_path / "source", found if mode == "P" else found.convert(mode), "b")
    # By colour: the car's comes before the sky's.
    assert areas(tmp_path / "source", tmp_path / "out") == [[180, 300], [300]]


def test_a_black_map_has_no_masks(tmp_path: Path) -> None:
    frame(tmp_path / "source", Image.new("RGB", (WIDTH, HEIGHT)))
    counts = convert(Conversion("camvid"), tmp_path / "source", tmp_path / "out")
    assert (counts["images"], counts["without_masks"]) == (0, 1)


def test_a_folder_decides_which_number_is_no_class(tmp_path: Path) -> None:
    """Of 32 classes 30 is none, and 11 is one, in a frame without higher numbers too."""
    frame(tmp_path / "source", Image.fromarray(labels(sky_21=(0, 0, 10, 30), void_30=(10, 0, 20, 12))))
    frame(tmp_path / "source", Image.fromarray(THREE), "b")
    frame(tmp_path / "source", Image.fromarray(THREE), "c", "val")
    found = areas(tmp_path / "source", tmp_path / "out")
    # By number: 0, 21; then 0, 3, 11; the other folder is SegNet's.
    assert found == [[180, 300], [180, 300, 120], [180, 300]]


def test_a_folder_decides_what_palettes_are(tmp_path: Path) -> None:
    frame(tmp_path / "source", with_palette(THREE, *FOREIGN))
    # Alone it would be read by colours.
    frame(tmp_path / "source", with_palette((THREE == 3) * 1, BLACK, SKY), "b")
    assert areas(tmp_path / "source", tmp_path / "out") == [[180, 300], [300, 300]]


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        (
            Image.fromarray(HIGH),
            "has the label 57, but numbers of CamVid's classes are 0 to 31, and 255",
        ),
        (with_palette(HIGH, *[(1, 1, 1)] * 60), "has the label 57, but"),
        (Image.fromarray(THREE.astype(np.uint16) * 257), "has the label 771, but"),
        (Image.fromarray(THREE.astype(np.float32)), "is of the mode F, as no label map is; save it as a PNG"),
        (Image.fromarray(MANY.astype(np.uint8)), "has more colours than classes, so it is no label map"),
        (
            Image.new("RGB", (10, 5)),
            r"labels are 10x5 \(width x height\), but their image .*a\.png is 30x20; fetch both",
        ),
    ],
)
def test_what_fits_no_form_is_refused_by_file(label_map: Image.Image, message: str, tmp_path: Path) -> None:
    suffix = ".tif" if label_map.mode == "F" else ".png"
    frame(tmp_path / "source", Image.fromarray(THREE), "b")
    frame(tmp_path / "source", Image.fromarray(THREE))
    (tmp_path / "source" / "trainannot" / "a.png").unlink()
    label_map.save(tmp_path / "source" / "trainannot" / f"a{suffix}")
    with pytest.raises(InputError, match=rf"trainannot/a\{suffix}: .*{message}"):
        convert(Conversion("camvid"), tmp_path / "source", tmp_path / "out")
    counts = convert(Conversion("camvid"), tmp_path / "source", tmp_path / "out", skip=True)
    # The other frame is read as ever.
    assert (counts["damaged"], counts["images"], counts["masks"]) == (1, 1, 2)


@pytest.mark.parametrize("ending", ["annot", "_labels", " annotations"])
def test_frames_of_one_name_have_the_labels_of_their_own_folder(ending: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for k, part in enumerate(("train", "train2", "val")):
        photo(source / part / "a.png")
        (source / f"{part}{ending}").mkdir()
        Image.fromarray(labels(car_3=(0, 0, 10 + k, 30))).save(source / f"{part}{ending}" / "a.png")
    assert areas(source, tmp_path / "train", "train") == [[300, 300]]
    assert areas(source, tmp_path / "all") == [[300, 300], [270, 330], [240, 360]]


def test_labels_that_may_be_of_either_folder_are_refused_without_loss(tmp_path: Path) -> None:
    source = tmp_path / "source"
    photo(source / "frames" / "a.png")
    for folder in ("labels", "annotations"):
        (source / folder).mkdir()
        Image.fromarray(THREE).save(source / folder / "a.png")
    message = r"frames/a\.png: its labels may be annotations/a\.png or labels/a\.png; give a SOURCE that holds only one"
    with pytest.raises(InputError, match=message):
        convert(Conversion("camvid"), source, tmp_path / "out")


def test_labels_of_camvid_may_be_indices_in_a_folder_of_annotations(tmp_path: Path) -> None:
    photo(tmp_path / "source" / "val" / "b.png")
    indices = labels(sky_3=(0, 0, 10, 30), none_11=(10, 0, 20, 15))
    (tmp_path / "source" / "valannot").mkdir()
    Image.fromarray(indices).save(tmp_path / "source" / "valannot" / "b.png")
    # Of class 0, class 3 and 11, which is none.
    counts = convert(Conversion("camvid"), tmp_path / "source", tmp_path / "out")
    assert (counts["images"], counts["masks"]) == (1, 2)


def test_camvids_void_may_be_the_highest_number(tmp_path: Path) -> None:
    photo(tmp_path / "source" / "val" / "b.png")
    (tmp_path / "source" / "valannot").mkdir()
    # Class 0 beside class 3, and a strip of no class.
    indices = labels(sign_3=(0, 0, 10, 30))
    indices[18:] = 255
    Image.fromarray(indices).save(tmp_path / "source" / "valannot" / "b.png")
    convert(Conversion("camvid"), tmp_path / "source", tmp_path / "out")
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json"))
    assert sorted(annotation["area"] for annotation in record["annotations"]) == [8 * 30, 10 * 30]
