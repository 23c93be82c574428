"""Which images a conversion takes, where it writes them, and how it numbers them."""

import json
import shutil
from pathlib import Path

import pytest

from core.errors import InputError
from data.convert.__main__ import main
from data.convert.writing import LARGEST_NUMBER, Conversion, convert
from data.sa1b import Sa1b
from tests.unit.test_convert import bsds500, photo


def test_numbers_go_as_far_as_ids_fit_into_64_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bsds500(tmp_path / "source", 2)
    words = ["bsds500", str(tmp_path / "source"), f"out={tmp_path / 'out'}", "smallest=9"]
    for first in (LARGEST_NUMBER, LARGEST_NUMBER + 1, 99999999999999999999):
        assert main([*words, f"first={first}"]) == 2
        found = capsys.readouterr().err.splitlines()[-1]
        last = first + (first == LARGEST_NUMBER)
        said = f"an image has number {last}, beyond {LARGEST_NUMBER}; give a smaller one"
        assert found == f"error: first={first}: {said}"
    assert not (tmp_path / "out").exists()
    assert main([*words, f"first={LARGEST_NUMBER - 1}"]) == 0
    data = Sa1b(tmp_path / "out", "all")
    assert [data.image_id(index) for index in range(2)] == [LARGEST_NUMBER - 1, LARGEST_NUMBER]
    assert data.sample(1).annotation_ids[0] == LARGEST_NUMBER * 10_000
    # Even of the last number all ids are whole numbers of 64 bits.
    assert LARGEST_NUMBER * 10_000 + 9_999 < 2**63 <= (LARGEST_NUMBER + 1) * 10_000 + 9_999


@pytest.mark.parametrize("below", ["", "made", "images/train", "made/../images"])
def test_nothing_is_written_into_the_source(below: str, tmp_path: Path) -> None:
    root = tmp_path / "source"
    bsds500(root)
    before = sorted(root.rglob("*"))
    with pytest.raises(InputError, match=r"^out=.*: lies in the source .*; give another out=DIR$"):
        convert(Conversion("bsds500", smallest=9), root, root / below)
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(InputError, match="lies in the source"):
        convert(Conversion("bsds500", smallest=9), root, tmp_path / "link" / below)
    assert sorted(root.rglob("*")) == before


def test_images_that_share_a_file_of_annotations_are_refused_or_left_out(tmp_path: Path) -> None:
    root = tmp_path / "source"
    bsds500(root, 3)
    photo(root / "images" / "train" / "101.png")
    message = r"/101\.jpg: .*train/101\.mat would be of this image and of .*/train/101\.png; move one of the two"
    with pytest.raises(InputError, match=message):
        convert(Conversion("bsds500", smallest=9), root, tmp_path / "out")
    counts = convert(Conversion("bsds500", smallest=9), root, tmp_path / "skipped", skip=True)
    assert (counts["images"], counts["damaged"]) == (2, 2)
    # What has no annotations shares none.
    (root / "groundTruth" / "train" / "101.mat").unlink()
    counts = convert(Conversion("bsds500", smallest=9), root, tmp_path / "without")
    assert (counts["images"], counts["without_annotations"]) == (2, 2)


def test_what_every_takes_without_every_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "source"
    bsds500(root, 8)
    for part in ("val", "test"):
        for folder in ("images", "groundTruth"):
            shutil.copytree(root / folder / "train", root / folder / part)
    (root / "images" / "val" / "100.jpg").unlink()
    for number in (2, 3, 5, 20):
        all_of = {pair.name for pair in Conversion("bsds500").pairs(root)}
        taken = {pair.name for pair in Conversion("bsds500", every=number).pairs(root)}
        others = {pair.name for pair in Conversion("bsds500", without_every=number).pairs(root)}
        assert taken | others == all_of and not taken & others and len(taken) == 2 * -(-8 // number) + -(-7 // number)
    both = [pair.name for pair in Conversion("bsds500", part="train", every=2, without_every=3).pairs(root)]
    assert both == [f"images/train/10{k}.jpg" for k in (2, 4)]
    words = ["bsds500", str(root), f"out={tmp_path / 'out'}", "part=train", "smallest=9"]
    assert main([*words, "without_every=3"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'}: 5 images")
    assert main(words) == 2
    assert "sa_000000.json: was made by another conversion" in capsys.readouterr().err
    for more, message in (
        ("without_every=1", "without_every=1 must be at least 2"),
        ("every=4 without_every=2", "every=4 without_every=2: leaves out all that it takes; give one of them"),
    ):
        assert main([*words, *more.split()]) == 2
        assert capsys.readouterr().err == f"error: {message}\n"


def test_conversions_that_leave_out_none_are_noted_as_before_there_was_the_setting(tmp_path: Path) -> None:
    bsds500(tmp_path / "source")
    convert(Conversion("bsds500", smallest=9), tmp_path / "source", tmp_path / "out")
    (noted,) = (json.loads(path.read_text())["conversion"] for path in (tmp_path / "out").glob("*.json"))
    settings = ("source", "part", "every", "longest", "smallest", "largest", "first")
    assert list(noted) == [*settings, "file", "image_sha256", "annotations_sha256"]
