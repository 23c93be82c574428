"""Evaluations and runs are of content: what changed under its name is found out, what moved is the same."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluation.records import ImageRecords
from evaluation.scorer import Scorer
from experiments.cli.command_line import main
from experiments.result_file import NAME, read_result, read_rows
from tests.unit.tiny import pocket_file
from tests.unit.truthful import drawn_labels, write_coco, write_detections

IMAGES, AFTER = 4, 2
"""How many there are, and after how many an evaluation is stopped."""
BOTH = "[mobilesam,detector_box_single]"
"""One protocol with a reference, one with a detector's boxes."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a detector's boxes and weights."""
    folder = tmp_path_factory.mktemp("made")
    write_coco(folder / "coco", drawn_labels(IMAGES))
    write_detections(folder / "boxes.json", folder / "coco")
    for seed, name in enumerate(("model.pth", "reference.pth")):
        pocket_file(folder / name, seed)
    return folder


@pytest.fixture(autouse=True)
def costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model costs is not looked at here, and takes longer than what is."""
    for name in ("cost_columns", "latency_columns"):
        monkeypatch.setattr(f"experiments.evaluate.{name}", lambda *_: {})


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to be changed, to work in."""
    shutil.copytree(made, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def words(*more: str, root: str = "coco", protocols: str = BOTH) -> list[str]:
    given = {"checkpoint": "model.pth", "evaluation": "coco", "evaluation.protocols": protocols, "data.root": root}
    given |= {"evaluation.reference": "reference.pth"}
    given |= {"detections": "boxes.json"} if "detector" in protocols else {}
    given |= dict(word.split("=", 1) for word in more if "=" in word)
    return ["evaluate", *(f"{key}={value}" for key, value in given.items()), *(w for w in more if "=" not in w)]


def found(folder: Path) -> list[Any]:
    """What an evaluation found, and of what."""
    rows = [
        (row.protocol, row.miou, row.ap, row.instances, row.detections, row.axes) for row in read_rows(folder / NAME)
    ]
    return [*rows, *((folder / name).read_text() for name in ("instances.jsonl", "detections.jsonl", "images.jsonl"))]


def evaluations(runs: str) -> list[Path]:
    """The folders of evaluations that are finished."""
    return sorted(path.parent for path in Path(runs, "evaluations").glob(f"*/{NAME}"))


class Scored:
    """Counts images that are scored, and stops before one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.before: Callable[[int], None] = lambda count: None
        score = Scorer._score

        def counted(scorer: Scorer, data: Any, images: list[Any], contents: Any) -> list[ImageRecords]:
            self.before(self.count)
            self.count += len(images)
            return score(scorer, data, images, contents)

        monkeypatch.setattr(Scorer, "_score", counted)

    def by(self, *arguments: str, stop: int = -1) -> int:
        """How many images a command scored, which must end well, or be stopped."""

        def before(count: int) -> None:
            if count == stop:
                raise KeyboardInterrupt

        self.count, self.before = 0, before
        assert main(arguments) == (0 if stop < 0 else 130)
        self.before = lambda count: None
        return self.count


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Scored:
    return Scored(monkeypatch)


def other_annotations(place: Path) -> None:
    """The same images with other instances."""
    write_coco(place / "anew", drawn_labels(IMAGES, seed=5))
    os.replace(place / "anew/annotations/instances_val2017.json", place / "coco/annotations/instances_val2017.json")


def other_image(place: Path) -> None:
    """One that was scored, of equal size in pixels and bytes, and with the old one's time."""
    path = place / "coco/val2017" / f"{1:012d}.png"
    status = path.stat()
    with Image.open(path) as image:
        Image.new("RGB", image.size, (200, 30, 90)).save(path)
    path.write_bytes(path.read_bytes().ljust(status.st_size, b"\0"))
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def other_boxes(place: Path) -> None:
    """A detector's boxes, each a little larger."""
    entries = json.loads((place / "boxes.json").read_text())
    for entry in entries:
        entry["bbox"][2] += 3
    (place / "boxes.json").write_text(json.dumps(entries))


def other_weights(name: str) -> Callable[[Path], None]:
    """Other weights in the file of that name."""
    return lambda place: pocket_file(place / name, 7) and None


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (other_annotations, IMAGES),
        (other_image, IMAGES - AFTER + 1),
        pytest.param(other_boxes, IMAGES, marks=pytest.mark.slow),
        pytest.param(other_weights("model.pth"), IMAGES, marks=pytest.mark.slow),
        pytest.param(other_weights("reference.pth"), IMAGES, marks=pytest.mark.slow),
    ],
    ids=["annotations", "image", "detections", "model", "reference"],
)
def test_an_evaluation_that_goes_on_over_changed_content_ends_as_if_it_had_begun_there(
    change: Callable[[Path], None], again: int, place: Path, scored: Scored
) -> None:
    assert scored.by(*words(), stop=AFTER) == AFTER
    change(place)
    assert scored.by(*words()) == again
    assert scored.by(*words("runs=alone")) == IMAGES
    (resumed,), (alone,) = evaluations("runs"), evaluations("alone")
    assert resumed.name == alone.name and found(resumed) == found(alone)
    # What was scored of other content is still there.
    assert len(list(Path("runs/evaluations").glob("*/part-0.jsonl"))) == 1


def test_what_moved_is_the_same_and_goes_on(place: Path, scored: Scored) -> None:
    assert scored.by(*words(), stop=AFTER) == AFTER
    for before, after in (("coco", "elsewhere"), ("model.pth", "other.pt"), ("boxes.json", "b.json")):
        Path(before).rename(after)
    Path("weights").mkdir()
    Path("reference.pth").rename("weights/r.bin")
    moved = ("checkpoint=other.pt", "detections=b.json", "evaluation.reference=weights/r.bin", "data.root=elsewhere")
    assert scored.by(*words(*moved)) == IMAGES - AFTER
    assert len(list(Path("runs/evaluations").iterdir())) == 1


@pytest.mark.slow
def test_an_image_that_was_mended_costs_no_other_one(
    place: Path, scored: Scored, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place / "coco/val2017" / f"{IMAGES - 1:012d}.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert main(words()) == 2 and f"{path.name}: truncated" in capsys.readouterr().err
    assert scored.by(*words("data.missing=skip")) == 1
    assert read_rows(evaluations("runs")[0] / NAME)[0].skipped["image_left_out"] == 1
    path.write_bytes(whole)
    # The part files went with the end of the evaluation above.
    assert scored.by(*words(), stop=AFTER) == AFTER
    path.write_bytes(whole[: len(whole) // 2])
    assert main(words()) == 2
    path.write_bytes(whole)
    assert scored.by(*words("out=elsewhere")) == 1
    # All that was stopped is finished now, and leaves nothing.
    assert [path.name for path in Path("runs/evaluations").iterdir()] == [path.name for path in evaluations("runs")]


@pytest.mark.slow
def test_two_data_sets_of_the_same_names_in_one_sweep(place: Path, scored: Scored) -> None:
    shutil.copytree("coco", "other")
    other_annotations(place)
    assert scored.by(*words("-m", root="coco,other")) == 2 * IMAGES
    both = evaluations("runs")
    assert len(both) == 2
    for root in ("coco", "other"):
        assert scored.by(*words(f"runs={root}-alone", root=root)) == IMAGES
    assert [found(folder) for folder in both] == [
        found(folder) for folder in sorted(evaluations("coco-alone") + evaluations("other-alone"), key=lambda f: f.name)
    ]
    assert found(both[0])[0] != found(both[1])[0]


def test_what_changes_before_it_is_read_is_refused_and_scored_once_it_is_back(
    place: Path, scored: Scored, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place / "coco/val2017" / f"{1:012d}.png"
    whole = path.read_bytes()
    scored.before = lambda count: other_image(place)
    assert main(words()) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"{path.name}: was changed or removed after this command began; put it back" in line
    assert not evaluations("runs") and scored.count == 1
    path.write_bytes(whole)
    assert scored.by(*words()) == IMAGES - 1
    assert scored.by(*words("runs=alone")) == IMAGES
    assert found(*evaluations("runs")) == found(*evaluations("alone"))


def compared(*words: str) -> int:
    return main(["compare", *words, "runs=runs", "format=json"])


def test_evaluations_of_other_truths_do_not_compare(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def evaluated(name: str) -> None:
        assert main(words(f"out=runs/evaluations/{name}", protocols="[box_single,mobilesam]")) == 0

    for name, change in (
        ("base", lambda place: None),
        ("reference", other_weights("reference.pth")),
        ("image", other_image),
        ("annotations", other_annotations),
    ):
        change(place)
        evaluated(name)
        capsys.readouterr()
    for name, said in (
        ("reference", "mobilesam@1: reference_sha256 is "),
        ("image", "image 1 is sha256 "),
        ("annotations", "the annotation file of image 0 is sha256 "),
    ):
        assert compared("base", name) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line and " in the first and " in line and "; compare evaluations under equal ones" in line
    # One of an earlier version, which does not say what was scored.
    shutil.copytree("runs/evaluations/base", "runs/evaluations/earlier")
    Path("runs/evaluations/earlier/images.jsonl").unlink()
    assert compared("base", "earlier") == 0
    assert "the second was written without the hashes of images and annotations" in capsys.readouterr().err


def ran(*more: str) -> list[str]:
    """A run of one step."""
    fixed = ["method=scratch", "ratio=0.5", "data=coco", "data.root=coco", "teacher.checkpoint=model.pth"]
    small = ["method.steps=1", "method.batch=2", "method.optimisation.accumulate=1", "evaluation.images=3"]
    return [*fixed, *small, "evaluation.latency_runs=1", "cache=memory", "engine.precision=float32", *more]


def result(runs: str, number: int = 0) -> tuple[Any, ...]:
    """What a finished run ended with, of those of a folder."""
    about = [read_result(path) for path in sorted(Path(runs).glob(f"*/{NAME}"))][number]
    rows, content = about
    figures = [(row.method, row.miou, row.miou_point, row.axes) for row in rows]
    hashes = [content[name] for name in ("student_sha256", "training_images_sha256", "scored_images_sha256")]
    return rows[0].run_id, figures, hashes


@pytest.mark.slow
def test_a_run_that_goes_on_over_a_changed_image_ends_as_if_it_had_begun_there(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    shutil.copytree("coco/val2017", "coco/train2017")
    shutil.copy("coco/annotations/instances_val2017.json", "coco/annotations/instances_train2017.json")
    shutil.copytree("coco", "other")
    with monkeypatch.context() as patch:
        # When everything is trained.
        patch.setattr("experiments.runs.run.check_compressed", stop)
        assert main(ran()) == 130
    (state,) = Path("runs").glob("*/*.state")
    os.rename("coco", "before")
    os.rename("other", "coco")
    Image.new("RGB", (64, 64), (200, 30, 90)).save("coco/train2017/000000000000.png")
    assert main(ran()) == 0
    assert main(ran("runs=alone")) == 0
    assert result("runs") == result("alone")
    assert state.exists()
    # In a sweep over both the one goes on, and the other is finished.
    capsys.readouterr()
    assert main([*ran()[:3], "data.root=before,coco", *ran()[4:], "-m"]) == 0
    assert capsys.readouterr().err.count("finished earlier") == 1 and not state.exists()
    both = {result("runs", number)[0]: result("runs", number) for number in range(2)}
    (before,) = both.keys() - {result("alone")[0]}
    assert before == state.parent.name
    for one, other in zip(both[before][2][:2], result("alone")[2][:2], strict=True):
        assert one != other
    assert both[before][2][2] == result("alone")[2][2]
