"""Files as torch.save lays them out, with pickles and members of one's own."""

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError
from core.untrusted import read_inert

FLOATS = struct.pack("<6f", *range(6))
PLAIN = pickle.dumps({"a": 1}, protocol=2)


def torch_zip(path: Path, program: bytes, members: dict[str, bytes] | None = None, **how: Any) -> Path:
    """A file as ``torch.save`` lays it out, with a pickle of one's own."""
    with zipfile.ZipFile(path, "w", **how) as archive:
        archive.writestr("model/data.pkl", program)
        for name, content in (members or {}).items():
            archive.writestr(name, content)
    return path


def refusal(path: Path) -> str:
    """The one line in which a file is refused, without its path."""
    with pytest.raises(InputError) as caught:
        read_inert(path, ("torch.nn",))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable() and len(message) < 400 + len(str(path))
    return message.removeprefix(f"{path}: ")


def text(value: str) -> bytes:
    """The program of a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    """The program of an integer of any length."""
    content = pickle.encode_long(value)
    return b"\x8b" + struct.pack("<i", len(content)) + content


def named(module: str, name: str) -> bytes:
    """The program of a reference to a class or function."""
    return f"c{module}\n{name}\n".encode()


def storage(key: str = "0", count: int = 6, kind: str = "FloatStorage") -> bytes:
    """The program of a storage of ``count`` values; the file needs its member ``model/data/<key>``."""
    return b"(" + text("storage") + named("torch", kind) + text(key) + text("cpu") + integer(count) + b"tQ"


def tensor(*numbers: Any, of: bytes | None = None) -> bytes:
    """The program of a tensor: offset, size and stride."""
    offset, size, stride = numbers
    shape, steps = (b"(" + b"".join(map(integer, values)) + b"t" for values in (size, stride))
    arguments = (
        (of or storage()) + integer(offset) + shape + steps + b"\x89" + named("collections", "OrderedDict") + b")R"
    )
    return named("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"
