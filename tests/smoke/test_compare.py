"""The command ``compare`` on two evaluations of six images: what it shows, writes, draws and refuses."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from evaluation.metrics import mean_iou
from evaluation.records import read_instances
from experiments.cli.command_line import main
from teachers.weights import load_sam

Call = Callable[..., tuple[int, str, str]]
USUAL = ("evaluation=shapes_box", "evaluation.latency_runs=1", "format=json")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with evaluations: ``teacher`` of six images, ``noisy`` of the first five."""
    folder = tmp_path_factory.mktemp("compared")
    model, generator = load_sam("sam_pocket"), torch.Generator().manual_seed(0)
    for tensor in model.image_encoder.state_dict().values():
        tensor += 0.15 * tensor.std(correction=0) * torch.randn(tensor.shape, generator=generator)
    torch.save(model.state_dict(), folder / "noisy.pth")
    runs = folder / "runs+1"
    for name, checkpoint, images in (("teacher", "sam_pocket", 6), ("noisy", folder / "noisy.pth", 5)):
        words = (f"checkpoint={checkpoint}", f"evaluation.images={images}", f"out='{runs / 'evaluations' / name}'")
        assert main(["evaluate", *USUAL, *words]) == 0
    return runs


@pytest.fixture
def call(command: Call, runs: Path) -> Call:
    """``compare`` from an empty folder."""
    return lambda *words: command("compare", *words, f"runs='{runs}'")


def changed(runs: Path, name: str, change: Callable[[dict[str, Any]], None], of: str = "noisy") -> None:
    """A copy of an evaluation with another ``result.json``."""
    shutil.rmtree(runs / "evaluations" / name, ignore_errors=True)
    shutil.copytree(runs / "evaluations" / of, runs / "evaluations" / name)
    path = runs / "evaluations" / name / "result.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.slow
def test_rows_are_the_differences_of_the_records(call: Call, runs: Path) -> None:
    status, out, err = call("teacher", "noisy", "format=json", "count=2")
    rows = json.loads(out)["rows"]
    assert status == 0 and not list(Path.cwd().iterdir())
    assert list(dict.fromkeys(row["protocol"] for row in rows)) == ["box_single@1", "box_best_of_3@1", "box_oracle@1"]
    ours, theirs = (read_instances(runs / "evaluations" / name)["box_single@1"] for name in ("teacher", "noisy"))
    shared = ours[: len(theirs)]
    assert [r.annotation_id for r in shared] == [r.annotation_id for r in theirs]
    whole = rows[0]
    assert (whole["size"], whole["instances"], whole["images"]) == ("all", len(theirs), 5)
    assert (whole["only_first"], whole["only_second"]) == (len(ours) - len(theirs), 0)
    assert err.count(f"left out, {len(ours) - len(theirs)} instances only in the first and 0 only in the second") == 3
    means = [mean_iou(records)["miou"].value for records in (shared, theirs)]
    assert [whole["miou_first"], whole["miou_second"]] == pytest.approx(means)
    assert whole["difference_points"] == pytest.approx(100 * (means[1] - means[0]), abs=1e-6)
    assert whole["low_points"] <= whole["difference_points"] <= whole["high_points"]
    differences = sorted(b.iou - a.iou for a, b in zip(shared, theirs, strict=True))
    lost = [pair["iou_second"] - pair["iou_first"] for pair in whole["worst"]]
    assert lost == pytest.approx(differences[:2]) and differences[0] < 0
    assert whole["losses"] == sum(d < 0 for d in differences)
    assert sum(row["instances"] for row in rows if row["protocol"] == "box_single@1") == 2 * len(theirs)
    assert call("first=teacher", "second=noisy", "format=json", "count=2")[1] == out
    assert call(str(runs / "evaluations" / "teacher"), "second=noisy", "format=json", "count=2")[1].count("{") > 3


def test_a_terminal_shows_both_and_the_files_hold_all(call: Call, runs: Path) -> None:
    status, out, err = call("teacher", "noisy", "protocol=box_single", "count=3", "out=new/folder")
    # Of the second model, whose weights are the teacher's with noise.
    assert status == 0 and err.count("\n") == 1 and "noisy.pth: called sam_pocket by its shape; nothing shows" in err
    assert out.startswith("first   sam_pocket, ") and "\nsecond  sam_pocket, " in out and "noisy.pth, " in out
    assert "box_best_of_3" not in out
    assert all(f"\n{title}" in out for title in ("all ", "small ", "largest losses", "box_single@1 on shapes: "))
    assert "only in the first and 0 only in the second" in out
    folder = Path("new/folder")
    assert f"files: {folder}/ (comparison.csv, comparison.md, worst.png, best.png)" in out
    with open(folder / "comparison.csv", encoding="utf-8", newline="") as stream:
        pairs = list(csv.DictReader(stream))
    theirs = read_instances(runs / "evaluations" / "noisy")["box_single@1"]
    assert [int(pair["annotation_id"]) for pair in pairs] == [record.annotation_id for record in theirs]
    assert [float(pair["iou_second"]) for pair in pairs] == [record.iou for record in theirs]
    assert {pair["size_class"] for pair in pairs} <= {"small", "medium"}
    page = (folder / "comparison.md").read_text(encoding="utf-8")
    assert "## box_single@1 on shapes" in page and "![worst.png](worst.png)" in page
    with Image.open(folder / "worst.png") as image:
        assert image.text["Description"].startswith("box_single@1: ground truth, first: ")
        # Three images side by side, an instance a line.
        assert image.width > 700 and image.height > 400
        assert len(image.convert("RGB").getcolors(1 << 24)) > 100
    assert "drawn" not in out
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert call("teacher", "noisy", "protocol=box_single", "count=3", "out=new/folder")[0] == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_folders_may_have_the_names_of_the_settings(call: Call, runs: Path) -> None:
    for name, of in (("first", "teacher"), ("second", "noisy")):
        shutil.copytree(runs / "evaluations" / of, name)
    found, usual = (
        json.loads(call(*names, "format=json", "protocol=box_single")[1])["rows"][0]
        for names in (("first", "second"), ("teacher", "noisy"))
    )
    figures = ("instances", "miou_first", "miou_second", "difference_points")
    assert [found[name] for name in figures] == [usual[name] for name in figures]


@pytest.mark.slow
def test_without_images_a_line_says_why(call: Call, runs: Path) -> None:
    def gone(content: dict[str, Any]) -> None:
        content["config"]["checkpoint"] = "gone.pth"

    def silent(content: dict[str, Any]) -> None:
        del content["config"]

    def elsewhere(content: dict[str, Any]) -> None:
        content["config"]["evaluation"]["data"] |= {"_target_": "data.other.Other"}

    changed(runs, "gone", gone)
    changed(runs, "silent", silent)
    changed(runs, "one_elsewhere", elsewhere, of="teacher")
    changed(runs, "other_elsewhere", elsewhere)
    Path("out").mkdir()
    Path("out", "best.png").write_text("of an earlier comparison")
    for words, said in {
        "teacher gone": "no images were drawn: checkpoint=gone.pth is neither a file nor a model",
        "teacher silent": "result.json holds no settings of an evaluation",
        "one_elsewhere other_elsewhere": "result.json names no data set of this version",
        "teacher teacher": "no images were drawn: no instance differs",
        "teacher noisy count=0": "no images were drawn: count=0",
    }.items():
        status, out, err = call(*words.split(" "), "out=out")
        assert status == 0 and not err and said in out.splitlines()[-1], out
        assert sorted(path.name for path in Path("out").iterdir()) == ["comparison.csv", "comparison.md"]


def test_what_does_not_compare_is_refused_in_one_line(call: Call, runs: Path) -> None:
    def data(content: dict[str, Any]) -> None:
        content["rows"][0]["data"] = "coco"

    def split(content: dict[str, Any]) -> None:
        content["config"]["evaluation"]["data"]["split"] = "train"

    def axis(content: dict[str, Any]) -> None:
        content["rows"][1]["axes"]["choice"] = "best_of_4"

    def fine(content: dict[str, Any]) -> None:
        pass

    for change in (data, split, axis, fine):
        changed(runs, change.__name__, change)
    lines = (runs / "evaluations" / "noisy" / "instances.jsonl").read_text().splitlines(keepends=True)
    changed(runs, "elsewhere", fine)
    moved = [line.replace('"image_id": ', '"image_id": 7') for line in lines]
    (runs / "evaluations" / "elsewhere" / "instances.jsonl").write_text("".join(moved))
    changed(runs, "twice", fine)
    (runs / "evaluations" / "twice" / "instances.jsonl").write_text("".join([*lines, lines[0]]))
    changed(runs, "other", fine)
    (runs / "evaluations" / "other" / "instances.jsonl").write_text("".join(lines).replace("box_", "point_"))
    changed(runs, "damaged", fine)
    (runs / "evaluations" / "damaged" / "instances.jsonl").write_text("{}\n")
    changed(runs, "detected", fine)
    (runs / "evaluations" / "detected" / "instances.jsonl").unlink()
    (runs / "evaluations" / "empty").mkdir()
    Path("file").write_text("")
    refused = {
        "": ["first is missing", "first=FOLDER"],
        "teacher": ["second is missing", "second=FOLDER"],
        "teacher noisy more": ["'more' is one word too many", "first and second"],
        "teacher nois": ["second=nois: no such folder", "did you mean noisy"],
        "teacher empty": ["second=empty: holds no result.json"],
        "teacher detected": ["second=detected: holds no instances.jsonl", "average precision"],
        "teacher damaged": ["line 1 is no record of an instance"],
        "teacher data": ["data is shapes in the first and coco in the second"],
        "teacher split": ["evaluation.data.split is validation in the first and train in the second"],
        "teacher axis": ["box_best_of_3@1: choice is best_of_3 in the first and best_of_4 in the second"],
        "teacher other": ["no protocol is in both", "box_single@1", "point_single@1"],
        "teacher elsewhere": ["box_single@1: no instance is in both"],
        "teacher twice": ["occurs twice in the second"],
        "teacher noisy protocol=box_singel": ["protocol=box_singel is not in both", "box_single@1"],
        "teacher noisy count=-1": ["count=-1 must be at least 0"],
        "teacher noisy count=few": ["count=few", "a whole number"],
        "teacher noisy out=file/x": ["out=file/x", "cannot be written"],
        "teacher noisy third=x": ["third is no setting"],
        "teacher noisy format=csv": ["format=csv is unknown", "table, json"],
    }
    for words, said in refused.items():
        status, out, err = call(*words.split())
        ok = status == 2 and err.startswith("error: ") and err.count("\n") == 1 and (not out or "out=" in words)
        assert ok and all(part in err for part in said), (words, err)
    assert [path.name for path in Path.cwd().iterdir()] == ["file"]


def test_protocols_of_one_side_are_reported(call: Call, runs: Path) -> None:
    changed(runs, "single", lambda content: content["rows"].__delitem__(slice(1, None)))
    path = runs / "evaluations" / "single" / "instances.jsonl"
    kept = [line for line in path.read_text().splitlines(keepends=True) if "box_single" in line]
    path.write_text("".join(kept))
    status, out, _ = call("single", "teacher")
    assert status == 0 and "box_oracle@1: only in the second, " in out and "instances not compared" in out


@pytest.mark.slow
def test_other_noise_on_boxes_is_reported(call: Call, runs: Path) -> None:
    for seed in (0, 1):
        words = ("evaluation.protocols=[box_jittered@1]", "evaluation.images=2", f"evaluation.seed={seed}")
        out = f"out='{runs / 'evaluations' / f'drawn{seed}'}'"
        assert main(["evaluate", *USUAL, "checkpoint=sam_pocket", *words, out]) == 0
    status, out, _ = call("drawn0", "drawn1", "out=files")
    assert status == 0 and "evaluation.seed is 0 in the first and 1 in the second" in out
    assert "comparison.md, worst.png" in out and "as drawn" not in out
