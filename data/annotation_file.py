"""One JSON file in COCO's format, read into pictures with their admitted instances."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.plain_file import access_told
from data.file_hashes import stamp_of
from data.instances import Instance, Rules
from data.json_fields import read_json, value, whole


@dataclass(slots=True)
class Entry:
    """One picture and its admitted instances.

    Attributes:
        image_id: the file's own id.
        name: path of the picture, relative to the data set's folder.
        size_hw: the size ``(h, w)`` that is listed, None where no annotations were read.
        instances: in the order of the file.
    """

    image_id: int
    name: str
    size_hw: tuple[int, int] | None
    instances: list[Instance] = field(default_factory=list)


MOST_PIXELS = 2**31
"""Listed sizes beyond this are no pictures'; pycocotools counts pixels in 32 bits."""


def read_entries(
    source: Path, rules: Rules, kind: str, name_of: Callable[[Mapping[str, Any], str], str], labels: bool = True
) -> list[Entry]:
    """The pictures that a file lists, ordered by image id.

    Args:
        source: the file.
        rules: decide which annotations are instances, and count the others.
        kind: name of the data set, for messages.
        name_of: path of the picture that a listed image (and its place, for messages) stands for.
        labels: False checks and reads the images alone.

    Raises:
        InputError: the file is missing or malformed, an id occurs twice, a listed size is beyond all pictures, or as
            :meth:`data.instances.Rules.admit`.
    """
    with access_told(source):
        if not source.is_file():
            raise InputError(f"{source}: no such file; put {kind}'s annotations there or give another root")
    rules.stamp = stamp_of(source)
    # Without labels each annotation is dropped as it is read: together they fill the memory.
    content = read_json(source, None if labels else lambda raw: None if "image_id" in raw else raw)
    for key in ("images", "annotations"):
        if not isinstance(value(content, key, str(source)), list):
            raise InputError(f'{source}: "{key}" is not a list; give a {kind} instances file')
    by_id: dict[int, Entry] = {}
    for raw in content["images"]:
        image_id = whole(raw, "id", f"{source}: an image")
        where = f"{source}: image {image_id}"
        if image_id in by_id:
            raise InputError(f"{where}: the id occurs twice; give every image its own id")
        name = name_of(raw, where)
        by_id[image_id] = Entry(image_id, name, listed_size(raw, where))
    if not by_id:
        raise InputError(f"{source}: lists no images; give a {kind} instances file that does")
    rules.categories = _listed_categories(content)
    annotations = content["annotations"] if labels else ()
    rules.categorised = any(isinstance(raw, dict) and "category_id" in raw for raw in annotations)

    def size_of(raw: Mapping[str, Any], where: str) -> tuple[int, int] | None:
        entry = by_id.get(whole(raw, "image_id", where))
        return entry.size_hw if entry else None

    for raw in annotations:
        if instance := rules.admit(raw, size_of, source):
            by_id[raw["image_id"]].instances.append(instance)
    if labels:
        rules.skipped.count("image_without_instances", sum(not entry.instances for entry in by_id.values()))
    return [by_id[image_id] for image_id in sorted(by_id)]


def listed_size(raw: object, where: str) -> tuple[int, int]:
    """The size ``(h, w)`` that an object lists.

    Raises:
        InputError: ``height`` or ``width`` is missing or no whole number from 1, or together they are beyond all
            pictures.
    """
    height, width = whole(raw, "height", where, 1), whole(raw, "width", where, 1)
    if height * width > MOST_PIXELS:
        raise InputError(f"{where}: the listed size {width}x{height} is beyond any picture; correct the file")
    return height, width


def _listed_categories(content: Mapping[str, Any]) -> frozenset[int] | None:
    """The ids of a file's categories; None where it lists none that could be told apart."""
    listed = content.get("categories")
    ids = [raw.get("id") for raw in listed if isinstance(raw, dict)] if isinstance(listed, list) else []
    return frozenset(found for found in ids if type(found) is int) or None
