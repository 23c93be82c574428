"""What images and their annotations are, by content: the same files at another path are the same data."""

import contextlib
import hashlib
import json
import os
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.checkpoint import write_bytes
from core.errors import InputError
from core.plain_file import parse_json
from data.parallel import in_threads
from data.sample import EncodedSample, ImageData, ScaledImage
from data.tar_members import File, TarMember

SAVE_EVERY_S = 30.0
"""A long reading that is stopped keeps what it has so far."""
Stamp = tuple[int, int, int]
"""Size in bytes, and nanoseconds of the last change of a file's content and of its entry (which no program can set)."""


class FileHashes:
    """The hashes of files, by path.

    Args:
        folder: where they are kept, a file for each folder of hashed files; None keeps none. Processes may share it:
            files are written whole and merged, and one that is damaged is made anew.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._stamps: dict[File, Stamp | None] = {}
        self._hashes: dict[File, str | None] = {}

    def unread(self, paths: Iterable[File]) -> list[File]:
        """The files whose hashes are not known yet, or that have changed since they were; nothing is read."""
        by_folder: dict[Path, list[File]] = defaultdict(list)
        for path in dict.fromkeys(paths):
            by_folder[path.parent].append(path)
        found = []
        for folder, own in by_folder.items():
            kept = self._kept(folder)
            for path, stamp in zip(own, in_threads(stamp_of, own), strict=True):
                entry = kept.get(path.name)
                self._stamps[path] = stamp
                if stamp is None:
                    self._hashes[path] = None
                elif entry is not None and entry[0] == stamp:
                    self._hashes[path] = entry[1]
                else:
                    found.append(path)
        return found

    def size(self, paths: Iterable[File]) -> int:
        """Bytes of files that :meth:`unread` returned."""
        stamps = ((path, self._stamps.get(path)) for path in paths)
        return sum(path.size if isinstance(path, TarMember) else stamp[0] for path, stamp in stamps if stamp)

    def read(self, paths: Sequence[File], on_file: Callable[[int], None] = lambda count: None) -> None:
        """Hash files that :meth:`unread` returned, several at a time, and keep the hashes.

        Args:
            on_file: called with how many are done.
        """
        new: list[File] = []
        saved = time.monotonic()
        try:
            for count, (path, found) in enumerate(zip(paths, in_threads(_sha256, paths), strict=True), 1):
                self._hashes[path] = found
                new.append(path)
                on_file(count)
                if time.monotonic() - saved > SAVE_EVERY_S:
                    self._keep(new)
                    new, saved = [], time.monotonic()
        finally:
            # Also of a reading that is stopped by Ctrl-C.
            self._keep(new)

    def __getitem__(self, path: File) -> str | None:
        """The hash in hexadecimal; None where there is no file, or none that can be read."""
        return self._hashes[path]

    def check(self, path: File, stamp: Stamp | None = None) -> None:
        """Refuse a file that was read, if it is another one than the one that was hashed; one that was not is let pass.

        Args:
            stamp: of when it was read, by :func:`stamp_of`; None: now.

        Raises:
            InputError: it is.
        """
        seen = stamp or stamp_of(path)
        if path not in self._hashes or seen == self._stamps[path]:
            return
        # Touched, or on another machine of several: its content decides.
        if seen == stamp_of(path) and (None if seen is None else _sha256(path)) == self._hashes[path]:
            self._stamps[path] = seen
            return
        raise InputError(
            f"{path}: was changed or removed after this command began; put it back, or give the same command again for "
            "what is there now"
        )

    def _keep(self, paths: Iterable[File]) -> None:
        by_folder: dict[Path, dict[str, tuple[Stamp, str]]] = defaultdict(dict)
        for path in paths:
            found, stamp = self._hashes[path], self._stamps[path]
            if found is not None and stamp is not None:
                # Of before it was read: if it changed meanwhile, the entry holds for no file.
                by_folder[path.parent][path.name] = stamp, found
        for folder, new in by_folder.items() if self._folder is not None else ():
            # Read again, as another process may have written.
            entries = [(name, *stamp, found) for name, (stamp, found) in (self._kept(folder) | new).items()]
            body = json.dumps(entries).encode()
            # Without room or permission the files are read again next time.
            with contextlib.suppress(OSError, InputError):
                write_bytes(self._file(folder), hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

    def _kept(self, folder: Path) -> dict[str, tuple[Stamp, str]]:
        """What is kept of a folder, by the files' names; nothing where that is damaged."""
        if self._folder is None:
            return {}
        try:
            path = self._file(folder)
            checksum, _, body = path.read_bytes().partition(b"\n") if path.is_file() else (b"", b"", b"")
            if checksum.decode() != hashlib.sha256(body).hexdigest():
                return {}
            return {name: ((size, changed, entered), found) for name, size, changed, entered, found in parse_json(body)}
        except (OSError, ValueError, TypeError):
            return {}

    def _file(self, folder: Path) -> Path:
        assert self._folder is not None
        name = hashlib.sha256(os.fsencode(os.path.abspath(folder))).hexdigest()[:32]
        return self._folder / f"{name}.json"


def stamp_of(path: File) -> Stamp | None:
    """By what a change of a file is seen; None where there is no regular file: a pipe would never end."""
    try:
        # A member of an archive may be another one whenever the archive is.
        found = os.stat(path.archive if isinstance(path, TarMember) else path)
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns) if stat.S_ISREG(found.st_mode) else None


def _sha256(path: File) -> str | None:
    try:
        if isinstance(path, TarMember):
            return hashlib.sha256(path.read_bytes()).hexdigest()
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


IDENTITY = 2
"""Version of what results call the hash of images; the first was one of their names alone."""


@dataclass(frozen=True)
class ImageContent:
    """One image.

    Attributes:
        image_id: the data set's own.
        image_sha256: of its file; None where that cannot be read, or the image is made and not read.
        annotations_sha256: of the file that holds its annotations; None likewise, or where no labels are read.
    """

    image_id: int
    image_sha256: str | None = None
    annotations_sha256: str | None = None

    def __str__(self) -> str:
        return f"{self.image_id} {self.image_sha256 or '-'} {self.annotations_sha256 or '-'}"


class ReadFromFiles:
    """What data sets share whose images are read from files.

    Attributes:
        hashes: of the files, where they are known: a file that is another one when it is read is refused.
    """

    hashes: FileHashes | None = None

    @property
    def parameters(self) -> Mapping[str, Any]:
        """None: images are read."""
        return {}

    @property
    def refused(self) -> Collection[int]:
        """The ids of images that were refused when they were read."""
        raise NotImplementedError

    def instance_count(self, index: int) -> int:
        """How many instances of an image the rules admit; some may show no pixel when they are read."""
        raise NotImplementedError

    def without_point(self, index: int) -> int | None:
        """The id of an instance of an image that does not name the point it was made from; None if all do."""
        raise NotImplementedError

    def training_image(self, index: int, frame: int) -> ScaledImage:
        """The image as training reads it, for a model's frame.

        Raises:
            UnreadableImage, InputError: as :meth:`data.sample.ImageData.image`.
        """
        raise NotImplementedError

    def training_sample(self, index: int, frame: int) -> EncodedSample:
        """The image with its instances, as training reads them.

        Raises:
            UnreadableImage, InputError: as :meth:`data.sample.ImageData.sample`.
        """
        raise NotImplementedError

    def check_annotations(self) -> None:
        """Refuse annotations that were read before they were hashed, if they were others.

        Raises:
            InputError: they were.
        """

    def _check_hashed(self, path: File) -> None:
        """To be called once a file is read, or could not be."""
        if self.hashes is not None:
            self.hashes.check(path)


Files = tuple[File | None, File | None]
"""Of an image: its own file and, where labels count, the one that holds its annotations."""


def files_of(data: ImageData, indices: Iterable[int], labels: bool) -> list[Files]:
    """The files that images, and with ``labels`` their annotations, are read from."""
    return [(data.image_file(index), data.annotation_file(index) if labels else None) for index in indices]


def image_contents(
    data: ImageData, indices: Iterable[int], labels: bool, files: Iterable[Files], hashes: FileHashes
) -> list[ImageContent]:
    """The content of each image.

    Args:
        files: as :func:`files_of` gives them; None has no hash.
        hashes: of all of them.
    """
    # Without labels an image's number is its place: the order of the images says it.
    return [
        ImageContent(
            data.image_id(index) if labels else place,
            *(None if path is None else hashes[path] for path in own),
        )
        for place, (index, own) in enumerate(zip(indices, files, strict=True))
    ]


def content_sha256(data: ImageData, contents: Sequence[ImageContent]) -> str:
    """SHA-256 of what a data set's images are, in their order, and of the parameters that they are made from."""
    digest = hashlib.sha256(json.dumps([data.name, dict(data.parameters)], sort_keys=True).encode())
    for content in contents:
        digest.update(f"\n{content}".encode())
    return digest.hexdigest()


def fingerprint(data: ImageData) -> str:
    """SHA-256 of a data set's name and the names of its images, in order."""
    digest = hashlib.sha256(data.name.encode())
    for index in range(len(data)):
        digest.update(b"\0" + data.image_name(index).encode())
    return digest.hexdigest()
