"""The folder of one run: one process at a time, and nothing left behind by a run that was refused."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from core.errors import InputError

LOCK = ".lock"


@contextlib.contextmanager
def held_folder(folder: Path, fresh: bool) -> Iterator[None]:
    """Make the folder and keep other processes out of it; empty it first if ``fresh``.

    A block that ends in an InputError before any state was saved takes the folder with it.

    Raises:
        InputError: another process works there, or the folder cannot be made.
    """
    before = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); give another folder with runs=") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{folder}: another process works on this run; wait for it, or give another seed"
            ) from None
        if fresh:
            _empty(folder)
        for half in folder.glob(".*.part"):
            # What a killed process was writing; nobody else writes here now.
            half.unlink()
        try:
            yield
        except InputError:
            if not before and not list(folder.glob("*.state")):
                shutil.rmtree(folder, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
