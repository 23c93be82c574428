"""Settings and packages of one's own, read from the arguments before Hydra composes anything."""

from collections.abc import Sequence
from pathlib import Path

from core.errors import InputError
from core.plain_file import home_path

CONFIG_DIR = ("--config-dir", "-cd")
"""Hydra's option for a folder of further settings."""


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
