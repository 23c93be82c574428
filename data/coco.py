"""COCO 2017, and any data set laid out like it: one JSON file a split beside a folder of images."""

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.plain_file import reraise_access
from data.annotated_images import AnnotatedImages
from data.annotation_file import Entry, read_entries
from data.image_files import files_beside, images_below, is_below, is_image
from data.instances import Rules
from data.json_fields import value

FOLDERS = {"train": "train2017", "validation": "val2017"}
"""The folder of each split below the root."""


def annotations_name(split: str) -> str:
    """Path of a split's annotation file, relative to the root."""
    return f"annotations/instances_{FOLDERS[split]}.json"


class Coco(AnnotatedImages):
    """The images of one split, ordered by image id, with their instances (an :class:`data.sample.ImageData`).

    The annotation file says which images there are, with and without labels. Without labels it may be missing: then
    the images are all those in the folder and below it (:mod:`data.image_files`), ordered by path.

    Args:
        root: folder that holds ``annotations/``, ``train2017/`` and ``val2017/``.
        split: ``"validation"`` or ``"train"``.
        annotations: annotation file, if it is not where the layout puts it.
        images: folder of images, if it is not where the layout puts it. The layout's own annotation file does not speak
            for it: without ``labels`` and ``annotations``, all images in it are taken.
        labels: False reads from the annotation file only which images there are, and :meth:`sample` refuses.
        crowd: True admits crowd regions like any instance.
        least_area: annotations whose ``area`` is below are left out, in pixels.
        missing: images that are missing, damaged or of another size than listed are refused (``"refuse"``), or left
            out and counted with their instances (``"skip"``).
        unusable: annotations that cannot be used are refused, or left out and counted, likewise.

    Raises:
        InputError: a file or folder is missing, the JSON is malformed, an id or an image's file occurs twice, an
            annotation cannot be used and is refused, a value is none of those above, or an image that has instances
            cannot be used and is refused.
    """

    name = "coco"

    def __init__(
        self,
        root: Path | str,
        split: str = "validation",
        annotations: Path | str | None = None,
        images: Path | str | None = None,
        labels: bool = True,
        crowd: bool = False,
        least_area: float = 1.0,
        missing: str = "refuse",
        unusable: str = "refuse",
    ) -> None:
        rules = Rules(crowd, least_area, missing, unusable)
        if split not in FOLDERS:
            raise InputError(f'COCO has no split "{split}"; choose one of {", ".join(FOLDERS)}')
        root, folder = Path(root), FOLDERS[split]
        files = Path(images or root / folder)
        source = Path(annotations or root / annotations_name(split))
        with reraise_access(files):
            if not files.is_dir():
                raise InputError(f"{files}: no such folder; put COCO 2017's images there or give another root")
            is_listed = labels or annotations is not None or (images is None and source.exists())
        if is_listed:
            entries = read_entries(source, rules, "COCO", _listed_name, labels)
            present = files_beside(files, (entry.name for entry in entries))
            listed = {posixpath.normpath(entry.name) for entry in entries}
            beside = {posixpath.normpath(name) for name in present if is_image(name)}
            rules.skipped.count("unlisted_image", len(beside - listed))
        else:
            names, others = images_below(files)
            if not names:
                raise InputError(f"{files}: no image among its {others} files; put images there (.jpg, .png ...)")
            entries, present = [Entry(index, name, None) for index, name in enumerate(names)], set(names)
            rules.skipped.count("other_file", others)
        super().__init__(files, source, entries, present, rules, labels)


def _listed_name(raw: Mapping[str, Any], where: str) -> str:
    name = value(raw, "file_name", where)
    if not is_below(name):
        raise InputError(f'{where}: "file_name" is {str(name)[:60]!r}, not a path below the images; fix it')
    return name
