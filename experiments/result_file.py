"""``result.json``: everything one run found, written last and whole; its presence is what "finished" means."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.checkpoint import write_text
from core.errors import InputError
from core.plain_file import read_json
from core.provenance import redact_paths
from core.result import ResultRow, Row
from evaluation.paired_seeds import ImageScores

NAME = "result.json"
FAILED = "failed.json"
EVALUATE = "evaluate"
BY_IMAGE = "by_image"
"""Key of a student's or an evaluated model's scores image by image (:class:`evaluation.paired_seeds.ImageScores`)."""
BESIDE = "by_image_beside"
"""Key of the same of what is compared with it: teacher, filled boxes and ellipses, by the method of their rows."""
AGREES = 1e-4
"""The most by which the mean of scores image by image may differ from that of the row."""


def write_result(path: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """Write rows and what goes with them (settings, provenance, hashes), atomically, without what is personal."""
    content = redact_paths({"rows": [row.to_dict() for row in rows], **about})
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def command_of(about: Mapping[str, Any], evaluated: bool) -> str | None:
    """The command that made a result file, as it would be typed; None where the file does not say.

    Args:
        about: what stands beside the rows.
        evaluated: whether ``evaluate`` made it.
    """
    provenance = about.get("provenance")
    argv = provenance.get("argv") if isinstance(provenance, Mapping) else None
    if not isinstance(argv, list):
        return None
    # The command line takes the word of a command away before it keeps the others.
    word = [EVALUATE] if evaluated and EVALUATE not in argv[:1] else []
    return shlex.join(["python", "-m", "experiments", *word, *map(str, argv)])


def read_rows(path: Path) -> list[ResultRow]:
    """The rows of a result file.

    Raises:
        InputError: damaged, or of another version.
    """
    return read_result(path)[0]


def read_scored(paths: Iterable[Path]) -> tuple[list[ResultRow], dict[str, ImageScores]]:
    """The rows of several files, and their scores image by image, for :func:`scores_of`, where files have them.

    Raises:
        InputError: a file is damaged, of another version, or its scores image by image contradict its rows.
    """
    rows: list[ResultRow] = []
    scores: dict[str, ImageScores] = {}
    for path in paths:
        found, about = read_result(path)
        rows += found
        beside = about.get(BESIDE)
        raw_beside = beside if isinstance(beside, Mapping) else {}
        for row in found:
            # An evaluated teacher is the file's own model.
            own = row.student is not None or (row.status == "evaluated" and row.method == "teacher")
            of_image = ImageScores.from_dict(about.get(BY_IMAGE) if own else raw_beside.get(row.method))
            # What was exported stands beside nothing.
            is_named = row.run_id is not None if row.student is not None else row.variant is None
            if of_image is None or not is_named:
                continue
            if (column := _contradicted(row, of_image)) is not None:
                raise InputError(
                    f"{path}: {column} of {row.method} is {getattr(row, column)}, but its scores image by image have a "
                    f"mean of {of_image.mean(column):.4f}; run again with force=true"
                )
            scores[scored_as(row)] = of_image
    return rows, scores


def scores_of(row: ResultRow, scores: Mapping[str, ImageScores]) -> ImageScores | None:
    """The scores image by image of a row, of those that :func:`read_scored` gave; None where they are not known.

    Teachers and filled prompts score the same in every run on the same instances: any file of them will do, if it
    agrees with the row.
    """
    found = scores.get(scored_as(row))
    return None if found is None or (row.student is None and _contradicted(row, found)) else found


def scored_as(row: ResultRow) -> str:
    """A student by its run, others by what they are and what they are scored on."""
    if row.student is not None:
        return str(row.run_id)
    of = (row.method, row.teacher, row.data, row.protocol, row.precision, row.instances, row.images)
    return " ".join(map(str, of))


def _contradicted(row: ResultRow, scores: ImageScores) -> str | None:
    """The first column whose mean is not the row's."""
    means = ((column, getattr(row, column, None), scores.mean(column)) for column in scores.iou)
    return next((c for c, own, mean in means if own is None or not abs(own - mean) <= AGREES), None)


def read_result(path: Path) -> tuple[list[ResultRow], dict[str, Any]]:
    """The rows of a result file, and what goes with them.

    Raises:
        InputError: damaged, or of another version.
    """
    content = read_json(path, "run again with force=true")
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list) or not content["rows"]:
        raise InputError(f"{path}: holds no rows; run again with force=true")
    rows = [ResultRow.from_dict(_with_precision(raw, content), str(path)) for raw in content["rows"]]
    return rows, {key: value for key, value in content.items() if key != "rows"}


def _with_precision(raw: Any, content: Mapping[str, Any]) -> Any:
    """A row of a file from before rows had their training's precision, with what the file says of it.

    Not of quantised models: their grids learn in float32, whatever the engine was set to.
    """
    known, name = isinstance(raw, dict) and "training_precision" not in raw, content.get("training_precision")
    if not known or not isinstance(name, str) or not raw.get("images_seen") or raw.get("weight_bits") is not None:
        return raw
    return {**raw, "training_precision": name}
