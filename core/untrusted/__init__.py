"""Files of PyTorch from anywhere, read without running, importing or trusting anything in them.

The one entrance: :func:`read_torch` gives tensors and plain containers; :func:`read_inert` also gives objects of named
packages, as records of what the file says of them.
"""

from pathlib import Path
from typing import Any

from core.errors import InputError
from core.plain_file import check_regular
from core.untrusted.old_format import read_old
from core.untrusted.pickle_machine import NOTE, Record, Reference, mentions, read_inert
from core.untrusted.zip_format import one_line

__all__ = ["NOTE", "Record", "Reference", "mentions", "one_line", "read_inert", "read_torch"]


def read_torch(path: Path) -> Any:
    """What ``torch.save`` wrote in either format: tensors and plain containers; nothing it names is imported.

    A state dict that :func:`core.checkpoint.write_torch` wrote has its note, as ``_metadata["sampress"]``.

    Raises:
        InputError: the file is missing, closed, truncated, not a PyTorch file, or asks for a class or function.
    """
    check_regular(path)
    try:
        with open(path, "rb") as stream:
            zipped = stream.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    return read_inert(path, ()) if zipped else read_old(path)
