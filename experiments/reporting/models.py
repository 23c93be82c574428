"""Models over their seeds, each beside its teacher, and which of them are best for what they cost."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any

import pandas as pd

from core.result import joined_precisions
from evaluation.baselines import BASELINES
from experiments.reporting.columns import MEASURED, MODEL_COLUMNS

Record = dict[str, Any]
"""A row or a line by columns; None is unknown."""
SAME = 1e-4
"""Scores that differ by no more are two measurements of one thing."""
COMPARISONS = (*BASELINES, "teacher")
"""Methods of rows that many runs measure alike, to compare their student with."""
COSTS = (
    *("macs_full", "macs_modules", "parameters", "encoder_latency_ratio", "size_bytes", "macs_full_scaled_by_bits"),
    *("images_seen", "device_hours"),
)
"""What a score can be plotted against; a model is best for the first of these that any model beside it has."""
CONDITIONS = ("data", "protocol", "source", "instances", "images", "detections", "choices")
"""What models must share for their figures to compare; published ones stand by themselves."""
MADE_OF = ("split", "seed", "size", "difficulty")
"""Choices of images that are made, which rows name where they are not the usual."""
_SCORED_ON = ("data", "protocol", "instances", "images", "detections", "axes")
_IDENTITY = (
    *("method", "ratio", "teacher", "student", "variant", "weight_bits", "activation_bits", "images_seen"),
    "precision",
)
"""What makes two rows the same model, but for the seed and, where every seed has but one, the device."""
_NEEDED = (
    *(*_SCORED_ON, *_IDENTITY, "device", "status", "run_id", "seed", "settings", "miou", "miou_small", "miou_medium"),
    *("miou_large", "miou_point", "ap", "ap_small", "ap_medium", "ap_large", "parameters", "macs_full"),
    *("macs_modules", "size_bytes", "encoder_latency_ms", "latency_reference", "encoder_latency_ratio", "device_hours"),
    "training_precision",
)


def model_label(row: Mapping[str, Any]) -> str:
    """Method, ratio, student, variant and bits, as far as each says something that the others do not."""
    if row["method"] == "teacher":
        return f"teacher {row['teacher']}" + (f", {row['variant']}" if row["variant"] else "")
    ratio, teacher = row["ratio"], row["teacher"]
    name = row["method"].replace("_", " ") + ("" if ratio is None else f" {ratio:g}")
    student = re.sub(r"-?w\d+a\d+$", "", (row["student"] or "").removeprefix(f"{teacher}-"))
    own = row["method"].partition("+")[0] + ("" if ratio is None else f"-{ratio:g}")
    parts = [name, *([student] if student not in ("", own, teacher) else [])]
    parts += [row["variant"]] if row["variant"] not in (None, row["method"]) else []
    bits = row["weight_bits"], row["activation_bits"]
    return ", ".join([*parts, *([] if bits[0] is None else [f"W{bits[0]}A{bits[1]}"])])


def plain_records(frame: pd.DataFrame) -> list[Record]:
    """Rows as mappings in which what is unknown is None."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")  # type: ignore[return-value]


def models_frame(rows: pd.DataFrame) -> pd.DataFrame:
    """One line a model, in the order of tables: data set, protocol, most instances first, best first.

    Means and spreads are exact (``statistics``), so that the order of files does not change their last digits.

    Args:
        rows: with the columns of a result row; ``settings`` are what its run was given (None: unknown). Runs that were
            given different things are lines of their own.

    Returns:
        :data:`MODEL_COLUMNS`, and ``rows``: the places of all rows that a line stands for; no row is of two lines.
    """
    records = plain_records(rows.reindex(columns=list(_NEEDED)))
    seen = {row["run_id"]: row["images_seen"] for row in records if row["run_id"] and row["images_seen"] is not None}
    for place, row in enumerate(records):
        row["place"] = place
        if row["images_seen"] is None and row["method"] not in COMPARISONS:
            # A model that was evaluated later was trained on as many images as its run says.
            row["images_seen"] = seen.get(row["run_id"])
        if row["variant"] == row["method"]:
            # The first line of a paper's table: the method as it is.
            row["variant"] = None
    scored = [row for row in records if is_scored(row)]
    in_turns = _latencies_of_shapes(records)
    differing, lines = _differing_axes(scored), list[Record]()
    for group in _same_models(scored):
        repeats = _repeats(group)
        # Where a seed has several scores, or runs had other settings, rows differ in what no column says: each alone.
        alone = len(repeats) > len({again[0]["seed"] for again in repeats})
        alone = alone or are_different(row["settings"] for row in group if row["method"] not in COMPARISONS)
        parts = [(again[:1], again) for again in repeats] if alone else [([again[0] for again in repeats], group)]
        for part, behind in parts:
            timed = _on_one_device(part if alone else group)
            line = _line(part, timed, differing[part[0]["data"], part[0]["protocol"]])
            line["encoder_latency_ratio"] = _ratio(part[0], timed, in_turns)
            if alone and part[0]["run_id"]:
                line["model"] += f", {part[0]['run_id']}"
            lines.append({**line, "scored_on": _scored_on(part[0]), "rows": tuple(row["place"] for row in behind)})
    teachers = [line for line in lines if line["method"] == "teacher"]
    students = [line for line in lines if line["method"] not in COMPARISONS]
    taught = Counter(place for place, _ in {(_place(line), line["teacher"]) for line in students})
    for line in students:
        line["model"] += f" of {line['teacher']}" if taught[_place(line)] > 1 else ""
    for line in lines:
        beside = [teacher for teacher in teachers if teacher["scored_on"] == line["scored_on"]]
        line |= _beside(line, beside, lambda one: {records[place]["run_id"] for place in one["rows"]} - {None})
        if line["method"] in BASELINES and taught[_place(line)] > 1:
            line |= {"to_teacher": None, "point_to_teacher": None}
    lines = _once(lines)
    lines.sort(key=_order)
    return pd.DataFrame(lines, columns=[*MODEL_COLUMNS, "rows"], dtype=object)


def is_scored(row: Mapping[str, Any]) -> bool:
    """Whether a row has a score of a data set under a protocol."""
    scored = row["status"] in ("finished", "evaluated") and row["data"] and row["protocol"]
    return bool(scored) and (row["miou"] is not None or row["ap"] is not None)


def are_different(settings: Iterable[Mapping[str, str] | None]) -> bool:
    """Whether two of them give one thing different values; a thing that older files do not name says nothing."""
    known: dict[str, str] = {}
    return any(known.setdefault(name, value) != value for given in settings for name, value in (given or {}).items())


def _place(line: Record) -> tuple[Any, ...]:
    """What lines share that a reader sees side by side; choices that older files do not name may differ."""
    return tuple(line[key] for key in _SCORED_ON[:-1])


def _once(lines: Sequence[Record]) -> list[Record]:
    """The lines, those of a baseline that differ in nothing that is shown joined."""
    found: dict[tuple[Any, ...], Record] = {}
    for number, line in enumerate(lines):
        baseline = line["method"] in BASELINES
        key = (_place(line), *(line[name] for name in MODEL_COLUMNS)) if baseline else (number,)
        if key in found:
            found[key]["rows"] += line["rows"]
        else:
            found[key] = line
    return list(found.values())


def _scored_on(row: Record) -> tuple[Any, ...]:
    return (*(row[key] for key in _SCORED_ON[:-1]), tuple(sorted((row["axes"] or {}).items())))


def _same_models(rows: Sequence[Record]) -> Iterable[list[Record]]:
    """The rows of each model, in the order of first rows; by device, where a seed of a student has rows of several."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for row in rows:
        groups.setdefault((*_scored_on(row), *(row[key] for key in _IDENTITY)), []).append(row)
    for group in groups.values():
        by_device: dict[str | None, list[Record]] = {}
        for row in group:
            by_device.setdefault(row["device"], []).append(row)
        seeds = [seed for of_device in by_device.values() for seed in {row["seed"] for row in of_device}]
        # What many runs compare with is one thing wherever it scores the same.
        alike = group[0]["method"] in COMPARISONS and all(_is_same(row, group[0]) for row in group)
        yield from [group] if alike or len(seeds) == len(set(seeds)) else by_device.values()


def _on_one_device(rows: Sequence[Record]) -> list[Record]:
    """The rows of the device that most are of, whose times belong together."""
    (device, _), *_ = Counter(row["device"] for row in rows).most_common()
    return [row for row in rows if row["device"] == device]


def _repeats(group: Sequence[Record]) -> list[list[Record]]:
    """A model's rows by measurement; each list holds one thing's measurement and its repetitions.

    Students of different settings are no repetitions, however near their scores are.
    """
    found: list[list[Record]] = []
    # By a coarse score, so that thousands of rows need not be compared with each other.
    near: dict[tuple[int | None, int], list[list[Record]]] = {}
    for row in group:
        place = int(((row["ap"] if row["miou"] is None else row["miou"]) or 0.0) / SAME)
        close = [again for step in (-2, -1, 0, 1, 2) for again in near.get((row["seed"], place + step), ())]
        again = next((again for again in close if _is_same(row, again[0]) and _is_again(row, again[0])), None)
        if again is None:
            again = []
            found.append(again)
            near.setdefault((row["seed"], place), []).append(again)
        again.append(row)
    return found


def _is_again(row: Record, other: Record) -> bool:
    return row["method"] in COMPARISONS or not are_different([row["settings"], other["settings"]])


def _is_same(row: Record, other: Record) -> bool:
    pairs = ((row[key], other[key]) for key in ("miou", "ap", "miou_point"))
    return all((a is None) == (b is None) and abs((a or 0) - (b or 0)) <= SAME for a, b in pairs)


def _line(rows: Sequence[Record], timed: Sequence[Record], differing: Collection[str]) -> Record:
    """Means over seeds.

    Args:
        rows: one a seed.
        timed: the measurements whose latencies count.
        differing: the choices in which rows of one table differ.
    """
    first = rows[0]
    metric = "miou" if first["miou"] is not None else "ap"
    latencies = [row["encoder_latency_ms"] for row in timed if row["encoder_latency_ms"] is not None]
    # Of a hash the first digits.
    axes = [(k, v[:12] if k.endswith("_sha256") else v) for k, v in (first["axes"] or {}).items() if k in differing]
    figures = {"small": f"{metric}_small", "medium": f"{metric}_medium", "large": f"{metric}_large"}
    means = {name: _mean(rows, column) for name, column in (figures | {"point": "miou_point"}).items()}
    whole = {name: _mean(rows, name) for name in ("parameters", "macs_full", "macs_modules", "size_bytes")}
    hours = _mean(rows, "device_hours") or None
    run_ids = dict.fromkeys(row["run_id"] for row in rows if row["run_id"] is not None)
    return {
        **dict.fromkeys(MODEL_COLUMNS),
        **{name: first[name] for name in (*_SCORED_ON[:-1], *_IDENTITY)},
        **means,
        **{name: None if value is None else round(value) for name, value in whole.items()},
        "source": MEASURED,
        "device": " and ".join(sorted({row["device"] for row in [*rows, *timed] if row["device"]})) or None,
        "training_precision": joined_precisions(row["training_precision"] for row in rows),
        "model": model_label(first),
        "choices": ", ".join(f"{name}={value}" for name, value in axes) or None,
        "seeds": tuple(sorted(row["seed"] for row in rows if row["seed"] is not None)),
        "run_ids": () if first["method"] in COMPARISONS else tuple(run_ids),
        "metric": metric,
        "score": _mean(rows, metric) or 0.0,
        "device_hours": hours,
        "score_spread": _spread(rows, metric),
        "point_spread": _spread(rows, "miou_point"),
        "encoder_latency_ms": median(latencies) if latencies else None,
    }


def _shape(row: Record) -> tuple[Any, ...]:
    """What the time of a float model depends on, beside device and precision."""
    return tuple(row[key] for key in ("teacher", "parameters", "macs_full", "macs_modules"))


def _ratio(first: Record, timed: Sequence[Record], in_turns: Mapping[tuple[Any, ...], float]) -> float | None:
    """A model's time over its teacher's on the device that it was measured on.

    Measured by the command ``latency`` there, or by the model's own runs. What simulates integers has no time.
    """
    if first["weight_bits"] is not None:
        return None
    return in_turns.get((*_shape(first), timed[0]["device"], timed[0]["precision"])) or _own_ratio(timed)


def _latencies_of_shapes(rows: Sequence[Record]) -> dict[tuple[Any, ...], float]:
    """The ratios that ``latency`` measured of many models in one process, to their teacher, by shape and device."""
    measured = [row for row in rows if row["status"] == "counted" and row["weight_bits"] is None and not row["axes"]]
    return {
        (*_shape(row), row["device"], row["precision"]): row["encoder_latency_ratio"]
        for row in measured
        if _is_to_teacher(row)
    }


def _own_ratio(rows: Sequence[Record]) -> float | None:
    """The median of what the runs themselves measured in turns with their teacher."""
    found = [row["encoder_latency_ratio"] for row in rows if _is_to_teacher(row)]
    return median(found) if found else None


def _is_to_teacher(row: Record) -> bool:
    return row["encoder_latency_ratio"] is not None and row["latency_reference"] == row["teacher"]


def _known(rows: Sequence[Record], column: str) -> list[float]:
    values = [row[column] for row in rows]
    return values if None not in values else []


def _mean(rows: Sequence[Record], column: str) -> float | None:
    values = _known(rows, column)
    return fmean(values) if values else None


def _spread(rows: Sequence[Record], column: str) -> float | None:
    values = _known(rows, column)
    return stdev(values) if len(values) > 1 else None


def _differing_axes(rows: Sequence[Record]) -> dict[tuple[str, str], set[str]]:
    """By data set and protocol, the choices that not all of its rows share.

    Rows of earlier versions have none, which says nothing, but of :data:`MADE_OF`: without these all is as usual.
    """
    found: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        found.setdefault((row["data"], row["protocol"]), []).extend([] if row["axes"] is None else [row["axes"]])
    for table in {(row["data"], row["protocol"]) for row in rows if row["axes"] is None}:
        if any(name in axes for axes in found[table] for name in MADE_OF):
            found[table].append({name: value for name, value in found[table][0].items() if name not in MADE_OF})
    return {
        table: {name for name in set().union(*axes) if len({own.get(name) for own in axes}) > 1}
        for table, axes in found.items()
    }


def _beside(line: Record, teachers: Sequence[Record], runs_of: Callable[[Record], set[str]]) -> Record:
    """A line's differences to the teacher, where that was scored under the same conditions.

    Teachers of one name may be of several weights: then a line's is the one that its runs scored.
    """
    if line["method"] == "teacher":
        return {}
    own = [teacher for teacher in teachers if teacher["teacher"] == line["teacher"]]
    if line["method"] in BASELINES and len({teacher["teacher"] for teacher in teachers}) == 1:
        own = list(teachers)
    runs = runs_of(line)
    own = [teacher for teacher in own if runs and runs <= runs_of(teacher)] or own
    by_precision = ([t for t in own if t["precision"] == precision] for precision in (line["precision"], "float32"))
    own = next((alike for alike in by_precision if alike), own)
    own = [teacher for teacher in own if teacher["variant"] is None] or own
    if not own or any(not _is_near(teacher, own[0]) for teacher in own):
        return {}
    teacher = min(own, key=lambda teacher: teacher["device"] != line["device"])
    points = None if None in (line["point"], teacher["point"]) else 100 * (line["point"] - teacher["point"])
    return {"to_teacher": 100 * (line["score"] - teacher["score"]), "point_to_teacher": points}


def _is_near(one: Record, other: Record) -> bool:
    """Whether two teachers of one name score alike, up to what another processor or precision changes."""
    return abs(one["score"] - other["score"]) <= 10 * SAME


def _order(line: Record) -> tuple[Any, ...]:
    most = line["instances"] or line["detections"] or 0
    return line["data"], line["protocol"], -most, -(line["images"] or 0), -line["score"], line["model"]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points that no other one dominates, cheapest first.

    Args:
        points: cost, which is better low, and score, better high. Of equal points each is on the front.
    """
    best, found = float("-inf"), list[int]()
    last: tuple[float, float] | None = None
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1], place)):
        if points[place][1] > best or points[place] == last:
            best, last = points[place][1], points[place]
            found.append(place)
    return found


def front_of(lines: pd.DataFrame, cost: str, score: str = "score") -> list[Any]:
    """The labels of the lines that are best for their cost, cheapest first; none where fewer than two have both."""
    both = lines[lines[cost].notna() & lines[score].notna()]
    # A cost of nothing, as the images of a model that was not trained, has no place on a logarithmic axis.
    both = both[both[cost].astype(float) > 0]
    points = list(zip(both[cost], both[score], strict=True))
    return [both.index[place] for place in front(points)] if len(points) > 1 else []


def on_front(models: pd.DataFrame) -> set[Any]:
    """The labels of the models that are best for their cost under their conditions."""
    found: set[Any] = set()
    for _, alike in models.groupby(list(CONDITIONS), dropna=False, sort=False):
        cost = next((key for key in COSTS[:3] if alike[key].notna().any()), None)
        found |= set() if cost is None else set(front_of(alike, cost))
    return found
