"""Weights & Biases without it: what a stand-in for its package gets, and what a failing one may do."""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.result import ResultRow
from data.shapes import Shapes
from experiments.scoring import EvaluationSet
from experiments.tracking.logger import Outcome, RunMetadata
from experiments.tracking.settings import LONGEST_RUN, WandbLogger, artifact_name, flaw_of, shortened
from experiments.tracking.wandb_results import numbered
from experiments.tracking.wandb_run import WandbRun
from tests.unit.tiny import tiny_sam

ID = "slimsam+ptq-r0.5-s0-0123abcd"


class FakeRun:
    """A run that remembers what it is given."""

    def __init__(self, package: "FakePackage", given: dict[str, Any]) -> None:
        self.package, self.given = package, given
        self.offline, self.url = given["mode"] == "offline", "https://example.org/run"
        self.resumed = given["resume"] == "allow" and given["id"] in package.server
        self.summary: dict[str, Any] = dict(package.server.get(given["id"], {})) if self.resumed else {}
        self.history: list[dict[str, Any]] = []
        self.metrics: list[tuple[str, dict[str, Any]]] = []
        self.artifacts: list[Any] = []
        self.exit_code: int | None = None
        kind = "offline-run" if self.offline else "run"
        folder = Path(given["dir"]) / "wandb" / f"{kind}-{len(package.runs)}-{given['id']}"
        folder.mkdir()
        self.settings = SimpleNamespace(sync_dir=str(folder))

    def define_metric(self, name: str, **options: Any) -> None:
        self.metrics.append((name, options))

    def log(self, values: dict[str, Any]) -> None:
        self.package.called("log")
        self.history.append(values)

    def log_artifact(self, artifact: Any) -> None:
        self.package.called("log_artifact")
        self.artifacts.append(artifact)

    def finish(self, exit_code: int) -> None:
        self.package.called("finish")
        self.exit_code = exit_code


class FakePackage:
    """Stands for the module ``wandb``. ``server`` holds summaries by a run's name; what is in ``broken`` raises."""

    Settings = type("Settings", (SimpleNamespace,), {"model_fields": dict.fromkeys(("console", "init_timeout"))})

    def __init__(self) -> None:
        self.runs: list[FakeRun] = []
        self.calls: list[str] = []
        self.server: dict[str, dict[str, Any]] = {}
        self.broken: dict[str, Exception] = {}
        self.known = True

    def called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.broken:
            raise self.broken[name]

    def setup(self, settings: Any) -> None:
        self.called("setup")

    def login(self, prompt: bool) -> bool:
        assert not prompt, "there must be no prompt while a run waits"
        return self.known

    def init(self, **given: Any) -> FakeRun:
        self.called("init" if given["mode"] == "offline" else "init online")
        if given["resume"] == "never" and given["id"] in self.server:
            raise RuntimeError(f"Run ({given['id']}) already exists, but your `resume` setting does not allow")
        self.runs.append(FakeRun(self, given))
        return self.runs[-1]

    def teardown(self) -> None:
        self.called("teardown")

    def Table(self, columns: list[str], data: list[list[Any]]) -> Any:
        return SimpleNamespace(columns=columns, data=data)

    def Image(self, content: Any, caption: str | None = None, masks: Any = None) -> Any:
        self.called("Image")
        return SimpleNamespace(content=content, caption=caption, masks=masks)

    def Artifact(self, name: str, kind: str, metadata: Mapping[str, Any]) -> Any:
        files: list[tuple[str, str]] = []
        add = lambda path, name, policy: files.append((name, policy))  # noqa: E731
        return SimpleNamespace(name=name, kind=kind, metadata=metadata, files=files, add_file=add)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> FakePackage:
    made = FakePackage()
    monkeypatch.setitem(sys.modules, "wandb", made)  # type: ignore[arg-type]
    return made


def begun(folder: Path, again: bool = False, **settings: Any) -> WandbRun:
    about = RunMetadata(ID, "slimsam+ptq-r0.5", ("slimsam+ptq", "sam_pocket", "shapes", "smoke"), {"seed": 0}, again)
    made = WandbRun(WandbLogger(**settings), folder, about)
    made.begin()
    return made


def tell(logger: WandbRun, stage: str, *entries: Mapping[str, Any]) -> None:
    """Write lines of a stage's log, and tell of each."""
    for entry in entries:
        with open(logger.folder / f"{stage}.jsonl", "a") as stream:
            print(json.dumps(entry), file=stream)
        logger.log(stage, entry)


def steps(*numbers: int) -> list[dict[str, float]]:
    return [{"step": number, "loss": 1.0 / number} for number in numbers]


def outcome(folder: Path) -> Outcome:
    data = Shapes("validation", 3, size=64)
    rows = [
        ResultRow(method="teacher", run_id=ID, status="finished", miou=0.9, miou_point=0.8),
        ResultRow(method="slimsam+ptq", run_id=ID, status="finished", miou=0.7, skipped={"crowd": 1}),
    ]
    folder.mkdir(exist_ok=True)
    files = [folder / name for name in ("student.safetensors", "masks.png", "result.json")]
    for path in files:
        path.write_bytes(b"content")
    Image.new("RGB", (8, 4)).save(files[1])
    stored = EvaluationSet(data, "shapes", range(3), 64, "box_point@1")
    return Outcome(rows, {"teacher": tiny_sam(), "student": tiny_sam(1)}, stored, files[0], {"seed": 0}, *files[1:])


def test_a_version_that_waits_for_uploads_says_how_long(
    tmp_path: Path, package: FakePackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = type("Settings", (SimpleNamespace,), {"model_fields": dict.fromkeys(("init_timeout", "finish_timeout"))})
    monkeypatch.setattr(package, "Settings", newer)
    begun(tmp_path, init_s=5.0, finish_s=7.0)
    assert vars(package.runs[0].given["settings"]) == {"init_timeout": 5.0, "finish_timeout": 7.0}


def test_a_run_appears_under_its_name(tmp_path: Path, package: FakePackage, capfd: pytest.CaptureFixture[str]) -> None:
    begun(tmp_path)
    begun(tmp_path / "other", project="elsewhere", entity="someone", group="mine", tags=["a"])
    first, other = (run.given for run in package.runs)
    assert (first["id"], first["name"], first["mode"], first["resume"]) == (ID, ID, "online", "never")
    assert (first["project"], first["entity"], first["job_type"]) == ("sampress", None, "compress")
    assert (first["group"], first["tags"]) == ("slimsam+ptq-r0.5", ["slimsam+ptq", "sam_pocket", "shapes", "smoke"])
    assert (first["config"], first["dir"]) == ({"seed": 0}, str(tmp_path))
    assert (other["project"], other["entity"], other["group"], other["tags"]) == ("elsewhere", "someone", "mine", ["a"])
    assert vars(first["settings"]) == {"console": "off", "init_timeout": 30.0}, "no setting that the version lacks"
    assert capfd.readouterr().err.count("Weights & Biases: https://example.org/run") == 2


def test_figures_of_a_step_are_one_point_and_stages_count_their_own_steps(tmp_path: Path, package: FakePackage) -> None:
    logger = begun(tmp_path)
    tell(logger, "first", {"step": 2, "loss": 0.5, "rate": 0.1}, {"step": 2, "miou": 0.7}, {"step": 4, "loss": 0.25})
    tell(logger, "second", {"step": 1, "miou": 0.75})
    logger.failed(RuntimeError("x"))
    (run,) = package.runs
    assert run.history == [
        {"first/step": 2, "first/loss": 0.5, "first/rate": 0.1, "first/miou": 0.7},
        {"first/step": 4, "first/loss": 0.25},
        {"second/step": 1, "second/miou": 0.75},
    ]
    assert run.metrics == [
        ("first/step", {"hidden": True}),
        ("first/*", {"step_metric": "first/step"}),
        ("second/step", {"hidden": True}),
        ("second/*", {"step_metric": "second/step"}),
    ]


def test_a_run_that_was_killed_goes_on_under_its_name_without_repeating(tmp_path: Path, package: FakePackage) -> None:
    tell(begun(tmp_path), "first", *steps(1, 2, 3))
    # What the server knew when the process was killed; training goes on from an earlier state.
    package.server[ID] = {"first/step": 2, "first/loss": 0.5, "status": "failed", "reason": "x"}
    (tmp_path / "first.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in steps(1)))
    again = begun(tmp_path)
    resumed = package.runs[1]
    assert (resumed.summary["status"], resumed.summary["reason"]) == ("running", "")
    tell(again, "first", *steps(2, 3, 4))
    again.failed(RuntimeError("x"))
    assert (resumed.given["id"], resumed.given["resume"]) == (ID, "allow")
    assert [point["first/step"] for point in resumed.history] == [3, 4]


def test_what_an_earlier_process_left_unsent_is_sent(tmp_path: Path, package: FakePackage) -> None:
    """A run that began with another logger, or offline: the logs hold all of it."""
    for stage, entries in (("earlier", steps(1, 2)), ("now", steps(1))):
        (tmp_path / f"{stage}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    logger = begun(tmp_path, mode="offline")
    tell(logger, "now", *steps(2))
    logger.finished(outcome(tmp_path))
    points = [(key, point[key]) for point in package.runs[0].history for key in point if key.endswith("/step")]
    assert points == [("now/step", 1), ("now/step", 2), ("earlier/step", 1), ("earlier/step", 2)]


def test_offline_a_finished_run_lies_in_one_folder(tmp_path: Path, package: FakePackage) -> None:
    tell(begun(tmp_path, mode="offline"), "first", *steps(1))
    logger = begun(tmp_path, mode="offline")
    tell(logger, "first", *steps(2))
    logger.finished(outcome(tmp_path))
    assert [run.given["resume"] for run in package.runs] == [None, None]
    assert {run.given["id"] for run in package.runs} == {ID}
    assert [path.name for path in (tmp_path / "wandb").glob("offline-run-*")] == [f"offline-run-1-{ID}"]


def test_a_run_that_starts_over_does_not_mix_with_the_earlier_one(tmp_path: Path, package: FakePackage) -> None:
    first = begun(tmp_path / "a", again=True)
    identity = package.runs[0].given["id"]
    assert identity.startswith(f"{ID}-") and package.runs[0].given["name"] == ID
    # What was started over and killed goes on as that.
    assert first.folder.joinpath("wandb", "run_id.txt").read_text() == f"{identity}\n"
    begun(tmp_path / "a")
    assert package.runs[1].given["id"] == identity


def test_a_name_that_somebody_else_has_is_not_taken(tmp_path: Path, package: FakePackage) -> None:
    package.server[ID] = {"first/step": 100}
    logger = begun(tmp_path)
    assert package.runs[0].given["id"].startswith(f"{ID}-") and package.runs[0].given["resume"] == "never"
    tell(logger, "first", *steps(1))
    logger.failed(RuntimeError("x"))
    assert len(package.runs[0].history) == 1


@pytest.mark.parametrize("reason", ["no answer", "no login"])
def test_without_a_server_the_run_is_recorded_offline(
    reason: str, tmp_path: Path, package: FakePackage, capfd: pytest.CaptureFixture[str]
) -> None:
    if reason == "no answer":
        package.broken["init online"] = TimeoutError("no answer\nfor 30 seconds")
    else:
        package.known = False
    logger = begun(tmp_path)
    tell(logger, "first", *steps(1))
    logger.finished(outcome(tmp_path))
    (run,) = package.runs
    assert run.offline and run.exit_code == 0 and run.history[0]["first/step"] == 1
    reported = capfd.readouterr().err
    what = "nobody is logged in; wandb login, or set WANDB_API_KEY" if reason == "no login" else "no answer"
    assert reported.count("\n") == 1 and reported.startswith(
        f"warning: Weights & Biases: {what}; this run is recorded offline"
    )
    assert "wandb sync" in reported and "offline-run-*" in reported


@pytest.mark.parametrize("broken", ["setup", "init", "log", "finish"])
def test_what_fails_is_reported_once_and_left_alone(
    broken: str, tmp_path: Path, package: FakePackage, capfd: pytest.CaptureFixture[str]
) -> None:
    package.broken[broken] = ConnectionResetError("Connection lost")
    # Not even letting go may fail.
    package.broken["teardown"] = RuntimeError("no")
    logger = begun(tmp_path, mode="offline")
    tell(logger, "first", *steps(1, 2, 3))
    logger.finished(outcome(tmp_path))
    reported = capfd.readouterr().err
    assert reported.count("\n") == 1 and "failed (ConnectionResetError: Connection lost); this run goes on" in reported
    assert package.calls.count(broken) == 1 and package.calls[-1] == "teardown"
    if broken == "log":
        assert "finish" not in package.calls and "wandb sync" in reported


@pytest.mark.parametrize("broken", ["Image", "log_artifact"])
def test_results_that_cannot_be_sent_leave_the_run_finished(
    broken: str, tmp_path: Path, package: FakePackage, capfd: pytest.CaptureFixture[str]
) -> None:
    package.broken[broken] = ValueError("an image")
    logger = begun(tmp_path, mode="offline")
    tell(logger, "first", *steps(1, 2))
    logger.finished(outcome(tmp_path))
    assert package.runs[0].exit_code == 0 and len(package.runs[0].history) >= 2
    assert package.runs[0].summary["miou"] == 0.7 and "comparison" in package.runs[0].history[2]
    reported = "images" if broken == "Image" else "files"
    assert capfd.readouterr().err.count(f"warning: Weights & Biases: logging the {reported} failed") == 1


@pytest.mark.parametrize(
    ("error", "summary"),
    [
        (RuntimeError("out of memory"), {"status": "failed", "reason": "RuntimeError: out of memory"}),
        (KeyboardInterrupt(), {"status": "stopped", "reason": "stopped by the keyboard"}),
    ],
)
def test_a_failed_run_says_why(
    error: BaseException, summary: dict[str, str], tmp_path: Path, package: FakePackage
) -> None:
    logger = begun(tmp_path, mode="offline")
    tell(logger, "first", *steps(1))
    logger.failed(error)
    (run,) = package.runs
    assert (run.exit_code, run.summary) == (1, summary) and len(run.history) == 1


def test_the_end_has_table_masks_files_and_the_students_figures(tmp_path: Path, package: FakePackage) -> None:
    logger = begun(tmp_path, mode="offline")
    found = outcome(tmp_path)
    logger.finished(found)
    (run,) = package.runs
    logged = run.history[0] | run.history[1]
    table = logged["comparison"]
    assert table.columns == ["run_id", "method", "miou", "miou_point", "status", "skipped", "schema_version"]
    assert [line[2] for line in table.data] == [0.9, 0.7] and table.data[1][5] == "crowd 1"
    images = [key for key in logged if key.startswith("masks/") and key != "masks/comparison"]
    assert images and all([image.caption for image in logged[key]] == ["teacher", "student"] for key in images)
    for image in logged[images[0]]:
        assert set(image.masks) == {"prediction", "ground_truth"}
        truth = image.masks["ground_truth"]
        assert truth["mask_data"].shape == image.content.shape[:2]
        assert set(np.unique(truth["mask_data"])) <= set(truth["class_labels"])
        assert 1 in truth["mask_data"]
    assert run.summary["miou"] == 0.7 and run.summary["method"] == "slimsam+ptq"
    assert (run.summary["teacher/miou"], run.summary["teacher/miou_point"]) == (0.9, 0.8)
    student, result = run.artifacts
    assert (student.name, student.kind, student.metadata) == (ID.replace("+", "-") + "-student", "model", {"seed": 0})
    assert student.files == [("student.safetensors", "immutable")] and result.files == [("result.json", "immutable")]
    assert (result.name, result.kind) == (ID.replace("+", "-") + "-result", "result")


def test_masks_are_numbered_and_later_ones_lie_above() -> None:
    masks = np.zeros((2, 2, 3), bool)
    masks[0, :, :2] = masks[1, 0, 1:] = True
    assert numbered(masks).tolist() == [[1, 2, 2], [1, 1, 0]]


LONG = "a-name-of-many-words-" * 12 + "r0.5-s0-0123abcd"


def test_long_names_are_shortened_with_their_hash_and_stay_different(tmp_path: Path, package: FakePackage) -> None:
    made = []
    for number, run_id in enumerate((LONG, LONG.replace("many", "some"), f"größe ({ID})")):
        about = RunMetadata(run_id, "x" * 200, ("t" * 80,), {}, number == 1)
        logger = WandbRun(WandbLogger(mode="offline"), tmp_path / str(number), about)
        logger.begin()
        found = outcome(tmp_path / str(number))
        logger.finished(replace(found, rows=[*found.rows[:-1], replace(found.rows[-1], run_id=run_id)]))
        assert package.runs[-1].exit_code == 0 and len(package.runs[-1].artifacts) == 2
        given = package.runs[-1].given
        made += [given["id"], *(artifact.name for artifact in package.runs[-1].artifacts)]
        assert run_id[-16:] in given["name"] and given["tags"] == ["t" * 64] and len(given["group"]) == 128
        # The package calls the table's artifact so.
        assert len(f"run-{given['id']}-comparison") <= 128
    assert len(set(made)) == len(made) and all(len(name) <= 128 for name in made)
    artifacts = [name for name in made if name.endswith(("-student", "-result"))]
    assert len(artifacts) == 6 and all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in artifacts)
    assert all("0123abcd" in name for name in made)


def test_real_names_pass_the_packages_own_rules() -> None:
    wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed")
    for name in ("x" * 128, "Größe (v1.0), 1+1=2 [a]"):
        assert flaw_of(name) is None and wandb.Settings(project=name, run_id=shortened(LONG, LONGEST_RUN))
    for name in ("x" * 129, *(f"a{sign}b" for sign in "/\\#?%:")):
        assert flaw_of(name) is not None
        with pytest.raises(Exception, match="Invalid project name"):
            wandb.Settings(project=name)
    wandb.Artifact(artifact_name(f"{LONG}-student"), "model")
