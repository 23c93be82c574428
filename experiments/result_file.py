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
"""Key of the student's scores image by image (:class:`evaluation.paired_seeds.ImageScores`)."""


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
    """The rows of several files, and their students' scores image by image, by run, where files have them."""
    rows: list[ResultRow] = []
    scores: dict[str, ImageScores] = {}
    for path in paths:
        found, about = read_result(path)
        rows += found
        if (of_image := ImageScores.from_dict(about.get(BY_IMAGE))) is not None:
            scores |= {row.run_id: of_image for row in found if row.student is not None and row.run_id is not None}
    return rows, scores


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
