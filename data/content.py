"""What images and their annotations are, by content: the same files at another path are the same data."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.file_hashes import FileHashes
from data.sample import ImageData

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

    def check_annotations(self) -> None:
        """Refuse annotations that were read before they were hashed, if they were others.

        Raises:
            InputError: they were.
        """

    def _check_hashed(self, path: Path) -> None:
        """To be called once a file is read, or could not be."""
        if self.hashes is not None:
            self.hashes.check(path)


Files = tuple[Path | None, Path | None]
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
