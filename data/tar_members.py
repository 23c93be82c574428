"""Files inside tar archives, read in place: where each begins and how long it is, and no more."""

import io
import os
import posixpath
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from core.errors import InputError
from data.image_files import SA1B_FILE

_BLOCK = 512


@dataclass(frozen=True, slots=True)
class TarMember:
    """A regular file of an uncompressed archive, for whoever would be given a path to read.

    Attributes:
        archive: the archive.
        path: of the member, as the archive has it.
        offset, size: of its content, in bytes.
    """

    archive: Path
    path: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}/{PurePosixPath(self.path)}"

    @property
    def name(self) -> str:
        """The last part of the member's path."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> Path:
        """The archive."""
        return self.archive

    def read_bytes(self) -> bytes:
        """The content.

        Raises:
            OSError: the archive cannot be read, or ends before the member does.
        """
        with open(self.archive, "rb", buffering=0) as stream:
            content = os.pread(stream.fileno(), self.size, self.offset)
            while len(content) < self.size:
                part = os.pread(stream.fileno(), self.size - len(content), self.offset + len(content))
                if not part:
                    raise OSError("the archive ends before it")
                content += part
        return content

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:
        """The content as a stream, of which only what is requested is read."""
        return io.BufferedReader(_Window(self))


File = Path | TarMember
"""What images and annotations are read from."""


class _Window(io.RawIOBase):
    """A member as a file of its own."""

    def __init__(self, member: TarMember) -> None:
        self._member, self._place = member, 0
        self._stream = open(member.archive, "rb", buffering=0)  # noqa: SIM115 (closed with this)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = max(0, min(len(buffer), self._member.size - self._place))
        part = os.pread(self._stream.fileno(), size, self._member.offset + self._place)
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._member.size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def close(self) -> None:
        self._stream.close()
        super().close()


def has_end(archive: Path) -> bool:
    """Whether a file ends as whole archives do, in two blocks of zeros; nothing else of it is read."""
    with open(archive, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 2 * _BLOCK))
        return stream.read() == bytes(2 * _BLOCK)


def is_hidden(path: str) -> bool:
    """Whether a part of a member's path begins with a dot: what systems leave behind, in folders too."""
    return any(part[0] == "." for part in path.split("/") if part not in ("", "."))


def list_members(archive: Path) -> tuple[list[TarMember], str | None]:
    """The regular files of an archive in its order, and what is wrong with it, in a few words; None where nothing is.

    A hard link is listed with the content of the file before it that it names. What stands before the damage is
    listed, a member that the archive's end cuts off included.

    Raises:
        InputError: the archive cannot be read, or is none, or is compressed, or a member that is named as a file of
            SA-1B is a link to no file before it, a symbolic link or a sparse file.
    """
    members: list[TarMember] = []
    places: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(archive, "r:") as opened:
            try:
                while (found := opened.next()) is not None:
                    place = None
                    if found.isreg() and not found.issparse():
                        place = found.offset_data, found.size
                    elif found.islnk():
                        place = places.get(posixpath.normpath(found.linkname))
                    if place is not None:
                        members.append(TarMember(archive, found.name, *place))
                        places[posixpath.normpath(found.name)] = place
                    else:
                        _require_no_data(archive, found)
                    # Else the library keeps them all.
                    opened.members = []  # type: ignore[attr-defined]
            except tarfile.ReadError as error:
                return members, f"truncated or damaged ({error})"
            end = opened.offset
        with open(archive, "rb") as stream:
            stream.seek(end)
            ending = stream.read(_BLOCK)
        # The library takes any header that it cannot read for the end.
        return members, None if ending == bytes(_BLOCK) else "truncated or damaged: it has no end"
    except tarfile.ReadError:
        with open(archive, "rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
        problem = (
            "is compressed by gzip; unpack it with gunzip" if packed else "is empty or no tar archive; fetch it again"
        )
        raise InputError(f"{archive}: {problem}") from None
    except OSError as error:
        raise InputError(f"{archive}: cannot be read ({error.strerror}); check its permissions") from None


def _require_no_data(archive: Path, member: tarfile.TarInfo) -> None:
    """Refuse a member without content of its own that is named as a file of SA-1B; folders and the like are none."""
    if is_hidden(member.name) or not SA1B_FILE.fullmatch(member.name.rpartition("/")[2]):
        return
    where = f"{archive}/{PurePosixPath(member.name)}"
    if member.issparse():
        raise InputError(f"{where}: is stored as a sparse file; make the archive again without tar's --sparse")
    if member.issym():
        raise InputError(
            f"{where}: is a symbolic link to {member.linkname}; make the archive again with tar's --dereference"
        )
    if member.islnk():
        problem = f"is a hard link to {member.linkname}, which is no file before it in the archive"
        raise InputError(f"{where}: {problem}; make the archive again with tar's --hard-dereference")
