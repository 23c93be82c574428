"""An installed copy, away from the repository: the wheel in an environment of its own, used from an empty folder."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.cli.command_line import main
from tests.unit.test_packaging import built

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, and the dependencies of the one that runs this test."""
    place = tmp_path_factory.mktemp("installed")
    # From a copy: building leaves folders beside the sources.
    sources = place / "sources"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git working tree")
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            (sources / name).write_bytes((ROOT / name).read_bytes())
    wheel = built("build_wheel", sources, place)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "venv")], check=True)
    python = place / "venv" / "bin" / "python"
    install = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    # What a .pth file names is searched last, and .pth files in there, such as an editable install's, are not read.
    others = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (Path(own) / "dependencies.pth").write_text("\n".join(others) + "\n")
    return python


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture
def call(python: Path, place: Path, tmp_path: Path) -> Call:
    """Run the installed Python with nothing of this process's surroundings."""
    kept = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}

    def run(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([python, *words], cwd=place, env=kept, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


def test_what_runs_is_the_installed_copy(call: Call, python: Path) -> None:
    reported = call(
        "-c", "import conf, core, experiments; print(conf.__file__, core.__file__, experiments.__file__)"
    ).stdout
    environment = python.parents[1]
    assert [Path(file).is_relative_to(environment) for file in reported.split()] == [True] * 3
    assert "usage: python -m experiments" in call("-m", "experiments", "--help").stdout
    assert call(str(python.with_name("sampress")), "--help").stdout.startswith("usage: ")


def test_doctor_says_that_a_run_can_work(call: Call) -> None:
    findings = json.loads(call("-m", "experiments", "doctor", "format=json").stdout)["rows"]
    by_name = {(row["part"], row["name"]): row["state"] for row in findings}
    assert by_name["checkpoints", "sam_pocket"] == "ok" and by_name["packages", "torch"] == "ok"
    assert by_name["machine", "code"] == "missing"


def test_costs_are_those_of_the_repository(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    words = ("cost", "method=slimsam", "ratio=0.77", "format=json")
    assert main(words) == 0
    expected = [{**row, "git_sha": "unknown"} for row in json.loads(capfd.readouterr().out)["rows"]]
    assert json.loads(call("-m", "experiments", *words).stdout)["rows"] == expected


def test_from_a_run_to_the_leaderboard(call: Call, place: Path) -> None:
    quick = ("experiment=smoke", "method.importance_images=2", "evaluation.images=2", "evaluation.latency_runs=1")
    call("-m", "experiments", "method=slimsam", "ratio=0.77", *quick)
    (result,) = place.glob("runs/*/result.json")
    content = json.loads(result.read_text())
    assert content["provenance"]["git_sha"] == "unknown" and content["provenance"]["versions"]["sampress"]
    assert {path.name for path in result.parent.iterdir()} >= {"report.html", "student.safetensors", "masks.png"}
    scored = ("checkpoint=sam_pocket", "evaluation=shapes_box", "evaluation.images=2", "evaluation.latency_runs=1")
    call("-m", "experiments", "evaluate", *scored)
    board = call("-m", "experiments", "leaderboard", "out=board")
    assert "no results of the repository" in board.stderr
    assert {path.name for path in (place / "board").iterdir()} >= {"leaderboard.html", "leaderboard.csv", "pages"}
    assert "<style>" in (place / "board" / "leaderboard.html").read_text()
    assert "teacher sam_pocket" in call("-m", "experiments", "table").stdout


def test_a_preset_of_a_papers_table_is_there_without_the_paper(call: Call, place: Path) -> None:
    refused = call("-m", "experiments.paper_table", "slimsam_table2", status=1)
    assert "installed copy" in refused.stderr and "Traceback" not in refused.stderr
