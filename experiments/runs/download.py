"""Fetching a published file once, over https: resumed where it stopped, verified, kept among torch.hub's downloads."""

import contextlib
import fcntl
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import torch
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from core.checkpoint import file_sha256
from core.errors import InputError
from core.progress import say
from core.terminal import terminal

TIMEOUT = 20.0
SCHEMES = ("https",)
"""Of addresses that are requested, and of those that a server sends on to."""
LARGEST = 8 << 30
"""Bytes of the largest file that is taken; SAM's largest has a third of it."""
_CHUNK = 1 << 20


def downloads() -> Path:
    """The folder of downloads, ``torch.hub.get_dir()/checkpoints`` (set it with ``TORCH_HOME``)."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def fetched(url: str, sha256: str | None, name: str) -> Path:
    """The file at an address, from this machine or from the network.

    Args:
        sha256: of the whole file; None where nobody published it, which is then said.
        name: of the model, for messages.

    Raises:
        InputError: the address is not of https, there is no network, the server refuses, sends on to an address of
            another kind or sends too much, or the file is not the published one; the message has the command that does
            it by hand.
    """
    path = downloads() / url.rsplit("/", 1)[-1]
    by_hand = f"by hand: curl --proto =https -L -C - -o {path} {url}"
    if not path.is_file():
        try:
            _download(url, path)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise InputError(f"{name}: cannot be fetched ({reason}); {by_hand}") from None
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written ({error.strerror}); set TORCH_HOME to another folder"
            ) from None
    if sha256 is None:
        say(f"{name}: no hash of this file was published, so {path} is taken as it is")
        return path
    found = file_sha256(path)
    if found != sha256:
        raise InputError(
            f"{path}: sha256 is {found}, published is {sha256}; remove the file and fetch it again, {by_hand}"
        )
    return path


def fetched_folder(url: str, name: str) -> Path:
    """A repository of Hugging Face's hub as a folder, from its own cache or from the network.

    Raises:
        InputError: there is no network, or no such repository; the message has the command that does it by hand.
    """
    from huggingface_hub import snapshot_download

    repository = url.removeprefix("https://huggingface.co/")
    patterns = ["config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"]
    try:
        folder = Path(snapshot_download(repository, allow_patterns=patterns, etag_timeout=TIMEOUT))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        by_hand = f"by hand: hf download {repository} --local-dir FOLDER, then checkpoint=FOLDER"
        raise InputError(f"{name}: cannot be fetched ({reason}); {by_hand}") from None
    say(f"{name}: no hash of these files was published, so {folder} is taken as it is")
    return folder


def _download(url: str, path: Path) -> None:
    """Into ``<path>.part``, continuing what is there, then renamed; one process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with _open_part(part) as stream:
        try:
            # Another process may have fetched it while this one waited.
            if not path.is_file():
                _continue(url, path.name, stream)
                stream.flush()
                part.replace(path)
        finally:
            stream.flush()
            if not os.fstat(stream.fileno()).st_size:
                part.unlink(missing_ok=True)


@contextlib.contextmanager
def _open_part(part: Path) -> Iterator[BinaryIO]:
    """A part's file, open for writing at its end, which no other process has; never one behind a link."""
    while True:
        stream = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "r+b")
        with stream:
            _lock(part, stream)
            if _is_at(part, stream):
                yield stream
                return


def _lock(part: Path, stream: BinaryIO) -> None:
    # A file system without locks has none to request either.
    with contextlib.suppress(OSError):
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{part}: another process fetches this file; waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)


def _is_at(part: Path, stream: BinaryIO) -> bool:
    """Whether a path still leads to an open file: whoever had it before may have renamed it."""
    try:
        return os.path.samestat(part.lstat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


def _continue(url: str, name: str, stream: BinaryIO) -> None:
    """Fetch what is lacking of a file behind what there is of it."""
    have = os.fstat(stream.fileno()).st_size
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = _open(request)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing is left to send: the part is the whole.
        return
    with answer, _bar(name, answer, have) as bar:
        size = have if answer.status == 206 else 0
        if not size:
            stream.truncate(0)
        if size + (answer.length or 0) > LARGEST:
            raise urllib.error.URLError(
                f"it has {size + answer.length:,} bytes, more than the {LARGEST:,} that are taken"
            )
        while chunk := answer.read(_CHUNK):
            size += len(chunk)
            if size > LARGEST:
                raise urllib.error.URLError(f"it has more than the {LARGEST:,} bytes that are taken")
            stream.write(chunk)
            bar.advance(bar.task_ids[0], len(chunk))
        expected = answer.length
    if expected:
        raise ConnectionError(f"the connection ended {expected} bytes early; the same command goes on")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server only to addresses of the kinds that may be requested."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(request: urllib.request.Request) -> Any:
    _check_scheme(request.full_url)
    return urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)


def _check_scheme(url: str) -> None:
    if urlsplit(url).scheme not in SCHEMES:
        raise urllib.error.URLError(f"{url} is no {SCHEMES[0]} address")


def _bar(name: str, answer: object, have: int) -> Progress:
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=terminal(stderr=True), transient=True)
    length = getattr(answer, "length", None)
    start = have if getattr(answer, "status", 200) == 206 else 0
    bar.add_task(name, total=None if length is None else start + length, completed=start)
    return bar
