"""The command ``compare``: two evaluations, instance by instance."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from core.checkpoint import write_text
from core.errors import InputError
from core.plain_file import home_path
from evaluation.comparison import Comparison, compare_records
from experiments.comparison.report import Compared
from experiments.comparison.rows import ComparedRow
from experiments.config.messages import nearest
from experiments.config.schema import CompareConfig
from experiments.out_place import check_out, writing_to
from experiments.recorded_evaluation import RecordedEvaluation, check_comparable, read_evaluation


def compare(settings: CompareConfig, cfg: DictConfig) -> list[ComparedRow]:
    """Pair the instances of two evaluations; show what differs, and write it where ``out`` says."""
    if settings.count < 0:
        raise InputError(f"count={settings.count} must be at least 0")
    if settings.out is not None:
        check_out(settings.out, home_path(settings.out) / "comparison.csv")
    runs = Path(settings.runs)
    first, second = (read_evaluation(key, getattr(settings, key), runs) for key in ("first", "second"))
    check_comparable(first, second)
    protocols = _shared(first, second, settings.protocol)
    bounds = {name: first.axes(name).get("bounds", "half_open") for name in protocols}
    comparisons = {name: compare_records(first.records[name], second.records[name], bounds[name]) for name in protocols}
    for name, comparison in comparisons.items():
        if not comparison.pairs:
            raise InputError(
                f"{name}: no instance is in both ({comparison.only_first} in the first alone, {comparison.only_second} "
                "in the second); compare evaluations of the same pictures"
            )
    notes = _unknown(first, second) + _unpaired(comparisons) + _differing_draws(first, second, protocols)
    notes += _unshared(first, second, protocols) if settings.protocol is None else []
    compared = Compared(first, second, comparisons, bounds, notes, settings.count)
    stream = sys.stdout if settings.format == "table" else sys.stderr
    if settings.format == "table":
        compared.print()
    for note in notes:
        print(note, file=stream)
    if settings.out is not None:
        print(_write(compared, settings), file=stream)
    return compared.rows()


def _shared(first: RecordedEvaluation, second: RecordedEvaluation, wanted: str | None) -> list[str]:
    """The protocols that both have, or the one that is wanted."""
    shared = [name for name in first.records if name in second.records]
    if not shared:
        one, other = (", ".join(evaluation.records) for evaluation in (first, second))
        raise InputError(f"no protocol is in both: {one} in the first, {other} in the second; evaluate again under one")
    if wanted is None:
        return shared
    chosen = [name for name in shared if wanted in (name, name.partition("@")[0])]
    if not chosen:
        raise InputError(f"protocol={wanted} is not in both evaluations; {nearest(wanted, shared)}")
    return chosen


def _unshared(first: RecordedEvaluation, second: RecordedEvaluation, protocols: list[str]) -> list[str]:
    """What only one side has."""
    notes = []
    for side, evaluation in (("first", first), ("second", second)):
        for name, records in evaluation.records.items():
            if name not in protocols:
                notes.append(f"{name}: only in the {side}, {len(records):,} instances not compared")
        detected = [str(row.protocol) for row in evaluation.rows if row.ap is not None]
        if detected:
            notes.append(f"{', '.join(detected)}: average precision in the {side}, which no single instance has")
    return notes


def _differing_draws(first: RecordedEvaluation, second: RecordedEvaluation, protocols: list[str]) -> list[str]:
    """Boxes with noise are the same only under the same seed."""
    seeds = [evaluation.setting("evaluation", "seed") for evaluation in (first, second)]
    drawn = [name for name in protocols if first.axes(name).get("jitter", "0.0") != "0.0"]
    if not drawn or seeds[0] == seeds[1]:
        return []
    told = f"evaluation.seed is {seeds[0]} in the first and {seeds[1]} in the second"
    return [f"{', '.join(drawn)}: {told}: the models were asked with other boxes"]


def _unknown(first: RecordedEvaluation, second: RecordedEvaluation) -> list[str]:
    """Evaluations of earlier versions do not say what was scored."""
    sides = [side for side, evaluation in (("first", first), ("second", second)) if evaluation.is_unknown]
    found = f"the {' and the '.join(sides)} was written without the hashes of images and annotations"
    return [f"{found}: that both scored the same is taken on trust; evaluate again to know"] if sides else []


def _unpaired(comparisons: dict[str, Comparison]) -> list[str]:
    return [
        f"{name}: left out, {c.only_first:,} instances only in the first and {c.only_second:,} only in the second"
        for name, c in comparisons.items()
        if c.only_first or c.only_second
    ]


def _write(compared: Compared, settings: CompareConfig) -> str:
    """Write the files; returns a line that says which."""
    # Here, because matplotlib makes folders in the user's home as soon as it is imported.
    from experiments.comparison.pictures import NotDrawn, draw_extremes

    assert settings.out is not None
    out = home_path(settings.out)
    with writing_to(settings.out):
        write_text(out / "comparison.csv", compared.csv())
        try:
            pictures, told = draw_extremes(out, compared, settings), ""
        except NotDrawn as reason:
            pictures, told = [], f"; no pictures were drawn: {reason}"
        write_text(out / "comparison.md", compared.markdown(pictures))
    return f"files: {out}/ ({', '.join(['comparison.csv', 'comparison.md', *pictures])}){told}"
