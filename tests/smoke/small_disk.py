"""A small file system in memory, for tests of full disks; mounting needs rights that not every machine gives."""

import ctypes
import os
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_REMOUNT, _READ_ONLY, _DETACH = 32, 1, 2


class SmallDisk:
    """A file system of a size that can be changed.

    Args:
        folder: where it is mounted; made if it is not there.
        size: as ``mount`` takes it, ``2m``.

    Raises:
        OSError: nothing can be mounted here.
    """

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._mount(0, size)

    def change(self, size: str, read_only: bool = False) -> None:
        """Give it another size, or make it read-only."""
        self._mount(_REMOUNT | (_READ_ONLY if read_only else 0), size)

    def remove(self) -> None:
        """Take it away with all that is on it."""
        _LIBC.umount2(os.fsencode(self.folder), _DETACH)

    def _mount(self, flags: int, size: str) -> None:
        options = f"size={size}".encode()
        if _LIBC.mount(b"tmpfs", os.fsencode(self.folder), b"tmpfs", flags, options):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(self.folder))
