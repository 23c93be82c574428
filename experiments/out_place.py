"""The place of ``out=``: refused before the work where nothing can be written there; the error names the setting."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from core.errors import InputError
from core.plain_file import home_path
from core.storage import check_place


@contextlib.contextmanager
def writing_to(out: str | Path) -> Iterator[None]:
    """A block that writes below ``out``.

    Raises:
        InputError: the system refuses; the message names the setting.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"out={out}: cannot be written ({error.strerror}); give another path") from None


def check_out(out: str | Path, file: Path | None = None) -> None:
    """Refuse a place that takes no files, before there is anything to write.

    Args:
        file: to be written there; None: ``out`` itself.

    Raises:
        InputError: as :func:`writing_to`.
    """
    with writing_to(out):
        check_place(home_path(out) if file is None else file)
