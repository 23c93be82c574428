"""The layouts that are converted: where images and annotations lie, and what masks the annotations tell."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from core.errors import InputError
from core.plain_file import reraise_access
from data.annotations import check_segmentation, decode_rle
from data.convert.mat_file import read_variable
from data.convert.regions import connected, resized_labels
from data.image_files import files_below, is_image, require_plain
from data.images import read_image, require_size

Size = tuple[int, int]
CAMVID_UNLABELLED = 11
"""The index of no class where CamVid's labels are indices (SegNet's copy); where they are colours it is black."""


@dataclass(frozen=True)
class Pair:
    """An image and its annotations (None: there are none), with the image's path below the source."""

    name: str
    image: Path
    annotations: Path | None


@dataclass(frozen=True)
class Source:
    """A data set as it is published.

    Attributes:
        title: as people call it.
        layout: where its files lie.
        annotations_of: the path that an image's annotations have, relative as the image's own, given all files by
            their stems; None where an image is none of the data set's (a label map, a sample).
        masks: the masks in a file of annotations at the size given last, made for an image of the size before it.
        smallest, largest: bounds of a mask: pixels, and share of the image.
        upright: whether annotations are of the image as viewers show it, turned as its EXIF data say, and not of its
            stored pixels.
    """

    title: str
    layout: str
    annotations_of: Callable[[PurePosixPath, Mapping[str, list[str]]], str | None]
    masks: Callable[[Path, Size, Size], Iterator[NDArray[np.bool_]]]
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
        found = []
        for name in sorted(filter(is_image, files)):
            path = PurePosixPath(name)
            if part is not None and part not in path.parent.parts:
                continue
            if (annotations := self.annotations_of(path, by_stem)) is not None:
                found.append(Pair(name, root / name, root / annotations if annotations in files else None))
        if not any(pair.annotations for pair in found):
            below = f" below a folder {part}" if part is not None else ""
            raise InputError(f"{root}: no image of {self.title} with annotations{below}; its layout is {self.layout}")
        return found


def _beside(images: str, annotations: str, suffix: str) -> Callable[[PurePosixPath, object], str | None]:
    """Annotations that lie under another folder in place of the last one called ``images``."""

    def of(path: PurePosixPath, _: object) -> str | None:
        parts = list(path.with_suffix(suffix).parts)
        if images not in parts[:-1]:
            return None
        place = len(parts) - 2 - parts[-2::-1].index(images)
        return "/".join([*parts[:place], annotations, *parts[place + 1 :]])

    return of


def _checked(labels: object, path: Path, stored: Size) -> NDArray[Any]:
    if not isinstance(labels, np.ndarray) or labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise InputError(f"{path}: the labels are no table of whole numbers; fetch the file again")
    require_size(path, (labels.shape[0], labels.shape[1]), stored, Path("its image"))
    return labels


def _bsds500(path: Path, stored: Size, size: Size) -> Iterator[NDArray[np.bool_]]:
    """The regions of every annotator, one after the other."""
    annotators = read_variable(path, "groundTruth")
    if not isinstance(annotators, list):
        raise InputError(f'{path}: "groundTruth" is no cell of annotators; fetch the file again')
    for structs in annotators:
        try:
            labels = structs[0]["Segmentation"]
        except (KeyError, IndexError, TypeError):
            raise InputError(f'{path}: an annotator has no "Segmentation"; fetch the file again') from None
        yield from connected(resized_labels(_checked(labels, path, stored), size))


def _clothing_co_parsing(path: Path, stored: Size, size: Size) -> Iterator[NDArray[np.bool_]]:
    """The connected garments, then the connected parts of whatever is no background: the whole person."""
    labels = resized_labels(_checked(read_variable(path, "groundtruth"), path, stored), size)
    yield from connected(labels, without=0)
    yield from connected((labels != 0).astype(np.uint8), without=0)


def _camvid_labels(path: PurePosixPath, by_stem: Mapping[str, list[str]]) -> str | None:
    """The label map of a frame: ``<frame>_L`` or ``<frame>`` in a folder with "label" or "annot" in its name."""
    if _is_label(path):
        return None
    among = [*by_stem.get(path.stem, ()), *by_stem.get(f"{path.stem}_L", ())]
    labels = [name for name in among if is_image(name) and _is_label(PurePosixPath(name))]
    if len(labels) > 1:
        raise InputError(f"{path}: both {labels[0]} and {labels[1]} are its labels; remove one of them")
    return labels[0] if labels else f"{path.stem}_L.png"


def _is_label(path: PurePosixPath) -> bool:
    return path.stem.endswith("_L") or re.search("label|annot", path.parent.name, re.IGNORECASE) is not None


def _camvid(path: Path, stored: Size, size: Size) -> Iterator[NDArray[np.bool_]]:
    colours = read_image(path).astype(np.int64)
    require_size(path, (colours.shape[0], colours.shape[1]), stored, Path("its image"))
    grey, void = (colours == colours[..., :1]).all(), 255
    # Classes by number: releases that have no class of their own for it give the void the highest one.
    indices = grey and colours[colours < void].max(initial=0) <= 2 * CAMVID_UNLABELLED
    numbers = np.where(colours[..., 0] == void, CAMVID_UNLABELLED, colours[..., 0])
    labels = numbers if indices else colours @ np.array([1 << 16, 1 << 8, 1])
    if len(np.unique(labels)) > 256:
        raise InputError(f"{path}: has more colours than classes, so it is no label map; fetch the PNG again")
    yield from connected(resized_labels(labels, size), without=CAMVID_UNLABELLED if indices else 0)


def _yolo_segments(path: Path, stored: Size, size: Size) -> Iterator[NDArray[np.bool_]]:
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
        _camvid_labels,
        _camvid,
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
