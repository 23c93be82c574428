"""Records of answered prompts and their files: a line an image while scoring goes on, a line an instance at its end."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Self, TextIO, TypeVar, get_origin, get_type_hints

from core.checkpoint import replacing
from core.errors import InputError
from core.plain_file import parse_json
from core.storage import storing
from data.content import ImageContent


@dataclass(frozen=True)
class InstanceRecord:
    """How well one prompt was answered. Any aggregate can be recomputed from these.

    Attributes:
        image_id, annotation_id: the data set's ids.
        area: the annotation's area in original pixels.
        iou: IoU of the chosen mask with the ground truth, at the original size.
        iou_pred: what the model predicted it to be.
        mask_index: which candidate was chosen.
        stability: of the chosen mask (SAM's stability score); not a number where no model answered, or one that gives
            no logits.
        category_id: None where the data set has no categories.
    """

    image_id: int
    annotation_id: int
    area: float
    iou: float
    iou_pred: float
    mask_index: int
    stability: float = float("nan")
    category_id: int | None = None


@dataclass(frozen=True)
class DetectionRecord:
    """The mask of one detected box.

    Attributes:
        image_id, category_id: the data set's ids.
        index: the entry's place in the detector's file.
        score: the detector's, which average precision ranks by.
        size: of the image, ``[H, W]``.
        counts: the mask's compressed run lengths.
        iou_pred, mask_index, stability: as of :class:`InstanceRecord`.
    """

    image_id: int
    category_id: int
    index: int
    score: float
    size: list[int]
    counts: str
    iou_pred: float
    mask_index: int
    stability: float

    def result(self) -> dict[str, Any]:
        """As an entry of COCO's results format."""
        segmentation = {"size": self.size, "counts": self.counts}
        return {
            "image_id": self.image_id,
            "category_id": self.category_id,
            "segmentation": segmentation,
            "score": self.score,
        }


Record = InstanceRecord | DetectionRecord
T = TypeVar("T")
R = TypeVar("R", InstanceRecord, DetectionRecord, ImageContent)
# Of each kind once: that takes four times as long as to check a record.
_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)
INSTANCES, DETECTIONS, IMAGES = "instances.jsonl", "detections.jsonl", "images.jsonl"


@dataclass
class ImageRecords:
    """What one image gave.

    Attributes:
        place: of the image among those that are scored.
        records: by protocol.
        skipped: what the data set's rules left out when it was read.
        content: what the image and its annotations were, where that is known.
    """

    place: int
    records: dict[str, list[Record]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    content: str = ""

    @property
    def is_left_out(self) -> bool:
        """Whether the image could not be read."""
        return bool(self.skipped.get("image_left_out"))


class PartFile:
    """One process's images, a line each; what an earlier process began is gone on with if its key is the same.

    Without an image the file is empty. Lines of another key are never touched: they lie in a file of their own.

    Args:
        folder: of the pass; every process writes its own file there.
        number: of this process.
        key: what must be equal: model, data, protocols, settings.
    """

    def __init__(self, folder: Path, number: int, key: str) -> None:
        path = _own_path(folder, number, key)
        with storing(path):
            folder.mkdir(parents=True, exist_ok=True)
        self._path, self._key = path, key
        self._end = sum(map(len, _lines_of_key(path, key)))
        # A link in its place is replaced, never written through.
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.unlink()
            self._end = 0
        with storing(path):
            self._stream: TextIO = open(path, "r+" if self._end else "w", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._stream.seek(self._end)
        # A line that was cut short by a kill goes.
        self._stream.truncate()

    def add(self, image: Any) -> None:
        """Write one image: a dataclass of plain values, such as :class:`ImageRecords`."""
        self._write(asdict(image))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish."""
        # What a full disk did not take was reported where it was written.
        with contextlib.suppress(OSError):
            self._stream.close()
        if not self._end:
            self._path.unlink(missing_ok=True)

    def _write(self, content: Mapping[str, Any]) -> None:
        first = "" if self._end else json.dumps({"key": self._key}) + "\n"
        with storing(self._path):
            self._end += self._stream.write(f"{first}{json.dumps(content)}\n")
            self._stream.flush()


@dataclass(frozen=True)
class PartialRecords:
    """Where a scorer keeps finished images until all are, so that the same command goes on from them.

    Attributes:
        folder: of this scoring.
        key: what a scoring must share with an earlier one to go on where that stopped.
        contents: what each image and its annotations are, each different; empty where that is not known. An image that
            was scored earlier as something else is scored again.
        beside: folders of earlier scorings; what they have done under this key and content counts too.
    """

    folder: Path
    key: str
    contents: Sequence[str] = ()
    beside: Sequence[Path] = ()

    def finished(self, folder: Path, images: int) -> dict[int, ImageRecords]:
        """What a folder has, by place. What could not be read is tried again: it may be refused now."""
        known = read_parts(folder, self.key, self.contents)
        return {place: image for place, image in known.items() if place < images and not image.is_left_out}

    def take_over(self, known: dict[int, ImageRecords], images: int, part: PartFile) -> None:
        """Add what scorings beside this one have done: written here too, as theirs may end and remove it."""
        for folder in self.beside:
            for place, image in self.finished(folder, images).items():
                if place not in known:
                    known[place] = image
                    part.add(image)


def _own_path(folder: Path, number: int, key: str) -> Path:
    """Where a process keeps lines of a key: where it always does, unless a file of something else lies there."""
    path = folder / f"part-{number}.jsonl"
    if path.is_symlink() or not path.is_file() or _lines_of_key(path, key):
        return path
    with open(path, "rb") as stream:
        if not stream.readline().endswith(b"\n"):
            # Somebody was killed before there was anything in it.
            return path
    return path.with_stem(f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:8]}")


def part_lines(folder: Path, key: str) -> Iterator[bytes]:
    """What all processes have written under a key, image by image; a line may be damaged."""
    for path in sorted(folder.glob("part-*.jsonl")):
        yield from _lines_of_key(path, key)[1:]


def read_parts(folder: Path, key: str, contents: Sequence[str] = ()) -> dict[int, ImageRecords]:
    """The images of all processes, by place; each counts once, whoever scored it. A damaged line is scored again.

    One that could not be read counts only where nobody could read it.

    Args:
        contents: of the requested images, each different. Where they are given, a line counts at the place of its
            content, and nowhere if no image has that now.
    """
    places = {content: place for place, content in enumerate(contents)}
    found: dict[int, ImageRecords] = {}
    for line in part_lines(folder, key):
        image = _image_records(line)
        if image is not None and contents:
            image = replace(image, place=places[image.content]) if image.content in places else None
        if image is not None and (image.place not in found or found[image.place].is_left_out):
            found[image.place] = image
    return found


def _image_records(line: bytes) -> ImageRecords | None:
    """What a line of a part file says; None if it is damaged."""
    try:
        raw = parse_json(line)
        records = {name: [_record(values) for values in part] for name, part in raw["records"].items()}
        place, skipped, content = raw["place"], raw["skipped"], raw.get("content", "")
        sound = type(place) is int and type(content) is str and all(type(count) is int for count in skipped.values())
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return ImageRecords(place, records, skipped, content) if sound else None


def keep_parts(folder: Path, key: str, shared: Path) -> None:
    """Put what a folder has under a key where later scorings take it from (:attr:`PartialRecords.beside`)."""
    there = list(part_lines(shared, key))
    known = {_content(line) for line in there}
    new = [line for line in part_lines(folder, key) if _content(line) not in known]
    if not new:
        return
    path = shared / f"part-{hashlib.sha256(key.encode()).hexdigest()[:16]}.jsonl"
    with storing(path):
        shared.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join([json.dumps({"key": key}).encode() + b"\n", *there, *new]))


def remove_parts(folder: Path, key: str, contents: Collection[str] | None = None) -> None:
    """Once everything is written as a whole; what was written under other keys stays.

    Args:
        contents: of the images that are written as a whole, where a file with another one's line is to stay too.
    """
    for path in folder.glob("part-*.jsonl"):
        lines = _lines_of_key(path, key)
        known = contents is None or all(_content(line) in contents for line in lines[1:])
        if (lines and known) or not path.stat().st_size:
            os.remove(path)


def _content(line: bytes) -> object:
    try:
        return parse_json(line)["content"]
    except (ValueError, TypeError, KeyError):
        return None


def _lines_of_key(path: Path, key: str) -> list[bytes]:
    """The lines of a part file that were written to their end, the first naming its key; none if it is another one."""
    if not path.is_file():
        return []
    with open(path, "rb") as stream:
        try:
            # Of another pass no more is read, however long it is.
            if parse_json(stream.readline()) != {"key": key}:
                return []
        except ValueError:
            return []
        stream.seek(0)
        return [line for line in stream if line.endswith(b"\n")]


def _record(values: Mapping[str, Any]) -> Record:
    return _sound(DetectionRecord, values) if "counts" in values else _sound(InstanceRecord, values)


def _sound(kind: type[R], values: Mapping[str, Any]) -> R:
    """A record of what a line says.

    Raises:
        TypeError: a value is missing, unknown or of another type than the record's.
    """
    record = kind(**values)
    for name, hint in _hints(kind).items():
        value = getattr(record, name)
        if get_origin(hint) is list:
            fits = isinstance(value, list) and all(type(part) is int for part in value)
        else:
            fits = isinstance(value, (int, float) if hint is float else hint) and type(value) is not bool
        if not fits:
            raise TypeError(name)
    return record


def write_records(folder: Path, records: Mapping[str, Iterable[Record]]) -> list[Path]:
    """Write all records, a line each with the ``protocol`` it belongs to; returns the files."""
    written = []
    for name, kind in ((INSTANCES, InstanceRecord), (DETECTIONS, DetectionRecord)):
        chosen = [
            (protocol, record) for protocol, part in records.items() for record in part if isinstance(record, kind)
        ]
        if chosen:
            with replacing(folder / name) as temporary, open(temporary, "w", encoding="utf-8") as stream:
                stream.writelines(json.dumps({"protocol": p, **asdict(record)}) + "\n" for p, record in chosen)
            written.append(folder / name)
        else:
            # Of an earlier evaluation in the same folder.
            (folder / name).unlink(missing_ok=True)
    return written


def write_images(folder: Path, images: Sequence[ImageContent]) -> None:
    """Write what was scored, a line an image; of images that are made there is no file."""
    if not images:
        # Of an earlier evaluation in the same folder.
        (folder / IMAGES).unlink(missing_ok=True)
        return
    with replacing(folder / IMAGES) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(asdict(image)) + "\n" for image in images)


def read_images(folder: Path) -> dict[int, ImageContent]:
    """What was scored, by image id; empty where that was not written.

    Raises:
        InputError: a line is damaged.
    """
    path = folder / IMAGES
    found = _read(path, "no image", lambda raw: _sound(ImageContent, raw)) if path.exists() else ()
    return {image.image_id: image for image in found}


def read_instances(path: Path) -> dict[str, list[InstanceRecord]]:
    """The records of :func:`write_records`, by protocol.

    Args:
        path: ``instances.jsonl``, or the folder that holds it.

    Raises:
        InputError: there is no such file, or a line is damaged.
    """
    path = path / INSTANCES if path.is_dir() else path
    found: dict[str, list[InstanceRecord]] = {}
    lines = _read(path, "no record of an instance", lambda raw: (str(raw.pop("protocol")), _sound(InstanceRecord, raw)))
    for protocol, record in lines:
        found.setdefault(protocol, []).append(record)
    return found


def _read(path: Path, what: str, make: Callable[[Any], T]) -> Iterator[T]:
    """What ``make`` makes of each line; ``what`` a damaged one is."""
    for number, line in _lines(path):
        try:
            yield make(parse_json(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError(f"{path}: line {number} is {what}; evaluate again") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no file of records; give the folder of an evaluation")
    try:
        with open(path, encoding="utf-8") as stream:
            yield from enumerate(stream, 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise InputError(f"{path}: cannot be read ({reason}); give the folder of an evaluation") from None
