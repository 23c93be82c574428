"""A folder that is written as a whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from core.errors import InputError
from students.export.manifest import MANIFEST


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
    """A temporary folder that takes the place of ``folder`` when the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    earlier = temporary.with_name(f"{temporary.name}.earlier")
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        if folder.exists():
            os.replace(folder, earlier)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        # A link that stood in its place goes, what it led to stays.
        earlier.unlink() if earlier.is_symlink() else shutil.rmtree(earlier, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
