"""LVIS v1 and v0.5: annotation files of their own on the images of COCO 2017, each split on both its folders."""

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from core.errors import InputError
from core.plain_file import reraise_access
from data import coco
from data.annotated_images import AnnotatedImages
from data.annotation_file import read_entries
from data.image_files import is_plain
from data.instances import Rules

SPLITS = {"train": "train", "validation": "val"}
VERSIONS = ("v1", "v0.5")
"""The annotations of a split are ``annotations/lvis_<version>_<train or val>.json``, of the first version there is."""
FOLDERS = tuple(coco.FOLDERS.values())
"""The folders of images below the root, those of COCO 2017."""

# COCO of 2014 numbered its images as COCO 2017 does, behind a prefix; files of v0.5 still name them so.
_PREFIX = re.compile(r"^COCO_(train|val|test)2014_")


class Lvis(AnnotatedImages):
    """The images of one split, ordered by image id, with their instances (an :class:`data.sample.ImageData`).

    An image is the one that ``coco_url`` names (``.../val2017/000000397133.jpg``); failing that, a file in either
    folder that is named as the URL or as ``file_name``, with its prefix (``COCO_val2014_000000397133.jpg``) or without.

    Args:
        root, split, annotations, labels, crowd, least_area, missing, unusable: as of :class:`data.coco.Coco`; LVIS
            itself marks no crowds.

    Raises:
        InputError: as of :class:`data.coco.Coco`; or the annotation file or both folders are missing.
    """

    name = "lvis"

    def __init__(
        self,
        root: Path | str,
        split: str = "validation",
        annotations: Path | str | None = None,
        labels: bool = True,
        crowd: bool = False,
        least_area: float = 1.0,
        missing: str = "refuse",
        unusable: str = "refuse",
    ) -> None:
        rules = Rules(crowd, least_area, missing, unusable)
        if split not in SPLITS:
            raise InputError(f'LVIS has no split "{split}"; choose one of {", ".join(SPLITS)}')
        root = Path(root)
        with reraise_access(root):
            source = Path(annotations) if annotations else _source(root / "annotations", SPLITS[split])
            folders = [folder for folder in FOLDERS if (root / folder).is_dir()]
            # One listing of each folder instead of look-ups for each image.
            present = {f"{folder}/{name}" for folder in folders for name in os.listdir(root / folder)}
        if not folders:
            both = f"nor {FOLDERS[1]} beside it"
            raise InputError(f"{root / FOLDERS[0]}: no such folder, {both}; put COCO 2017's images in both")

        def name_of(raw: Mapping[str, Any], where: str) -> str:
            candidates = _candidates(raw, where)
            return next((name for name in candidates if name in present), candidates[0])

        entries = read_entries(source, rules, "LVIS", name_of, labels)
        super().__init__(root, source, entries, present, rules, labels)


def _source(folder: Path, split: str) -> Path:
    """The annotation file of a split (``"train"`` or ``"val"``), of the first version that is there."""
    names = [f"lvis_{version}_{split}.json" for version in VERSIONS]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    others = " and no ".join(names[1:])
    raise InputError(f"{folder / names[0]}: no such file, and no {others}; put LVIS's annotations there")


def _candidates(raw: Mapping[str, Any], where: str) -> list[str]:
    """Where an image may lie, relative to the root, the likeliest first."""
    names: list[str] = []
    first: list[str] = []
    for key in ("coco_url", "file_name"):
        found = raw.get(key)
        path = PurePosixPath(found) if isinstance(found, str) else PurePosixPath()
        if path.name == ".." or not is_plain(path.name):
            continue
        names += [_PREFIX.sub("", path.name), path.name]
        if path.parent.name in FOLDERS:
            first += [f"{path.parent.name}/{path.name}"]
    if not names:
        problem = 'neither "coco_url" nor "file_name" names an image'
        raise InputError(f"{where}: {problem}; fetch the file again")
    return first + [f"{folder}/{name}" for name in names for folder in FOLDERS]
