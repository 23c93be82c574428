"""The annotation file of COCO's format: the images that it lists, and their instances by the written rules."""

import json
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import InputError
from core.plain_file import reraise_access
from data import kept
from data.annotations import pack_polygons
from data.box_form import require_sides
from data.content import stamp_of
from data.instance_table import InstanceTable, instance_table
from data.instances import Instance, Rules
from data.json_fields import read_json, require_int, value


@dataclass(slots=True)
class Entry:
    """One image and its admitted instances.

    Attributes:
        image_id: the file's own id.
        name: path of the image, relative to the data set's folder.
        size_hw: the size ``(h, w)`` that is listed, None where no annotations were read.
        instances: in the order of the file.
    """

    image_id: int
    name: str
    size_hw: tuple[int, int] | None
    instances: Sequence[Instance] = ()


MOST_PIXELS = 2**31
"""Listed sizes beyond this are no images'; pycocotools counts pixels in 32 bits."""


def read_entries(
    source: Path, rules: Rules, kind: str, name_of: Callable[[Mapping[str, Any], str], str], labels: bool = True
) -> list[Entry]:
    """The images that a file lists, ordered by image id.

    Args:
        source: the file.
        rules: decide which annotations are instances, and count the others.
        kind: name of the data set, for messages.
        name_of: path of the image that a listed image (and its place, for messages) stands for.
        labels: False checks and reads the images alone.

    Raises:
        InputError: the file is missing or malformed, an id or an image's file occurs twice, a listed size is beyond all
            images, or as :meth:`data.instances.Rules.admit` and :func:`data.box_form.require_sides`.
    """
    with reraise_access(source):
        if not source.is_file():
            raise InputError(f"{source}: no such file; put {kind}'s annotations there or give another root")
    rules.stamp = stamp_of(source)
    found = _kept(source, rules, labels)
    annotations: Sequence[Any] = ()
    if found is None:
        # Without labels each annotation is dropped as it is read: together they fill the memory.
        content = read_json(source, pack_polygons if labels else lambda raw: None if "image_id" in raw else raw)
        for key in ("images", "annotations"):
            if not isinstance(value(content, key, str(source)), list):
                raise InputError(f'{source}: "{key}" is not a list; give a {kind} instances file')
        images, annotations = content["images"], content["annotations"] if labels else ()
        rules.categories = _listed_categories(content)
    else:
        images, table = found
    by_id: dict[int, Entry] = {}
    by_file: dict[str, int] = {}
    for raw in images:
        image_id = require_int(raw, "id", f"{source}: an image")
        where = f"{source}: image {image_id}"
        if image_id in by_id:
            raise InputError(f"{where}: the id occurs twice; give every image its own id")
        name = name_of(raw, where)
        if (other := by_file.setdefault(posixpath.normpath(name), image_id)) != image_id:
            raise InputError(f"{where}: the file {name} is also that of image {other}; list every image once")
        by_id[image_id] = Entry(image_id, name, listed_size(raw, where))
    if not by_id:
        raise InputError(f"{source}: lists no images; give a {kind} instances file that does")
    if found is None:
        table = _admitted(annotations, by_id, rules, source)
        _keep(source, rules, labels, images, table)
    for entry in by_id.values():
        entry.instances = table.of(entry.image_id)
    if labels:
        rules.skipped.count("image_without_instances", sum(not entry.instances for entry in by_id.values()))
    return [by_id[image_id] for image_id in sorted(by_id)]


def _admitted(annotations: Sequence[Any], by_id: Mapping[int, Entry], rules: Rules, source: Path) -> InstanceTable:
    """The instances among the annotations of listed images."""
    rules.categorised = any(isinstance(raw, dict) and "category_id" in raw for raw in annotations)

    def size_of(raw: Mapping[str, Any], where: str) -> tuple[int, int] | None:
        entry = by_id.get(require_int(raw, "image_id", where))
        return entry.size_hw if entry else None

    admitted = ((rules.admit(raw, size_of, source), raw) for raw in annotations)
    pairs = [(instance, raw) for instance, raw in admitted if instance is not None]
    owners = [raw["image_id"] for _, raw in pairs]
    sizes = (by_id[owner].size_hw or (0, 0) for owner in owners)
    require_sides(
        (
            (one.annotation_id, raw["bbox"], one.segmentation, size)
            for (one, raw), size in zip(pairs, sizes, strict=True)
        ),
        source,
    )
    return instance_table([instance for instance, _ in pairs], owners)


_IMAGE_FIELDS = ("id", "height", "width", "file_name", "coco_url")
_KEPT_FROM = 1_000_000
"""Bytes; smaller files are read quickly."""


def _kind(rules: Rules, labels: bool) -> str:
    return f"annotations {labels} {rules.described if labels else ''}"


def _kept(source: Path, rules: Rules, labels: bool) -> tuple[list[Any], InstanceTable] | None:
    """What was found in the file when it was the same and read by the same rules; fills in what these found."""
    if rules.stamp is None or rules.stamp[0] < _KEPT_FROM:
        return None
    arrays = kept.load(_kind(rules, labels), source)
    if tuple(arrays.pop("stamp", np.zeros(0)).tolist()) != rules.stamp:
        return None
    found = json.loads(arrays.pop("about").tobytes())
    rules.restore(found["rules"])
    return found["images"], InstanceTable(**arrays)


def _keep(source: Path, rules: Rules, labels: bool, images: Sequence[Any], table: InstanceTable) -> None:
    if rules.stamp is None or rules.stamp[0] < _KEPT_FROM:
        return
    listed = [{key: raw[key] for key in _IMAGE_FIELDS if key in raw} for raw in images]
    about = np.frombuffer(json.dumps({"images": listed, "rules": rules.found()}).encode(), dtype=np.uint8)
    kept.save(_kind(rules, labels), source, {"stamp": np.array(rules.stamp), "about": about, **table.arrays()})


def listed_size(raw: object, where: str) -> tuple[int, int]:
    """The size ``(h, w)`` that an object lists.

    Raises:
        InputError: ``height`` or ``width`` is missing or no whole number from 1, or together they are beyond all
            images.
    """
    height, width = require_int(raw, "height", where, 1), require_int(raw, "width", where, 1)
    if height * width > MOST_PIXELS:
        raise InputError(f"{where}: the listed size {width}x{height} is beyond any image; correct the file")
    return height, width


def _listed_categories(content: Mapping[str, Any]) -> frozenset[int] | None:
    """The ids of a file's categories; None where it lists none that can be distinguished."""
    listed = content.get("categories")
    ids = [raw.get("id") for raw in listed if isinstance(raw, dict)] if isinstance(listed, list) else []
    return frozenset(found for found in ids if type(found) is int) or None
