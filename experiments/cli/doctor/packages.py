"""``doctor`` on packages: what ``pyproject.toml`` asks for, and what is installed."""

import importlib
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from experiments.cli.doctor.finding import Finding
from experiments.config.files import ROOT

EXTRAS = {
    "export": "files of other runtimes: the command export",
    "official": "LVIS's own average precision",
    "sweeps": "launchers of sweeps: beside each other, or on Slurm",
    "wandb": "logger=wandb",
    "tensorboard": "logger=tensorboard",
    "docs": "building the site of docs/",
    "test": "tests, lint and types",
}
"""What each extra is for."""
_MODULES = {"hydra-core": "hydra", "pillow": "PIL", "pyyaml": "yaml"}
"""Modules of packages where their names differ by more than a hyphen."""


def pip(arguments: str) -> str:
    """A command that installs into the Python that runs now."""
    found = shutil.which("python")
    same = found is not None and Path(found).absolute() == Path(sys.executable).absolute()
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return f"{'python' if same else python} -m pip install {arguments}"


def this_project(extra: str = "") -> str:
    """The words by which pip installs this project, with an extra or without."""
    behind = f"[{extra}]" if extra else ""
    if not (ROOT / "pyproject.toml").is_file():
        return f"'sampress{behind}'"
    return f"-e '{'.' if Path.cwd() == ROOT else ROOT}{behind}'"


def version_of(package: str) -> str | None:
    """The version of an installed package; None where it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def requirements() -> dict[str, list[str]]:
    """What is required, by extra; the empty name has what every run needs.

    From ``pyproject.toml`` beside the packages, or from the installed package's own data where there is none.
    """
    file = ROOT / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        return {"": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, list[str]] = {"": []}
    for line in metadata.requires("sampress") or ():
        text, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        found.setdefault(extra[1] if extra else "", []).append(text.strip())
    return found


def packages() -> Iterator[Finding]:
    """What every run needs, imported; versions compared with their bounds."""
    for text in requirements()[""]:
        yield _package(text, needed=True)


def extras() -> Iterator[Finding]:
    """A line for each extra; one that is not there, or not all of it, has the command that brings it."""
    for extra, texts in requirements().items():
        if not extra:
            continue
        found = [_package(text, needed=False) for text in texts if not text.startswith("sampress[")]
        lacking = [finding.name for finding in found if finding.state != "ok"]
        about = EXTRAS.get(extra, "")
        if not lacking:
            versions = ", ".join(f"{finding.name} {finding.found.split(' ')[0]}" for finding in found)
            yield Finding(extra, "ok", f"{about}: {versions}")
        else:
            state = "broken" if any(finding.state == "broken" for finding in found) else "missing"
            yield Finding(extra, state, f"{about}; lacks {', '.join(lacking)}", pip(this_project(extra)))


def _package(text: str, needed: bool) -> Finding:
    name = re.split(r"[^\w.-]", text, maxsplit=1)[0]
    fix = pip(f"'{text.replace(' ', '')}'")
    version = version_of(name)
    if version is None:
        return Finding(name, "missing", "not installed", fix, needed)
    bounds = text[len(name) :].strip()
    shown = f"{version} (required: {bounds})" if bounds else version
    if not _fits(version, bounds):
        return Finding(name, "broken", shown, pip(f"-U '{text.replace(' ', '')}'"), needed)
    if needed:
        module = _MODULES.get(name, name.replace("-", "_"))
        try:
            importlib.import_module(module)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            again = pip(f"--force-reinstall --no-deps '{text.replace(' ', '')}'")
            return Finding(name, "broken", f"{shown} cannot be imported: {reason}", again, needed)
    return Finding(name, "ok", shown, needed=needed)


def _fits(version: str, bounds: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(bounds).contains(version, prereleases=True)
