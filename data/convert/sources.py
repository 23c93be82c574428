"""The layouts that are converted: where images and annotations lie, and what masks the annotations tell."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from core.errors import InputError
from core.plain_file import reraise_access
from data.annotations import check_segmentation, decode_rle
from data.convert import camvid
from data.convert.mat_file import read_variable
from data.convert.regions import label_regions, require_size_of_image
from data.image_files import files_below, is_image, require_plain

Size = tuple[int, int]


@dataclass(frozen=True)
class Pair:
    """An image and its annotations.

    Attributes:
        name: the image's path below the source.
        annotations: None where there are none.
        rival: another image, below the source, whose annotations would be the same file, if there is one: two suffixes
            of one name, which may be of two photographs.
    """

    name: str
    image: Path
    annotations: Path | None
    rival: str | None = None


@dataclass(frozen=True)
class Source:
    """A data set as it is published.

    Attributes:
        title: as people call it.
        layout: where its files lie.
        annotations_of: the path that an image's annotations have, relative as the image's own, given all files by
            their stems; None where an image is none of the data set's (a label map, a sample).
        masks: the masks in a file of annotations, given that, its image, the size that was annotated and the size of
            the masks.
        smallest, largest: bounds of a mask: pixels, and share of the image.
        upright: whether annotations are of the image as viewers show it, turned as its EXIF data say, and not of its
            stored pixels.
    """

    title: str
    layout: str
    annotations_of: Callable[[PurePosixPath, Mapping[str, list[str]]], str | None]
    masks: Callable[[Path, Path, Size, Size], Iterator[NDArray[np.bool_]]]
    smallest: int = 60
    largest: float = 1.0
    upright: bool = False

    def pairs(self, root: Path, part: str | None = None) -> list[Pair]:
        """Images with their annotations, by path.

        Args:
            root: the source's folder, or one above it.
            part: a folder's name; only images below such a folder are taken.

        Raises:
            InputError: there is no such folder, or no image of this layout in it.
        """
        with reraise_access(root):
            if not root.is_dir():
                raise InputError(f"{root}: no such folder; give the folder of {self.title}")
        files = {require_plain(root, name) for name in files_below(root)}
        by_stem: dict[str, list[str]] = {}
        for name in sorted(files):
            by_stem.setdefault(PurePosixPath(name).stem, []).append(name)
        found: list[Pair] = []
        owners: dict[str, list[str]] = {}
        for name in sorted(filter(is_image, files)):
            path = PurePosixPath(name)
            if part is not None and part not in path.parent.parts:
                continue
            if (annotations := self.annotations_of(path, by_stem)) is not None:
                found.append(Pair(name, root / name, root / annotations if annotations in files else None))
                owners.setdefault(annotations, []).append(name)
        # Each beside the next one, and the last beside the first.
        rivals = {
            name: other
            for each in owners.values()
            if len(each) > 1
            for name, other in zip(each, [*each[1:], each[0]], strict=True)
        }
        if not any(pair.annotations for pair in found):
            below = f" below a folder {part}" if part is not None else ""
            raise InputError(f"{root}: no image of {self.title} with annotations{below}; its layout is {self.layout}")
        return [replace(pair, rival=rivals.get(pair.name)) if pair.annotations else pair for pair in found]


def _beside(images: str, annotations: str, suffix: str) -> Callable[[PurePosixPath, object], str | None]:
    """Annotations that lie under another folder in place of the last one called ``images``."""

    def of(path: PurePosixPath, _: object) -> str | None:
        parts = list(path.with_suffix(suffix).parts)
        if images not in parts[:-1]:
            return None
        place = len(parts) - 2 - parts[-2::-1].index(images)
        return "/".join([*parts[:place], annotations, *parts[place + 1 :]])

    return of


def _checked(labels: object, path: Path, image: Path, stored: Size) -> NDArray[Any]:
    """Labels as whole numbers ``[H, W]``; MATLAB's own class of numbers is double."""
    if not isinstance(labels, np.ndarray) or labels.ndim != 2:
        found = f"{labels.ndim} dimensions" if isinstance(labels, np.ndarray) else "a cell, a struct or text"
        raise InputError(f"{path}: the labels are no table of whole numbers, but {found}; fetch the file again")
    if labels.dtype.kind not in "iu":
        # Written so that NaN fails too.
        wrong = labels[~((labels == np.rint(labels)) & (np.abs(labels) < 2**53))]
        if wrong.size:
            found = f"{wrong.flat[0]:g} is one of them"
            raise InputError(f"{path}: the labels are no table of whole numbers: {found}; fetch the file again")
        labels = labels.astype(np.int64)
    require_size_of_image(path, image, (labels.shape[0], labels.shape[1]), stored)
    return labels


def _bsds500(path: Path, image: Path, stored: Size, size: Size) -> Iterator[NDArray[np.bool_]]:
    """The regions of every annotator, one after the other."""
    annotators = read_variable(path, "groundTruth")
    if not isinstance(annotators, list):
        raise InputError(f'{path}: "groundTruth" is no cell of annotators; fetch the file again')
    for structs in annotators:
        try:
            labels = structs[0]["Segmentation"]
        except (KeyError, IndexError, TypeError):
            raise InputError(f'{path}: an annotator has no "Segmentation"; fetch the file again') from None
        yield from label_regions(path, _checked(labels, path, image, stored), size)


def _clothing_co_parsing(path: Path, image: Path, stored: Size, size: Size) -> Iterator[NDArray[np.bool_]]:
    """The connected garments, then the connected parts of whatever is no background: the whole person."""
    labels = _checked(read_variable(path, "groundtruth"), path, image, stored)
    yield from label_regions(path, labels, size, without=0)
    yield from label_regions(path, (labels != 0).astype(np.uint8), size, without=0)


def _yolo_segments(path: Path, image: Path, stored: Size, size: Size) -> Iterator[NDArray[np.bool_]]:
    """One mask a line ``class x y x y ...``, coordinates in [0, 1]."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"{path}: cannot be read as text ({problem}); fetch the file again") from None
    for number, line in enumerate(lines, start=1):
        if not (words := line.split()):
            continue
        where = f"{path}: line {number}"
        try:
            values = np.array([float(word) for word in words[1:]])
        except ValueError:
            raise InputError(f"{where}: is no list of numbers; correct it") from None
        if len(values) == 4:
            raise InputError(f"{where}: is a box, not an outline; this converter takes YOLO's segments")
        # Written so that NaN fails too.
        if not (np.abs(values - 0.5) <= 0.5 + 1e-3).all():
            raise InputError(
                f"{where}: has coordinates outside [0, 1]; give those of YOLO, divided by width and height"
            )
        polygon = (values.clip(0, 1) * np.resize([size[1], size[0]], len(values))).tolist()
        check_segmentation([polygon], size, where)
        yield decode_rle(mask_api.merge(mask_api.frPyObjects([polygon], *size)))


SOURCES = {
    "bsds500": Source(
        "BSDS500",
        "images/<part>/<name>.jpg beside groundTruth/<part>/<name>.mat",
        _beside("images", "groundTruth", ".mat"),
        _bsds500,
        largest=0.8,
    ),
    "clothing_co_parsing": Source(
        "Clothing Co-Parsing",
        "photos/<number>.jpg beside annotations/pixel-level/<number>.mat",
        _beside("photos", "annotations/pixel-level", ".mat"),
        _clothing_co_parsing,
    ),
    "camvid": Source(
        "CamVid",
        "<folder>/<frame>.png and <labels or annotations>/<frame>_L.png or <frame>.png",
        camvid.label_map_of,
        camvid.regions,
        smallest=100,
    ),
    "yolo_segments": Source(
        "YOLO's segments",
        "images/<part>/<name>.jpg beside labels/<part>/<name>.txt",
        _beside("images", "labels", ".txt"),
        _yolo_segments,
        upright=True,
    ),
}
"""By the name that is typed."""
