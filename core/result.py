"""One row of results: the columns of every table, JSON file and CSV of the project."""

import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol, Union, get_args, get_origin, get_type_hints

from core.errors import InputError

SCHEMA_VERSION = 9
ADDED = {
    2: ("variant", "train_images_per_s", "train_peak_memory_bytes", "device_hours"),
    3: ("weight_bits", "activation_bits", "bit_operations", "float_macs"),
    4: (
        *("miou_images", "miou_categories", "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
        *("ap_rare", "ap_common", "ap_frequent", "average_recall", "detections", "axes"),
    ),
    5: ("threads",),
    6: (
        *("latency_reference", "encoder_latency_ratio", "encoder_latency_ratio_low", "encoder_latency_ratio_high"),
        *("decoder_latency_ratio", "decoder_latency_ratio_low", "decoder_latency_ratio_high"),
    ),
    7: ("importance_images",),
    8: ("simulated",),
    9: ("training_precision",),
}
"""Columns by the schema version that brought them; in rows of an earlier one they are unknown."""
STATUSES = ("finished", "evaluated", "counted", "failed")
"""Of a run, of one scored model, of costs alone, and of a run that ended in an error (``reason`` says which)."""


class Row(Protocol):
    """A line of a command's answer, such as :class:`ResultRow`."""

    def to_dict(self) -> dict[str, Any]:
        """Its columns by name, as JSON takes them."""
        ...


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """What is known about one model. Raw numbers: mIoU in 0..1, MACs, bytes and counts as integers; None is unknown.

    Attributes:
        run_id: the run that measured it; None outside of runs.
        method: what made the model; ``teacher``, ``filled_box`` and ``filled_ellipse`` are the comparisons.
        variant: the name its run was given, where it was given one: which of several settings of the method it is.
        ratio: share of the channels cut, of methods that cut.
        teacher, student: names of the models.
        data: the data set scored on.
        protocol: prompts and choice of masks, with their version, such as ``box_point@1``.
        miou: with boxes, over instances; by annotation area in ``miou_small``, ``miou_medium``, ``miou_large``.
        miou_point: with one point.
        macs_full, macs_modules: by the two counters of :mod:`core.cost`.
        device: name of the processor or accelerator that everything was measured on.
        images_seen: in training, over all stages and, in a chain (``method`` is ``mobilesam+tinysam``), over the runs
            that it began with.
        train_seconds: of the run's own training, over its stages; an earlier run of its chain has a row of its own.
            Likewise ``train_images_per_s``, of the images that the run itself saw in them, and ``device_hours``.
        train_peak_memory_bytes: most memory a training process needed: tensors of the CUDA allocator, or on a CPU all
            of the process's resident pages.
        device_hours: the run's own training time of all devices together.
        instances, images: what ``miou`` rests on; with detections, the images that were requested.
        miou_low, miou_high: 95 % interval of ``miou``, a bootstrap over images; None of a single image. Earlier rows
            of ``box_point@1`` have the normal one over instances, which is narrower (``results/README.md``).
        skipped: how many annotations the written rules left out, by reason.
        reason: of a failure.
        weight_bits, activation_bits: of a quantised model; None in a float one.
        bit_operations: multiply-accumulates (counter ``full``) weighed by the bits of both factors, 32 in float.
        float_macs: multiply-accumulates that a quantised model does in float, by layer.
        miou_images, miou_categories: the same IoUs averaged within each image, or category, first.
        ap: average precision of masks for a detector's boxes, with its parts ``ap50`` to ``ap_frequent``; these and
            ``average_recall`` (with all detections that count) are COCO's or LVIS's own.
        detections: how many boxes ``ap`` rests on.
        axes: every choice of the protocol, by name, and what else was chosen of the evaluation; ``data_sha256`` is
            of the images that were scored and their annotations, where they were read from files.
        threads: of the CPU, that PyTorch or another runtime computed with in each process: in training, scoring and the
            latencies.
        latency_reference: the model whose times those of this one are divided by, both taken in turns in one process.
        encoder_latency_ratio, decoder_latency_ratio: medians over rounds, with their 95 % intervals ``..._low``,
            ``..._high``.
        importance_images: images that channels were scored by before they were cut, counted for each cut;
            ``images_seen`` leaves them out, as no weight is updated by them.
        simulated: what of a quantised model no runtime computes with, in words; None where integers can do all of it.
        training_precision: ``float32``, or what matrix products were autocast to, of the run's training and of the runs
            it began with; several are joined by ``and``; ``precision`` is that of scoring and of the latencies.
    """

    run_id: str | None = None
    method: str
    ratio: float | None = None
    teacher: str | None = None
    student: str | None = None
    data: str | None = None
    protocol: str | None = None
    miou: float | None = None
    miou_small: float | None = None
    miou_medium: float | None = None
    miou_large: float | None = None
    miou_point: float | None = None
    parameters: int | None = None
    encoder_parameters: int | None = None
    macs_full: int | None = None
    macs_modules: int | None = None
    encoder_macs_full: int | None = None
    encoder_macs_modules: int | None = None
    size_bytes: int | None = None
    encoder_latency_ms: float | None = None
    decoder_latency_ms: float | None = None
    peak_memory_bytes: int | None = None
    device: str | None = None
    precision: str | None = None
    seed: int | None = None
    images_seen: int | None = None
    train_seconds: float | None = None
    status: str
    git_sha: str | None = None
    instances: int | None = None
    images: int | None = None
    miou_low: float | None = None
    miou_high: float | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    reason: str | None = None
    variant: str | None = None
    train_images_per_s: float | None = None
    train_peak_memory_bytes: int | None = None
    device_hours: float | None = None
    weight_bits: int | None = None
    activation_bits: int | None = None
    bit_operations: int | None = None
    float_macs: dict[str, int] | None = None
    miou_images: float | None = None
    miou_categories: float | None = None
    ap: float | None = None
    ap50: float | None = None
    ap75: float | None = None
    ap_small: float | None = None
    ap_medium: float | None = None
    ap_large: float | None = None
    ap_rare: float | None = None
    ap_common: float | None = None
    ap_frequent: float | None = None
    average_recall: float | None = None
    detections: int | None = None
    axes: dict[str, str] | None = None
    threads: int | None = None
    latency_reference: str | None = None
    encoder_latency_ratio: float | None = None
    encoder_latency_ratio_low: float | None = None
    encoder_latency_ratio_high: float | None = None
    decoder_latency_ratio: float | None = None
    decoder_latency_ratio_low: float | None = None
    decoder_latency_ratio_high: float | None = None
    importance_images: int | None = None
    simulated: str | None = None
    training_precision: str | None = None
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Every column in order, as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: object, source: str) -> "ResultRow":
        """The row that :meth:`to_dict` gave.

        Args:
            source: the file it was read from, for messages.

        Raises:
            InputError: not such a mapping, of another schema version, or a value is of the wrong type or range.
        """
        if not isinstance(raw, Mapping):
            raise InputError(f"{source}: a row is a {type(raw).__name__}, not a mapping; run again with force=true")
        version = raw.get("schema_version", SCHEMA_VERSION)
        if type(version) is int and 1 <= version < SCHEMA_VERSION:
            later = [key for added, keys in ADDED.items() if added > version for key in keys]
            raw = {**dict.fromkeys(later), **raw, "schema_version": SCHEMA_VERSION}
        elif version != SCHEMA_VERSION:
            raise InputError(
                f"{source}: rows of schema version {raw['schema_version']!r}, this version reads {SCHEMA_VERSION}; "
                "run again with force=true"
            )
        problems = [f"unknown {key}" for key in raw if key not in COLUMNS]
        problems += [f"missing {key}" for key in COLUMNS if key not in raw]
        problems += [text for key in COLUMNS if key in raw and (text := _problem(key, raw[key]))]
        if problems:
            raise InputError(
                f"{source}: not a result row: {'; '.join(map(str, problems[:5]))}; run again with force=true"
            )
        return cls(**raw)


COLUMNS = tuple(part.name for part in fields(ResultRow))
"""Names of the columns, in the order of every file."""
_LARGEST = 2**63 - 1
"""Of whole numbers: tables hold them in 64 bits."""
_TYPES = get_type_hints(ResultRow)
_MAY_BE_UNKNOWN = frozenset(name for name, hint in _TYPES.items() if type(None) in get_args(hint))


_AND = " and "


def joined_precisions(each: Iterable[str | None]) -> str | None:
    """What is written as ``training_precision`` of several trainings: each precision once, by name; None for none."""
    names = {name for joined in each if joined for name in joined.split(_AND)}
    return _AND.join(sorted(names)) or None


def is_writable(text: str) -> bool:
    """Whether a file can hold a text: JSON may name halves of characters, which UTF-8 has none of."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problem(key: str, value: object) -> str | None:
    """What is wrong with a value of a column, if anything."""
    if value is None:
        # Most columns of most rows, and there are files with thousands of rows.
        return None if key in _MAY_BE_UNKNOWN else f"{key} is null"
    hint = _TYPES[key]
    allowed = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for kind in (get_args(part)[1] for part in allowed if get_origin(part) is dict):
        if not isinstance(value, Mapping) or not all(type(k) is str and type(v) is kind for k, v in value.items()):
            return f"{key} does not map names to {'words' if kind is str else 'counts'}"
        return next((text for part in (*value, *value.values()) if (text := _unwritable(key, part))), None)
    if text := _unwritable(key, value):
        return text
    if float in allowed:
        # Written so that NaN fails too, and so that an int too long for a float does not overflow.
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:  # type: ignore[arg-type]
            return f"{key} is {repr(value)[:60]}, not a finite number"
        share = key.startswith(("miou", "ap", "average_"))
        return f"{key} is {value}, not within 0 to 1" if share and not 0 <= value <= 1 else None  # type: ignore[operator]
    if type(value) not in allowed:
        return f"{key} is {value!r}, not {' or '.join(kind.__name__ for kind in allowed if kind is not type(None))}"
    return (
        f"status is {value!r}, not one of {', '.join(STATUSES)}" if key == "status" and value not in STATUSES else None
    )


def _unwritable(key: str, value: object) -> str | None:
    """Why no table could hold a value of a column, or a part of it, if none could."""
    if type(value) is int and abs(value) > _LARGEST:
        return f"{key} is {repr(value)[:60]}, beyond 2**63 - 1"
    if type(value) is str and not is_writable(value):
        return f"{key} is {ascii(value)[:60]}, which is not UTF-8"
    return None
