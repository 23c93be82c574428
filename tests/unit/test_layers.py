"""The house keeps its shape: the arrows between packages, what is installed, and what a tracked file may hold."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

grimp = pytest.importorskip("grimp", reason="import-linter is not installed (sampress[test])")
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("core", "data", "teachers", "students", "compressors", "evaluation", "experiments")

FORBIDDEN_NAMES = {"utils.py", "misc.py", "helpers.py", "common.py"}
"""Names that say nothing about what is inside."""
MACHINE_PATH = re.compile(r"(?<![\w.~/$})-])/(?:home|Users|root|work|mnt|scratch)/[\w.-]|(?<!\w)[A-Z]:\\Users\\")
"""The beginning of a path that exists on one machine only (not of a web address)."""
MOST_LINES = 400
FRAGMENT = 40
"""Lines below which a module that one other alone imports belongs into that."""


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project_files() -> list[Path]:
    """Every file that is tracked, or would be after ``git add``."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git working tree")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def lint_imports(directory: Path) -> subprocess.CompletedProcess:
    command = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    return subprocess.run([sys.executable, "-c", command, "--no-cache"], cwd=directory, capture_output=True, text=True)


def test_the_arrows_point_down():
    answer = lint_imports(ROOT)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.fixture(scope="module")
def stub_house(tmp_path_factory) -> Path:
    """Empty packages under this project's contracts."""
    house = tmp_path_factory.mktemp("house")
    shutil.copy(ROOT / "pyproject.toml", house)
    for package in PACKAGES:
        (house / package).mkdir()
        (house / package / "__init__.py").touch()
    return house


@pytest.mark.parametrize(
    ("package", "line", "kept"),
    [
        (
            "experiments",
            "import compressors, evaluation, students, teachers, data, core, hydra, omegaconf, wandb",
            True,
        ),
        ("compressors", "import students, teachers, data, core", True),
        ("evaluation", "import data, core", True),
        ("core", "import data", False),
        ("teachers", "import students", False),
        ("students", "import compressors", False),
        ("compressors", "import evaluation", False),
        ("evaluation", "import compressors", False),
        ("teachers", "import data", False),
        ("data", "import teachers", False),
        ("evaluation", "import students", False),
        ("evaluation", "import teachers", False),
        ("data", "import experiments", False),
        ("compressors", "import hydra", False),
        ("core", "from omegaconf import OmegaConf", False),
        ("evaluation", "import wandb", False),
    ],
)
def test_the_contracts_catch_a_planted_import(stub_house, package, line, kept):
    planted = stub_house / package / "planted.py"
    planted.write_text(line + "\n", encoding="utf-8")
    try:
        answer = lint_imports(stub_house)
    finally:
        planted.unlink()
    assert (answer.returncode == 0) is kept, answer.stdout + answer.stderr
    assert (" BROKEN" in answer.stdout) is not kept, answer.stdout + answer.stderr


def lines_of_main(module: str) -> range:
    """The lines under ``if __name__ == "__main__":``, which run only when the file is the program, not a module."""
    place = ROOT.joinpath(*module.split("."))
    source = (place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
            return range(node.lineno, (node.end_lineno or node.lineno) + 1)
    return range(0)


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def test_no_two_files_import_each_other(graph):
    def imports(module: str, other: str) -> bool:
        details = graph.get_import_details(importer=module, imported=other)
        return any(detail["line_number"] not in lines_of_main(module) for detail in details)

    pairs = {
        (module, other)
        for module in graph.modules
        for other in graph.find_modules_directly_imported_by(module)
        if module < other and module in graph.find_modules_directly_imported_by(other)
        if imports(module, other) and imports(other, module)
    }
    assert not pairs


@pytest.mark.parametrize("name", [*PACKAGES, "conf"])
def test_the_packages_are_this_repositorys(name):
    """The names are so general that another installed project may bring one of them too."""
    location = importlib.import_module(name).__file__
    assert location is not None and Path(location).resolve().is_relative_to(ROOT)


def test_pyproject_lists_every_package(project_files):
    folders = {file.parent.relative_to(ROOT) for file in project_files if file.suffix == ".py"}
    # Hydra looks for a program's own sweepers and launchers in the namespace package hydra_plugins, and nowhere else.
    known = (*PACKAGES, "conf", "hydra_plugins")
    found = {".".join(folder.parts) for folder in folders if folder.parts and folder.parts[0] in known}
    settings = pyproject()["tool"]
    assert set(settings["setuptools"]["packages"]) == found
    assert settings["importlinter"]["root_packages"] == settings["mypy"]["files"] == list(PACKAGES)
    top_level = {file.relative_to(ROOT).parts[0] for file in project_files if file.name == "__init__.py"}
    assert top_level - {"tests", "benchmarks", "docs"} == {*PACKAGES, "conf"}


def test_every_configuration_file_is_installed(project_files):
    settings = pyproject()["tool"]["setuptools"]["package-data"]
    installed = {file for pattern in settings["conf"] for file in (ROOT / "conf").glob(pattern)}
    data_files = {file for file in project_files if file.is_relative_to(ROOT / "conf") and file.suffix != ".py"}
    assert {file.name for file in data_files - installed} <= {".gitkeep", "README.md"}


def test_names_say_what_is_inside(project_files):
    assert not [str(file.relative_to(ROOT)) for file in project_files if file.name in FORBIDDEN_NAMES]


def test_no_file_knows_one_machine(project_files):
    found = []
    for file in project_files:
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights and images
        found += [f"{file.relative_to(ROOT)}: {hit.group()}" for hit in MACHINE_PATH.finditer(text)]
    assert not found


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("path = '/" + "home/someone/weights.pt'", True),
        ("see /" + "work/project", True),
        ("C:" + "\\Users\\someone", True),
        ("https://example.org/" + "home/page", False),
        ("runs/" + "work/result.json", False),
        ("$HOME/" + "root/x", False),
    ],
)
def test_the_search_for_machine_paths_finds_them(text, hit):
    assert bool(MACHINE_PATH.search(text)) is hit


def test_files_stay_short(project_files):
    lines = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for file in project_files
        if file.suffix == ".py"
    }
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}


def test_no_fragment_has_a_single_importer(graph):
    found = []
    for module in graph.modules:
        file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        # What is no file is a package; commands and methods are imported by their names in settings.
        if file.is_file() and len(file.read_text(encoding="utf-8").splitlines()) < FRAGMENT:
            found += [module] if len(graph.find_modules_that_directly_import(module)) == 1 else []
    assert not found
