"""The content of the images that a command trains on or scores: what runs and evaluations are of, wherever it lies."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core import distributed
from core.errors import InputError
from core.progress import counted, say
from data.content import (
    FileHashes,
    Files,
    ImageContent,
    ReadFromFiles,
    content_sha256,
    files_of,
    fingerprint,
    image_contents,
)
from data.kept import FOLDER
from data.sample import ImageData
from experiments.config.schema import RunConfig
from experiments.config.targets import build_method
from experiments.runs.build import build_data, evaluation_indices
from experiments.scoring import require_instances

ENDLESS_IMAGES = 200
"""Images that a run scores where the data set has no natural end (``shapes``)."""
_SHOWN_FROM = 200_000_000
"""Bytes to be read from which on a bar shows it."""


@dataclass(frozen=True)
class DataContent:
    """What the images of a data set that count are. Should one be another when it is read, that is refused.

    Attributes:
        data, indices: the images.
        labels: whether their annotations count.
        images: the content of each.
        sha256: of them all.
    """

    data: ImageData
    indices: Sequence[int]
    labels: bool
    images: list[ImageContent]
    sha256: str

    @property
    def is_read(self) -> bool:
        """Whether images are read from files, and not made."""
        return not self.data.parameters

    def identity(self) -> str:
        """What names a run: the hash of what was read; of what is made the names, as its parameters are settings."""
        return self.sha256 if self.is_read else fingerprint(self.data)

    def column(self) -> str | None:
        """What rows call the images; None where they are made."""
        return self.sha256 if self.is_read else None


def data_content(data: ImageData, indices: Sequence[int], labels: bool, runs: Path) -> DataContent:
    """Read what images, and with ``labels`` their annotations, are; under ``torchrun`` the first process does for all.

    Args:
        runs: the folder of runs, where the hashes of files are kept: what has not changed is not read again.
    """
    files = files_of(data, indices, labels)
    hashes = distributed.from_main(lambda: _hashes(data.name, files, runs))
    if isinstance(data, ReadFromFiles):
        data.hashes = hashes
        if labels:
            data.check_annotations()
    images = image_contents(data, indices, labels, files, hashes)
    return DataContent(data, indices, labels, images, content_sha256(data, images))


def contents_of_run(settings: RunConfig) -> tuple[DataContent, DataContent]:
    """The images that a run trains on, and those that it scores."""
    labels = build_method(settings.method).reads_labels
    data = build_data(settings.data, labels=True if labels else None)
    scored = build_data(settings.evaluation.data)
    indices = evaluation_indices(settings.evaluation, scored, ENDLESS_IMAGES)
    require_instances(scored, indices, "evaluation.data")
    runs = Path(settings.runs)
    return data_content(data, range(len(data)), labels, runs), data_content(scored, indices, True, runs)


def require_held_out(trained_on: DataContent, scored_on: DataContent) -> None:
    """Refuse to score a run on images that it is trained on; copies of one that lie elsewhere are reported.

    Raises:
        InputError: an image is made alike for both, or read from the same file, through links or not.
    """
    if not trained_on.is_read:
        same_source = trained_on.data.name == scored_on.data.name
        if same_source and trained_on.data.parameters == scored_on.data.parameters:
            made = ", ".join(f"{key}={value}" for key, value in scored_on.data.parameters.items())
            raise InputError(
                f"evaluation.data makes the images that are trained on ({made}); give another split or seed"
            )
        return
    shared = _hashes_of(trained_on) & _hashes_of(scored_on)
    trained, scored = _places(trained_on, shared), _places(scored_on, shared)
    if same := sorted(trained & scored):
        problem = f"{len(same)} of the {len(scored_on.indices)} scored images are trained on, such as {same[0]}"
        raise InputError(f"{problem}; give evaluation.data.root=FOLDER of other images, or another split")
    if shared:
        # Published data sets hold a few of these; nobody can take them out.
        example = min(scored)
        say(f"{len(scored)} of the scored images lie, byte for byte, among those trained on, such as {example}")


def _hashes_of(content: DataContent) -> set[str]:
    return {image.image_sha256 for image in content.images if image.image_sha256 is not None}


def _places(content: DataContent, hashes: set[str]) -> set[str]:
    """Where the images with one of these hashes lie, their links followed."""
    images = zip(content.indices, content.images, strict=True)
    return {
        os.path.realpath(str(content.data.image_file(index))) for index, image in images if image.image_sha256 in hashes
    }


def _hashes(name: str, files: Sequence[Files], runs: Path) -> FileHashes:
    hashes = FileHashes(runs / FOLDER)
    unread = hashes.unread(path for own in files for path in own if path is not None)
    if unread:
        what = f"reading what the images of {name} are, once"
        with counted(what, len(unread), shown=hashes.size(unread) >= _SHOWN_FROM) as done:
            hashes.read(unread, done)
    return hashes
