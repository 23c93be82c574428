"""Folders and annotations as users have them: a run refuses what it cannot use by name, or goes on and counts."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from core.result import ResultRow
from experiments.cli.command_line import main
from experiments.result_file import read_rows
from tests.unit.tiny import pocket_file
from tests.unit.truthful import drawn_labels, write_coco, write_detections

BROKEN = (1, 4, 6)
"""A truncated image, whose header is whole; no image at all; one of another size."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights in the shape of sam_pocket."""
    return pocket_file(tmp_path_factory.mktemp("teacher") / "pocket.pth")


def name(number: int) -> str:
    return f"{number:012d}.png"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO's layout with the same eight images for training and validation, of each of which some are broken."""
    root = write_coco(tmp_path_factory.mktemp("data") / "coco", drawn_labels(8))
    folder = root / "val2017"
    whole = (folder / name(BROKEN[0])).read_bytes()
    (folder / name(BROKEN[0])).write_bytes(whole[: len(whole) // 2])
    (folder / name(BROKEN[1])).write_text("<html>404</html>")
    Image.new("RGB", (30, 20)).save(folder / name(BROKEN[2]))
    # What the annotation file does not list is neither trained on nor scored.
    Image.new("RGB", (30, 20)).save(folder / "unlisted.WEBP")
    shutil.copytree(folder, root / "train2017")
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


def test_a_run_refuses_the_first_broken_image_by_name(
    root: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(root, teacher, tmp_path / "runs", "method=scratch")) == 2
    (line,) = complaints(capsys.readouterr().err)
    # The one that is no image; the truncated one shows when it is read.
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
    # Copies, as a run is not scored on the files that it is trained on.
    shutil.copytree(folder / "val2017", folder / "train2017")
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    content["images"] = content["images"][:2]
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    assert main(words(folder, teacher, tmp_path / "runs", "method=scratch")) == 2
    (line,) = complaints(capsys.readouterr().err)
    assert f"{name(BROKEN[0])}: truncated or damaged image" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["scratch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("slimsam", "tinysam"))]
)
def test_a_run_that_skips_counts_what_it_left_out(
    method: str, root: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"slimsam": ["method.importance_images=8"]}.get(method, [])
    requested = words(root, teacher, tmp_path / "runs", f"method={method}", *more, "data.missing=skip")
    if method == "tinysam":
        requested = [word for word in requested if not word.startswith("ratio=")]
    status = main(requested)
    assert status == 0, capsys.readouterr().err
    (found,) = (tmp_path / "runs").glob("*/result.json")
    rows = read_rows(found)
    left_out = instances(root, BROKEN)
    for row in rows:
        assert row.skipped["image_left_out"] == len(BROKEN) and row.skipped["unreadable_image"] == left_out
        assert row.images == 5 and row.instances == instances(root, (0, 2, 3, 5, 7))
        assert row.skipped["unlisted_image"] == 1
    # Headers tell two of them; two steps of two images need not meet the one whose damage lies behind its header.
    assert rows[-1].skipped["training_image_left_out"] in (2, 3)
    assert rows[-1].skipped["training_unlisted_image"] == 1
    assert "training_image_left_out" not in rows[0].skipped


def evaluated(root: Path, out: Path, *more: str) -> list[ResultRow]:
    requested = ["evaluate", "checkpoint=sam_pocket", f"out={out}", "evaluation.latency_runs=1", f"data.root={root}"]
    assert main([*requested, *more]) == 0
    return read_rows(out / "result.json")


def figures(row: ResultRow) -> dict[str, object]:
    names = ("miou", "miou_small", "miou_low", "miou_point", "ap", "ap50", "average_recall", "instances", "images")
    return {name: getattr(row, name) for name in names}


@pytest.fixture(scope="module")
def evaluate_intact(intact: Path) -> Callable[[str], tuple[list[str], list[ResultRow]]]:
    """Words of an evaluation, and its rows on the intact folder."""

    @functools.cache
    def evaluate(evaluation: str) -> tuple[list[str], list[ResultRow]]:
        # Boxes of broken images too: these are left out with their images.
        boxes = write_detections(intact.parent / "boxes.json", intact.parent / "coco")
        more = [f"evaluation={evaluation}", *([f"detections={boxes}"] if "detector" in evaluation else [])]
        return more, evaluated(intact, intact.parent / f"evaluated_{evaluation}", *more)

    return evaluate


@pytest.mark.parametrize(
    "evaluation", ["coco_box", *(pytest.param(name, marks=pytest.mark.slow) for name in ("coco", "coco_detector_box"))]
)
def test_evaluations_give_what_they_give_without_the_broken(
    evaluation: str, root: Path, evaluate_intact: Callable[[str], Any], tmp_path: Path
) -> None:
    more, expected = evaluate_intact(evaluation)
    found = evaluated(root, tmp_path / "broken", *more, "data.missing=skip")
    assert [figures(row) for row in found] == [figures(row) for row in expected]
    for row in found:
        assert row.skipped["image_left_out"] == len(BROKEN)
        assert row.skipped["unreadable_image"] == instances(root, BROKEN)


def rewritten(root: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A folder with the intact images under changed annotations, for either split."""
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    change(content)
    (target / "annotations").mkdir(parents=True)
    for folder in ("train2017", "val2017"):
        shutil.copytree(root / "val2017", target / folder)
        (target / "annotations" / f"instances_{folder}.json").write_text(json.dumps(content))
    return target


def without_area(content: dict[str, Any]) -> None:
    for raw in content["annotations"]:
        raw["area"] = 0


def test_annotations_without_area_are_reported_instead_of_a_table_of_nothing(
    intact: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = rewritten(intact, tmp_path / "coco", without_area)
    count = instances(root, tuple(range(8)))
    requested = ["evaluate", "checkpoint=sam_pocket", f"data.root={root}", f"out={tmp_path / 'out'}"]
    everything = ["everything", "checkpoint=sam_pocket", f"data.root={root}", "evaluation=coco"]
    run = words(root, teacher, tmp_path / "runs", "method=scratch")
    for command in ([*requested, "evaluation=coco_box"], [*requested, "evaluation=coco"], everything, run):
        assert main(command) == 2
        captured = capsys.readouterr()
        (line,) = complaints(captured.err)
        assert f"instances_val2017.json: no annotation is left as an instance (area_below_1 {count})" in line
        assert "evaluation.data.least_area=0" in line and not captured.out
    assert not (tmp_path / "out").exists() and not list((tmp_path / "runs").glob("*/student.safetensors"))
    # What the line proposes works, and average precision has no such rule.
    rows = evaluated(root, tmp_path / "out", "evaluation=coco_box", "evaluation.data.least_area=0")
    assert [row.instances for row in rows] == [count] * 3
    boxes = write_detections(tmp_path / "boxes.json", root)
    rows = evaluated(root, tmp_path / "ap", "evaluation=coco_detector_box", f"detections={boxes}")
    assert all(row.ap is not None for row in rows)
    crowds = rewritten(
        intact, tmp_path / "crowds", lambda content: [raw.update(iscrowd=1) for raw in content["annotations"]]
    )
    requested = ["evaluate", "checkpoint=sam_pocket", f"data.root={crowds}", f"out={tmp_path / 'none'}"]
    assert main([*requested, "evaluation=coco_detector_box", f"detections={boxes}"]) == 2
    (line,) = complaints(capsys.readouterr().err)
    assert "has no annotation that average precision counts on the 5 images; correct the file" in line
    assert main([*requested, "evaluation=coco_box"]) == 2
    (line,) = complaints(capsys.readouterr().err)
    assert f"no annotation is left as an instance (crowd {count})" in line


def test_masks_without_pixels_are_reported_after_the_pass(
    intact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def emptied(content: dict[str, Any]) -> None:
        for raw in content["annotations"]:
            raw["segmentation"] = [[300, 300, 400, 300, 400, 400]]

    root = rewritten(intact, tmp_path / "coco", emptied)
    requested = ["evaluate", "checkpoint=sam_pocket", f"data.root={root}", f"out={tmp_path / 'out'}"]
    for evaluation in ("coco_box", "coco"):
        assert main([*requested, f"evaluation={evaluation}", "evaluation.latency_runs=1"]) == 2
        (line,) = complaints(capsys.readouterr().err)
        assert f"coco: no instance could be scored (empty_mask {instances(root, tuple(range(8)))})" in line


def test_images_without_instances_ask_for_more(
    intact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def only_the_last(content: dict[str, Any]) -> None:
        content["annotations"] = [raw for raw in content["annotations"] if raw["image_id"] == 7]

    root = rewritten(intact, tmp_path / "coco", only_the_last)
    requested = ["evaluate", "checkpoint=sam_pocket", f"data.root={root}", "evaluation=coco_box", "evaluation.images=2"]
    assert main(requested) == 2
    (line,) = complaints(capsys.readouterr().err)
    assert "none of the 2 requested images has an instance; give a larger evaluation.images" in line


@pytest.mark.parametrize("evaluation", ["coco_box", pytest.param("coco_detector_box", marks=pytest.mark.slow)])
def test_annotations_that_cannot_be_used_are_skipped_and_counted(
    evaluation: str,
    intact: Path,
    evaluate_intact: Callable[[str], Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = [{"segmentation": []}, {"segmentation": [[]]}, {"area": None}, {"iscrowd": None}, {"bbox": [1, 2, 3]}]

    def mixed(content: dict[str, Any]) -> None:
        first = content["annotations"][0]
        content["annotations"] += [{**first, "id": 900 + n, **changes} for n, changes in enumerate(bad)]
        content["annotations"].append({**first, "id": 990, "iscrowd": 1, "segmentation": None})

    root = rewritten(intact, tmp_path / "coco", mixed)
    more, expected = evaluate_intact(evaluation)
    requested = ["evaluate", "checkpoint=sam_pocket", f"data.root={root}", f"out={tmp_path / 'refused'}", *more]
    capsys.readouterr()
    assert main(requested) == 2
    (line,) = complaints(capsys.readouterr().err)
    assert "instances_val2017.json: annotation 900: segmentation without polygons" in line
    assert line.endswith("data.unusable=skip")
    found = evaluated(root, tmp_path / "found", *more, "data.unusable=skip")
    assert [figures(row) for row in found] == [figures(row) for row in expected]
    # The crowd's mask is of no use to anybody: instances leave it out as a crowd, average precision as unusable.
    unusable, crowd = (6, None) if "detector" in evaluation else (5, 1)
    for row in found:
        assert (row.skipped["unusable_annotation"], row.skipped.get("crowd")) == (unusable, crowd)
