"""Whole runs with loggers: ``metrics.csv``, the real package of Weights & Biases offline, and a failing one."""

import json
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compressors.distill.engine import Engine
from core.checkpoint import file_sha256
from core.result import COLUMNS
from experiments.cli.command_line import main
from experiments.reporting.mask_images import IMAGES
from experiments.tracking.local_files import metrics_csv
from tests.unit.tiny import pocket_file

SMALL = (
    *("experiment=smoke", "method.steps=2", "method.importance_images=1", "method.validations=0"),
    *("evaluation.images=2", "evaluation.latency_runs=1", "logger.scores=2", "format=json"),
)
STAGES = ("bottleneck_aligning", "embedding_aligning")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights in the shape of sam_pocket."""
    return pocket_file(tmp_path_factory.mktemp("teacher") / "pocket.pth")


@pytest.fixture(scope="module")
def plain(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with the default logger."""
    runs = tmp_path_factory.mktemp("plain")
    assert run(teacher, runs) == 0
    return only(runs)


@pytest.fixture
def wandb_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The real package, with its own files in a folder of the test, and no process of it left behind."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "home" / name))
    (tmp_path / "home").mkdir()
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


def run(teacher: Path, runs: Path, *words: str) -> int:
    return main([*SMALL, f"teacher.checkpoint={teacher}", f"runs={runs}", *words])


def only(runs: Path) -> Path:
    (folder,) = (path for path in runs.glob("smoke-*") if path.is_dir())
    return folder


def stop_at(monkeypatch: pytest.MonkeyPatch, count: int, how: BaseException) -> None:
    """Let training stop before its step of this number, both stages counted together."""
    step, taken = Engine._step, []

    def counted(*arguments: Any) -> None:
        taken.append(1)
        if len(taken) == count:
            raise how
        step(*arguments)

    monkeypatch.setattr(Engine, "_step", counted)
    monkeypatch.setattr(Engine, "save_every_s", -1.0)


def records(folder: Path) -> list[Any]:
    """The records of a ``.wandb`` file, which has LevelDB's log format behind a header of seven bytes."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    # Offline, the end of a run is written after the run has ended.
    wandb.teardown()
    (path,) = folder.glob("*.wandb")
    content, at, parts, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return found


def of_kind(found: list[Any], kind: str) -> list[Any]:
    return [getattr(record, kind) for record in found if record.WhichOneof("record_type") == kind]


def values(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


@pytest.mark.slow
def test_metrics_stand_in_the_folder_and_are_written_once(plain: Path, teacher: Path) -> None:
    path = plain / "metrics.csv"
    assert path.read_text() == metrics_csv(plain)
    lines = [line.split(",") for line in path.read_text().splitlines()[1:]]
    scored = [(stage, int(step)) for stage, step, metric, _ in lines if metric == "miou"]
    assert scored == [(stage, step) for stage in STAGES for step in (1, 2)]
    names = {"loss", "rate", "images", "images_per_s", "peak_memory_bytes", "miou", "miou_point"}
    assert names <= {metric for _, _, metric, _ in lines}
    # The last score of a stage is of its last weights, and two images are all that the run is scored on.
    row = json.loads((plain / "result.json").read_text())["rows"][-1]
    assert float(next(line[3] for line in reversed(lines) if line[2] == "miou")) == row["miou"]
    before = {path: path.stat().st_mtime_ns for path in plain.iterdir()}
    assert run(teacher, plain.parent, "logger=tensorboard") == 0
    assert {path: path.stat().st_mtime_ns for path in plain.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", "tensorboard"])
def test_weights_are_the_same_with_every_logger(plain: Path, teacher: Path, tmp_path: Path, name: str) -> None:
    words = [word for word in SMALL if not (name == "none" and word.startswith("logger."))]
    assert main([*words, f"teacher.checkpoint={teacher}", f"runs={tmp_path}", f"logger={name}"]) == 0
    folder = only(tmp_path)
    assert folder.name == plain.name
    assert file_sha256(folder / "student.safetensors") == file_sha256(plain / "student.safetensors")
    assert (folder / "metrics.csv").exists() == (folder / "tensorboard").exists() == (name == "tensorboard")


@pytest.mark.slow
def test_wandb_offline_holds_the_whole_run_though_it_was_stopped(
    plain: Path,
    teacher: Path,
    tmp_path: Path,
    wandb_at_home: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = ("logger=wandb", "logger.mode=offline", "logger.project=elsewhere")
    with monkeypatch.context() as patch:
        # In the second step of the second stage.
        stop_at(patch, 4, KeyboardInterrupt())
        assert run(teacher, tmp_path / "runs", *words) == 130
    folder = only(tmp_path / "runs")
    (stopped,) = (folder / "wandb").glob("offline-run-*")
    (end,) = of_kind(records(stopped), "exit")
    assert end.exit_code == 1
    capfd.readouterr()
    assert run(teacher, tmp_path / "runs", *words) == 0
    output = capfd.readouterr()
    assert "warning" not in output.err and len(json.loads(output.out)["rows"]) == 4
    assert file_sha256(folder / "student.safetensors") == file_sha256(plain / "student.safetensors")
    (offline,) = (folder / "wandb").glob("offline-run-*")
    assert offline != stopped

    found = records(offline)
    about = of_kind(found, "run")[0]
    assert (about.run_id, about.display_name, about.project) == (folder.name, folder.name, "elsewhere")
    assert re.fullmatch(r"smoke-r0\.5-[0-9a-f]{8}", about.run_group) and about.job_type == "compress"
    assert list(about.tags) == ["slimsam", "sam_pocket", "shapes", "smoke"]
    config = values(about.config.update)
    result = json.loads((folder / "result.json").read_text())
    assert config["method"] == result["config"]["method"] and config["provenance"] == result["provenance"]
    history = [values(entry.item) for entry in of_kind(found, "history")]
    for stage in STAGES:
        points = [point for point in history if f"{stage}/step" in point]
        scores = {point[f"{stage}/step"]: point[f"{stage}/miou"] for point in points if f"{stage}/miou" in point}
        assert set(scores) == {1, 2} and len({point[f"{stage}/step"] for point in points}) == len(points)
        assert {f"{stage}/{name}" for name in ("loss", "rate", "images_per_s", "peak_memory_bytes")} <= set(points[-1])
    axes = {(metric.glob_name, metric.step_metric) for metric in of_kind(found, "metric") if metric.glob_name}
    assert axes == {(f"{stage}/*", f"{stage}/step") for stage in STAGES}
    (table,) = (offline / "files" / "media" / "table").glob("comparison*.table.json")
    content = json.loads(table.read_text())
    assert len(content["data"]) == 4 and set(content["columns"]) <= set(COLUMNS) and "miou" in content["columns"]
    media = offline / "files" / "media" / "images"
    assert len(list(media.rglob("*.mask.png"))) >= 4 and len(list(media.glob("masks/comparison*.png"))) == 1
    assert len([key for key in history[-1] if key.startswith("masks/") and key.endswith("/count")]) <= IMAGES
    artifacts = {artifact.name: artifact for artifact in of_kind(found, "artifact")}
    student = artifacts[f"{folder.name}-student"]
    assert student.type == "model" and json.loads(student.metadata)["run_id"] == folder.name
    assert Path(student.manifest.contents[0].local_path).name == "student.safetensors"
    assert artifacts[f"{folder.name}-result"].type == "result"
    summary: dict[str, Any] = {}
    for part in of_kind(found, "summary"):
        summary |= values(part.update)
    assert summary["miou"] == result["rows"][-1]["miou"] and summary["status"] == "finished"
    (end,) = of_kind(found, "exit")
    assert end.exit_code == 0
    # Neither code nor what was printed is in it, nor the machine's name.
    kept = {path.name for path in (offline / "files").iterdir()}
    assert kept <= {"media", "requirements.txt"} and not of_kind(found, "output_raw")


@pytest.mark.slow
def test_a_failed_run_is_one_in_wandb_too(
    teacher: Path, tmp_path: Path, wandb_at_home: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 2, RuntimeError("the lamp broke"))
    with pytest.raises(RuntimeError, match="the lamp broke"):
        run(teacher, tmp_path / "runs", "logger=wandb", "logger.mode=offline")
    folder = only(tmp_path / "runs")
    (offline,) = (folder / "wandb").glob("offline-run-*")
    found = records(offline)
    summary: dict[str, Any] = {}
    for part in of_kind(found, "summary"):
        summary |= values(part.update)
    assert summary["reason"] == "RuntimeError: the lamp broke" and of_kind(found, "exit")[0].exit_code == 1
    assert json.loads((folder / "failed.json").read_text())["rows"][0]["reason"] == "RuntimeError: the lamp broke"
    assert (folder / "metrics.csv").read_text() == metrics_csv(folder)


@pytest.mark.slow
def test_a_wandb_that_fails_changes_neither_weights_nor_status(
    plain: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the middle; tests/unit/test_wandb.py lets every other call fail."""

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("the network is gone")

    def nothing(*_: object, **__: object) -> None:
        return None

    made = SimpleNamespace(
        summary={},
        resumed=False,
        offline=True,
        settings=SimpleNamespace(sync_dir=str(tmp_path / "nowhere")),
        log=fail,
        **{name: nothing for name in ("finish", "define_metric", "log_artifact")},
    )
    settings = type("Settings", (SimpleNamespace,), {"model_fields": {}})
    package = SimpleNamespace(
        Settings=settings,
        init=lambda **_: made,
        Artifact=lambda *_, **__: SimpleNamespace(add_file=nothing),
        **{name: nothing for name in ("setup", "teardown", "Table", "Image")},
    )
    monkeypatch.setitem(sys.modules, "wandb", package)
    assert run(teacher, tmp_path, "logger=wandb", "logger.mode=offline") == 0
    output = capfd.readouterr()
    assert output.err.count("warning:") == 1 and "the network is gone" in output.err
    assert len(json.loads(output.out)["rows"]) == 4
    folder = only(tmp_path)
    assert file_sha256(folder / "student.safetensors") == file_sha256(plain / "student.safetensors")
    assert (folder / "metrics.csv").read_text() == metrics_csv(folder)


def test_without_the_package_one_line_says_what_to_install(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert run(teacher, tmp_path / "runs", "logger=wandb") == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "pip install 'sampress[wandb]'" in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (("logger=wandb", "logger.mod=offline"), "logger.mod is no setting; did you mean logger.mode?"),
        (("logger=wan",), "logger=wan is unknown; did you mean wandb?"),
        (("logger=wandb", "logger.mode=of"), "logger.mode=of is unknown; choose one of online, offline, disabled"),
        (("+logger.foo=1",), "logger.foo is no setting; choose one of scores, images"),
        (("logger.scores=many",), "logger.scores=many: give a whole number"),
    ],
)
def test_wrong_settings_are_one_line(
    words: tuple[str, ...], reported: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["experiment=smoke", f"runs={tmp_path / 'runs'}", *words]) == 2
    assert capfd.readouterr().err == f"error: {reported}\n"
    assert not (tmp_path / "runs").exists()
