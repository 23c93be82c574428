"""A run that is refused late loses nothing: what can be known is known before it trains, the rest is gone on with."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compressors.distill.engine import Engine
from core.storage import NotWritten
from data.batches import _order
from data.coco import Coco
from evaluation.records import PartFile
from experiments.cli.command_line import main
from experiments.result_file import read_rows
from experiments.runs.build import build_engine
from experiments.scoring import training_score
from teachers.sam import Sam
from tests.unit.tiny import pocket_file
from tests.unit.truthful import drawn_labels, write_coco

COUNT = 4


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights in the shape of sam_pocket."""
    return pocket_file(tmp_path_factory.mktemp("teacher") / "pocket.pth")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn or timed: it takes longer than all that is looked at here."""
    monkeypatch.setattr("experiments.reporting.mask_images.draw_masks", lambda path, *_: path.write_bytes(b"png"))
    monkeypatch.setattr("experiments.runs.rows.compared_latencies", lambda models, *_: [{}] * len(models))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """COCO's layout: four images to score, and the first of them to train on."""
    root = write_coco(tmp_path / "coco", drawn_labels(COUNT))
    (root / "train2017").mkdir()
    source = root / "annotations" / "instances_val2017.json"
    content = json.loads(source.read_text())
    content["images"] = content["images"][:2]
    content["annotations"] = [raw for raw in content["annotations"] if raw["image_id"] < 2]
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    for image in content["images"]:
        (root / "train2017" / image["file_name"]).write_bytes((root / "val2017" / image["file_name"]).read_bytes())
    return root


def call(root: Path, teacher: Path, runs: Path, *words: str) -> int:
    small = ["ratio=0.5", "method.batch=2", "evaluation.latency_runs=1", "cache=memory", "method.steps=1"]
    small += ["engine.device=cpu", "engine.precision=float32", "method.optimisation.accumulate=1", "logger=none"]
    of_data = ["data=coco", f"data.root={root}", f"teacher.checkpoint={teacher}", f"runs={runs}"]
    return main(["method=scratch", *of_data, *small, *words])


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_held_out_images_are_read_before_anything_is_trained(
    root: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Engine, "fit", lambda *_: 1 / 0)
    last = root / "val2017" / f"{COUNT - 1:012d}.png"
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    assert call(root, teacher, tmp_path / "runs") == 2
    assert f"error: {last}: truncated or damaged image" in complaint(capsys)
    last.write_bytes(whole)
    source = root / "annotations" / "instances_val2017.json"
    content = json.loads(source.read_text())
    content["annotations"] = [raw for raw in content["annotations"] if raw["image_id"] == COUNT - 1]
    source.write_text(json.dumps(content))
    assert call(root, teacher, tmp_path / "runs", "evaluation.images=2") == 2
    assert "coco: none of the 2 requested images has an instance" in complaint(capsys)
    assert call(root, teacher, tmp_path / "runs", "then=ptq", "then.weight_bits=9") == 2
    assert "weight_bits=9 must be 2 to 8" in complaint(capsys)
    assert not [path for path in (tmp_path / "runs").glob("*") if path.name[0] != "."]


def test_training_images_without_instances_are_reported_before_the_first_step(root: Path) -> None:
    source = root / "annotations" / "instances_train2017.json"
    source.write_text(json.dumps({**json.loads(source.read_text()), "annotations": []}))
    data = Coco(root, "train")
    with pytest.raises(Exception, match="coco: the last 2 training images have no instances to validate on"):
        training_score(data, 4, is_used=True)
    assert training_score(data, 4, is_used=False)


def rows_of(runs: Path) -> list[dict[str, Any]]:
    (result,) = runs.glob("*/result.json")
    timed = re.compile("latency|seconds|hours|images_per_s|peak_memory")
    rows = (row.to_dict().items() for row in read_rows(result))
    return [{key: value for key, value in row if not timed.search(key)} for row in rows]


@pytest.mark.slow
def test_a_run_that_cannot_be_written_goes_on_where_its_scoring_was(
    root: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(root, teacher, tmp_path / "undisturbed") == 0
    runs, encoded, add = tmp_path / "runs", [], PartFile.add
    encode, step = Sam.encode, Engine._step

    def full(part: PartFile, image: Any) -> None:
        if part._path.parent.name == "scratch" and image.place == 2:
            raise NotWritten(part._path, 28)
        add(part, image)

    with monkeypatch.context() as patch:
        patch.setattr(PartFile, "add", full)
        assert call(root, teacher, runs) == 2
    assert "scoring/scratch/part-0.jsonl: cannot be written (No space left on device)" in complaint(capsys)
    (folder,) = [path for path in runs.iterdir() if path.name[0] != "."]
    assert {"scratch.state", "student.safetensors", "scoring"} <= {path.name for path in folder.iterdir()}

    def counted(model: Sam, images: Any) -> Any:
        encoded.append((len(images), model.name))
        return encode(model, images)

    def never(*_: Any) -> None:
        raise AssertionError("it was trained already")

    def unwritten(*_: Any) -> None:
        raise NotWritten(folder / "report.html", 28)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_step", never)
        patch.setattr(Sam, "encode", counted)
        patch.setattr("experiments.runs.run.encoder_problem", lambda *_: None)
        patch.setattr("experiments.runs.run.check_compressed", lambda *_: None)
        patch.setattr("experiments.reporting.run_page.write_run_page", unwritten)
        assert call(root, teacher, runs) == 2
    assert "report.html: cannot be written" in complaint(capsys)
    # The teacher was scored, and two images of the student.
    assert len(encoded) == COUNT - 2 and {count for count, _ in encoded} == {1}
    assert not (folder / "scoring").exists() and (folder / "result.json").is_file()
    assert call(root, teacher, runs) == 0 and Engine._step is step
    assert "finished earlier" in capsys.readouterr().err and (folder / "report.html").is_file()
    assert rows_of(runs) == rows_of(tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["mended", pytest.param("left out", marks=pytest.mark.slow)])
def test_a_run_that_a_training_image_stopped_goes_on_once_it_is_mended(
    how: str,
    root: Path,
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, second = (root / "train2017" / f"{index:012d}.png" for index in _order(0, 0, 2))
    whole, steps, step = second.read_bytes(), [], Engine._step

    def noted(engine: Engine, stage: Any, losses: Any, *others: Any) -> None:
        steps.append(losses.step)
        step(engine, stage, losses, *others)

    def saving(*given: Any) -> Engine:
        return replace(build_engine(*given), save_every_s=-1.0)

    monkeypatch.setattr(Engine, "_step", noted)
    monkeypatch.setattr("experiments.runs.run.build_engine", saving)
    words = ["method.batch=1", *(["data.missing=skip"] if how == "left out" else [])]
    runs = tmp_path / "runs"
    second.write_bytes(whole[: len(whole) // 2])
    assert call(root, teacher, runs, "method.batch=1") == 2
    assert f"{second}: truncated or damaged image" in complaint(capsys) and steps == [0, 1]
    if how == "mended":
        second.write_bytes(whole)
    steps.clear()
    assert call(root, teacher, runs, *words) == 0
    assert steps == [1]
    assert call(root, teacher, tmp_path / "undisturbed", *words) == 0
    folders = [path.parent for place in (runs, tmp_path / "undisturbed") for path in place.glob("*/result.json")]
    assert len({folder.name for folder in folders}) == 1 and len(folders) == 2
    assert len({(folder / "student.safetensors").read_bytes() for folder in folders}) == 1
    assert sorted(path.name for path in folders[0].iterdir()) == sorted(path.name for path in folders[1].iterdir())
