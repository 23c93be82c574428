"""A converted data set on disk: one JPEG and one JSON an image, in SA-1B's layout."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as mask_api

from core.checkpoint import file_sha256, write_bytes, write_text
from core.errors import InputError
from core.geometry import resized_size
from data.annotations import decode_rle, rle_area, rle_as_text
from data.convert.regions import chosen
from data.convert.sources import SOURCES, Pair
from data.images import image_size, read_image, resized_image
from data.json_fields import LARGEST_WHOLE, read_json
from data.prompts import central_point
from data.shapes_export import encoded_image
from data.upright import upright_image

IDS_OF_IMAGE = 10_000
"""Ids that an image's annotations have: from its number times this on."""
LARGEST_NUMBER = (LARGEST_WHOLE - (IDS_OF_IMAGE - 1)) // IDS_OF_IMAGE
"""Of an image: its annotations' ids fit into 64 bits, and its name is read again."""


@dataclass(frozen=True)
class Conversion:
    """What is converted, and how; noted in every JSON, so that files made otherwise are never mixed.

    Attributes:
        source: one of :data:`data.convert.sources.SOURCES`.
        part: only images below a folder of this name, such as ``train``.
        every: the first image of each folder and every n-th from there only.
        without_every: these images of each folder are left out, counted as ``every`` counts them: what one conversion
            takes by ``every`` and another leaves out by the same number is disjoint, and together it is everything.
        longest: most pixels of the longer side; larger images are scaled down. 0 keeps all sizes.
        smallest: least pixels of a mask; None for the source's own.
        largest: largest share of the image that a mask may cover; None for the source's own.
        first: the number of the first image (``sa_<number>``), at most :data:`LARGEST_NUMBER`; several sources in one
            folder need numbers of their own.

    Raises:
        InputError: a setting is out of its range.
    """

    source: str
    part: str | None = None
    every: int = 1
    without_every: int | None = None
    longest: int = 448
    smallest: int | None = None
    largest: float | None = None
    first: int = 0

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise InputError(f'no converter is called "{self.source}"; choose one of {", ".join(SOURCES)}')
        bounds = {"every": 1, "without_every": 2, "longest": 0, "first": 0, "smallest": 1}
        for name, least in bounds.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise InputError(f"{name}={value} must be at least {least}")
        if self.without_every is not None and self.every % self.without_every == 0:
            raise InputError(
                f"every={self.every} without_every={self.without_every}: leaves out all that it takes; give one of them"
            )
        if self.largest is not None and not 0 < self.largest <= 1:
            raise InputError(f"largest={self.largest} must be above 0 and at most 1")
        self.check_numbers(1)

    def check_numbers(self, images: int) -> None:
        """Refuse numbers of which what is written could not be read.

        Raises:
            InputError: the last of so many images has a number above :data:`LARGEST_NUMBER`.
        """
        if (last := self.first + images - 1) > LARGEST_NUMBER:
            raise InputError(
                f"first={self.first}: an image has number {last}, beyond {LARGEST_NUMBER}; give a smaller one"
            )

    def pairs(self, root: Path) -> list[Pair]:
        """The images that are converted, in the order of their numbers."""
        counted: Counter[str] = Counter()
        taken = []
        for pair in SOURCES[self.source].pairs(root, self.part):
            folder = pair.name.rpartition("/")[0]
            place = counted[folder]
            if place % self.every == 0 and (self.without_every is None or place % self.without_every):
                taken.append(pair)
            counted[folder] += 1
        return taken

    def noted(self) -> dict[str, Any]:
        """The settings by name, as every JSON has them."""
        settings = asdict(self)
        if self.without_every is None:
            # Files that were written before there was this setting are of the same conversion.
            del settings["without_every"]
        return settings


def convert(
    conversion: Conversion,
    root: Path,
    out: Path,
    *,
    skip: bool = False,
    overwrite: bool = False,
    advance: Callable[[int], None] = lambda total: None,
) -> Counter[str]:
    """Write every image with its masks; what an earlier call finished is left as it is.

    Args:
        root: folder of the source.
        out: folder to write into, made if need be.
        skip: images that are damaged, whose annotations are, or that share one file of annotations, are left out and
            counted instead of refused.
        overwrite: what an earlier conversion of this source wrote from the number ``first`` on goes before.
        advance: called after each image with how many there are.

    Returns:
        Counts of ``images`` and ``masks`` that are there, of images ``already`` there, and of those left out:
        ``without_annotations``, ``without_masks``, ``damaged``.

    Raises:
        InputError: no images, or more than numbers are left for; ``out`` is the source's folder or lies in it;
            something damaged that is not skipped; a file in ``out`` was made by another conversion, of other content,
            or by none.
    """
    counts: Counter[str] = Counter()
    pairs = conversion.pairs(root)
    if out.resolve().is_relative_to(root.resolve()):
        raise InputError(f"out={out}: lies in the source {root}, whose images it would join; give another out=DIR")
    conversion.check_numbers(len(pairs))
    if overwrite:
        _remove_earlier(conversion, out)
    for number, pair in enumerate(pairs, start=conversion.first):
        made = {**conversion.noted(), "file": pair.name}
        if pair.annotations is not None:
            made |= {"image_sha256": _sha256(pair.image), "annotations_sha256": _sha256(pair.annotations)}
        target = out / f"sa_{number:06d}.json"
        masks = _finished(target, made)
        if masks is not None:
            counts["already"] += 1
        elif pair.annotations is None:
            counts["without_annotations"] += 1
        else:
            try:
                if pair.rival is not None:
                    raise InputError(
                        f"{pair.image}: {pair.annotations} would be of this image and of {root / pair.rival}; move one "
                        "of the two images out of the source, or give damaged=skip, which leaves out both"
                    )
                converted = _converted(conversion, pair, pair.annotations)
            except InputError:
                if not skip:
                    raise
                counts["damaged"] += 1
            else:
                # What is wrong with the disk or the folder is no fault of the image, so it is never skipped.
                masks = _write(target, number, made, *converted)
                counts["without_masks"] += not masks
        counts["images"] += bool(masks)
        counts["masks"] += masks or 0
        advance(len(pairs))
    return counts


def _remove_earlier(conversion: Conversion, out: Path) -> None:
    """All of it, as a shorter conversion must not leave the tail of a longer one behind."""
    for path in out.glob("sa_*.json"):
        try:
            made = read_json(path).get("conversion")
        except InputError:
            raise InputError(
                f"{path}: cannot be read, so that nothing says which conversion made it; remove it"
            ) from None
        if isinstance(made, dict) and (made.get("source"), made.get("first")) == (conversion.source, conversion.first):
            # The JSON goes last: without it nothing would say whose the JPEG is.
            path.with_suffix(".jpg").unlink(missing_ok=True)
            path.unlink()


def _sha256(path: Path) -> str | None:
    """Of a file's bytes; None where it cannot be read, which whoever reads it next reports."""
    try:
        return file_sha256(path)
    except OSError:
        return None


def _finished(target: Path, made: dict[str, Any]) -> int | None:
    """How many masks an image has that was written before; None if it was not.

    Raises:
        InputError: it was made by another conversion, or of other files.
    """
    if not target.exists():
        return None
    record = read_json(target)
    if record.get("conversion") != made or not target.with_suffix(".jpg").is_file():
        raise InputError(
            f"{target}: was made by another conversion; choose another out=DIR or first=NUMBER, or give overwrite=true"
        )
    return len(record["annotations"])


def _converted(
    conversion: Conversion, pair: Pair, annotations: Path
) -> tuple[bytes, list[dict[str, Any]], tuple[int, int]]:
    """The JPEG of an image (empty where no mask is left), its masks as RLEs, and their size ``(h, w)``.

    Raises:
        InputError: the image or its annotations are damaged.
    """
    source = SOURCES[conversion.source]
    image = upright_image(pair.image) if source.upright else None
    stored = image_size(pair.image) if image is None else (image.shape[0], image.shape[1])
    longest = conversion.longest
    size = resized_size(stored, longest) if 0 < longest < max(stored) else stored
    smallest = source.smallest if conversion.smallest is None else conversion.smallest
    largest = source.largest if conversion.largest is None else conversion.largest
    rles = chosen(source.masks(annotations, pair.image, stored, size), smallest, largest)
    if not rles:
        return b"", [], size
    image = read_image(pair.image) if image is None else image
    image = image if size == stored else resized_image(image, longest)
    return encoded_image(image, "JPEG", quality=95, subsampling=0), rles, size


def _write(
    target: Path, number: int, made: dict[str, Any], content: bytes, rles: list[dict[str, Any]], size: tuple[int, int]
) -> int:
    """Put an image and its JSON in place if it has masks; returns how many.

    Raises:
        InputError: a JPEG of other content is in the way.
        NotWritten: the system refused.
    """
    if not rles:
        return 0
    jpeg = target.with_suffix(".jpg")
    if not jpeg.is_file():
        write_bytes(jpeg, content)
    # A conversion that was stopped here leaves the same bytes.
    elif _sha256(jpeg) != hashlib.sha256(content).hexdigest():
        problem = "has no JSON and is not what this conversion makes"
        raise InputError(f"{jpeg}: {problem}; choose another out=DIR or first=NUMBER, or remove it")
    # The JSON comes last: an image that has one is whole.
    record = {
        "image": {"image_id": number, "width": size[1], "height": size[0], "file_name": jpeg.name},
        "annotations": [_annotation(rle, number * IDS_OF_IMAGE + k, size) for k, rle in enumerate(rles)],
        "conversion": made,
    }
    write_text(target, json.dumps(record))
    return len(rles)


def _annotation(rle: dict[str, Any], annotation_id: int, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "id": annotation_id,
        "segmentation": rle_as_text(rle),
        "bbox": [float(side) for side in mask_api.toBbox(rle)],
        "area": rle_area(rle),
        "predicted_iou": 1.0,
        "point_coords": [central_point(decode_rle(rle)).tolist()],
        "crop_box": [0.0, 0.0, float(size[1]), float(size[0])],
        "stability_score": 1.0,
    }
