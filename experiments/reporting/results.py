"""Every row that was measured here, and what papers say, read into one table."""

import contextlib
import json
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from core.checkpoint import write_text
from core.errors import InputError
from core.progress import say
from core.provenance import ROOT
from core.result import COLUMNS as ROW
from core.result import ResultRow, is_writable
from data.content import IDENTITY
from experiments.config.schema import RENAMED
from experiments.recorded_evaluation import FOLDER
from experiments.reporting.columns import COLUMNS, LEADERBOARD, LEADERBOARD_COLUMNS, MEASURED, MODEL_COLUMNS, PUBLISHED
from experiments.reporting.models import COMPARISONS, Record, model_label, models_frame, plain_records
from experiments.reporting.text_tables import csv_lines, csv_text
from experiments.result_file import FAILED, NAME, command_of, read_result

EVERYTHING = "everything"
"""How folders of ``results/`` end with rows of the command ``everything``, which have columns of their own."""
LOCK = ".leaderboard.lock"
"""In the folder of runs, of who makes ``leaderboard.csv`` anew."""
_PATIENCE = 10.0
"""Seconds that one waits for it."""
_FIGURES = "results/published/figures.csv"
FIGURES = ROOT / _FIGURES
_COUNTERS = {"full": "macs_full", "modules": "macs_modules", "full-scaled-by-bits": "macs_full_scaled_by_bits"}
"""The column of a published count, by the counter that its source used."""
_OF_A_RUN = ("run_id", "git_sha", "seed", "encoder_latency_ms", "decoder_latency_ms", "peak_memory_bytes")
"""What differs between two measurements of one and the same comparison."""
_PATHS = ("method.init", "method.student.weights", "data.root", "data.annotations", "data.images")
_OWN = (
    (re.compile(r"(Q-)?TinySAM\b"), "tinysam", None),
    (re.compile(r"MobileSAM\b"), "mobilesam", None),
    (re.compile(r"SlimSAM\b"), "slimsam", None),
    (re.compile(r"scratch-"), "scratch", None),
    (re.compile(r"SAM-([BLH])$"), "teacher", "sam_vit_"),
)
_TYPES = {"text": "string", "number": "Float64", "count": "Int64", "truth": "boolean", "mapping": "object"}


@dataclass(frozen=True)
class Results:
    """All of it; in both tables what is unknown is None.

    Attributes:
        rows: :data:`LEADERBOARD_COLUMNS`, measured ones in the order of their files, then published ones; ``path`` is
            the file of a measured one, ``settings`` what its run was given.
        models: :data:`MODEL_COLUMNS` in the order of tables; ``rows`` are the places of their rows. A row without a
            score, as of a failed run, is of none.
    """

    rows: pd.DataFrame
    models: pd.DataFrame


def results_frame(runs: Path | None = Path("runs"), results: bool = True, published: bool = True) -> pd.DataFrame:
    """The lines of ``leaderboard.csv`` with its columns (``docs/leaderboard.md``), nothing written.

    Args:
        runs: the folder of runs; None for none.
        results, published: whether the committed rows and the published figures are in it.

    Returns:
        A line a row. Numbers have pandas' own types, so that what is unknown is missing and whole numbers stay whole.
    """
    rows = gather(runs, results, published).rows[list(LEADERBOARD_COLUMNS)]
    return rows.astype({name: _TYPES[COLUMNS[name].kind] for name in LEADERBOARD_COLUMNS})


def committed_files() -> list[Path]:
    """The files of ``results/`` with result rows, in order: a folder a method, preset or kind."""
    return [path for path in sorted((ROOT / "results").glob("*/*.json")) if not path.parent.name.endswith(EVERYTHING)]


def committed_strategies() -> list[Path]:
    """The files of the folder of this name, in order: strategies compared with one another."""
    return sorted((ROOT / "results" / EVERYTHING).glob("*.json"))


def fold(runs: Path, results: bool = True, published: bool = True) -> Results:
    """Write ``leaderboard.csv`` anew, atomically, unless there is no row; returns what is in it.

    Args:
        runs: folder of runs.
        results, published: as of :func:`results_frame`.
    """
    # Of runs that end together, who reads last writes last too, so that all of them are in the file.
    with _in_turn(runs):
        found = gather(runs, results, published)
        if len(found.rows):
            write_text(runs / LEADERBOARD, csv_of(found.rows))
    return found


@contextlib.contextmanager
def _in_turn(runs: Path) -> Iterator[None]:
    """A block that one process at a time is in; without that where the lock takes too long, or none can be had."""
    lock = FileLock(runs / LOCK, timeout=_PATIENCE)
    # A file system without locks has none to request either.
    with contextlib.suppress(OSError, NotImplementedError):
        if runs.is_dir():
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def csv_of(rows: pd.DataFrame) -> str:
    """The rows under a header: numbers as Python writes them, so that reading back gives the same ones."""
    return csv_text(LEADERBOARD_COLUMNS, rows[list(LEADERBOARD_COLUMNS)].itertuples(index=False, name=None))


def gather(runs: Path | None, results: bool = True, published: bool = True) -> Results:
    """Read every file; a comparison that many runs made equally is there once, and so is a copied row."""
    read = read_records(runs, results)
    # Models are of all rows, so that every latency that was measured counts.
    models = plain_records(models_frame(pd.DataFrame(read, columns=_READ, dtype=object)))
    line_of = {place: number for number, model in enumerate(models) for place in model["rows"]}
    members: list[list[int]] = [[] for _ in models]
    once: dict[Hashable, Record] = {}
    for place, row in enumerate(read):
        if once.setdefault(_content(row), row) is row and place in line_of:
            row |= _means(models[line_of[place]])
            members[line_of[place]].append(len(once) - 1)
    rows = list(once.values())
    models = [{**model, "rows": tuple(own)} for model, own in zip(models, members, strict=True) if own]
    for line in published_models() if published else []:
        models.append({**line, "rows": (len(rows),)})
        rows.append(_published_row(line))
    return Results(
        pd.DataFrame(rows, columns=_READ, dtype=object),
        pd.DataFrame(models, columns=[*MODEL_COLUMNS, "rows"], dtype=object),
    )


_READ = [*LEADERBOARD_COLUMNS, "path", "settings"]
_COMMITTED = ROOT / "results"
# They stay as they are, and every run of a sweep reads all of them.
_read_committed = cache(read_result)


def read_records(runs: Path | None, results: bool) -> list[Record]:
    """Every row of every readable file; one that cannot be read is named on standard error and left out."""
    found, settings = list[Record](), dict[str | None, Mapping[str, str]]()
    for path, shown in _result_files(runs, results):
        try:
            rows, about = _read_committed(path) if path.is_relative_to(_COMMITTED) else read_result(path)
        except InputError as error:
            say(f"left out: {error}")
            continue
        run = rows[-1].run_id if rows[-1].status in ("finished", "failed") else None
        if run is not None:
            settings[run] = settings_behind(about)
        beside = {"path": path, "result_file": shown, **_beside_rows(about, run, rows)}
        found += [{**vars(row), "source": MEASURED, "model": model_label(vars(row)), **beside} for row in rows]
    # An evaluation of a run's student is of what that run was given.
    return [{**dict.fromkeys(_READ), **row, "settings": settings.get(row["run_id"])} for row in found]


def _result_files(runs: Path | None, results: bool) -> Iterator[tuple[Path, str]]:
    """Files of runs (the failure where there is no result), of evaluations, then the committed ones.

    Each with what it is called, without what stands above the folder of runs, or above ``results/``.
    """
    if runs is not None and runs.is_dir():
        above = runs.absolute().parent
        for folder in sorted([*runs.glob("*"), *runs.glob(f"{FOLDER}/*")]):
            path = next((folder / name for name in (NAME, FAILED) if (folder / name).is_file()), None)
            # What a fresh start has set aside lies in hidden ones.
            if path is not None and not folder.name.startswith("."):
                yield path, path.absolute().relative_to(above).as_posix()
    for path in committed_files() if results else []:
        yield path, path.relative_to(ROOT).as_posix()


def _beside_rows(about: Mapping[str, Any], run: str | None, rows: list[ResultRow]) -> Record:
    """Columns from what stands beside the rows; what is not there, or of another type, is unknown."""
    provenance = _mapping(about.get("provenance"))
    versions = _mapping(provenance.get("versions"))
    name = re.search(r"-([0-9a-f]{8})$", run or "")
    dirty = provenance.get("git_dirty")
    texts = {
        **{key: about.get(key) for key in ("paper", "student_sha256", "teacher_sha256")},
        **{f"{key}_version": versions.get(key) for key in ("python", "torch")},
        "utc": provenance.get("utc"),
        "command": command_of(about, rows[0].status == "evaluated"),
    }
    return {
        **{key: value if isinstance(value, str) and is_writable(value) else None for key, value in texts.items()},
        "config_hash": name[1] if name else None,
        "git_dirty": dirty if isinstance(dirty, bool) else None,
    }


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def settings_behind(about: Mapping[str, Any]) -> dict[str, str]:
    """The settings that a student depends on, but for its seed, and the teacher's weights.

    Args:
        about: what a run's result says beside its rows.

    Returns:
        Values as JSON by dotted names; without paths, which name a machine's folders, but with the images' content.
    """
    config = _mapping(about.get("config"))
    parts = {part: config.get(part) for part in ("method", "data")}
    # Files of earlier versions have the names that settings had then.
    named = ((RENAMED.get(name, name), value) for name, value in _flat(parts))
    found = {name: json.dumps(value, sort_keys=True) for name, value in named if name not in _PATHS}
    if isinstance(about.get("teacher_sha256"), str):
        found["teacher"] = about["teacher_sha256"]
    # Earlier files call them pictures; the earliest have a hash of names there, which says less than the settings.
    images = about.get("training_images_sha256", about.get("training_pictures_sha256"))
    if about.get("identity") == IDENTITY and isinstance(images, str):
        found["images"] = images
    return found


def _flat(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _content(row: Record) -> Hashable:
    """What makes two rows one: everything, or of a comparison everything but what another run of it changes."""
    left_out = _OF_A_RUN if row["method"] in COMPARISONS else ()
    values = [row[name] for name in ROW if name not in left_out]
    return tuple(json.dumps(value, sort_keys=True) if isinstance(value, dict) else value for value in values)


def _means(line: Mapping[str, Any]) -> Record:
    """A row's columns of its model over the seeds."""
    return {
        "seeds": len(line["seeds"]) or None,
        f"{line['metric']}_mean": line["score"],
        f"{line['metric']}_std": line["score_spread"],
        "miou_point_mean": line["point"],
        "miou_point_std": line["point_spread"],
        "to_teacher_points": line["to_teacher"],
        "point_to_teacher_points": line["point_to_teacher"],
    }


def published_models() -> list[Record]:
    """The figures of papers under a protocol like one of this project's, as lines of models.

    None in an installed copy, which carries no results; standard error says so.

    Raises:
        InputError: a figure cannot be read.
    """
    if not FIGURES.is_file():
        say("no results of the repository and no published figures here: an installed copy carries none, a clone does")
        return []
    try:
        return [_published_model(line) for line in csv_lines(FIGURES) if line["protocol"]]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{FIGURES}: not a table of published figures ({error}); restore the file") from None


def _published_model(line: dict[str, str]) -> Record:
    sizes = {size: float(line[size]) / 100 if line[size] else None for size in ("small", "medium", "large")}
    macs = {_COUNTERS[line["macs_counter"]]: round(float(line["macs_g"]) * 1e9)} if line["macs_g"] else {}
    return {
        **dict.fromkeys(MODEL_COLUMNS),
        **sizes,
        **macs,
        "source": PUBLISHED,
        "data": line["dataset"],
        "protocol": line["protocol"],
        "model": line["model"],
        "seeds": (),
        "run_ids": (),
        "metric": line["metric"],
        "score": float(line["value"]) / 100,
        "parameters": round(float(line["params_m"]) * 1e6) if line["params_m"] else None,
        "published_macs_counter": line["macs_counter"] if line["macs_g"] else None,
        "paper": line["source"],
    }


def _published_row(line: Record) -> Record:
    """A published figure as a row: ``paper`` names the paper and its table."""
    method, teacher = own_method(line["model"])
    metric = line["metric"]
    return {
        **dict.fromkeys(_READ),
        **{name: line[name] for name in MODEL_COLUMNS if name in LEADERBOARD_COLUMNS and name != "seeds"},
        "status": PUBLISHED,
        "method": method,
        "teacher": teacher,
        metric: line["score"],
        **{f"{metric}_{size}": line[size] for size in ("small", "medium", "large")},
        "result_file": _FIGURES,
    }


def own_method(published: str) -> tuple[str | None, str | None]:
    """Which of this project's methods a paper's model is of, and of the teachers its name; None where it is none."""
    for pattern, method, prefix in _OWN:
        if found := pattern.match(published):
            return method, None if prefix is None else prefix + found[1].lower()
    return None, None
