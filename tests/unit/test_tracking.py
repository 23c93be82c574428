"""Loggers: their settings, the curve of scores, ``metrics.csv``, TensorBoard's files and the report's layout."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from PIL import Image

from core.errors import InputError
from core.provenance import ROOT
from core.result import ResultRow
from data.shapes import Shapes
from experiments.config.compose import settings_of
from experiments.config.targets import register
from experiments.runs.build import method_stages
from experiments.runs.identity import run_id
from experiments.scoring import EvaluationSet, score_model
from experiments.tracking.local_files import CsvFile, TensorboardFiles, metrics_csv
from experiments.tracking.logger import Outcome, RunMetadata
from experiments.tracking.settings import LOGGERS, CsvLogger, NoLogger, WandbLogger, check_installed, check_logger
from experiments.tracking.stage_logs import CatchUp, read_log
from experiments.tracking.tracking import Tracking, tracked
from experiments.tracking.wandb_report import layout, positions, report
from experiments.tracking.wandb_report import main as report_main
from tests.unit.tiny import tiny_sam

ABOUT = RunMetadata("slimsam-r0.5-s0-0123abcd", "slimsam-r0.5", ("slimsam",), {}, False)


@pytest.fixture
def hydra() -> Iterator[None]:
    register()
    with initialize_config_module("conf", version_base="1.3"):
        yield


@pytest.fixture
def evaluation_set() -> EvaluationSet:
    data = Shapes("validation", 6, size=64)
    return EvaluationSet(data, "shapes", range(6), 64, "box_point@1", "bfloat16")


def write(folder: Path, stage: str, *entries: Mapping[str, Any], end: str = "\n") -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{stage}.jsonl").write_text("\n".join(json.dumps(entry) for entry in entries) + end)


def outcome(folder: Path, evaluation_set: EvaluationSet) -> Outcome:
    rows = [
        ResultRow(method=name, status="finished", miou=0.5, skipped={"crowd": 2}) for name in ("teacher", "slimsam")
    ]
    for name in ("student.safetensors", "result.json"):
        (folder / name).write_bytes(b"content")
    Image.new("RGB", (8, 4), (255, 0, 0)).save(folder / "masks.png")
    files = (folder / name for name in ("student.safetensors", "masks.png", "result.json"))
    checkpoint, image, result = files
    return Outcome(rows, {"teacher": tiny_sam(), "student": tiny_sam(1)}, evaluation_set, checkpoint, {}, image, result)


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        (CsvLogger(scores=-1), "logger.scores=-1 must be a number from 0"),
        (CsvLogger(images=0), "logger.images=0 must be a number from 1"),
        (WandbLogger(mode="dry"), "logger.mode=dry is unknown; choose one of online, offline, disabled"),
        (WandbLogger(init_s=float("nan")), "logger.init_s=nan must be"),
        (WandbLogger(finish_s=0.5), "logger.finish_s=0.5 must be a number from 1"),
        (WandbLogger(project=""), "logger.project= is empty"),
        (WandbLogger(project="team/sam"), r"project=team/sam holds '/'.*; give logger.entity=team logger.project=sam$"),
        (WandbLogger(project="a/b/c"), "project=a/b/c holds '/'.*; give another name, such as"),
        (WandbLogger(project="50%", mode="offline"), "logger.project=50% holds '%'"),
        (WandbLogger(project="sam\n"), "logger.project=sam  begins or ends with a space"),
        (WandbLogger(project="x" * 129), "logger.project=x* has 129 characters, 128 is the most"),
        (WandbLogger(entity="a:b"), "logger.entity=a:b holds ':'"),
        (WandbLogger(entity=""), "logger.entity= is empty"),
        (WandbLogger(group="x" * 129), "logger.group=x* has more than 128 characters"),
        (WandbLogger(tags=["x" * 65]), "1 to 64 characters"),
        (WandbLogger(tags=[""]), "1 to 64 characters"),
        ("csv", "logger=csv is unknown"),
    ],
)
def test_settings_out_of_range_are_refused(settings: Any, reported: str) -> None:
    with pytest.raises(InputError, match=reported):
        check_logger(settings)


def test_names_that_weights_and_biases_takes_are_taken() -> None:
    check_logger(WandbLogger(project="x" * 128, entity="my team", group="x" * 128, tags=["x" * 64]))
    check_logger(WandbLogger(project="Größe (v1.0), 1+1=2 [a]"))
    # Nobody but the package has such rules.
    check_logger(CsvLogger())


@pytest.mark.parametrize("name", LOGGERS)
def test_a_logger_is_not_part_of_a_runs_name(hydra: None, name: str) -> None:
    plain = compose("config", ["ratio=0.5"])
    chosen = compose("config", ["ratio=0.5", f"logger={name}"])
    settings = settings_of(chosen)
    assert type(settings.logger) is LOGGERS[name]
    device = torch.device("cpu")
    assert run_id(settings, device) == run_id(settings_of(plain), device)


def test_a_number_of_threads_that_is_given_is_part_of_a_runs_name(hydra: None) -> None:
    names = set()
    for words in ([], ["engine.threads=1"], ["engine.threads=2"]):
        chosen = compose("config", ["ratio=0.5", *words])
        names.add(run_id(settings_of(chosen), torch.device("cpu")))
    assert len(names) == 3


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_is_named_with_its_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name, reason=f"the extra {name} is not installed")
    check_installed(LOGGERS[name]())
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"logger={name}: .*pip install 'sampress\[{name}\]'") as refusal:
        check_installed(LOGGERS[name]())
    assert "\n" not in str(refusal.value)
    check_installed(NoLogger())
    check_installed(CsvLogger())
    check_installed(WandbLogger(mode="disabled"))


@pytest.mark.slow
def test_a_run_without_these_packages_does_not_ask_for_them() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('wandb', 'tensorboard', 'wandb_workspaces', 'matplotlib')));"
        "import experiments.runs.run, experiments.tracking.tracking"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_scores_lie_at_equal_parts_and_at_the_end() -> None:
    def steps_scored(scores: int, steps: int) -> list[int]:
        return [step for step in range(1, steps + 1) if Tracking(scores=scores).scores_at(step, steps)]

    assert steps_scored(4, 100) == [25, 50, 75, 100]
    assert steps_scored(3, 10) == [4, 7, 10]
    assert steps_scored(4, 2) == [1, 2]
    assert steps_scored(1, 7) == [7]
    assert steps_scored(0, 7) == []


def test_the_curve_is_the_runs_score_on_the_first_images(
    tmp_path: Path, evaluation_set: EvaluationSet, capfd: pytest.CaptureFixture[str]
) -> None:
    model = tiny_sam()
    with tracked(CsvLogger(scores=4, images=3), tmp_path, evaluation_set, ABOUT) as tracking:
        assert tracking.callback is tracking
        found = tracking.score(model)
    # It says nothing meanwhile.
    assert capfd.readouterr() == ("", "")
    same = EvaluationSet(
        evaluation_set.data, evaluation_set.name, range(3), evaluation_set.batch, evaluation_set.protocol, "float32"
    )
    row, _ = score_model(model, same)
    assert found == {"miou": row["miou"], "miou_point": row["miou_point"]}
    assert Tracking((), EvaluationSet(evaluation_set.data, "shapes", [], 64, "box_point@1"), 4).score(model) == {}


def test_without_a_logger_nothing_is_scored_meanwhile(tmp_path: Path, evaluation_set: EvaluationSet) -> None:
    with tracked(NoLogger(), tmp_path, evaluation_set, ABOUT) as tracking:
        assert tracking.callback is None
        tracking.log("stage", {"step": 1})
        tracking.finished(outcome(tmp_path / "..", evaluation_set))
    assert not (tmp_path / "metrics.csv").exists()


def test_metrics_are_the_logs_and_nothing_twice(tmp_path: Path) -> None:
    write(tmp_path, "second", {"step": 3, "loss": 1 / 3, "images": 6}, {"step": 3, "miou": 0.25})
    write(tmp_path, "first", {"step": 1, "loss": 0.1, "word": "x", "flag": True}, {"step": 2, "loss": float("nan")})
    with open(tmp_path / "second.jsonl", "a") as stream:
        stream.write('{"step": 4, "lo')
    assert metrics_csv(tmp_path).splitlines() == [
        "stage,step,metric,value",
        "first,1,loss,0.1",
        "first,2,loss,nan",
        f"second,3,loss,{1 / 3!r}",
        "second,3,images,6",
        "second,3,miou,0.25",
    ]
    assert read_log(tmp_path / "third.jsonl") == []


def test_metrics_are_written_where_a_stage_begins_and_at_the_end(
    tmp_path: Path, evaluation_set: EvaluationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, path = CsvFile(tmp_path), tmp_path / "metrics.csv"
    entries = [{"step": step, "loss": 1.0 / step} for step in (1, 2, 3)]
    for count, entry in enumerate(entries, 1):
        write(tmp_path, "first", *entries[:count])
        file.log("first", entry)
        assert len(path.read_text().splitlines()) == 2, "not at every step"
    write(tmp_path, "second", entries[0])
    file.log("second", entries[0])
    assert len(path.read_text().splitlines()) == 5
    write(tmp_path, "second", *entries)
    with monkeypatch.context() as patch:
        patch.setattr("experiments.tracking.local_files.EVERY_S", -1.0)
        file.log("second", entries[1])
    assert len(path.read_text().splitlines()) == 7
    write(tmp_path, "third", entries[0])
    file.failed(RuntimeError())
    assert path.read_text() == metrics_csv(tmp_path)
    assert not list(tmp_path.glob(".*.part"))


def test_who_comes_late_hears_everything_once(tmp_path: Path) -> None:
    entries = [{"step": step, "loss": float(step)} for step in (1, 2, 3)]
    write(tmp_path, "earlier", *entries)
    write(tmp_path, "now", *entries[:2])
    catch_up = CatchUp(tmp_path)
    # The log holds a line before any logger gets it.
    assert catch_up.news("now", entries[1]) == entries[:2]
    assert catch_up.news("now", entries[2]) == [entries[2]]
    assert list(catch_up.rest()) == [("earlier", entry) for entry in entries]
    assert list(catch_up.rest()) == []


def events_of(folder: Path) -> Any:
    """What TensorBoard itself reads of a run's folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = events_of(folder)
    return {
        tag: [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_has_every_figure_once_after_a_resume(tmp_path: Path, evaluation_set: EvaluationSet) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    entries = [{"step": step, "loss": 1.0 / step, "rate": 0.1} for step in (1, 2, 3, 4)]
    write(tmp_path, "first", *entries[:2])
    killed = TensorboardFiles(tmp_path)
    killed.begin()
    killed.log("first", entries[1])
    write(tmp_path, "first", *entries[:3])
    killed.log("first", entries[2])
    killed._writer.close()

    # The next process goes on from step 1, and repeats what came after.
    again = TensorboardFiles(tmp_path)
    again.begin()
    for count in (2, 3, 4):
        write(tmp_path, "first", *entries[:count])
        again.log("first", entries[count - 1])
    write(tmp_path, "second", {"step": 1, "miou": 0.5})
    again.finished(outcome(tmp_path, evaluation_set))
    found = scalars(tmp_path)
    assert found["first/loss"] == [(entry["step"], entry["loss"]) for entry in entries]
    assert set(found) == {"first/loss", "first/rate", "second/miou"}
    events = events_of(tmp_path)
    assert events.Tags()["images"] == ["masks"]
    text = events.Tensors("comparison/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| method |" in text and "| slimsam |" in text and "crowd 2" in text and "parameters" not in text


def test_tensorboard_says_why_a_run_failed(
    tmp_path: Path, evaluation_set: EvaluationSet, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        tracked(LOGGERS["tensorboard"](), tmp_path, evaluation_set, ABOUT),
    ):
        write(tmp_path, "first", {"step": 1, "loss": 2.0})
        raise RuntimeError("out of memory")
    assert scalars(tmp_path) == {"first/loss": [(1, 2.0)]}
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1:] == ["first,1,loss,2.0"]
    events = events_of(tmp_path)
    assert b"out of memory" in events.Tensors("failed/text_summary")[0].tensor_proto.string_val[0]


def test_what_goes_wrong_after_a_failure_does_not_hide_it(
    tmp_path: Path, evaluation_set: EvaluationSet, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(CsvFile, "_write", full)
    with pytest.raises(RuntimeError, match="the first"), tracked(CsvLogger(), tmp_path, evaluation_set, ABOUT):
        raise RuntimeError("the first")
    assert capfd.readouterr().err == "warning: CsvFile: OSError: no space left\n"


def test_the_reports_layout_is_printed_without_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_main(["--dry-run", "--entity", "someone", "--stages", "encoder"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["entity"], content["project"]) == ("someone", "sampress")
    panels = [panel for section in content["sections"] for panel in section["panels"]]
    assert {panel["kind"] for panel in panels} == {"line", "scatter", "parallel", "table", "images"}
    lines = [(panel["x"], panel["y"]) for panel in panels if panel["kind"] == "line"]
    names = ("miou", "miou_point", "loss", "rate", "images_per_s", "peak_memory_bytes")
    assert lines == [("encoder/step", [f"encoder/{name}"]) for name in names]
    scatter = next(panel for panel in panels if panel["kind"] == "scatter")
    assert (scatter["x"], scatter["y"]) == ("macs_full", ["miou"])


def test_the_layout_names_the_stages_of_the_methods() -> None:
    code = "".join(path.read_text() for path in (ROOT / "compressors").glob("*.py"))
    assert all(f'"{stage}"' in code for stage in method_stages())


def test_the_report_is_built_of_panels_that_the_package_takes() -> None:
    with warnings.catch_warnings():
        # Of the package's own, about pydantic.
        warnings.simplefilter("ignore")
        reason = "the extra wandb is not installed"
        reports = pytest.importorskip("wandb_workspaces.reports.v2", reason=reason)
        made = report(reports, layout(method_stages()), "someone", "project", "A title")
    grids = [block for block in made.blocks if isinstance(block, reports.PanelGrid)]
    assert len(grids) == len(layout(method_stages())) and made.title == "A title"
    for grid, section in zip(grids, layout(method_stages()), strict=True):
        shown = [panel._to_model().model_dump() for panel in grid.panels]
        assert [(p["layout"]["x"], p["layout"]["y"]) for p in shown] == [p[:2] for p in positions(section.panels)]
    miou = grids[1].panels[0]._to_model().model_dump()["config"]
    assert (miou["x_axis"], miou["metrics"]) == ("encoder/step", ["encoder/miou"]), "the first method's"


def test_a_report_that_cannot_be_saved_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    assert report_main(["--entity", "someone"]) == 2
    reported = capsys.readouterr().err
    assert reported.count("\n") == 1 and "pip install 'sampress[wandb]'" in reported
