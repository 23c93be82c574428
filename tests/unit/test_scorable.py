"""Data that give no figure, and runs that would be scored on what they were trained on."""

from pathlib import Path

import pytest

from core.errors import InputError
from data.coco import Coco
from data.shapes import Shapes
from experiments.cli.command_line import main
from experiments.config.groups import CocoData, Sa1bData
from experiments.result_file import read_rows
from experiments.scoring import (
    has_instances,
    require_held_out,
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


def test_a_whole_folder_is_not_held_out_from_itself(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    root, link, other = (str(tmp_path / name) for name in ("a", "link", "b"))
    for splits in (("all", "all"), ("train", "all"), ("all", "validation")):
        trained, scored = (Sa1bData(root=root, split=split) for split in splits)
        for again in (root, link, f"{root}/../a"):
            scored.root = again
            with pytest.raises(InputError, match=r"share images of .*; give evaluation\.data\.root=FOLDER of other"):
                require_held_out(trained, scored)
        scored.root = other
        require_held_out(trained, scored)
        require_held_out(trained, CocoData(root=root, split="validation"))
    require_held_out(Sa1bData(root=root, split="train"), Sa1bData(root=root, split="validation"))


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
    assert "share images of" in capsys.readouterr().err
    whole = ["evaluation.data.split=all", f"evaluation.data.root={tmp_path / 'nowhere'}"]
    assert main([*run, *whole, f"runs={tmp_path / 'runs'}"]) == 2
    assert f"{tmp_path / 'nowhere'}: no such folder" in capsys.readouterr().err
