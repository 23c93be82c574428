"""Result rows as the lines of a comparison table: equal models over their seeds are one line, beside their teacher."""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, NamedTuple

from core.result import ResultRow
from evaluation.baselines import BASELINES
from experiments.committed import committed_files
from experiments.leaderboard.sources import Source, readable
from experiments.recorded_evaluation import FOLDER
from experiments.result_file import NAME
from experiments.tables.row import MEASURED, TableRow, model_label
from experiments.tables.settings_behind import are_different

SAME = 1e-4
"""Scores that differ by no more are two measurements of one thing."""


class _Conditions(NamedTuple):
    """What two rows must share for their scores to compare."""

    data: str | None
    protocol: str | None
    instances: int | None
    images: int | None
    detections: int | None
    axes: tuple[tuple[str, str], ...]


class Gathered(NamedTuple):
    """Rows, and what is known of the runs behind them.

    Attributes:
        rows: with a score each.
        settings: by the name of a run, what it was given (:mod:`experiments.tables.settings_behind`).
    """

    rows: list[ResultRow]
    settings: dict[str, Mapping[str, str]]


def gathered_rows(runs: Path | None, results: bool) -> Gathered:
    """The scored rows of the committed results and of a folder of runs and evaluations, in that order."""
    paths = committed_files() if results else []
    if runs is not None:
        paths += sorted(runs.glob(f"*/{NAME}")) + sorted(runs.glob(f"{FOLDER}/*/{NAME}"))
    read = [source for path in paths for source in readable(path)]
    rows = with_images_seen([row for source in read for row in source.rows])
    return Gathered([row for row in rows if is_scored(row)], settings_of_runs(read))


def settings_of_runs(read: Iterable[Source]) -> dict[str, Mapping[str, str]]:
    """What each run was given, by its name."""
    return {source.run_id: source.settings for source in read if source.run_id is not None}


def is_scored(row: ResultRow) -> bool:
    """Whether a row has a score of a data set under a protocol."""
    scored = row.status in ("finished", "evaluated") and row.data and row.protocol
    return bool(scored) and (row.miou is not None or row.ap is not None)


def with_images_seen(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """The same rows; a model that was evaluated later was trained on as many images as its run says."""
    seen: dict[str | None, int] = {
        row.run_id: row.images_seen for row in rows if row.run_id and row.images_seen is not None
    }
    return [
        row if row.images_seen is not None or row.method in BASELINES else replace(row, images_seen=_seen(row, seen))
        for row in rows
    ]


def _seen(row: ResultRow, seen: Mapping[str | None, int]) -> int | None:
    return None if row.method == "teacher" else seen.get(row.run_id)


def measured_first(lines: Iterable[TableRow]) -> list[TableRow]:
    """The lines by data set and protocol; tables in which nothing was measured, papers' figures alone, come last."""
    lines = list(lines)
    measured = {(line.data, line.protocol) for line in lines if line.kind == MEASURED}
    return sorted(lines, key=lambda line: ((line.data, line.protocol) not in measured, line.data, line.protocol))


def table_rows(rows: Sequence[ResultRow], settings: Mapping[str, Mapping[str, str]] | None = None) -> list[TableRow]:
    """One line a model, in the order of tables: data set, protocol, most instances first, best first.

    Args:
        settings: of :class:`Gathered`; runs that were given different things are lines of their own.
    """
    return [line for line, _ in lines_with_rows(rows, settings or {})]


def lines_with_rows(
    rows: Sequence[ResultRow], settings: Mapping[str, Mapping[str, str]]
) -> list[tuple[TableRow, list[ResultRow]]]:
    """The lines of :func:`table_rows`, each with every row that it stands for; no row belongs to two lines."""
    groups: dict[Hashable, list[ResultRow]] = {}
    for row in rows:
        groups.setdefault((_conditions(row), *_identity(row)), []).append(row)
    told, lines = _differing_axes(rows), []
    for group in groups.values():
        found = _repeats(group)
        # Where a seed has several scores, or runs had other settings, rows differ in what no column tells: each alone.
        alone = len(found) > len({again[0].seed for again in found})
        trained = [row for row in group if row.method not in (*BASELINES, "teacher")]
        alone = alone or are_different(settings.get(row.run_id or "", {}) for row in trained)
        for part, behind in [(again[:1], again) for again in found] if alone else [([a[0] for a in found], group)]:
            line = _line(part, part if alone else group, told.get((part[0].data, part[0].protocol), ()))
            label = f"{line.model}, {part[0].run_id}" if alone and part[0].run_id else line.model
            lines.append((_conditions(part[0]), replace(line, model=label), behind))
    teachers: dict[_Conditions, list[TableRow]] = {}
    for conditions, line, _ in lines:
        if line.method == "teacher":
            teachers.setdefault(conditions, []).append(line)
    finished = [(_beside(line, teachers.get(conditions, [])), behind) for conditions, line, behind in lines]
    return sorted(finished, key=lambda pair: _order(pair[0]))


def _order(row: TableRow) -> tuple[Any, ...]:
    return row.data, row.protocol, -(row.instances or row.detections or 0), -(row.images or 0), -row.score, row.model


def _conditions(row: ResultRow) -> _Conditions:
    axes = tuple(sorted((row.axes or {}).items()))
    return _Conditions(row.data, row.protocol, row.instances, row.images, row.detections, axes)


def _identity(row: ResultRow) -> tuple[Hashable, ...]:
    """What makes two rows the same model, but for the seed."""
    quantised = (row.weight_bits, row.activation_bits)
    model = (row.method, row.ratio, row.teacher, row.student, row.variant, *quantised, row.images_seen)
    return (*model, row.device, row.precision)


def _repeats(group: Sequence[ResultRow]) -> list[list[ResultRow]]:
    """A group's rows by measurement; each list holds one thing's measurement and its repetitions."""
    found: list[list[ResultRow]] = []
    # By a coarse score, so that thousands of rows need not be compared with each other.
    near: dict[tuple[int | None, int], list[list[ResultRow]]] = {}
    for row in group:
        score = row.miou if row.miou is not None else row.ap
        place = int((score or 0.0) / SAME)
        close = [again for step in (-2, -1, 0, 1, 2) for again in near.get((row.seed, place + step), ())]
        again = next((again for again in close if _same(row, again[0])), None)
        if again is None:
            again = []
            found.append(again)
            near.setdefault((row.seed, place), []).append(again)
        again.append(row)
    return found


def _same(row: ResultRow, other: ResultRow) -> bool:
    pairs = ((row.miou, other.miou), (row.ap, other.ap), (row.miou_point, other.miou_point))
    return all((a is None) == (b is None) and abs((a or 0) - (b or 0)) <= SAME for a, b in pairs)


def _line(rows: Sequence[ResultRow], timed: Sequence[ResultRow], told: Collection[str]) -> TableRow:
    """Means over seeds.

    Args:
        rows: one a seed.
        timed: the measurements whose latencies count.
        told: the choices in which rows of one table differ.
    """
    first = rows[0]
    metric = "miou" if first.miou is not None else "ap"
    latencies = [row.encoder_latency_ms for row in timed if row.encoder_latency_ms is not None]
    axes = {name: value for name, value in (first.axes or {}).items() if name in told}
    run_ids = tuple(dict.fromkeys(row.run_id for row in rows if row.run_id is not None))
    return TableRow(
        kind=MEASURED,
        data=str(first.data),
        protocol=str(first.protocol),
        model=model_label(first),
        method=first.method,
        ratio=first.ratio,
        teacher=first.teacher,
        student=first.student,
        variant=first.variant,
        weight_bits=first.weight_bits,
        activation_bits=first.activation_bits,
        choices=", ".join(_short(name, value) for name, value in axes.items()) or None,
        seeds=tuple(sorted(row.seed for row in rows if row.seed is not None)),
        run_ids=() if first.method in (*BASELINES, "teacher") else run_ids,
        instances=first.instances,
        images=first.images,
        detections=first.detections,
        images_seen=first.images_seen,
        metric=metric,
        score=_mean(rows, metric) or 0.0,
        score_spread=_spread(rows, metric),
        small=_mean(rows, f"{metric}_small"),
        medium=_mean(rows, f"{metric}_medium"),
        large=_mean(rows, f"{metric}_large"),
        point=_mean(rows, "miou_point"),
        point_spread=_spread(rows, "miou_point"),
        parameters=_whole(rows, "parameters"),
        macs_full=_whole(rows, "macs_full"),
        macs_modules=_whole(rows, "macs_modules"),
        size_bytes=_whole(rows, "size_bytes"),
        encoder_latency_ms=median(latencies) if latencies else None,
        device=first.device,
        precision=first.precision,
    )


def _differing_axes(rows: Sequence[ResultRow]) -> dict[tuple[str | None, str | None], set[str]]:
    """By data set and protocol, the choices that not all of its rows share."""
    found: dict[tuple[str | None, str | None], list[Mapping[str, str]]] = {}
    for row in rows:
        if row.axes is not None:
            found.setdefault((row.data, row.protocol), []).append(row.axes)
    return {
        table: {name for name in set().union(*axes) if len({own.get(name) for own in axes}) > 1}
        for table, axes in found.items()
    }


def _short(name: str, value: str) -> str:
    """A choice as a table shows it: of a hash its first digits."""
    return f"{name}={value[:12] if name.endswith('_sha256') else value}"


def _beside(line: TableRow, teachers: Sequence[TableRow]) -> TableRow:
    """A line with its differences to the teacher, where that was scored under the same conditions."""
    if line.method == "teacher":
        return line
    own = [teacher for teacher in teachers if teacher.teacher == line.teacher]
    if line.method in BASELINES and len({teacher.teacher for teacher in teachers}) == 1:
        own = list(teachers)
    if not own:
        return line
    teacher = min(own, key=lambda t: (t.precision != line.precision, t.device != line.device))
    point = None if line.point is None or teacher.point is None else 100 * (line.point - teacher.point)
    return replace(line, to_teacher=100 * (line.score - teacher.score), point_to_teacher=point)


def _known(rows: Sequence[ResultRow], column: str) -> list[float]:
    values = [getattr(row, column) for row in rows]
    return values if None not in values else []


def _mean(rows: Sequence[ResultRow], column: str) -> float | None:
    values = _known(rows, column)
    return fmean(values) if values else None


def _spread(rows: Sequence[ResultRow], column: str) -> float | None:
    values = _known(rows, column)
    return stdev(values) if len(values) > 1 else None


def _whole(rows: Sequence[ResultRow], column: str) -> int | None:
    mean = _mean(rows, column)
    return None if mean is None else round(mean)
