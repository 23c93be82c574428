"""The folder of one run: one process at a time, and nothing left behind by a run that was refused at its beginning."""

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from core.checkpoint import remove_abandoned
from core.errors import InputError
from core.progress import say
from evaluation.records import remove_parts
from experiments.runs.kept_threads import NAME as THREADS

LOCK = ".lock"
# Loggers fill these from the logs of stages; where there is no such log there is nothing in them.
_OF_NOTHING = (LOCK, THREADS, "metrics.csv", "tensorboard")


@contextlib.contextmanager
def lock_run_dir(folder: Path, fresh: bool | Callable[[], bool], wait: bool = False) -> Iterator[None]:
    """Make the folder and keep other processes out of it; empty it first if ``fresh``.

    A block that ends in an InputError takes a new folder with it, but only one in which nothing was computed: whatever
    was scored, trained or written stays, and the same command goes on from it. Likewise, what a fresh start took away
    comes back where nothing was computed instead; it goes for good when a block ends well.

    Args:
        fresh: or what says so once no other process is in the folder.
        wait: until another process that works there has ended; that is said once.

    Raises:
        InputError: another process works there and is not waited for, or the folder cannot be made, or a link stands
            where its lock should.
    """
    earlier = folder.with_name(f".{folder.name}.earlier")
    lock, before = _locked(folder, wait)
    try:
        if fresh() if callable(fresh) else fresh:
            _set_aside(folder, earlier)
        # What killed processes were writing goes, also where nothing is written now.
        remove_abandoned(folder.absolute())
        try:
            yield
        except BaseException as error:
            if holds_nothing(folder):
                if earlier.is_dir():
                    _put_back(folder, earlier)
                elif not before and isinstance(error, InputError):
                    shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(earlier, ignore_errors=True)
    finally:
        lock.release()


def remove_taken_over(folders: Iterable[Path], key: str, contents: Collection[str]) -> None:
    """Remove what stopped processes left of images that another one has finished; a folder in use stays as it is.

    Args:
        key, contents: of what is finished, see :func:`evaluation.records.remove_parts`.
    """
    for folder in folders:
        with contextlib.suppress(InputError, OSError), lock_run_dir(folder, fresh=False):
            remove_parts(folder, key, contents)
            if holds_nothing(folder):
                shutil.rmtree(folder)


def _locked(folder: Path, wait: bool) -> tuple[FileLock, bool]:
    """The lock of a folder, which is made where it is not there, and whether it was there."""
    # A tenth of a second, since a process that was refused may take the folder away between two steps of this one.
    lock = FileLock(folder / LOCK, timeout=0.1, poll_interval=0.02)
    before = waiting = False
    try:
        while not lock.is_locked:
            # Of a folder that may not be looked into, the lock says so.
            before = os.path.exists(folder)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=-1 if waiting else None, poll_interval=0.2 if waiting else None)
            except FileNotFoundError:
                continue
            except Timeout:
                if not wait:
                    raise
                say(f"{folder}: another process works on this run; waiting for it", style="dim")
                waiting = True
    except Timeout:
        raise InputError(f"{folder}: another process works on this run; wait for it, or give another seed") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); give another folder (runs=, out=)") from None
    return lock, before


def holds_nothing(folder: Path) -> bool:
    """Whether a folder has no file with any content, but for the lock and what loggers made of no log."""
    found = [path for path in folder.iterdir() if path.name not in _OF_NOTHING]
    files = [file for path in found for file in (path, *path.rglob("*")) if file.is_symlink() or not file.is_dir()]
    return not any(file.is_symlink() or _size(file) for file in files)


def _size(file: Path) -> int:
    """Bytes of a file; 0 of one that another process has just renamed or removed."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _set_aside(folder: Path, earlier: Path) -> None:
    """Move what a folder holds to a hidden one beside it, unless a start that came to nothing has done so."""
    if earlier.is_dir():
        _empty(folder)
        return
    for path in [path for path in folder.iterdir() if path.name != LOCK]:
        earlier.mkdir(exist_ok=True)
        os.replace(path, earlier / path.name)


def _put_back(folder: Path, earlier: Path) -> None:
    """The contrary."""
    _empty(folder)
    for path in earlier.iterdir():
        os.replace(path, folder / path.name)
    earlier.rmdir()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != LOCK:
            # Of a link to a folder the link goes, what it leads to stays.
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
