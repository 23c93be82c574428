"""A folder with broken pictures as a user has it: a run refuses it by name, or goes on and counts."""

import json
from pathlib import Path

import pytest
from PIL import Image

from core.result import ResultRow
from experiments.command_line import main
from experiments.result_file import read_rows
from tests.unit.tiny import pocket_file
from tests.unit.truthful import drawn_labels, write_coco, write_detections

BROKEN = (1, 4, 6)
"""A truncated picture, whose header is whole; no picture at all; one of another size."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights in the shape of sam_pocket."""
    return pocket_file(tmp_path_factory.mktemp("teacher") / "pocket.pth")


def name(number: int) -> str:
    return f"{number:012d}.png"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO's layout with the same eight pictures for training and validation, of each of which some are broken."""
    root = write_coco(tmp_path_factory.mktemp("data") / "coco", drawn_labels(8))
    folder = root / "val2017"
    whole = (folder / name(BROKEN[0])).read_bytes()
    (folder / name(BROKEN[0])).write_bytes(whole[: len(whole) // 2])
    (folder / name(BROKEN[1])).write_text("<html>404</html>")
    Image.new("RGB", (30, 20)).save(folder / name(BROKEN[2]))
    (root / "train2017").symlink_to(folder)
    annotations = root / "annotations"
    (annotations / "instances_train2017.json").write_bytes((annotations / "instances_val2017.json").read_bytes())
    return root


@pytest.fixture(scope="module")
def intact(root: Path) -> Path:
    """The same without what is broken."""
    clean = root.parent / "intact"
    (clean / "annotations").mkdir(parents=True)
    (clean / "val2017").symlink_to(root / "val2017")
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    content["images"] = [image for image in content["images"] if image["id"] not in BROKEN]
    content["annotations"] = [raw for raw in content["annotations"] if raw["image_id"] not in BROKEN]
    (clean / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return clean


def instances(root: Path, numbers: tuple[int, ...]) -> int:
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    return sum(raw["image_id"] in numbers for raw in content["annotations"])


def words(root: Path, teacher: Path, runs: Path, *more: str) -> list[str]:
    small = ["ratio=0.5", "method.batch=2", "evaluation.latency_runs=1", "cache=memory"]
    small += ["engine.device=cpu", "engine.precision=float32", "method.steps=1", "method.optimisation.accumulate=1"]
    return [f"data.root={root}", "data=coco", f"teacher.checkpoint={teacher}", f"runs={runs}", *small, *more]


def complaints(text: str) -> list[str]:
    assert "Traceback" not in text
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_a_run_refuses_the_first_broken_picture_by_name(
    root: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(root, teacher, tmp_path / "runs", "method=scratch")) == 2
    (line,) = complaints(capsys.readouterr().err)
    # The one that is no picture; the truncated one shows when it is read.
    assert f"{name(BROKEN[1])}: is not an image" in line and ";" in line
    assert not list((tmp_path / "runs").glob("*/result.json"))


def test_damage_behind_the_header_ends_a_run_in_one_line(
    root: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    for number in (0, *BROKEN[:1]):
        (folder / "val2017" / name(number)).write_bytes((root / "val2017" / name(number)).read_bytes())
    (folder / "train2017").symlink_to(folder / "val2017")
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    content["images"] = content["images"][:2]
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    assert main(words(folder, teacher, tmp_path / "runs", "method=scratch")) == 2
    (line,) = complaints(capsys.readouterr().err)
    assert f"{name(BROKEN[0])}: truncated or damaged image" in line


@pytest.mark.parametrize(
    "method", ["scratch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("slimsam", "tinysam"))]
)
def test_a_run_that_skips_counts_what_it_left_out(
    method: str, root: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"slimsam": ["method.importance_images=8"]}.get(method, [])
    asked = words(root, teacher, tmp_path / "runs", f"method={method}", *more, "data.missing=skip")
    if method == "tinysam":
        asked = [word for word in asked if not word.startswith("ratio=")]
    status = main(asked)
    assert status == 0, capsys.readouterr().err
    (found,) = (tmp_path / "runs").glob("*/result.json")
    rows = read_rows(found)
    left_out = instances(root, BROKEN)
    for row in rows:
        assert row.skipped["image_left_out"] == len(BROKEN) and row.skipped["unreadable_image"] == left_out
        assert row.images == 5 and row.instances == instances(root, (0, 2, 3, 5, 7))
    # Without labels nobody knows the size that was listed, and two steps of two pictures need not meet every picture.
    assert rows[-1].skipped["training_image_left_out"] in (1, 2, 3)
    assert "training_image_left_out" not in rows[0].skipped


def evaluated(root: Path, out: Path, *more: str) -> list[ResultRow]:
    asked = ["evaluate", "checkpoint=sam_pocket", f"out={out}", "evaluation.latency_runs=1", f"data.root={root}"]
    assert main([*asked, *more]) == 0
    return read_rows(out / "result.json")


def figures(row: ResultRow) -> dict[str, object]:
    names = ("miou", "miou_small", "miou_low", "miou_point", "ap", "ap50", "average_recall", "instances", "images")
    return {name: getattr(row, name) for name in names}


@pytest.mark.parametrize("evaluation", ["coco", "coco_box", "coco_detector_box"])
def test_evaluations_give_what_they_give_without_the_broken(
    evaluation: str, root: Path, intact: Path, tmp_path: Path
) -> None:
    boxes = write_detections(tmp_path / "boxes.json", root)
    more = [f"evaluation={evaluation}", *([f"detections={boxes}"] if "detector" in evaluation else [])]
    expected = evaluated(intact, tmp_path / "intact", *more)
    found = evaluated(root, tmp_path / "broken", *more, "data.missing=skip")
    assert [figures(row) for row in found] == [figures(row) for row in expected]
    for row in found:
        assert row.skipped["image_left_out"] == len(BROKEN)
        assert row.skipped["unreadable_image"] == instances(root, BROKEN)
