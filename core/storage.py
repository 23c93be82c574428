"""What cannot be written, reported in one line: a full disk, a read-only folder, a missing permission, a long path."""

import contextlib
import errno
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

from core.errors import InputError

_FIXES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "make it writable",
    errno.EACCES: "get the permission to write there",
    errno.EPERM: "get the permission to write there",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ENOTDIR: "move the file that stands where a folder should be",
    errno.EEXIST: "move the file that stands where a folder should be",
    errno.EISDIR: "move the folder that stands where a file should be",
}
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_LEAST_FREE = 1 << 16


class NotWritten(InputError, OSError):
    """A file that could not be written; both a refusal in one line and the system's own error.

    Args:
        path: of the file.
        number: the system's number of the error.
    """

    def __init__(self, path: Path, number: int) -> None:
        fix = _FIXES.get(number, "look at the disk")
        InputError.__init__(
            self, f"{path}: cannot be written ({os.strerror(number)}); {fix}, or give another folder (runs=, out=)"
        )
        self.path, self.errno, self.strerror = path, number, os.strerror(number)

    def __str__(self) -> str:
        # The system's errors would show their number instead.
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        # Runs of a sweep hand it over from other processes.
        return NotWritten, (self.path, self.errno)


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """A block that writes a file; what the system refuses there raises an error with its name.

    Libraries that write tensors have errors of their own for a full disk: those are recognised by the disk.

    Raises:
        NotWritten: the system refused.
    """
    try:
        yield
    except NotWritten:
        raise
    except OSError as error:
        if error.errno is None or (error.filename is not None and not _is_about(path, error.filename)):
            # Another file was read in the block.
            raise
        raise NotWritten(path, error.errno) from error
    except Exception as error:
        number = _why_not(path, error)
        if number is None:
            raise
        raise NotWritten(path, number) from error


def check_place(path: Path) -> None:
    """Refuse a place where nothing could be written, before the work that is to be written there; leaves nothing.

    Args:
        path: of a file or folder that need not be there yet, nor the folders above it.

    Raises:
        NotWritten: the folder, or the nearest one above it that is there, takes no file.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            path.lstat()
        nearest = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
        if nearest == path and not path.is_dir():
            nearest = path.absolute().parent
        # Closed folders, read-only and full disks: only writing shows them all.
        with tempfile.TemporaryFile(dir=nearest, buffering=0) as stream:
            stream.write(bytes(1))
    except OSError as error:
        raise NotWritten(path, error.errno or errno.EIO) from None


def _is_about(path: Path, filename: object) -> bool:
    """Whether an error's file is the one that is written, its folder, or hidden beside it while it is written."""
    if not isinstance(filename, str | bytes):
        return False
    named, target = Path(os.fsdecode(filename)).absolute(), path.absolute()
    hidden = named.parent == target.parent and named.name.startswith(f".{target.name}.")
    return hidden or named == target or named in target.parents


@contextlib.contextmanager
def reraise_disk(folder: Path) -> Iterator[None]:
    """A block that may read and write anywhere: what the system refuses is reported by its file or ``folder``.

    Raises:
        NotWritten: the disk took no more.
        InputError: a file or folder is closed to this user.
    """
    try:
        yield
    except NotWritten:
        raise
    except OSError as error:
        if isinstance(error, PermissionError) and isinstance(error.filename, str | bytes):
            closed = os.fsdecode(error.filename)
            raise InputError(f"{closed}: {error.strerror}; get access to it, or give another path") from error
        if error.errno not in _OF_DISKS:
            raise
        named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else folder
        raise NotWritten(named, error.errno) from error


def _why_not(path: Path, error: Exception) -> int | None:
    """The system's number behind a library's own error of writing; None if it was another one."""
    message = str(error)
    for number in _OF_DISKS:
        if f"(os error {number})" in message or os.strerror(number) in message:
            return number
    if not any(word in message.lower() for word in ("writ", "unexpected pos")):
        return None
    with contextlib.suppress(OSError):
        disk = os.statvfs(path.parent)
        if disk.f_bavail * disk.f_frsize < _LEAST_FREE:
            return errno.ENOSPC
    return errno.EFBIG if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY else None
