"""What is built of the sources: the wheel and the source distribution hold what an installed copy needs, no more."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOWEST = ROOT / "tests" / "fresh" / "lowest.txt"
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def built(what: str, sources: Path, out: Path) -> Path:
    """What setuptools' hook ``build_wheel`` or ``build_sdist`` makes of a folder."""
    command = [sys.executable, "-c", BUILD, what, str(out)]
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / done.stdout.splitlines()[-1]


def project_files() -> set[str]:
    """Every file that is tracked, or would be after ``git add``."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git working tree")
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the project's files, and settings of one machine that git ignores."""
    folder = tmp_path_factory.mktemp("sources")
    for name in project_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    (folder / "conf" / "local").mkdir(exist_ok=True)
    (folder / "conf" / "local" / "default.yaml").write_text("data: {root: somewhere}\n")
    yield folder


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("build_wheel", sources, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def archive(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("build_sdist", sources, tmp_path_factory.mktemp("sdist"))


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as content:
        return set(content.namelist())


def packaged() -> set[str]:
    """The project's files that belong into the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {name.replace(".", "/") for name in project["packages"]}
    return {
        name
        for name in project_files()
        if name.split("/")[0] in folders
        and (name.rpartition("/")[0] in folders or name.endswith(".yaml") or "/weights/" in name)
        and not name.endswith((".gitkeep", "README.md"))
    }


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    names = names_in(wheel)
    assert {name for name in names if ".dist-info/" not in name} == packaged()
    endings = {name.rpartition(".")[2] for name in names if name.startswith("experiments/reporting/")}
    assert endings == {"py", "css", "csv", "j2", "js"}
    assert {"conf/base.yaml", "teachers/weights/sam_pocket.safetensors", "hydra_plugins/sampress_files.py"} <= names
    assert not [name for name in names if name.split("/")[0] in ("tests", "docs", "benchmarks", "results")]


@pytest.mark.slow
def test_settings_of_one_machine_stay_there(wheel: Path, archive: Path) -> None:
    assert "conf/local/default.yaml" not in names_in(wheel)
    with tarfile.open(archive) as content:
        assert not [name for name in content.getnames() if "conf/local/" in name]


def test_the_wheel_says_what_it_needs_and_its_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        (folder,) = {name.split("/")[0] for name in content.namelist() if ".dist-info/" in name}
        facts = content.read(f"{folder}/METADATA").decode()
        assert "sampress = experiments.__main__:command" in content.read(f"{folder}/entry_points.txt").decode()
        assert f"{folder}/licenses/LICENSE" in content.namelist()
    requested = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    written = [line.partition(": ")[2] for line in facts.splitlines() if line.startswith("Requires-Dist: ")]
    plain = {Requirement(text).name for text in written if "extra ==" not in text}
    assert plain == {Requirement(text).name for text in requested["dependencies"]}
    extras = {line.partition(": ")[2] for line in facts.splitlines() if line.startswith("Provides-Extra: ")}
    assert extras == set(requested["optional-dependencies"])


@pytest.mark.slow
def test_the_source_distribution_builds_the_same_wheel(wheel: Path, archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as content:
        content.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    again = built("build_wheel", unpacked, tmp_path)
    assert again.name == wheel.name
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        # Beside the files, RECORD holds the hash of each.
        assert {name: one.read(name) for name in one.namelist()} == {n: other.read(n) for n in other.namelist()}


def test_the_source_distribution_has_what_make_needs(archive: Path) -> None:
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    assert {"Makefile", "constraints.txt", "pyproject.toml", "README.md", "LICENSE"} <= names
    assert not [name for name in names if name.split("/")[0] in ("runs", ".git", ".venv")]


def test_every_dependency_has_a_lowest_version_that_was_run() -> None:
    """tests/fresh/lowest.txt pins what pyproject.toml bounds, both with the same number."""
    requested = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    bounds = {}
    for text in map(Requirement, requested):
        lowest = [bound.version for bound in text.specifier if bound.operator == ">="]
        assert len(lowest) == 1, f"{text}: says no lowest version"
        bounds[text.name] = Version(lowest[0])
    lines = [line for line in LOWEST.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    pins = {name: Version(version) for name, version in (line.split("==") for line in lines)}
    assert list(pins) == list(bounds), "tests/fresh/lowest.txt lists the dependencies in the order of pyproject.toml"
    different = {name: (pins[name], bounds[name]) for name in pins if pins[name] != bounds[name]}
    assert not different


def test_what_is_installed_by_make_fits_the_bounds() -> None:
    requested = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower(): line.split("==")[1] for line in lines if "==" in line}
    for text in map(Requirement, requested):
        assert text.specifier.contains(pins[text.name]), f"{text}: constraints.txt has {pins[text.name]}"
