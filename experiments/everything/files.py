"""Which images are segmented, where their files go, and what stands in them."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from core.checkpoint import write_text
from core.errors import InputError
from core.plain_file import parse_json
from data.image_files import is_image
from data.images import WITHOUT_PILLOWS_WARNINGS
from evaluation.everything import EverythingSettings

OUT = "everything"
"""The folder of what is made, where none is given."""
SHOWS = "Source"
"""The text in a drawing's file that says of what it is."""
LONGEST = 256 << 20
"""Bytes of the longest annotation file that is read; ten thousand masks of a large image have a quarter of it."""


@dataclass(frozen=True)
class Place:
    """An image and the two files made of it."""

    image: Path
    annotations: Path
    drawing: Path


def places(given: Path, out: Path, draw: bool) -> tuple[list[Place], int]:
    """The images a path stands for, by name, and how many entries of a folder are none.

    A file's stem names what is made of it. Where two images share a stem, whatever the case, their whole names do.

    Raises:
        InputError: nothing there, no image in the folder, or a drawing would take the place of an image or join
            the images.
    """
    if not given.exists():
        raise InputError(f"image={given}: no such file or folder; check the path")
    if not given.is_dir():
        found, others = [given], 0
    else:
        entries = sorted(path for path in given.iterdir() if not path.name.startswith("."))
        found = [path for path in entries if is_image(path.name) and not path.is_dir()]
        others = len(entries) - len(found)
        if not found:
            raise InputError(f"image={given}: no image among its {others} entries; give a folder of .jpg or .png files")
    made = [
        Place(path, out / f"{name}.json", out / f"{name}.png") for path, name in zip(found, _names(found), strict=True)
    ]
    if draw:
        _check_drawings(made, given, out)
    return made, others


def _names(found: list[Path]) -> list[str]:
    shared = Counter(path.stem.casefold() for path in found)
    names = [path.stem if shared[path.stem.casefold()] == 1 else path.name for path in found]
    # a.jpg and a.png become a.jpg and a.png, and there may be a.jpg.gif.
    return names if len({name.casefold() for name in names}) == len(names) else [path.name for path in found]


def _check_drawings(made: list[Place], given: Path, out: Path) -> None:
    if given.is_dir() and out.resolve() == given.resolve():
        raise InputError(f"out={out}: drawings would join the images of image={given}; give another folder")
    for place in made:
        if place.drawing.resolve() == place.image.resolve():
            raise InputError(f"out={out}: the drawing would replace the image {place.image}; give another folder")


@dataclass(frozen=True)
class Made:
    """What an annotation file was made with: the model, its weights, and the settings.

    The weights are those of :func:`experiments.runs.identity.model_sha256`.
    """

    model: str
    weights_sha256: str
    settings: EverythingSettings

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the file: plain values, infinite thresholds as words."""
        settings = {key: value for key, value in asdict(self.settings).items() if key != "output"}
        return {"model": self.model, "weights_sha256": self.weights_sha256, "settings": json_safe(settings)}

    def sha256(self, image_sha256: str) -> str:
        """Of an image and all that its masks depend on."""
        return hashlib.sha256(json.dumps([self.to_dict(), image_sha256], sort_keys=True).encode()).hexdigest()


def json_safe(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values as JSON takes them: numbers that are not finite become words."""
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def write_annotations(
    place: Place,
    made: Made,
    image: Mapping[str, Any],
    prompts: int,
    annotations: list[dict[str, Any]],
) -> None:
    """Write ``{"image", "model", "weights_sha256", "settings", "prompts", "annotations"}``, atomically.

    Args:
        image: ``file``, ``sha256``, ``height`` and ``width`` of the image as it was segmented: upright.
        annotations: SAM's records; segmentations are COCO's run lengths with counts as text.
    """
    content = {"image": dict(image), **made.to_dict(), "prompts": prompts, "annotations": annotations}
    write_text(place.annotations, json.dumps(content, allow_nan=False) + "\n")


def finished_annotations(place: Place, made: Made, image_sha256: str) -> dict[str, Any] | None:
    """What stands in an image's annotation file; None if it is not there, damaged, or made of or with other things."""
    try:
        if not place.annotations.is_file() or place.annotations.stat().st_size > LONGEST:
            return None
        content = parse_json(place.annotations.read_bytes())
        same = all(content[key] == value for key, value in made.to_dict().items())
        same = same and content["image"]["sha256"] == image_sha256
        whole = isinstance(content["annotations"], list) and isinstance(content["prompts"], int)
        return content if same and whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def drawing_of(path: Path) -> str | None:
    """What a drawing says that it shows; None where there is no drawing, or none of this command's."""
    try:
        with WITHOUT_PILLOWS_WARNINGS, Image.open(path) as drawing:
            found = drawing.info.get(SHOWS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return found if isinstance(found, str) else None
