"""Which files below a folder are images: one rule for training, scoring and every layout."""

import contextlib
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TypeGuard

from core.errors import InputError
from core.plain_file import reraise_access

_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def is_plain(name: str) -> bool:
    """Whether a name is text without control characters (a line break would tear messages and tables apart).

    Names of files that are not UTF-8 come from the system with half of a surrogate pair in them: no text either.
    """
    return bool(name) and _NO_TEXT.search(name) is None


def is_below(name: object) -> TypeGuard[str]:
    """Whether a value is a plain path that cannot leave the folder it is relative to."""
    if not isinstance(name, str) or not is_plain(name):
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
)
"""What names of images end in, in upper or lower case."""


def is_image(name: str) -> bool:
    """Whether a file's name has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def images_below(folder: Path) -> tuple[list[str], int]:
    """Paths of the images in a folder and its subfolders, relative to it and sorted, and how many files are none.

    Names that differ in case alone are different files. :func:`files_below` says what is not looked at.

    Raises:
        InputError: a folder cannot be read, or the name of an image is no text.
    """
    images, others = [], 0
    for name in files_below(folder):
        if is_image(name):
            images.append(require_plain(folder, name))
        else:
            others += 1
    return sorted(images), others


def files_below(folder: Path) -> Iterator[str]:
    """Paths of the files in a folder and its subfolders, relative to it, with slashes, in no order.

    What begins with a dot is left behind by systems and programs (``._000000000139.jpg``, ``.cache/``) and is not
    looked at, nor are pipes, sockets and devices. Links are followed, and a folder to which several lead is read once.
    Links that lead nowhere and folders with an image's suffix count as files, so that they are not passed over.

    Raises:
        InputError: a folder cannot be read.
    """
    with reraise_access(folder):
        seen, left = {_identity(folder)}, deque([""])
        while left:
            folders = []
            for name, is_folder in _entries(folder, left.popleft()):
                if is_folder:
                    folders.append(name)
                else:
                    yield name
            # In order, so that of several ways to one folder the same is taken everywhere.
            for name in sorted(folders):
                if (identity := _identity(folder / name)) not in seen:
                    seen.add(identity)
                    left.append(name)


def files_beside(folder: Path, names: Iterable[str]) -> set[str]:
    """The files that lie in the same subfolders as some named ones; as :func:`files_below` gives them.

    One listing a subfolder instead of a look-up a file: on network disks the difference is minutes.
    """
    found: set[str] = set()
    for below in {os.path.dirname(name) for name in names}:
        with reraise_access(folder), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found.update(name for name, is_folder in _entries(folder, below) if not is_folder)
    return found


def _entries(folder: Path, below: str) -> Iterator[tuple[str, bool]]:
    """The files and folders in a subfolder, and which of them are folders."""
    with os.scandir(folder / below) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path, linked = entry.path, entry.is_symlink()
            is_folder = os.path.isdir(path) if linked else entry.is_dir()
            is_file = os.path.isfile(path) or not os.path.exists(path) if linked else entry.is_file()
            if is_folder or is_file:
                yield f"{below}/{entry.name}" if below else entry.name, is_folder and not is_image(entry.name)


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def require_plain(folder: Path, name: str) -> str:
    """The name, if it is text that stands in one line.

    Raises:
        InputError: it is not.
    """
    if not is_plain(name):
        raise InputError(f"{folder}: the file name {name!a} has characters that are no text; rename the file")
    return name


SA1B_ARCHIVE = re.compile(r"sa_\w+\.tar", re.ASCII | re.IGNORECASE)
"""Names of SA-1B's shards as they are downloaded."""
SA1B_FILE = re.compile(r"sa_(\d+)\.(\w+)", re.ASCII | re.IGNORECASE)


def is_sa1b_image(name: str) -> bool:
    """Whether a path's last part is that of an image of SA-1B."""
    return is_image(name) and SA1B_FILE.fullmatch(name.rpartition("/")[2]) is not None
