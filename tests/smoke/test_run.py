"""Whole runs at pocket scale, with a teacher of random weights: the path, the files and what a second call does."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image

from compressors.distill.engine import TrainingDiverged
from compressors.slimsam import SlimSam
from core.checkpoint import file_sha256
from core.errors import InputError
from core.result import COLUMNS
from core.threads import given
from experiments.cli.command_line import main
from experiments.reporting.columns import LEADERBOARD_COLUMNS
from experiments.runs.folder import lock_run_dir
from students.files import load_model, read_model_metadata
from tests import warm_processes
from tests.unit.tiny import pocket_file

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights in the shape of sam_pocket."""
    return pocket_file(tmp_path_factory.mktemp("teacher") / "pocket.pth")


@pytest.fixture(scope="module")
def first(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, the only one below its ``runs``."""
    runs = tmp_path_factory.mktemp("first") / "runs"
    assert main([*_words(teacher, runs), "format=json"]) == 0
    (folder,) = (path.parent for path in runs.glob("*/result.json"))
    return folder


@pytest.fixture
def call(command: Call, tmp_path: Path) -> Iterator[Call]:
    """Any command from an empty folder."""
    yield command
    assert not list((tmp_path / "place").iterdir()), "a command may leave nothing where it is called"


def _words(teacher: Path, runs: Path) -> list[str]:
    return ["experiment=smoke", f"teacher.checkpoint={teacher}", f"runs={runs}"]


UNKNOWN = (
    *("reason", "weight_bits", "activation_bits", "bit_operations", "float_macs", "simulated"),
    *("miou_images", "miou_categories", "axes", "detections", "average_recall"),
    *(name for name in COLUMNS if name.startswith("ap")),
)
"""Columns that a finished run of a float student leaves empty."""


def test_a_run_leaves_rows_student_image_and_leaderboard(first: Path) -> None:
    content = json.loads((first / "result.json").read_text())
    rows = content["rows"]
    assert [row["method"] for row in rows] == ["filled_box", "filled_ellipse", "teacher", "slimsam"]
    assert all(tuple(row) == COLUMNS for row in rows)
    assert {row["instances"] for row in rows} == {rows[0]["instances"]} and {row["images"] for row in rows} == {4}
    assert {row["run_id"] for row in rows} == {first.name} and first.name.startswith("smoke-r0.5-s0-")
    box, ellipse, of_teacher, student = rows
    assert box["miou"] > 0.4 and ellipse["miou_point"] is None and box["parameters"] is None
    # Image by image, as paired intervals need the student's scores.
    by_image = content["by_image"]
    assert sum(by_image["instances"]) == student["instances"] and len(by_image["image"]) == student["images"]
    for name in ("miou", "miou_point"):
        mean = sum(n * iou for n, iou in zip(by_image["instances"], by_image[name], strict=True)) / student["instances"]
        assert mean == pytest.approx(student[name], abs=1e-5)
    # Both were timed in turns.
    assert of_teacher["encoder_latency_ratio"] == 1 and student["latency_reference"] == of_teacher["teacher"]
    assert student["encoder_latency_ratio_low"] <= student["encoder_latency_ratio"]
    assert student["encoder_parameters"] < 0.4 * of_teacher["encoder_parameters"]
    assert student["images_seen"] == 2 * 4 * 2 and student["train_seconds"] > 0
    assert all(student[name] is not None for name in COLUMNS if name not in (*UNKNOWN, "miou_large"))
    assert student["device_hours"] == pytest.approx(student["train_seconds"] / 3600)
    assert student["train_images_per_s"] == pytest.approx(16 / student["train_seconds"])
    assert student["training_precision"] == content["training_precision"] and of_teacher["training_precision"] is None
    assert student["variant"] == "smoke"
    model = load_model(first / "student.safetensors")
    assert sum(p.numel() for p in model.parameters()) == student["parameters"]
    assert content["student_sha256"] == file_sha256(first / "student.safetensors")
    assert content["config"]["method"]["steps"] == 4 and content["provenance"]["git_sha"] == student["git_sha"]
    about = Image.open(first / "masks.png").text["Description"]
    assert about.startswith(f"teacher sam_pocket, student {student['student']}; shapes, ") and first.name in about
    assert content["stages"] == ["bottleneck_aligning", "embedding_aligning"]
    for who, row in (("teacher", of_teacher), ("student", student)):
        assert sum(content["widths"][who]["parts"].values()) == row["parameters"]
    assert not list(first.glob("*.state")), "a finished run keeps no training state"
    table = pd.read_csv(first.parent / "leaderboard.csv")
    assert list(table.columns) == list(LEADERBOARD_COLUMNS)
    assert (table["result_file"] == f"{first.parent.name}/{first.name}/result.json").sum() == 4, "beside committed rows"
    beside = [".embeddings", ".leaderboard.lock", ".scored", "leaderboard.csv", first.name]
    assert sorted(path.name for path in first.parent.iterdir()) == beside


def test_the_second_call_shows_the_finished_run_without_training(
    first: Path, teacher: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("nothing is to be loaded")

    monkeypatch.setattr("experiments.runs.run.build_teacher", refuse)
    before = (first / "result.json").read_bytes()
    status, out, err = call(*_words(teacher, first.parent))
    assert status == 0 and "finished earlier" in err
    assert "filled" in out and "to teacher, points" in out and "box_point@1 on shapes" in out and "pocket scale" in out
    # The folder's path is as long as it is.
    assert max(len(line) for line in out.splitlines() if not line.startswith("files:")) <= 80
    status, out, err = call(*_words(teacher, first.parent), "format=json")
    assert status == 0 and json.loads(out) == {"rows": json.loads(before)["rows"]}
    assert (first / "result.json").read_bytes() == before


def test_a_run_leaves_its_page_and_an_older_one_gets_it(first: Path, teacher: Path, call: Call) -> None:
    page = first / "report.html"
    content = page.read_text()
    assert first.name in content and content.count('<svg class="chart"') >= 6 and "metrics.csv" in content
    page.unlink()
    status, out, _ = call(*_words(teacher, first.parent))
    assert status == 0 and "report.html" in out
    assert page.read_text() == content


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_ends_the_same(
    first: Path, teacher: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    state = runs / first.name / "bottleneck_aligning.state"
    command = warm_processes.begin(tmp_path / "elsewhere", _words(teacher, runs))
    give_up = time.monotonic() + 240
    while not state.exists() and command.running() and time.monotonic() < give_up:
        time.sleep(0.01)
    command.kill()
    command.ended()
    assert state.exists() and not (runs / first.name / "result.json").exists()
    pruned = (state.parent / "embedding_pruned.safetensors").stat().st_mtime_ns
    # Where it goes on, another number of threads would be taken.
    before = torch.get_num_threads()
    threads = before if given() else 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        status, out, err = call(*_words(teacher, runs), "format=json")
        assert torch.get_num_threads() == (2 if threads == 1 else 1), "what follows is not bound to this run's number"
    finally:
        torch.set_num_threads(before)
    assert status == 0 and f"goes on with threads: {threads}, not {2 if threads == 1 else 1}; " in err
    assert (state.parent / "embedding_pruned.safetensors").stat().st_mtime_ns == pruned, "the first step was not redone"
    again, before = (json.loads((folder / "result.json").read_text()) for folder in (state.parent, first))
    assert _measured(again["rows"]) == _measured(before["rows"])
    assert [row["threads"] for row in again["rows"]] == [None, None, threads, threads]
    assert not (state.parent / "threads.json").exists()
    tensors = (load_model(folder / "student.safetensors").state_dict() for folder in (state.parent, first))
    assert all(torch.equal(a, b) for a, b in zip(*(t.values() for t in tensors), strict=True))
    assert _measured(json.loads(out)["rows"]) == _measured(before["rows"])


def _measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what the clock decides."""
    timed = ("encoder_latency_ms", "decoder_latency_ms", "train_seconds", "device_hours")
    timed += ("train_images_per_s", "train_peak_memory_bytes")
    timed += tuple(f"{part}_latency_ratio{end}" for part in ("encoder", "decoder") for end in ("", "_low", "_high"))
    return [{key: value for key, value in row.items() if key not in timed} for row in rows]


def test_one_process_at_a_time(first: Path, teacher: Path, call: Call) -> None:
    with lock_run_dir(first, fresh=False):
        status, _, err = call(*_words(teacher, first.parent), "force=true")
    assert status == 2 and "another process works on this run" in err
    assert (first / "result.json").exists()


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    half, whole, other = (tmp_path / name for name in (".stage.state.x1y2_abc.part", "stage.state", ".somebody's.part"))
    for path in (half, whole, other):
        path.touch()
    with lock_run_dir(tmp_path, fresh=False):
        assert whole.exists() and not half.exists() and other.exists()


def test_a_failure_is_a_row_and_the_next_call_starts_again(
    teacher: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object) -> None:
        raise TrainingDiverged("the loss is not finite")

    runs = tmp_path / "runs"
    with monkeypatch.context() as patch:
        patch.setattr(SlimSam, "compress", diverge)
        status, _, err = call(*_words(teacher, runs))
    assert status == 1 and err.splitlines()[-1] == "error: the loss is not finite"
    (folder,) = runs.iterdir()
    assert not (folder / "result.json").exists()
    assert "TrainingDiverged: the loss is not finite" in (folder / "report.html").read_text()
    status, out, _ = call("leaderboard", f"runs={runs}", "results=false", "published=false", "format=json")
    (row,) = json.loads(out)["rows"]
    assert status == 0 and row["status"] == "failed" and row["reason"] == "TrainingDiverged: the loss is not finite"
    assert row["miou"] is None and row["run_id"] == folder.name and row["seed"] == 0


@pytest.mark.slow
def test_a_loss_that_explodes_stops_with_its_step_and_its_images(teacher: Path, call: Call, tmp_path: Path) -> None:
    words = ("method.optimisation.lr=1e30", "method.optimisation.clip=0", "method.steps=30")
    status, out, err = call(*_words(teacher, tmp_path / "runs"), *words)
    last = err.splitlines()[-1]
    assert status == 1 and not out and last.startswith("error: stage bottleneck_aligning, step ")
    assert "shapes_train_0000" in last and "bottleneck_aligning.state" in last and "try a lower learning rate" in last


def test_input_that_turns_out_wrong_during_a_run_leaves_nothing(
    teacher: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("image.jpg: truncated")

    monkeypatch.setattr(SlimSam, "compress", refuse)
    status, out, err = call(*_words(teacher, tmp_path / "runs"))
    assert status == 2 and not out and err.splitlines()[-1] == "error: image.jpg: truncated"
    assert not list((tmp_path / "runs").iterdir())


def test_evaluate_scores_a_student_and_a_teacher(first: Path, teacher: Path, call: Call, tmp_path: Path) -> None:
    rows = json.loads((first / "result.json").read_text())["rows"]
    small = ("evaluation=shapes", "evaluation.images=4", "evaluation.latency_runs=1", f"runs={tmp_path / 'runs'}")
    status, out, _ = call("evaluate", f"checkpoint={first / 'student.safetensors'}", *small, "format=json")
    row, *fillings = json.loads(out)["rows"]
    assert status == 0 and row["status"] == "evaluated"
    assert [(filling["method"], filling["miou"]) for filling in fillings] == [
        (r["method"], r["miou"]) for r in rows[:2]
    ]
    same = ("run_id", "method", "ratio", "teacher", "student", "seed", "miou", "miou_point", "parameters", "size_bytes")
    assert [row[key] for key in same] == [rows[3][key] for key in same]
    status, out, _ = call("evaluate", f"checkpoint={teacher}", *small)
    assert status == 0 and "mIoU, one point" in out
    # Each leaves its records and rows, apart from those of runs.
    written = sorted(path.name for path in (tmp_path / "runs" / "evaluations").glob("*/*") if path.name[0] != ".")
    assert written == [name for name in ("instances.jsonl", "report.html", "result.json") for _ in range(2)]


def test_cost_needs_no_weights_and_no_data(call: Call) -> None:
    status, out, err = call("cost", "teacher=sam_vit_b", "method=slimsam", "ratio=0.77", "format=json")
    teacher, student = json.loads(out)["rows"]
    assert status == 0 and not err
    assert (teacher["encoder_parameters"], student["encoder_parameters"]) == (89_670_912, 5_658_968)
    assert student["parameters"] == 9_723_528 and student["status"] == "counted" and student["ratio"] == 0.77
    assert tuple(student) == COLUMNS


def test_a_sweep_runs_every_combination(call: Call) -> None:
    # Options may stand anywhere among the settings.
    words = ("teacher=sam_pocket", "-m", "method=slimsam,scratch", "ratio=0.5,0.77", "format=json")
    # Costs, because they take no time; runs go through the same door.
    status, out, _ = call("cost", *words, f"runs={Path.cwd().parent / 'sweep'}")
    rows = json.loads(out)["rows"]
    assert status == 0
    assert [(row["method"], row["ratio"]) for row in rows if row["ratio"]] == [
        (method, ratio) for method in ("slimsam", "scratch") for ratio in (0.5, 0.77)
    ]


def test_settings_can_be_shown(call: Call) -> None:
    status, out, _ = call("--cfg", "job", "ratio=0.5")
    assert status == 0 and "difficulty" in out and "ratio: 0.5" in out


@pytest.mark.slow
def test_a_second_method_goes_on_with_what_the_first_made(first: Path, teacher: Path, tmp_path: Path) -> None:
    shutil.copytree(first, tmp_path / first.name)
    words = [*_words(teacher, tmp_path), "then=ptq", "then.metric=minmax", "then.images=1", "then.prompts=1"]
    assert main(words) == 0
    names = sorted(path.parent.name for path in tmp_path.glob("*/result.json"))
    assert [name.rpartition("-")[0] for name in names] == ["smoke+ptq-r0.5-s0", "smoke-r0.5-s0"]
    earlier, second = (
        json.loads((tmp_path / name / "result.json").read_text())["rows"][-1] for name in reversed(names)
    )
    assert (earlier["method"], second["method"]) == ("slimsam", "slimsam+ptq")
    assert second["ratio"] == 0.5 and second["images_seen"] == earlier["images_seen"]
    assert second["training_precision"] == earlier["training_precision"] is not None
    assert second["parameters"] == earlier["parameters"] and second["macs_full"] == earlier["macs_full"]
    assert second["weight_bits"] == 8 and second["bit_operations"] < earlier["macs_full"] * 32 * 32
    assert second["size_bytes"] < 0.4 * earlier["size_bytes"]


@pytest.mark.slow
def test_a_third_method_goes_on_with_what_the_second_made(
    first: Path, teacher: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(first, tmp_path / first.name)
    words = [*_words(teacher, tmp_path), "then=tinysam", "then.steps=2", "then.batch=1", "then.prompts=1"]
    words += ["lastly=ptq", "lastly.metric=minmax", "lastly.images=1", "lastly.prompts=1", "format=json"]
    assert main(words) == 0
    rows = json.loads(capfd.readouterr().out)["rows"]
    made = {row["run_id"]: row["method"] for row in rows if row["status"] == "finished"}
    assert list(made.values()) == ["slimsam", "slimsam+tinysam", "slimsam+tinysam+ptq"]
    about = [read_model_metadata(tmp_path / name / "student.safetensors")["method"] for name in made]
    assert about == list(made.values())
    times = [(tmp_path / name / "result.json").stat().st_mtime_ns for name in made]
    assert main(words) == 0
    assert [(tmp_path / name / "result.json").stat().st_mtime_ns for name in made] == times
