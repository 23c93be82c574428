"""What was scored is never deleted: refused before the first image, or kept and gone on with by the same command."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch

from core.errors import InputError
from core.storage import NotWritten
from data.coco import Coco
from evaluation.records import read_instances, read_parts
from experiments import evaluate as evaluating
from experiments.cli.command_line import main
from experiments.config.compose import settings_of
from experiments.config.targets import register
from experiments.result_file import read_rows
from experiments.runs.segmenters import ChosenSegmenter
from tests.smoke.small_disk import SmallDisk
from tests.smoke.test_faults_disk import fill
from tests.unit.truthful import FilledBox, drawn_labels, write_coco, write_detections

COUNT = 7
LAST = f"{COUNT - 1:012d}.png"


class Stopped(FilledBox):
    """Does something before it encodes its n-th image."""

    at, deed = -1, staticmethod(lambda: None)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        if self.encoded == self.at:
            self.deed()
        return super().encode(images)

    @property
    def encoded(self) -> int:
        """How many images were encoded."""
        return sum(count for kind, count in self.batches if kind == "encode")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco", drawn_labels(COUNT))


@pytest.fixture
def model(root: Path, monkeypatch: pytest.MonkeyPatch) -> Stopped:
    """What ``evaluate`` scores here: a model that fills boxes, and counts what it encodes."""
    data = Coco(root)
    model = Stopped([data.sample(index) for index in range(len(data))], name="filled")
    chosen = ChosenSegmenter(model, torch.device("cpu"), "float32", "filled", {"method": "filled"}, "filled")  # type: ignore[arg-type]
    monkeypatch.setattr(evaluating, "chosen_segmenter", lambda settings, precision: chosen)
    monkeypatch.setattr(evaluating, "about_columns", lambda found: {"method": "filled", "device": "cpu"})
    for name in ("cost_columns", "latency_columns"):
        monkeypatch.setattr(evaluating, name, lambda *_: {})
    return model


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def call(root: Path, out: Path, *words: str) -> int:
    given = ["evaluate", "checkpoint=sam_pocket", f"data.root={root}", f"out={out}", *words]
    return main([*given, *([] if any("evaluation=" in word for word in words) else ["evaluation=coco_box"])])


def refusal(root: Path, out: Path, *words: str) -> str:
    """What a command says that must be refused; without the command line, which takes longer than that."""
    register()
    with hydra.initialize_config_module("conf", version_base="1.3"):
        cfg = hydra.compose("evaluate", ["checkpoint=sam_pocket", f"data.root={root}", f"out={out}", *words])
    with pytest.raises(InputError) as reported:
        evaluating.evaluate(settings_of(cfg), cfg)
    return str(reported.value)


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    return lines[0]


def undisturbed(root: Path, folder: Path, *words: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows and records of a command that nothing stops."""
    assert call(root, folder, *words) == 0
    return figures(folder), dict(read_instances(folder))


def figures(folder: Path) -> list[dict[str, Any]]:
    return [row.to_dict() for row in read_rows(folder / "result.json")]


def as_lvis(root: Path) -> Path:
    """The same in LVIS's layout."""
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    for image in content["images"]:
        name = image.pop("file_name")
        image |= {"coco_url": f"http://images.cocodataset.org/val2017/{name}"}
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for category, frequency in zip(content["categories"], "rf", strict=True):
        category["frequency"] = frequency
    (root / "annotations" / "lvis_v1_val.json").write_text(json.dumps(content))
    return root


def without(kind: str, key: str) -> Callable[[dict[str, Any]], None]:
    """Takes a key from every entry of a kind; from the file where no kind is named."""

    def take(content: dict[str, Any]) -> None:
        for entry in content[kind] if kind else [content]:
            del entry[key]

    return take


def of_another_kind(content: dict[str, Any]) -> None:
    content["images"][-1]["neg_category_ids"] = ["1"]


FAULTS: dict[str, tuple[str, Callable[[dict[str, Any]], None], str]] = {
    "lvis, no frequency": ("lvis", without("categories", "frequency"), r'category 1: "frequency" is None'),
    "lvis, no neg_category_ids": (
        "lvis",
        without("images", "neg_category_ids"),
        r'image 0: "neg_category_ids" is None',
    ),
    "lvis, no not_exhaustive_category_ids": (
        "lvis",
        without("images", "not_exhaustive_category_ids"),
        r'image 0: "not_exhaustive_category_ids" is None',
    ),
    "lvis, ids of another kind": ("lvis", of_another_kind, r"image 6: \"neg_category_ids\" holds '1'"),
    "lvis, no categories": ("lvis", without("", "categories"), r'the key "categories" is missing'),
    "lvis, no category_id": ("lvis", without("annotations", "category_id"), r'1: the key "category_id" is missing'),
    "coco, no categories": ("coco", without("", "categories"), r'the key "categories" is missing'),
    "coco, no category_id": ("coco", without("annotations", "category_id"), r'1: the key "category_id" is missing'),
    "coco, no category ids": ("coco", without("categories", "id"), r'a category: the key "id" is missing'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_ground_truth_that_average_precision_cannot_take_is_refused_before_the_first_image(
    fault: str, root: Path, out: Path, model: Stopped
) -> None:
    kind, change, message = FAULTS[fault]
    boxes = write_detections(root / "boxes.json", root)
    source = as_lvis(root) / "annotations" / {"lvis": "lvis_v1_val.json", "coco": "instances_val2017.json"}[kind]
    (root / "train2017").mkdir()
    sound = source.read_text()
    content = json.loads(sound)
    change(content)
    source.write_text(json.dumps(content))
    requested = (f"evaluation={kind}_detector_box", f"detections={boxes}")
    reported = refusal(root, out, *requested)
    assert reported.startswith(f"{source}: ") and re.search(message, reported), reported
    assert model.encoded == 0 and not out.exists()
    if fault == "lvis, no frequency":
        # Box prompts need none of it, and a mended file is all it takes.
        assert call(root, out.parent / "boxes", "evaluation=lvis_box") == 0
        model.batches.clear()
        source.write_text(sound)
        assert call(root, out, *requested) == 0 and model.encoded == COUNT


def test_a_backend_that_is_not_here_is_refused_before_the_first_image(
    root: Path, out: Path, model: Stopped, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = ["evaluation=lvis_detector_box", f"detections={write_detections(root / 'boxes.json', root)}"]
    (as_lvis(root) / "train2017").mkdir()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "lvis", None)
        reported = refusal(root, out, *requested, "evaluation.backend=official")
    assert re.search(r'evaluation\.backend "official".* needs the package lvis .*sampress\[official\]', reported)
    reported = refusal(root, out, *requested, "evaluation.backend=best")
    assert reported == "evaluation.backend: there is no 'best'; use one of faster, official"
    assert model.encoded == 0 and not out.exists()


@pytest.mark.parametrize(
    "words",
    [(), pytest.param(("evaluation.workers=2", "evaluation.image_batch_size=4"), marks=pytest.mark.slow)],
    ids=str,
)
def test_the_last_image_damaged_behind_its_header(
    words: tuple[str, ...], root: Path, out: Path, model: Stopped, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = undisturbed(root, out.parent / "undisturbed", *words)
    path = root / "val2017" / LAST
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    model.batches.clear()
    for attempt in range(2):
        assert call(root, out, *words) == 2
        reported = complaint(capsys)
        assert f"error: {path}: truncated or damaged image" in reported and "Traceback" not in reported
        # The second time there is nothing left to do before it.
        assert model.encoded == COUNT - 1, attempt
    path.write_bytes(whole)
    assert call(root, out, *words) == 0
    assert model.encoded == COUNT and (figures(out), dict(read_instances(out))) == expected
    assert not list(out.glob("part-*"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    try:
        made = SmallDisk(tmp_path / "disk", "1m")
    except OSError as error:
        pytest.skip(f"no file system can be mounted here ({error.strerror})")
    yield made
    made.remove()


def test_a_disk_that_fills_up_keeps_what_was_scored(
    root: Path, disk: SmallDisk, model: Stopped, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = undisturbed(root, tmp_path / "undisturbed")
    model.batches.clear()
    model.at, model.deed = 5, lambda: fill(disk.folder)  # type: ignore[assignment]
    out = disk.folder / "out"
    assert call(root, out) == 2
    assert re.search(r"part-0\.jsonl: cannot be written \(No space left on device\); free", complaint(capsys))
    scored, model.at = model.encoded, -1
    assert 5 < scored <= COUNT and len(list(out.glob("part-0.jsonl"))) == 1
    (disk.folder / "filling").unlink()
    assert call(root, out) == 0
    # The page's own tail of a block may have contained an image more; at most the one that was refused is scored again.
    assert model.encoded <= COUNT + 1 + COUNT - scored
    assert (figures(out), dict(read_instances(out))) == expected


@pytest.mark.parametrize("late", ["write_records", "write_result", "experiments.reporting.run_page.write_run_page"])
def test_what_cannot_be_written_at_the_end_is_written_by_the_same_command(
    late: str,
    root: Path,
    out: Path,
    model: Stopped,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*arguments: Any) -> None:
        raise NotWritten(out / "file", 28)

    with monkeypatch.context() as patch:
        patch.setattr(late if "." in late else f"experiments.evaluate.{late}", full)
        assert call(root, out) == 2
    assert "No space left" in complaint(capsys) and model.encoded == COUNT
    assert call(root, out) == 0 and model.encoded == COUNT
    assert {row["images"] for row in figures(out)} == {COUNT} and not list(out.glob("part-*"))


def test_an_image_that_was_left_out_and_mended_counts_when_the_pass_goes_on(
    root: Path, out: Path, model: Stopped, tmp_path: Path
) -> None:
    expected = undisturbed(root, tmp_path / "undisturbed", "data.missing=skip")
    path = root / "val2017" / f"{2:012d}.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    model.batches.clear()

    def stop() -> None:
        raise KeyboardInterrupt

    model.at, model.deed = 4, stop  # type: ignore[assignment]
    assert call(root, out, "data.missing=skip") == 130 and model.encoded == 4
    path.write_bytes(whole)
    model.at = -1
    assert call(root, out, "data.missing=skip") == 0 and model.encoded == COUNT
    assert (figures(out), dict(read_instances(out))) == expected


def test_a_stopped_evaluation_survives_another_one_in_its_folder(root: Path, out: Path, model: Stopped) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    model.at, model.deed = 5, stop  # type: ignore[assignment]
    assert call(root, out) == 130 and model.encoded == 5
    model.at = -1
    assert call(root, out, "evaluation.seed=1", "evaluation.images=2") == 0
    assert [path.name for path in out.glob("part-*")] == ["part-0.jsonl"]
    model.batches.clear()
    assert call(root, out) == 0 and model.encoded == COUNT - 5
    assert not list(out.glob("part-*"))


def test_records_of_a_key_are_read_beside_those_of_others(tmp_path: Path) -> None:
    from evaluation.records import ImageRecords, PartFile, remove_parts

    for key, place in (("one", 1), ("two", 2), ("one", 3), ("three", 4), ("two", 5)):
        part = PartFile(tmp_path, 0, key)
        part.add(ImageRecords(place))
        part.close()
    assert [sorted(read_parts(tmp_path, key)) for key in ("one", "two", "three", "four")] == [[1, 3], [2, 5], [4], []]
    PartFile(tmp_path, 1, "four").close()
    remove_parts(tmp_path, "one")
    assert [sorted(read_parts(tmp_path, key)) for key in ("one", "two", "three")] == [[], [2, 5], [4]]
    assert len(list(tmp_path.iterdir())) == 2
