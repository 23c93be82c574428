"""The files of ``conf/``: which choices a group has, what each says of itself, what it sets.

Only PyYAML is imported.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import conf
from core.errors import InputError
from core.plain_file import home_path
from experiments.config.schema import COMMANDS

CONF = Path(conf.__file__).parent
ROOT = CONF.parent
"""The folder that holds the packages."""
CONFIG_DIR = ("--config-dir", "-cd")
"""Hydra's option for a folder of further settings."""
LAUNCHERS = {
    "basic": "one after the other, in this process",
    "joblib": "beside each other on this machine: hydra.launcher.n_jobs=N",
    "submitit_local": "as processes of their own on this machine, with logs",
    "submitit_slurm": "as jobs of a Slurm cluster: hydra.launcher.partition=NAME",
}
"""Where the runs of a sweep may be started, by the name behind ``hydra/launcher=``; all but the first come with the
extra ``sweeps``."""


def config_name(command: str) -> str:
    """The name of a command's file in ``conf/``."""
    return "config" if command == "run" else command


FOLLOWING = ("then", "lastly")
"""Groups of the methods that follow the first one, in order."""


@cache
def group_choices(group: str) -> tuple[str, ...]:
    """The names of the files of a group, in order; none where there is no such group.

    Those of :data:`FOLLOWING` are the methods that can begin with a model.
    """
    names = sorted(path.stem for path in group_file(group, "").parent.glob("*.yaml"))
    return tuple(name for name in names if group not in FOLLOWING or "init" in read_settings(group_file(group, name)))


def group_file(group: str, name: str, root: Path = CONF) -> Path:
    """The file of a choice; a method that follows another has the settings of a first."""
    return root / ("method" if group in FOLLOWING else group) / f"{name}.yaml"


@cache
def choices(group: str) -> dict[str, str]:
    """The files of a group, each with what its first comment says; ``.`` for the files of commands."""
    return {name: first_comment(group_file(group, name)) for name in group_choices(group)}


def first_comment(path: Path) -> str:
    """What a file says of itself: its first comment that is no instruction to Hydra; empty where it has none."""
    found = re.search(r"^#(?!\s*@package)\s*(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].strip() if found else ""


@cache
def read_settings(path: Path) -> dict[str, Any]:
    """What a file sets, as YAML has it; empty where there is no such file."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader) if path.is_file() else None
    return content if isinstance(content, dict) else {}


@cache
def chosen_groups(command: str) -> dict[str, str]:
    """The choice that a command makes for each group it takes, as typed; ``null`` for none."""
    chosen: dict[str, str] = {}
    for entry in read_settings(CONF / f"{config_name(command)}.yaml").get("defaults", []):
        if isinstance(entry, dict):
            ((group, name),) = entry.items()
            chosen[group.removeprefix("optional ")] = "null" if name is None else str(name)
    return chosen


def owner_of(experiment: str) -> str:
    """The command that a prepared experiment is for: ``run``, or another that takes them and begins its name."""
    others = [command for command in COMMANDS if "experiment" in chosen_groups(command)]
    return next((command for command in others if experiment.startswith(f"{command}_")), "run")


def own_settings(arguments: Sequence[str]) -> tuple[Path | None, tuple[str, ...]]:
    """The folder of ``--config-dir`` and the names of ``packages=``, where they are given.

    Raises:
        InputError: there is no such folder, or it holds no settings.
    """
    folder: Path | None = None
    packages: tuple[str, ...] = ()
    for before, argument in zip(["", *arguments], arguments, strict=False):
        key, sign, value = argument.partition("=")
        if before in CONFIG_DIR or (key in CONFIG_DIR and sign):
            folder = _folder(argument if before in CONFIG_DIR else value)
        elif sign and key.lstrip("+") == "packages":
            names = (name.strip(" '\"") for name in value.strip("[] '\"").split(","))
            packages = tuple(name for name in names if name)
    return folder, packages


def _folder(text: str) -> Path:
    path = home_path(text).resolve()
    if not path.is_dir():
        raise InputError(f"--config-dir {text}: no such folder; give the one that holds method/NAME.yaml")
    if not any(path.glob("*/*.yaml")):
        raise InputError(f"--config-dir {text}: holds no settings; put yours into {text}/method/NAME.yaml")
    return path


def nearest(name: str, choices: Iterable[str]) -> str:
    """``did you mean ...?`` or the list of what there is."""
    choices = list(choices)
    near = difflib.get_close_matches(name, choices, n=2, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(choices)}"
