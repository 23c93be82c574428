"""The ways in which files come into the program, each as a function of a path."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from compressors.distill.state import load_state
from compressors.quantize.calibration import GridCheckpoint
from data.embeddings import DiskEmbeddings
from evaluation.records import read_instances, read_parts
from experiments.result_file import read_result
from experiments.runs.checkpoints import find_model
from students.export.segmenter import ExportedSam
from tests.unit.hostile_runs import CHANNELS, GRID, KEY, parts, quantized


def _model(path: Path) -> Any:
    return find_model(str(path)).model.name


def _export(path: Path) -> Any:
    return ExportedSam(path).name


def _shard(path: Path) -> Any:
    cache = DiskEmbeddings(path, CHANNELS, GRID)
    return "made again" if cache.get(KEY) is None else "found"


def _state(path: Path) -> Any:
    return load_state(path, "key", parts())


def _grids(path: Path) -> Any:
    return GridCheckpoint(path, "key", quantized()).done


def _parts(path: Path) -> Any:
    return read_parts(path.parent, "key")


DOORS: dict[str, Callable[[Path], Any]] = {
    "model": _model,
    "export": _export,
    "shard": _shard,
    "state": _state,
    "grids": _grids,
    "result": read_result,
    "instances": read_instances,
    "parts": _parts,
}
"""A checkpoint of any layout, an exported folder, the teacher's cache, a stage's state, a calibration's grids, the rows
of a run, the records of an evaluation, and those of one that was stopped."""
