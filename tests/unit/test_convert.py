"""Converters to SA-1B's layout, each on small files in the layout of its source."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from core.checkpoint import file_sha256
from core.errors import InputError
from data.convert import writing
from data.convert.__main__ import main
from data.convert.regions import chosen, connected, resized_labels
from data.convert.sources import SOURCES
from data.convert.writing import Conversion, convert
from data.sa1b import Sa1b

HEIGHT, WIDTH = 20, 30


def photo(path: Path, size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size_hw[::-1], (200, 10, 10)).save(path)


def labels(**rectangles: tuple[int, int, int, int]) -> np.ndarray:
    """A label map of zeros with rectangles (top, left, bottom, right); the name ends in the label."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    for name, (top, left, bottom, right) in rectangles.items():
        found[top:bottom, left:right] = int(name.rpartition("_")[2])
    return found


def mat(path: Path, **variables: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables, do_compression=True)


def ground_truth(*maps: np.ndarray) -> np.ndarray:
    """BSDS500's variable: a cell a annotator, each a struct with Segmentation and Boundaries."""
    cells = np.empty((1, len(maps)), dtype=object)
    for k, one in enumerate(maps):
        cells[0, k] = {"Segmentation": one.astype(np.uint16) + 1, "Boundaries": np.zeros_like(one)}
    return cells


def bsds500(root: Path, count: int = 1) -> None:
    # The second annotator draws the square one column wider (IoU 36 / 42), and a region of its own.
    first = labels(a_1=(2, 2, 8, 8), b_1=(2, 20, 8, 26))
    second = labels(a_1=(2, 2, 8, 9), b_2=(12, 2, 18, 12))
    for k in range(count):
        photo(root / "images" / "train" / f"10{k}.jpg")
        mat(root / "groundTruth" / "train" / f"10{k}.mat", groundTruth=ground_truth(first, second))


def clothing(root: Path) -> None:
    photo(root / "photos" / "0001.jpg")
    # A shirt over trousers, and a bag that touches neither; 0 is the background.
    worn = labels(shirt_3=(2, 10, 8, 18), trousers_5=(8, 10, 18, 18), bag_7=(12, 24, 16, 28))
    mat(root / "annotations" / "pixel-level" / "0001.mat", groundtruth=worn)


def camvid(root: Path) -> None:
    photo(root / "701_StillsRaw_full" / "0001TP_1.png")
    coloured = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    coloured[:8] = (128, 128, 128)
    coloured[10:16, 2:8] = coloured[10:16, 20:26] = (64, 0, 128)
    (root / "LabeledApproved_full").mkdir()
    Image.fromarray(coloured).save(root / "LabeledApproved_full" / "0001TP_1_L.png")


def yolo(root: Path, text: str = "0 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6\n\n7 0.6 0.5 0.9 0.5 0.9 0.9 0.6 0.9\n") -> None:
    photo(root / "images" / "train" / "a.jpg")
    (root / "labels" / "train").mkdir(parents=True)
    (root / "labels" / "train" / "a.txt").write_text(text)


@pytest.mark.parametrize(
    ("source", "make", "areas"),
    [
        # The background around both squares, the two squares; then the region of the second annotator alone.
        ("bsds500", bsds500, [600 - 72, 36, 36, 60]),
        # Garments by label, then the connected parts of the whole: the person, and the bag again, which repeats.
        ("clothing_co_parsing", clothing, [48, 80, 16, 128]),
        # Colours in order of their values: the car's two regions, then the sky; black is none.
        ("camvid", camvid, [36, 36, 240]),
        ("yolo_segments", yolo, [120, 72]),
    ],
)
def test_a_source_becomes_masks_that_sa1b_reads(
    source: str, make: Callable[[Path], None], areas: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "source")
    out = tmp_path / "out"
    words = [source, str(tmp_path / "source"), f"out={out}", "smallest=9", "largest=0.9", "first=30"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{out}: 1 images, {len(areas)} masks\n"
    data = Sa1b(out, "all")
    sample = data.sample(0)
    assert (sample.image_id, data.image_name(0), sample.image.shape) == (30, "sa_000030.jpg", (HEIGHT, WIDTH, 3))
    assert sample.masks.sum((1, 2)).tolist() == areas
    assert list(sample.annotation_ids) == [300_000 + k for k in range(len(areas))]
    assert data.skipped.get("other_file", 0) == 0
    record = json.loads((out / "sa_000030.json").read_text())
    for annotation, mask in zip(record["annotations"], sample.masks, strict=True):
        x, y = (int(side) for side in annotation["point_coords"][0])
        assert mask[y, x]


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int32, np.uint16, bool])
def test_whole_numbers_of_any_class_are_labels(kind: type, tmp_path: Path) -> None:
    """MATLAB's own class is double."""
    clothing(tmp_path / "source")
    worn = labels(shirt_1=(2, 10, 8, 18)).astype(kind)
    mat(tmp_path / "source" / "annotations" / "pixel-level" / "0001.mat", groundtruth=worn)
    convert(Conversion("clothing_co_parsing", smallest=9), tmp_path / "source", tmp_path / "out")
    assert Sa1b(tmp_path / "out", "all").sample(0).masks.sum((1, 2)).tolist() == [48]


def test_pixels_stand_where_they_stood(tmp_path: Path) -> None:
    clothing(tmp_path / "source")
    convert(Conversion("clothing_co_parsing", smallest=9), tmp_path / "source", tmp_path / "out")
    shirt = Sa1b(tmp_path / "out", "all").sample(0).masks[0]
    assert np.array_equal(shirt, labels(shirt_1=(2, 10, 8, 18)).astype(bool))


def test_outlines_of_yolo_are_of_the_upright_image(tmp_path: Path) -> None:
    yolo(tmp_path / "source", "0 0.1 0.1 0.5 0.1 0.5 0.2 0.1 0.2\n")
    photograph = tmp_path / "source" / "images" / "train" / "a.jpg"
    stored = np.zeros((WIDTH, HEIGHT, 3), np.uint8)
    # To be turned a quarter to the right: the upper left corner as it is seen lies in the lower left one.
    stored[15:27, 2:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(photograph, exif=exif, quality=100, subsampling=0)
    convert(Conversion("yolo_segments", smallest=4), tmp_path / "source", tmp_path / "out")
    sample = Sa1b(tmp_path / "out", "all").sample(0)
    assert sample.masks.shape == (1, HEIGHT, WIDTH)
    assert sample.image[sample.masks[0]].mean() > 230 and sample.image[~sample.masks[0]].mean() < 15


def test_larger_images_are_scaled_down_with_their_masks(tmp_path: Path) -> None:
    bsds500(tmp_path / "source")
    yolo(tmp_path / "yolo")
    convert(Conversion("bsds500", longest=15, smallest=2), tmp_path / "source", tmp_path / "out")
    convert(Conversion("yolo_segments", longest=15, smallest=2, first=1), tmp_path / "yolo", tmp_path / "out")
    regions, outlines = (Sa1b(tmp_path / "out", "all").sample(k) for k in range(2))
    assert regions.image.shape == outlines.image.shape == (10, 15, 3)
    # The largest region covers 0.88, more than BSDS500's 0.8.
    assert regions.masks.sum((1, 2)).tolist() == [9, 9, 15]
    # The second outline is 4.5 x 4 pixels there; pycocotools counts the half column.
    assert outlines.masks.sum((1, 2)).tolist() == [30, 20]


def test_labels_are_resized_as_pillow_takes_the_nearest() -> None:
    found = np.random.default_rng(0).integers(0, 200, (37, 53)).astype(np.uint8)
    nearest = np.asarray(Image.fromarray(found).resize((20, 14), Image.Resampling.NEAREST))
    assert np.array_equal(resized_labels(found, (14, 20)), nearest)


def test_regions_are_connected_by_edges_alone() -> None:
    corner = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 2]])
    assert [region.sum() for region in connected(corner, without=0)] == [1, 2, 1]
    with pytest.raises(InputError, match="10201 labels, so it is no label map"):
        list(connected(np.arange(101 * 101).reshape(101, 101)))


def test_bounds_are_inclusive_and_a_repeat_begins_at_four_fifths() -> None:
    def row(start: int, stop: int) -> np.ndarray:
        mask = np.zeros((1, 20), dtype=bool)
        mask[0, start:stop] = True
        return mask

    masks = [row(0, 8), row(0, 10), row(1, 8), row(0, 3), row(8, 12), row(0, 11), row(7, 12)]
    # 8 of 10 repeats, 7 of 8 too; 3 pixels are too few, 11 of 20 too much; 4 of 5 repeats.
    kept = chosen(iter(masks), smallest=4, largest=0.5)
    assert [rle["size"] for rle in kept] == [[1, 20]] * 2
    assert [int(writing.rle_area(rle)) for rle in kept] == [8, 4]
    assert len(chosen(iter([row(0, 7), row(0, 9)]), 1, 1.0)) == 2


def test_a_stopped_conversion_goes_on_to_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bsds500(tmp_path / "source", 3)
    words = ["bsds500", str(tmp_path / "source"), f"out={tmp_path / 'out'}", "smallest=9"]
    anew = [*words, "overwrite=true"]
    whole = convert(Conversion("bsds500", smallest=9), tmp_path / "source", tmp_path / "whole")
    write_text, written = writing.write_text, []

    def stopping(path: Path, text: str) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        write_text(path, text)

    monkeypatch.setattr(writing, "write_text", stopping)
    assert main(anew) == 130
    assert "the same command without overwrite=true goes on" in capsys.readouterr().err
    assert main(words) == 130
    assert "the same command goes on" in capsys.readouterr().err
    # The third image is there without its JSON: it is not finished.
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == written
    monkeypatch.setattr(writing, "write_text", write_text)
    assert main(words) == 0
    assert capsys.readouterr().out.endswith(f"3 images, {whole['masks']} masks; 2 already\n")
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} and len(files) == 6


def test_conversions_are_never_mixed(tmp_path: Path) -> None:
    bsds500(tmp_path / "source", 3)
    clothing(tmp_path / "clothes")
    out = tmp_path / "out"
    convert(Conversion("clothing_co_parsing", first=100, smallest=9), tmp_path / "clothes", out)
    convert(Conversion("bsds500", smallest=9), tmp_path / "source", out)
    with pytest.raises(InputError, match=r"sa_000000\.json: was made by another conversion; choose another out="):
        convert(Conversion("bsds500", smallest=50), tmp_path / "source", out)
    assert len(Sa1b(out, "all")) == 4
    counts = convert(Conversion("bsds500", smallest=50, every=2), tmp_path / "source", out, overwrite=True)
    assert (counts["images"], counts["already"]) == (2, 0)
    # The tail of the longer conversion is gone, and the other source is as it was.
    assert sorted(path.name for path in out.glob("*.json")) == ["sa_000000.json", "sa_000001.json", "sa_000100.json"]


@pytest.mark.parametrize("changed", ["images/train/100.jpg", "groundTruth/train/100.mat"])
def test_other_content_under_the_same_names_is_no_finished_image(changed: str, tmp_path: Path) -> None:
    bsds500(tmp_path / "source", 2)
    conversion, out = Conversion("bsds500", smallest=9), tmp_path / "out"
    convert(conversion, tmp_path / "source", out)
    noted = json.loads((out / "sa_000000.json").read_text())["conversion"]
    path = tmp_path / "source" / changed
    assert file_sha256(path) in (noted["image_sha256"], noted["annotations_sha256"])
    with open(path, "ab") as stream:
        stream.write(bytes(8))
    for skip in (False, True):
        with pytest.raises(InputError, match=r"sa_000000\.json: was made by another conversion; .* overwrite=true"):
            convert(conversion, tmp_path / "source", out, skip=skip)
    assert convert(conversion, tmp_path / "source", out, overwrite=True)["images"] == 2


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_jpeg_of_somebody_else_is_never_replaced(overwrite: bool, tmp_path: Path) -> None:
    bsds500(tmp_path / "source")
    conversion, out = Conversion("bsds500", smallest=9), tmp_path / "out"
    photo(out / "sa_000000.jpg")
    before = (out / "sa_000000.jpg").read_bytes()
    with pytest.raises(InputError, match=r"sa_000000\.jpg: has no JSON .*; choose another out=DIR or first=NUMBER, or"):
        convert(conversion, tmp_path / "source", out, skip=True, overwrite=overwrite)
    assert (out / "sa_000000.jpg").read_bytes() == before and not (out / "sa_000000.json").exists()


def test_an_image_that_cannot_be_read_is_damaged(tmp_path: Path) -> None:
    bsds500(tmp_path / "source", 2)
    (tmp_path / "source" / "images" / "train" / "100.jpg").unlink()
    (tmp_path / "source" / "images" / "train" / "100.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"100\.jpg: "):
        convert(Conversion("bsds500", smallest=9), tmp_path / "source", tmp_path / "out")
    counts = convert(Conversion("bsds500", smallest=9), tmp_path / "source", tmp_path / "out", skip=True)
    assert (counts["damaged"], counts["images"]) == (1, 1)


@pytest.mark.parametrize("content", ["{", '{"conversion": null}'])
def test_a_fresh_start_says_what_it_cannot_remove(content: str, tmp_path: Path) -> None:
    bsds500(tmp_path / "source")
    out = tmp_path / "out"
    convert(Conversion("bsds500", smallest=9), tmp_path / "source", out)
    (out / "sa_000009.json").write_text(content)
    if content == "{":
        with pytest.raises(InputError, match=r"sa_000009\.json: cannot be read, .*; remove it"):
            convert(Conversion("bsds500", smallest=9), tmp_path / "source", out, overwrite=True)
    else:
        counts = convert(Conversion("bsds500", smallest=9), tmp_path / "source", out, overwrite=True)
        assert counts["images"] == 1 and (out / "sa_000009.json").is_file()


def test_images_without_annotations_or_masks_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yolo(tmp_path / "source")
    photo(tmp_path / "source" / "images" / "train" / "b.jpg")
    photo(tmp_path / "source" / "images" / "train" / "c.jpg")
    photo(tmp_path / "source" / "images" / "val" / "d.jpg")
    (tmp_path / "source" / "labels" / "train" / "c.txt").write_text("")
    words = ["yolo_segments", str(tmp_path / "source"), f"out={tmp_path / 'out'}", "part=train", "smallest=9"]
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("1 images, 2 masks; 1 without annotations; 1 without masks\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2 0.2", r"a\.txt: line 1: is a box, not an outline"),
        ("0 0.1 0.1 0.5 0.1 0.5", r"a\.txt: line 1: polygon with an odd number of coordinates \(5\)"),
        ("0 0.1 0.1 1.5 0.1 0.5 0.5", r"a\.txt: line 1: has coordinates outside \[0, 1\]"),
        ("0 0.1 nan 0.5 0.1 0.5 0.5", r"a\.txt: line 1: has coordinates outside"),
        ("0 0.1 x 0.5 0.1 0.5 0.5", r"a\.txt: line 1: is no list of numbers"),
        ("0", r"a\.txt: line 1: polygon with 0 points"),
    ],
)
def test_outlines_that_are_none_are_refused_by_file_and_line(line: str, message: str, tmp_path: Path) -> None:
    yolo(tmp_path / "source", line)
    with pytest.raises(InputError, match=message):
        convert(Conversion("yolo_segments"), tmp_path / "source", tmp_path / "out")
    counts = convert(Conversion("yolo_segments"), tmp_path / "source", tmp_path / "out", skip=True)
    assert (counts["damaged"], counts["images"]) == (1, 0) and not (tmp_path / "out").exists()


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_truncated, r"damaged \(it ends within an element\)"),
        (lambda path: path.write_bytes(b""), "is no file of MATLAB's level 5"),
        (lambda path: path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"), "is of MATLAB 7.3"),
        (lambda path: mat(path, other=np.zeros(3)), 'has no variable "groundTruth"'),
        (lambda path: mat(path, groundTruth=np.zeros((3, 3))), "is no cell of annotators"),
        (lambda path: mat(path, groundTruth=np.array([[np.ones(3)]], object)), 'an annotator has no "Segmentation"'),
        (
            lambda path: mat(path, groundTruth=ground_truth(np.zeros((5, 5)))),
            r"labels are 5x5 .*train/100\.jpg is 30x20; ",
        ),
        (
            lambda path: mat(path, groundTruth=np.array([[{"Segmentation": np.full((20, 30), 2.5)}]])),
            "no table of whole numbers: 2.5 is one of them",
        ),
    ],
)
def test_annotations_that_cannot_be_read_are_refused(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    bsds500(tmp_path / "source", 2)
    path = tmp_path / "source" / "groundTruth" / "train" / "100.mat"
    spoil(path)
    with pytest.raises(InputError, match=rf"100\.mat: .*{message}"):
        convert(Conversion("bsds500", smallest=9), tmp_path / "source", tmp_path / "out")
    counts = convert(Conversion("bsds500", smallest=9), tmp_path / "source", tmp_path / "out", skip=True)
    assert (counts["damaged"], counts["images"]) == (1, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["coco", "S", "out=o"], 'no converter is called "coco"; choose one of bsds500, clothing_co_parsing, camvid'),
        (["bsds500", "S", "smallest=3"], "nowhere to write; give out=DIR"),
        (["bsds500", "S", "out=o", "every=0"], "every=0 must be at least 1"),
        (["bsds500", "S", "out=o", "largest=2"], "largest=2.0 must be above 0 and at most 1"),
        (["bsds500", "S", "out=o", "damaged=maybe"], "damaged=maybe: is no value of damaged"),
        (["bsds500", "S", "out=o", "size=3"], "size=3: is no setting; give out=, part="),
        (["bsds500", "S", "out=o", "out=p"], "out=p: out is given twice"),
        (["bsds500", "S", "out=o", "part=train"], "S: no such folder; give the folder of BSDS500"),
        (["camvid", ".", "out=o"], ".: no image of CamVid with annotations; its layout is"),
    ],
)
def test_what_was_typed_wrong_is_reported_in_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert message in err and err.splitlines()[-1].startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_help_names_every_source_and_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    for word in (*SOURCES, "out=", "without overwrite=true", "part=", "every=", "without_every=", "damaged=skip"):
        assert word in text
