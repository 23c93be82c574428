"""Paths below somebody's home are typed, keys stand in the environment: no file that is written has either."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from compressors.slimsam import SlimSam
from data.shapes import Shapes
from experiments.cli.command_line import main
from tests.unit.tiny import pocket_file

KEYS = {
    "WANDB_API_KEY": "4f3c2b1a" * 5,
    "HF_TOKEN": "hf_abcdefghijklmnopqrstuvwx",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUt" * 5,
}
FEW = ("evaluation.images=1", "evaluation.latency_runs=1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of somebody, with a teacher, an image and a finished run; the working directory lies elsewhere."""
    home = tmp_path_factory.mktemp("machine") / "home" / "somebody"
    home.mkdir(parents=True)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.chdir(elsewhere)
        for name, value in KEYS.items():
            patch.setenv(name, value)
        teacher = pocket_file(home / "pocket.pth")
        Image.fromarray(Shapes("validation", 1).image(0)).save(home / "photo.png")
        words = (
            "method=slimsam",
            "ratio=0.5",
            "experiment=smoke",
            "method.importance_images=2",
            "method.steps=1",
            *FEW,
        )
        assert main([*words, f"runs={home}/runs", f"teacher.checkpoint={teacher}"]) == 0
        yield home
    assert not list(elsewhere.iterdir())


@pytest.fixture(scope="module")
def student(home: Path) -> Path:
    (found,) = home.glob("runs/*/student.safetensors")
    return found


@pytest.fixture(scope="module")
def scored(home: Path, student: Path) -> Path:
    """Two evaluations, one of them against the masks of a model that is named by its path."""
    words = ("evaluation=shapes_box", f"runs={home}/runs", *FEW)
    assert main(["evaluate", f"checkpoint={student}", *words, f"out={home}/scored/student"]) == 0
    assert main(["evaluate", f"checkpoint={home}/pocket.pth", *words, f"out={home}/scored/teacher"]) == 0
    reference = ("evaluation.protocols=[mobilesam]", f"evaluation.reference={home}/pocket.pth")
    assert main(["evaluate", f"checkpoint={student}", *words, *reference]) == 0
    return home / "scored"


def personal(home: Path, *besides: Path) -> list[str]:
    """Files below a folder, other than those that the user put there, that tell whose machine it is."""
    secrets = [b"somebody", *(value.encode() for value in KEYS.values())]
    given = {home / "pocket.pth", home / "photo.png", *besides}
    files = [path for path in home.rglob("*") if path.is_file() and path not in given]
    assert files
    return [f"{path.relative_to(home)}: {s.decode()}" for path in files for s in secrets if s in path.read_bytes()]


@pytest.mark.slow
def test_a_run(home: Path, student: Path) -> None:
    assert {"result.json", "report.html", "metrics.csv"} <= {path.name for path in student.parent.iterdir()}
    assert not personal(home)


def test_a_failed_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"{home}/cache is full, said {KEYS['HF_TOKEN']}")

    monkeypatch.setattr(SlimSam, "compress", fail)
    words = ("method=slimsam", "ratio=0.77", "experiment=smoke", *FEW)
    with pytest.raises(RuntimeError, match="is full"):
        main([*words, f"runs={home}/runs", f"teacher.checkpoint={home}/pocket.pth"])
    (failed,) = home.glob("runs/*/failed.json")
    assert "RuntimeError: ~/cache is full, said <HF_TOKEN>" in failed.read_text()
    assert not personal(home)


@pytest.mark.slow
def test_evaluations_and_their_comparison(home: Path, scored: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", f"{scored}/student", f"{scored}/teacher", f"out={home}/compared"]) == 0
    assert {path.name for path in (home / "compared").iterdir()} >= {"comparison.csv", "comparison.md"}
    capfd.readouterr()
    words = ("evaluation=shapes_box", f"runs={home}/runs", *FEW, f"evaluation.reference={home}/pocket.pth")
    assert (
        main(["evaluate", f"checkpoint={home}/pocket.pth", *words, "evaluation.protocols=[mobilesam]", "format=json"])
        == 0
    )
    assert "somebody" not in capfd.readouterr().out
    assert not personal(home)


@pytest.mark.slow
def test_the_leaderboard(home: Path, scored: Path) -> None:
    assert main(["leaderboard", f"runs={home}/runs", f"out={home}/board"]) == 0
    assert list((home / "board" / "pages").glob("*.html"))
    assert not personal(home)


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "to=hf"),
        pytest.param(("export", "to=torch"), marks=pytest.mark.slow),
        pytest.param(("export", "to=onnx"), marks=pytest.mark.slow),
        pytest.param(("export", "to=openvino"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_files_for_others(home: Path, student: Path, words: tuple[str, ...]) -> None:
    assert main([*words, f"checkpoint={student}", f"out={home}/as_{words[1][3:]}"]) == 0
    assert not personal(home)


def test_masks_of_an_image(home: Path, student: Path) -> None:
    image = (f"checkpoint={student}", f"image={home}/photo.png")
    assert main(["predict", *image, "box=[10,10,60,60]", f"out={home}/predicted"]) == 0
    few = ("generator.coarse_points_per_side=2", "generator.points_per_side=4")
    assert main(["everything", *image, f"out={home}/masks", *few]) == 0
    assert not personal(home)


def test_strategies_that_were_scored(home: Path, student: Path) -> None:
    words = ("evaluation=shapes", "evaluation.images=1", f"runs={home}/runs")
    few = ("generator.coarse_points_per_side=2", "generator.points_per_side=4")
    assert main(["everything", f"checkpoint={student}", *words, *few]) == 0
    assert list(home.glob("runs/everything/*.json"))
    assert not personal(home)
