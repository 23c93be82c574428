"""COCO 2017, and any data set laid out like it: one JSON file a split beside a folder of pictures."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from data.images import HEADER_CHECK_LIMIT, image_size, read_image, require_size
from data.instances import Instance, Rules
from data.json_fields import read_json, value, whole
from data.sample import ImageSample

FOLDERS = {"train": "train2017", "validation": "val2017"}
"""The folder of each split below the root; its annotations are ``annotations/instances_<folder>.json``."""


@dataclass
class _Entry:
    """One picture of the split and its admitted instances."""

    image_id: int
    name: str
    size_hw: tuple[int, int] | None
    instances: list[Instance] = field(default_factory=list)


class Coco:
    """The images of one split, ordered by image id, with their instances (an :class:`data.sample.ImageData`).

    Args:
        root: folder that holds ``annotations/``, ``train2017/`` and ``val2017/``.
        split: ``"validation"`` or ``"train"``.
        annotations: annotation file, if it is not where the layout puts it.
        images: folder of pictures, if it is not where the layout puts it.
        labels: False reads no annotation file: the images are the folder's pictures, ordered by name, and
            :meth:`sample` refuses.

    Raises:
        InputError: a file or folder is missing, the JSON is malformed, an id occurs twice, a segmentation is
            malformed, or a picture that has instances is missing, unreadable or of another size than listed.
    """

    name = "coco"

    def __init__(
        self,
        root: Path | str,
        split: str = "validation",
        annotations: Path | str | None = None,
        images: Path | str | None = None,
        labels: bool = True,
    ) -> None:
        if split not in FOLDERS:
            raise InputError(f'COCO has no split "{split}"; choose one of {", ".join(FOLDERS)}')
        root, folder = Path(root), FOLDERS[split]
        self._images = Path(images or root / folder)
        self._source = Path(annotations or root / "annotations" / f"instances_{folder}.json")
        if not self._images.is_dir():
            raise InputError(f"{self._images}: no such folder; put COCO 2017's pictures there or give another root")
        self._rules, self._labels = Rules(), labels
        self._entries = self._index() if labels else self._list()
        self._check_pictures([entry for entry in self._entries if entry.instances or not labels])

    def __len__(self) -> int:
        """Number of images."""
        return len(self._entries)

    @property
    def skipped(self) -> Mapping[str, int]:
        """How often each of :data:`data.instances.REASONS` applied; "empty_mask" grows as samples are read."""
        return self._rules.counts

    def image(self, index: int) -> NDArray[np.uint8]:
        """The picture, uint8 ``[H, W, 3]`` RGB; InputError when it is missing, unreadable or not the listed size."""
        entry = self._entries[index]
        image = read_image(self._images / entry.name)
        found_hw = (image.shape[0], image.shape[1])
        require_size(self._images / entry.name, found_hw, entry.size_hw or found_hw, self._source)
        return image

    def image_name(self, index: int) -> str:
        """The file name, relative to the folder of pictures."""
        return self._entries[index].name

    def instance_count(self, index: int) -> int:
        """How many instances the rules admitted, without reading the picture; 0 where there is nothing to score."""
        return len(self._entries[index].instances)

    def sample(self, index: int) -> ImageSample:
        """The picture with its instances in annotation order; instances whose mask is empty are left out.

        Raises:
            InputError: as :meth:`image`, or the data set was made with ``labels=False``.
        """
        if not self._labels:
            raise InputError(f"{self._images}: was opened without annotations; use labels=True to read instances")
        entry = self._entries[index]
        return self._rules.sample(entry.image_id, entry.name, self.image(index), entry.instances, self._source)

    def _index(self) -> list[_Entry]:
        if not self._source.is_file():
            raise InputError(f"{self._source}: no such file; put COCO's annotations there or give another root")
        content = read_json(self._source)
        for key in ("images", "annotations"):
            if not isinstance(value(content, key, str(self._source)), list):
                raise InputError(f'{self._source}: "{key}" is not a list; give a COCO instances file')
        by_id: dict[int, _Entry] = {}
        for raw in content["images"]:
            image_id = whole(raw, "id", f"{self._source}: an image")
            where = f"{self._source}: image {image_id}"
            if image_id in by_id:
                raise InputError(f"{where}: the id occurs twice; give every image its own id")
            name = value(raw, "file_name", where)
            if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
                raise InputError(f'{where}: "file_name" is {str(name)[:60]!r}, not a path below the pictures; fix it')
            by_id[image_id] = _Entry(image_id, name, (whole(raw, "height", where, 1), whole(raw, "width", where, 1)))
        if not by_id:
            raise InputError(f"{self._source}: lists no images; give a COCO instances file that does")
        for raw in content["annotations"]:
            annotation_id = whole(raw, "id", f"{self._source}: an annotation")
            entry = by_id.get(whole(raw, "image_id", f"{self._source}: annotation {annotation_id}"))
            instance = self._rules.admit(raw, entry.size_hw if entry else None, self._source)
            if entry and instance:
                entry.instances.append(instance)
        for _ in filter(lambda entry: not entry.instances, by_id.values()):
            self._rules.count("image_without_instances")
        return [by_id[image_id] for image_id in sorted(by_id)]

    def _list(self) -> list[_Entry]:
        suffixes = (".jpg", ".jpeg", ".png")
        # A leading dot marks what operating systems leave behind ("._000000000139.jpg").
        names = sorted(n for n in os.listdir(self._images) if n.lower().endswith(suffixes) and n[0] != ".")
        if names:
            return [_Entry(index, name, None) for index, name in enumerate(names)]
        raise InputError(f"{self._images}: no *.jpg or *.png in this folder; put the pictures there")

    def _check_pictures(self, needed: list[_Entry]) -> None:
        # One listing instead of a look-up a file: on network disks the difference is minutes.
        present = set(os.listdir(self._images))
        missing = [e.name for e in needed if e.name not in present and not (self._images / e.name).is_file()]
        if missing:
            count = f"{len(missing)} of {len(needed)} are missing"
            raise InputError(f"{self._images / missing[0]}: no such image file ({count}); put the pictures there")
        for entry in needed if len(needed) <= HEADER_CHECK_LIMIT else ():
            found_hw = image_size(self._images / entry.name)
            require_size(self._images / entry.name, found_hw, entry.size_hw or found_hw, self._source)
