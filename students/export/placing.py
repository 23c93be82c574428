"""A folder that is written as a whole or not at all."""

import contextlib
import errno
import fcntl
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from core.checkpoint import umask
from core.errors import InputError
from core.plain_file import reraise_access
from students.export.manifest import MANIFEST

_ENDING = ".part"
# All that an export writes: the parts in each format, with weights that lie beside.
_OWN = re.compile(rf"{re.escape(MANIFEST)}|(encoder|decoder)\.(onnx|onnx\.data|xml|bin|pt2)")


def check_folder(folder: Path) -> None:
    """Refuse a place where an export would take other files away.

    Raises:
        InputError: it is a file, a folder that holds anything but the files of an earlier export, or closed.
    """
    with reraise_access(folder):
        taken = folder.is_file()
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        earlier = (folder / MANIFEST).is_file()
    if taken:
        raise InputError(f"out={folder}: is a file; an export is a folder, give another name")
    # Of a link, the link is replaced and what it leads to stays.
    foreign = [name for name in names if not earlier or not (_OWN.fullmatch(name) or folder.is_symlink())]
    if foreign:
        raise InputError(f"out={folder}: holds other files than an earlier export, as {foreign[0]}; give a new folder")


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` when the block ends without an error.

    What killed processes left of this goes first; an earlier export that one of them had moved aside comes back.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    # Locked as long as somebody writes there.
    temporary, handle = _begun(folder)
    earlier = temporary.with_name(f"{temporary.name}.earlier")
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~umask())
        while not _placed(temporary, folder, earlier):
            _remove(earlier)
    finally:
        if handle is not None:
            os.close(handle)
        shutil.rmtree(temporary, ignore_errors=True)
        _remove(earlier)


def _placed(temporary: Path, folder: Path, earlier: Path) -> bool:
    """Move what stands in the place aside and the temporary folder there; False if another export was quicker."""
    # Another export may move it aside at the same moment.
    with contextlib.suppress(FileNotFoundError):
        os.replace(folder, earlier)
    try:
        os.replace(temporary, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _begun(folder: Path) -> tuple[Path, int | None]:
    """A new temporary folder beside a folder, and a descriptor that locks it; None where the system has no locks."""
    while True:
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=_ENDING))
        # Somebody may take it for an abandoned one before it is locked.
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            handle = _locked(temporary)
            if temporary.exists():
                return temporary, handle
            if handle is not None:
                os.close(handle)


def _locked(folder: Path) -> int | None:
    """A descriptor that locks a folder; None where the system has no locks.

    Raises:
        FileNotFoundError: there is no such folder.
        BlockingIOError: somebody else holds it.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        os.close(handle)
        return None
    return handle


def _remove_abandoned(folder: Path) -> None:
    for path in sorted(folder.parent.glob(f".{glob.escape(folder.name)}.*{_ENDING}*")):
        temporary = path.with_name(path.name.removesuffix(".earlier"))
        try:
            handle = _locked(temporary)
        except FileNotFoundError:
            # What its process had moved aside is left alone.
            handle = None
        except OSError:
            # A process writes there, or it is no folder of an export.
            continue
        try:
            if path != temporary and not folder.exists() and (path / MANIFEST).is_file():
                with contextlib.suppress(OSError):
                    os.replace(path, folder)
            _remove(path)
        finally:
            if handle is not None:
                os.close(handle)


def _remove(path: Path) -> None:
    """Remove a folder; of a link the link goes, what it leads to stays."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
