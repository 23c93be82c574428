"""One JSON file in COCO's format and folders of images: what COCO, LVIS and data sets like them share."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from data.annotation_file import Entry
from data.content import ReadFromFiles
from data.images import HEADER_CHECK_LIMIT, image_size, read_image, require_size
from data.instances import Rules
from data.json_fields import read_json, value
from data.sample import EncodedSample, ImageSample, ScaledImage, UnreadableImage


class AnnotatedImages(ReadFromFiles):
    """Images with their instances (an :class:`data.sample.ImageData`), indexed once.

    Images that cannot be used are refused, or, with rules that skip them, left out. Missing ones have no index then,
    nor have those whose header tells the damage or another size (headers of large data sets are not read). The others
    show when they are read: :meth:`image` and :meth:`sample` raise :class:`data.sample.UnreadableImage`.

    Args:
        folder: the entries' names are relative to it.
        source: the annotation file.
        entries: the images, in order.
        present: the names known to exist; others are looked for one by one.
        rules: those that made the entries.
        labels: False where the entries hold no instances because none were read.

    Attributes:
        unusable_in_truth: how many annotations :meth:`truth` left out when it was last called.

    Raises:
        InputError: an image that is needed is missing, unreadable or of another size than listed, or all are.
    """

    name: str

    def __init__(
        self, folder: Path, source: Path, entries: list[Entry], present: Collection[str], rules: Rules, labels: bool
    ) -> None:
        self.unusable_in_truth = 0
        self._folder, self._source, self._rules, self._labels = folder, source, rules, labels
        self._entries = self._usable(entries, present)
        if not self._entries:
            problem = f"none of the {len(entries)} images can be read; put them there or give another root"
            raise InputError(f"{folder}: {problem}")

    def __len__(self) -> int:
        """Number of images."""
        return len(self._entries)

    @property
    def skipped(self) -> Mapping[str, int]:
        """How often each of :data:`data.exclusions.REASONS` applied; some grow as samples are read."""
        return self._rules.skipped.counts

    @property
    def truth_path(self) -> Path:
        """The annotation file.

        Raises:
            InputError: the data set was made with ``labels=False``.
        """
        self._require_labels()
        return self._source

    def truth(self) -> Mapping[str, Any]:
        """``images``, ``annotations`` and ``categories`` as in the file, whatever the rules leave out.

        Only annotations that cannot be used, where such are skipped, and those of images that are not listed are
        missing. Read anew at each call and not kept: in memory it takes several times the file's size.

        Raises:
            InputError: the file has no categories, the data set was made with ``labels=False``, or an annotation that
                the rules leave out (of a crowd, small) cannot be used and such are refused.
        """
        content = read_json(self.truth_path)
        if not isinstance(value(content, "categories", str(self._source)), list):
            raise InputError(f'{self._source}: "categories" is not a list; give a file that lists its categories')
        unusable = set(self._rules.unusable)
        for place, size_hw in self._rules.left_out.items():
            if size_hw is not None:
                try:
                    self._rules.check_left_out(content["annotations"][place], size_hw, self._source)
                except InputError as problem:
                    self._rules.skipped.require_skipping(problem)
                    unusable.add(place)
        self.unusable_in_truth = len(unusable)
        unusable |= {place for place, size_hw in self._rules.left_out.items() if size_hw is None}
        annotations = [raw for place, raw in enumerate(content["annotations"]) if place not in unusable]
        return {"images": content["images"], "annotations": annotations, "categories": content["categories"]}

    @property
    def category_ids(self) -> frozenset[int] | None:
        """The ids of the categories that the file lists; None where it lists none, or was not read."""
        return self._rules.categories

    def sizes_hw(self) -> dict[int, tuple[int, int]]:
        """The listed size ``(h, w)`` of each image that is not left out, by image id."""
        self._require_labels()
        return {entry.image_id: entry.size_hw for entry in self._entries if entry.size_hw}

    def image(self, index: int) -> NDArray[np.uint8]:
        """The image, uint8 ``[H, W, 3]`` RGB.

        Raises:
            UnreadableImage: it is missing, damaged or not of the listed size, and such are skipped.
            InputError: likewise, where such are refused.
        """
        entry = self._entries[index]
        path = self._folder / entry.name
        try:
            image = read_image(path)
            self._require_listed(entry, (image.shape[0], image.shape[1]))
        except InputError as problem:
            self._check_hashed(path)
            self._rules.skipped.leave_out(entry.image_id, len(entry.instances), problem)
            raise UnreadableImage(str(problem)) from None
        self._check_hashed(path)
        return image

    def training_image(self, index: int, frame: int) -> ScaledImage:
        """See :meth:`data.content.ReadFromFiles.training_image`; images are read whole."""
        image = self.image(index)
        return ScaledImage(image, (image.shape[0], image.shape[1]))

    def training_sample(self, index: int, frame: int) -> EncodedSample:
        """See :meth:`data.content.ReadFromFiles.training_sample`."""
        self._require_labels()
        return self._rules.encoded(self.training_image(index, frame), self._entries[index].instances, self._source)

    @property
    def refused(self) -> Collection[int]:
        """The ids of images that were refused when they were read."""
        return self._rules.skipped.refused

    def instance_count(self, index: int) -> int:
        """How many instances of an image the rules admit; some may show no pixel when they are read."""
        return len(self._entries[index].instances)

    def without_point(self, index: int) -> int | None:
        """The id of an instance of an image that does not name the point it was made from; None if all do."""
        instances = self._entries[index].instances
        return next((instance.annotation_id for instance in instances if instance.point_xy is None), None)

    def image_name(self, index: int) -> str:
        """The file's path, relative to the folder of images."""
        return self._entries[index].name

    def image_id(self, index: int) -> int:
        """The annotation file's id of an image (its place in the folder where no annotations are read)."""
        return self._entries[index].image_id

    def image_file(self, index: int) -> Path:
        """The file of an image."""
        return self._folder / self._entries[index].name

    def annotation_file(self, index: int) -> Path:
        """The annotation file, which all images share."""
        return self._source

    def check_annotations(self) -> None:
        """See :meth:`data.content.ReadFromFiles.check_annotations`."""
        if self.hashes is not None and self._labels:
            self.hashes.check(self._source, self._rules.stamp)

    def sample(self, index: int) -> ImageSample:
        """The image with its instances in annotation order; instances whose mask is empty are left out.

        Raises:
            UnreadableImage, InputError: as :meth:`image`.
            InputError: the data set was made with ``labels=False``.
        """
        self._require_labels()
        entry = self._entries[index]
        return self._rules.sample(entry.image_id, entry.name, self.image(index), entry.instances, self._source)

    def _require_labels(self) -> None:
        if not self._labels:
            raise InputError(f"{self._folder}: was opened without annotations; use labels=True to read instances")

    def _require_listed(self, entry: Entry, found_hw: tuple[int, int]) -> None:
        require_size(self._folder / entry.name, found_hw, entry.size_hw or found_hw, self._source)

    def _usable(self, entries: list[Entry], present: Collection[str]) -> list[Entry]:
        """The entries less those left out, each image looked for and, in small data sets, its header read."""
        unusable: set[int] = set()
        missing = [e for e in entries if e.name not in present and not os.path.isfile(self._folder / e.name)]
        for entry in missing:
            path, count = self._folder / entry.name, f"{len(missing)} of {len(entries)} are missing"
            problem = InputError(f"{path}: no such image file ({count}); put the images there")
            self._rules.skipped.leave_out(entry.image_id, len(entry.instances), problem)
            unusable.add(entry.image_id)
        for entry in entries if len(entries) <= HEADER_CHECK_LIMIT else ():
            if entry.image_id in unusable:
                continue
            try:
                self._require_listed(entry, image_size(self._folder / entry.name))
            except InputError as problem:
                self._rules.skipped.leave_out(entry.image_id, len(entry.instances), problem)
                unusable.add(entry.image_id)
        return [entry for entry in entries if entry.image_id not in unusable]
