"""Every package that is imported is a declared dependency of this project, with a version to install it by."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
OWN = ("core", "data", "teachers", "students", "compressors", "evaluation", "experiments", "conf", "hydra_plugins")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OF_PACKAGES = metadata.packages_distributions()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    texts = [*PROJECT["dependencies"], *(text for texts in PROJECT["optional-dependencies"].values() for text in texts)]
    return {normal(Requirement(text).name) for text in texts}


def imported(folder: str) -> dict[str, str]:
    """Packages of others that a folder's files import, each with a file that does."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            found |= {name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names and name not in OWN}


@pytest.mark.parametrize("folder", OWN)
def test_what_is_imported_is_declared(folder: str) -> None:
    known = declared()
    undeclared = {
        name: path
        for name, path in imported(folder).items()
        if not {normal(distribution) for distribution in OF_PACKAGES.get(name, [name])} & known
    }
    assert not undeclared, "add a line to pyproject.toml that says who needs it, and a version to constraints.txt"


def test_declared_dependencies_have_a_version_in_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {normal(line.partition("==")[0]) for line in lines if "==" in line}
    # setuptools comes with pip.
    assert not declared() - {"sampress", "setuptools"} - pinned
