"""Files of tensors: read without executing anything they contain, written whole or not at all."""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from core.errors import InputError, first_line
from core.plain_file import JSON_LIMIT, check_regular, parse_json
from core.storage import storing
from core.untrusted import NOTE


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    What killed processes were writing in the folder goes when this process first writes there.

    Raises:
        NotWritten: the disk is full, or the folder cannot be written.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent.absolute())
        handle, temporary = _begun(path)
    try:
        with storing(path):
            yield temporary
            with open(temporary, "rb") as stream:
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o666 & ~umask())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _begun(path: Path) -> tuple[int, Path]:
    """A new hidden file beside a path, locked for as long as its descriptor is open."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with contextlib.suppress(OSError):
            # A file system without locks has none to request either.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        # Somebody took it for an abandoned one before it was locked.
        os.close(handle)


@cache
def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of :func:`replacing` that nobody holds any more; once a folder in each process."""
    for half in folder.glob(".?*.????????.part"):
        with contextlib.suppress(OSError):
            handle = os.open(half, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                half.unlink()
            finally:
                os.close(handle)


def umask() -> int:
    """The permissions that this process takes from the files it makes."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    write_bytes(path, text.encode())


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_sha256(model: nn.Module) -> str:
    """Hexadecimal SHA-256 of a model's parameters and buffers, by name, shape and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        # Bytes by view: numpy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def is_safetensors(path: Path) -> bool:
    """Whether a file is one of safetensors by its name, or by its first bytes; False for what cannot be read."""
    if path.suffix.lower() == ".safetensors":
        return True
    if not path.is_file():
        return False
    with contextlib.suppress(OSError), open(path, "rb") as stream:
        # The length of the header, and the header.
        return stream.read(9)[6:] == b"\0\0{"
    return False


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors and its metadata.

    Raises:
        InputError: the file is missing, closed, truncated or not in this format; or it names a tensor twice.
    """
    from safetensors import SafetensorError, safe_open

    metadata = read_metadata(path)
    try:
        with safe_open(path, framework="pt") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}, metadata
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, OverflowError, AttributeError) as error:
        raise _damaged(path, first_line(error)) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors.

    Raises:
        InputError: the file is missing, closed, truncated or not in this format; or it names a tensor twice.
    """
    check_regular(path)
    with _opened(path) as stream:
        size = int.from_bytes(stream.read(8), "little")
        text = stream.read(size) if 2 <= size <= min(JSON_LIMIT, path.stat().st_size - 8) else b"null"
    try:
        header = parse_json(text)
    except ValueError as error:
        raise _damaged(path, first_line(error)) from error
    if not isinstance(header, dict):
        raise _damaged(path, f"its header claims {size} bytes")
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "its metadata are no texts")
    return metadata


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file to be read; what the system refuses is reported as that, and not as damage."""
    try:
        with open(path, "rb") as stream:
            yield stream
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path}: truncated or not a safetensors file ({why}); fetch it again")


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    encode: Callable[[Any], str] = json.dumps,
) -> None:
    """Write tensors with metadata atomically; each value is encoded as JSON, or by ``encode``."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            temporary,
            {key: encode(value) for key, value in metadata.items()},
        )
        _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """Put a safetensors file's metadata in order: the library writes them in a random one, and hashes would differ."""
    with open(path, "r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        if len(text) == size:
            stream.seek(8)
            stream.write(text)


def write_torch(path: Path, tensors: Mapping[str, Tensor], note: str, inside: str | None = None) -> None:
    """Write a state dict with a text of which ``load_state_dict`` takes no notice, atomically.

    PyTorch keeps versions of modules in an attribute ``_metadata`` of a state dict; the text has an entry there.

    Args:
        inside: key of a dict that the state dict is put into, as some programs read it; None: it is the file.
    """
    state: Any = OrderedDict(tensors)
    state._metadata = {**getattr(tensors, "_metadata", {}), NOTE: note}
    # Into a stream: a file's own name would become a part of its content.
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        torch.save(state if inside is None else {inside: state}, stream)


def note_of(stored: object) -> str | None:
    """The text that :func:`write_torch` kept with a state dict."""
    if isinstance(stored, dict) and isinstance(stored.get("model"), OrderedDict):
        stored = stored["model"]
    note: str | None = getattr(stored, "_metadata", {}).get(NOTE) if isinstance(stored, OrderedDict) else None
    return note


def check_fit(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Compare a state dict's keys and shapes with a model's, which may be on the meta device.

    Raises:
        InputError: keys are missing or unexpected, or shapes differ; the message names ``origin`` and the first few.
    """
    expected = model.state_dict()
    problems = [f"missing {key}" for key in expected if key not in tensors]
    problems += [f"unexpected {key}" for key in tensors if key not in expected]
    problems += [
        f"{key} has shape {tuple(tensors[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InputError(f"{origin}: does not fit this model: {'; '.join(problems[:5])}{more}")


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load a state dict whose keys and shapes must match exactly.

    Raises:
        InputError: they do not; see :func:`check_fit`.
    """
    check_fit(model, tensors, origin)
    model.load_state_dict(dict(tensors))
