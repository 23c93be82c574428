"""Data that give no figure, and runs that would be scored on what they were trained on."""

import shutil
from pathlib import Path

import pytest

from core.errors import InputError
from data.coco import Coco
from data.sa1b import Sa1b
from data.sample import ImageData
from data.shapes import Shapes
from evaluation.protocols import protocol_named
from experiments.cli.command_line import main
from experiments.config.groups import CocoData
from experiments.evaluate import admitting
from experiments.result_file import read_rows
from experiments.runs.data_content import DataContent, data_content, require_held_out
from experiments.scoring import (
    has_instances,
    require_instances,
    require_points,
    require_records,
    training_score,
)
from tests.unit import test_sa1b
from tests.unit.test_coco import add, annotation, write


def test_images_with_something_to_score(tmp_path: Path) -> None:
    data = Coco(write(tmp_path))
    assert has_instances(data, [0, 1]) and not has_instances(data, [1]) and not has_instances(data, [])
    assert has_instances(Shapes(count=1), [0]), "nobody knows before they are drawn"
    require_instances(data, range(2), "data")
    with pytest.raises(InputError, match="coco: none of the 1 requested images has an instance; give a larger"):
        require_instances(data, [1], "data")
    with pytest.raises(InputError, match="coco: the last 3 training images have no instances to validate on"):
        training_score(Coco(tmp_path, least_area=50), 8)


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    data = Coco(write(tmp_path, add(annotation(90, iscrowd=1), annotation(91, segmentation=[]))), unusable="skip")
    data = Coco(tmp_path, least_area=13, unusable="skip")
    with pytest.raises(InputError) as caught:
        require_instances(data, range(3), "evaluation.data")
    assert str(caught.value) == (
        f"{tmp_path}/annotations/instances_val2017.json: no annotation is left as an instance (crowd 1, "
        "area_below_13 3); correct the file, or give evaluation.data.least_area=0 or evaluation.data.crowd=true where "
        "such are to count"
    )
    with pytest.raises(InputError, match=r"coco: no instance could be scored \(crowd 1, area_below_13 3\); look"):
        require_records([], data)
    require_records([1], data)
    test_sa1b.write(tmp_path / "sa", 1, [])
    photos = test_sa1b.Sa1b(tmp_path / "sa", "all")
    with pytest.raises(InputError, match=r"sa1b: no annotation is left as an instance \(there are none\); give"):
        require_instances(photos, [0], "data")


@pytest.mark.parametrize("name", ["edgesam@2", "nanosam@2", "segment_anything_fast@1"])
def test_a_least_area_that_a_protocol_would_overrule_is_refused(name: str) -> None:
    protocols = [protocol_named(name)]
    for area in (1.0, 0.0):
        assert admitting(CocoData(least_area=area), protocols).least_area == 0
    with pytest.raises(InputError) as caught:
        admitting(CocoData(least_area=1024.0), protocols)
    assert str(caught.value) == (
        f"evaluation.data.least_area=1024: {name} is defined with 0; leave it out, or give another protocol"
    )
    assert admitting(CocoData(least_area=1024.0), [protocol_named("box_single@1")]).least_area == 1024
    assert admitting(CocoData(least_area=30.0), [protocol_named("efficientvit_sam_box@1")]) == CocoData(
        crowd=True, least_area=30.0
    )


def test_points_that_annotations_do_not_name_are_missed_before_the_first_image(tmp_path: Path) -> None:
    data = Coco(write(tmp_path))
    # The image without annotations asks for none.
    require_points(data, [1])
    with pytest.raises(
        InputError, match=r"its annotations name no points \(point_coords of annotation \d+ is missing\)"
    ):
        require_points(data, range(3))
    for number in (1, 2, 3):
        raw = test_sa1b.annotation(number, test_sa1b.square(1))
        test_sa1b.write(tmp_path / "sa", number, [{k: v for k, v in raw.items() if number < 3 or k != "point_coords"}])
    photos = test_sa1b.Sa1b(tmp_path / "sa", "all")
    require_points(photos, [0, 1])
    with pytest.raises(InputError, match=r"sa_3\.jpg: its annotations name no points .*; choose a protocol"):
        require_points(photos, range(3))
    require_points(Shapes(count=1), [0])


def of(data: ImageData, indices: range | None = None, labels: bool = True) -> DataContent:
    """What counts of a data set, its files hashed."""
    return data_content(data, range(len(data)) if indices is None else indices, labels, Path("runs"))


def test_images_that_are_trained_on_are_not_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (20, 40, 60, 80, 100, 120):
        test_sa1b.write(tmp_path / "a", number)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    trained = of(Sa1b(tmp_path / "a", "train", validation_count=1))
    require_held_out(trained, of(Sa1b(tmp_path / "a", "validation", validation_count=1)))
    # Another number of held-out images takes some of those that the other one trains on.
    for root in ("a", "link", "a/../a"):
        scored = of(Sa1b(tmp_path / root, "validation", validation_count=3))
        with pytest.raises(
            InputError, match=r"2 of the 3 scored images are trained on, such as .*sa_100\.jpg; give eval"
        ):
            require_held_out(trained, scored)
        require_held_out(trained, of(scored.data, range(2, 3)))


def test_copies_of_images_that_are_trained_on_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (20, 40, 60):
        test_sa1b.write(tmp_path / "a", number)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "sa_20.jpg").write_bytes(b"damaged")
    require_held_out(of(Sa1b(tmp_path / "a", "all")), of(Sa1b(tmp_path / "b", "all", missing="skip")))
    assert "2 of the scored images lie, byte for byte, among those trained on" in capsys.readouterr().err


def test_made_images_that_are_trained_on_are_not_scored() -> None:
    trained = of(Shapes("train", 4))
    with pytest.raises(
        InputError, match=r"makes the images that are trained on \(split=train, seed=0.*\); give another"
    ):
        require_held_out(trained, of(Shapes("train", 2)))
    for other in (Shapes("validation", 2), Shapes("train", 2, seed=1)):
        require_held_out(trained, of(other))


def test_a_validation_folder_is_scored_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2, 3):
        test_sa1b.write(tmp_path / "val", number)
    requested = ["evaluate", "checkpoint=sam_pocket", "evaluation=sa1b_box", "evaluation.latency_runs=1"]
    for more, images in ((["data.split=all"], 3), ([], 1)):
        out = tmp_path / f"of_{images}"
        assert main([*requested, f"data.root={tmp_path / 'val'}", f"out={out}", *more]) == 0
        assert [row.images for row in read_rows(out / "result.json")] == [images] * 3
    run = ["method=scratch", "ratio=0.5", "data=sa1b", "data.split=all", f"data.root={tmp_path / 'val'}"]
    capsys.readouterr()
    assert main([*run, f"runs={tmp_path / 'runs'}"]) == 2
    assert "1 of the 1 scored images are trained on" in capsys.readouterr().err
    whole = ["evaluation.data.split=all", f"evaluation.data.root={tmp_path / 'nowhere'}"]
    assert main([*run, *whole, f"runs={tmp_path / 'runs'}"]) == 2
    assert f"{tmp_path / 'nowhere'}: no such folder" in capsys.readouterr().err
