"""A folder that is written as a whole or not at all."""

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from core.errors import InputError
from students.export.manifest import MANIFEST

_ENDING = ".part"


def check_folder(folder: Path) -> None:
    """Refuse a place where an export would take other files away.

    Raises:
        InputError: it is a file, or a folder of anything but an earlier export.
    """
    if folder.is_file():
        raise InputError(f"out={folder}: is a file; an export is a folder, give another name")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise InputError(f"out={folder}: holds other files than an earlier export; give a new folder")


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` when the block ends without an error.

    What killed processes left of this goes first; an earlier export that one of them had moved aside comes back.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=_ENDING))
    # Held as long as somebody writes there.
    handle = _locked(temporary)
    earlier = temporary.with_name(f"{temporary.name}.earlier")
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        if folder.exists():
            os.replace(folder, earlier)
        os.replace(temporary, folder)
    finally:
        if handle is not None:
            os.close(handle)
        shutil.rmtree(temporary, ignore_errors=True)
        # A link that stood in its place goes, what it led to stays.
        earlier.unlink() if earlier.is_symlink() else shutil.rmtree(earlier, ignore_errors=True)


def _locked(folder: Path) -> int | None:
    """A descriptor that locks a folder; None if somebody else holds it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _is_held(temporary: Path) -> bool:
    """Whether a process writes to a temporary folder."""
    if not temporary.is_dir():
        return False
    handle = _locked(temporary)
    if handle is not None:
        os.close(handle)
    return handle is None


def _remove_abandoned(folder: Path) -> None:
    beside = folder.parent.glob(f".{glob.escape(folder.name)}.*{_ENDING}*")
    abandoned = [path for path in beside if not _is_held(path.with_name(path.name.removesuffix(".earlier")))]
    for aside in abandoned:
        if aside.name.endswith(f"{_ENDING}.earlier") and not folder.exists() and (aside / MANIFEST).is_file():
            with contextlib.suppress(OSError):
                os.replace(aside, folder)
    for left in abandoned:
        left.unlink() if left.is_symlink() else shutil.rmtree(left, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
