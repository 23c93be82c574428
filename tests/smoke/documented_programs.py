"""Commands of other programs than this project's command line: run where that can be, checked where it cannot."""

import ast
import importlib.util
import os
import re
import tomllib
from pathlib import Path

from core.provenance import ROOT
from students.catalog import RELEASED
from teachers.catalog import MODELS
from tests.smoke.documented import Command

NOT_HERE = {
    "trtexec": "TensorRT needs its own GPU",
    "sbatch": "there is no Slurm",
    "tensorboard": "serves until it is stopped",
    "wandb": "talks to a server",
    "-m http.server": "serves until it is stopped; tests/pages/test_browser_example.py does it",
    "npm": "fetches from its registry, as .ci/run does",
    "-m pytest": "tests/smoke/test_own_method.py runs it",
    "-m experiments.pretrain": "trains for hours",
    "-m experiments.everything.figure": "needs photographs",
    "-m experiments.prompted_figure": "needs photographs; tests/unit/test_prompted_figure.py gives it others",
    "-m experiments.budget": "writes into the repository; tests/unit/test_budget.py draws elsewhere",
    "-m experiments.tracking.wandb_report": "talks to a server; tests/unit/test_tracking.py prints its layout",
    "-m experiments.readme": "writes into the repository; tests/results compares what it makes",
    "-m tests.golden.short_runs": "writes into the repository; tests/golden compares what it makes",
    "-m tests.pages.screenshot": "needs Chromium; tests/pages opens the same page in it",
    "-m experiments.paper_table": "needs a preset's runs; tests/unit/test_paper_table.py has them",
    "-m experiments.quantisers_table": "needs a preset's runs; tests/unit/test_quantisers_table.py has them",
    "echo": "is the shell's",
    "cd": "changes the folder",
    "git": "changes the repository",
    "export": "sets a variable",
    "source": "is the shell's",
    ".": "is the shell's",
    "eval": "is the shell's",
}
"""Programs that are not run, and why."""


def check(command: Command) -> None:
    """What can be known of a command without its program.

    Raises:
        AssertionError: it cannot work, or nothing here knows it.
    """
    module = command.program.removeprefix("-m ")
    if module != command.program:
        assert importlib.util.find_spec(module), f"{command}: there is no module {module}"
    known = command.program in (*NOT_HERE, *CHECKS, *RUNS) or module.startswith("benchmarks.")
    assert known, (
        f"{command}: say in {Path(__file__).name} how {command.program} is run (RUNS) or checked (CHECKS), or why not "
        "(NOT_HERE)"
    )
    if command.program in CHECKS:
        CHECKS[command.program](command)


def _shapes(command: Command) -> None:
    from data.shapes_export import main

    pairs = zip(["", *command.arguments], command.arguments, strict=False)
    words = ["4" if before == "--count" else word.lower() if word.isupper() else word for before, word in pairs]
    assert main(words) == 0, str(command)


def _convert(command: Command) -> None:
    from data.convert.__main__ import read_settings
    from data.convert.writing import Conversion

    source, _, *settings = command.arguments
    given = read_settings(settings)
    Conversion(source, **{name: value for name, value in given.items() if name not in ("out", "damaged", "overwrite")})


def _code(command: Command) -> None:
    tree = ast.parse(command.words[2])
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    modules = [alias.name.partition(".")[0] for node in imports for alias in node.names]
    # What needs a package that is not here is parsed, no more.
    if all(importlib.util.find_spec(module) for module in modules):
        exec(compile(tree, str(command), "exec"), {})


def _code_parses(command: Command) -> None:
    ast.parse(command.words[2])


def _make(command: Command) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    requested = {word for word in command.arguments if "=" not in word and not word.startswith("-")}
    assert requested and requested <= set(targets), f"{command}: the Makefile has {', '.join(targets)}"


def _pip(command: Command) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extras in re.findall(r"(?:sampress|\.)\[([^\]]*)\]", " ".join(command.words)):
        unknown = {name.strip() for name in extras.split(",")} - set(project["optional-dependencies"])
        assert not unknown, f"{command}: pyproject.toml has no extra {', '.join(unknown)}"


def _curl(command: Command) -> None:
    addresses = {release.url for release in RELEASED.values()}
    addresses |= {model.release.url for model in MODELS.values() if model.release}
    requested = [word for word in command.arguments if word.startswith("http")]
    assert set(requested) <= addresses, f"{command}: no catalogue has this address"
    if "-o" in command.arguments:
        assert os.path.basename(requested[0]) == command.arguments[command.arguments.index("-o") + 1], str(command)


CHECKS = {"-m data.convert": _convert, "-c": _code_parses, "make": _make, "pip": _pip, "curl": _curl}
RUNS = {"-m data.shapes": _shapes, "-c": _code}
