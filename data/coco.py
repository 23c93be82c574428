"""COCO 2017, and any data set laid out like it: one JSON file a split beside a folder of pictures."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.plain_file import access_told
from data.annotated_pictures import AnnotatedPictures
from data.annotation_file import Entry, read_entries
from data.instances import Rules
from data.json_fields import value
from data.picture_names import is_below, is_plain

FOLDERS = {"train": "train2017", "validation": "val2017"}
"""The folder of each split below the root."""


def annotations_name(split: str) -> str:
    """Path of a split's annotation file, relative to the root."""
    return f"annotations/instances_{FOLDERS[split]}.json"


class Coco(AnnotatedPictures):
    """The images of one split, ordered by image id, with their instances (an :class:`data.sample.ImageData`).

    Args:
        root: folder that holds ``annotations/``, ``train2017/`` and ``val2017/``.
        split: ``"validation"`` or ``"train"``.
        annotations: annotation file, if it is not where the layout puts it.
        images: folder of pictures, if it is not where the layout puts it.
        labels: False reads no annotation file: the images are the folder's pictures, ordered by name, and
            :meth:`sample` refuses.
        crowd: True admits crowd regions like any instance.
        least_area: annotations whose ``area`` is below are left out, in pixels.
        missing: pictures that are missing, damaged or of another size than listed are refused (``"refuse"``), or left
            out and counted with their instances (``"skip"``).

    Raises:
        InputError: a file or folder is missing, the JSON is malformed, an id occurs twice, a segmentation is
            malformed, a value is none of those above, or a picture that has instances cannot be used and is refused.
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
    ) -> None:
        rules = Rules(crowd, least_area, missing)
        if split not in FOLDERS:
            raise InputError(f'COCO has no split "{split}"; choose one of {", ".join(FOLDERS)}')
        root, folder = Path(root), FOLDERS[split]
        pictures = Path(images or root / folder)
        source = Path(annotations or root / annotations_name(split))
        with access_told(pictures):
            if not pictures.is_dir():
                raise InputError(f"{pictures}: no such folder; put COCO 2017's pictures there or give another root")
            # One listing instead of a look-up a file: on network disks the difference is minutes.
            present = set(os.listdir(pictures))
        entries = read_entries(source, rules, "COCO", _listed_name) if labels else _in_folder(pictures, present)
        super().__init__(pictures, source, entries, present, rules, labels)


def _listed_name(raw: Mapping[str, Any], where: str) -> str:
    name = value(raw, "file_name", where)
    if not is_below(name):
        raise InputError(f'{where}: "file_name" is {str(name)[:60]!r}, not a path below the pictures; fix it')
    return name


def _in_folder(pictures: Path, present: set[str]) -> list[Entry]:
    suffixes = (".jpg", ".jpeg", ".png")
    # A leading dot marks what operating systems leave behind ("._000000000139.jpg").
    names = sorted(name for name in present if name.lower().endswith(suffixes) and name[0] != ".")
    for name in names:
        if not is_plain(name):
            raise InputError(f"{pictures}: the file name {name!a} has characters that are no text; rename the file")
    if not names:
        raise InputError(f"{pictures}: no *.jpg or *.png in this folder; put the pictures there")
    return [Entry(index, name, None) for index, name in enumerate(names)]
