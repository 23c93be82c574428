"""Records in files: one line a picture while a pass goes on, so that it can be stopped; one line an instance after."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO, TypeVar, get_origin, get_type_hints

from core.checkpoint import replacing
from core.errors import InputError
from core.plain_file import parse_json
from core.storage import storing
from evaluation.detected import DetectionRecord
from evaluation.instances import InstanceRecord

Record = InstanceRecord | DetectionRecord
R = TypeVar("R", InstanceRecord, DetectionRecord)
INSTANCES, DETECTIONS = "instances.jsonl", "detections.jsonl"


@dataclass
class PictureRecords:
    """What one picture gave.

    Attributes:
        place: of the picture among those asked for.
        records: by protocol.
        skipped: what the data set's rules left out when it was read.
    """

    place: int
    records: dict[str, list[Record]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)


class PartFile:
    """One process's pictures, a line each; what an earlier process began is gone on with if its key is the same.

    Args:
        folder: of the pass; every process writes its own file there.
        number: of this process.
        key: what must be equal: model, data, protocols.
    """

    def __init__(self, folder: Path, number: int, key: str) -> None:
        path = folder / f"part-{number}.jsonl"
        with storing(path):
            folder.mkdir(parents=True, exist_ok=True)
        self._path = path
        end = sum(len(line) for line in _whole_lines(path, key))
        # A link in its place is replaced, never written through.
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.unlink()
            end = 0
        with storing(path):
            self._stream: TextIO = open(path, "r+" if end else "w", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._stream.seek(end)
        # A line that was cut short by a kill goes.
        self._stream.truncate()
        if not end:
            self._write({"key": key})

    def add(self, picture: PictureRecords) -> None:
        """Write one picture."""
        self._write(asdict(picture))

    def close(self) -> None:
        """Finish."""
        # What a full disk did not take was told where it was written.
        with contextlib.suppress(OSError):
            self._stream.close()

    def _write(self, content: Mapping[str, Any]) -> None:
        with storing(self._path):
            self._stream.write(json.dumps(content) + "\n")
            self._stream.flush()


def read_parts(folder: Path, key: str) -> dict[int, PictureRecords]:
    """The pictures of all processes, by place; each counts once, whoever scored it. A damaged line is scored again."""
    found: dict[int, PictureRecords] = {}
    for path in sorted(folder.glob("part-*.jsonl")):
        for line in _whole_lines(path, key)[1:]:
            picture = _picture(line)
            if picture is not None:
                found.setdefault(picture.place, picture)
    return found


def _picture(line: bytes) -> PictureRecords | None:
    """What a line of a part file says; None if it is damaged."""
    try:
        raw = parse_json(line)
        records = {name: [_record(values) for values in part] for name, part in raw["records"].items()}
        place, skipped = raw["place"], raw["skipped"]
        sound = type(place) is int and all(type(count) is int for count in skipped.values())
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return PictureRecords(place, records, skipped) if sound else None


def remove_parts(folder: Path) -> None:
    """Once everything is written as a whole."""
    for path in folder.glob("part-*.jsonl"):
        os.remove(path)


def _whole_lines(path: Path, key: str) -> list[bytes]:
    """The lines of a part file that were written to their end; none if it is of another key."""
    if not path.is_file():
        return []
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    try:
        same = bool(lines) and parse_json(lines[0]) == {"key": key}
    except ValueError:
        same = False
    return lines if same else []


def _record(values: Mapping[str, Any]) -> Record:
    return _sound(DetectionRecord, values) if "counts" in values else _sound(InstanceRecord, values)


def _sound(kind: type[R], values: Mapping[str, Any]) -> R:
    """A record of what a line says.

    Raises:
        TypeError: a value is missing, unknown or of another type than the record's.
    """
    record = kind(**values)
    for name, hint in get_type_hints(kind).items():
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


def read_instances(path: Path) -> dict[str, list[InstanceRecord]]:
    """The records of :func:`write_records`, by protocol.

    Args:
        path: ``instances.jsonl``, or the folder that holds it.

    Raises:
        InputError: there is no such file, or a line is damaged.
    """
    path = path / INSTANCES if path.is_dir() else path
    found: dict[str, list[InstanceRecord]] = {}
    for number, line in _lines(path):
        try:
            raw = parse_json(line)
            found.setdefault(str(raw.pop("protocol")), []).append(_sound(InstanceRecord, raw))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError(f"{path}: line {number} is no record of an instance; evaluate again") from None
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no file of records; give the folder of an evaluation")
    try:
        with open(path, encoding="utf-8") as stream:
            yield from enumerate(stream, 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise InputError(f"{path}: cannot be read ({reason}); give the folder of an evaluation") from None
