"""The worked example of docs/adding_a_method.md, done as the page says it: in a folder of its own, from its files."""

import inspect
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from core.provenance import ROOT
from experiments.cli.command_line import main
from students.files import load_model
from teachers.catalog import POCKET
from tests import warm_processes
from tests.smoke.documented import Command, commands_of

PAGE = ROOT / "docs" / "adding_a_method.md"
EXAMPLE = ROOT / "docs" / "examples" / "own_method"
SMALL = ("method.steps=2", "method.batch=2", "data.count=8", "evaluation.images=2", "evaluation.latency_runs=1")
SMALL_THEN = ("then.images=1", "then.candidates=1", "then.rounds=1", "then.prompts=1")


def typed() -> list[Command]:
    """The page's commands, in its order."""
    return list(commands_of(PAGE.read_text(encoding="utf-8"), PAGE.name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("elsewhere") / "own_method"
    shutil.copytree(EXAMPLE, place, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return place


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the folder, whose package is found there and imported anew."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "halving"]:
        # Another test may have used it.
        monkeypatch.delitem(sys.modules, name)


def shell(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # As a user of an installed sampress has it: the repository is found, and nothing of the tests.
    environment = warm_processes.environment()
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_page_names_the_files_that_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    included = re.findall(r"^```\{literalinclude\} (\S+)$", text, re.MULTILINE)
    assert included == re.findall(r"^\[\S+\]\((examples/\S+)\)[:,]", text, re.MULTILINE), "a link above each file"
    written = {path for path in EXAMPLE.rglob("*.*") if path.suffix in (".py", ".yaml") and path.name != "__init__.py"}
    assert {ROOT / "docs" / name for name in included} == written


def test_its_own_tests_pass(folder: Path, inside: None, tmp_path: Path) -> None:
    """Called one by one; pytest calls them where the page's commands are run (slow)."""
    (command,) = (command for command in typed() if command.program == "-m pytest")
    (file,) = command.arguments
    names = runpy.run_path(str(folder / file))
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) >= 5
    for test in tests:
        (tmp_path / test.__name__).mkdir()
        test(*[tmp_path / test.__name__] * len(inspect.signature(test).parameters))


def test_it_runs_beside_the_methods_of_the_package(
    folder: Path, inside: None, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        command for command in typed() if command.arguments[-1] == "method=drop_blocks" and "cost" not in command.words
    ]
    assert main([*runs[0].arguments, *SMALL, "format=json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["method"] for row in rows] == ["filled_box", "filled_ellipse", "teacher", "drop_blocks"]
    assert rows[3]["parameters"] < rows[2]["parameters"] and rows[3]["images_seen"] == 4
    (file,) = folder.glob("runs/drop_blocks-s0-*/student.safetensors")
    vit = load_model(file).config.vit
    assert (vit.depth, vit.global_blocks) == (POCKET.vit.depth // 2, (0, 1, 2))
    assert main([*runs[0].arguments, *SMALL, "format=json"]) == 0
    again = capsys.readouterr()
    assert json.loads(again.out)["rows"] == rows and "finished earlier" in again.err


@pytest.mark.slow
def test_every_other_command_of_the_page(folder: Path) -> None:
    for command in typed():
        if command.program == "-m pytest":
            done = shell(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", *command.arguments)
            assert done.returncode == 0 and re.search(r"[1-9]\d* passed", done.stdout), done.stdout + done.stderr
        if command.program == "experiments":
            is_run = not {"cost", "--cfg"} & set(command.words)
            more = (*SMALL, *(SMALL_THEN if "then=ptq" in command.words else ())) if is_run else ()
            # One seed shows it.
            words = [word.replace("seed=0,1,2", "seed=0") for word in command.arguments]
            done = shell(folder, "-m", "experiments", *words, *more)
            assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_without_the_allow_list_its_code_is_not_touched(inside: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config-dir", "conf", "method=drop_blocks"]) == 2
    reported = capsys.readouterr().err
    assert reported.count("\n") == 1 and re.search(r"give packages=\[?halving\b", reported)
    assert "halving" not in sys.modules
