"""What training buys: every method's mIoU by the images it has seen, with intervals, from committed rows.

``python -m experiments.budget`` draws the figure, ``python -m experiments.readme`` makes the tables. Each point is a
run of its own, whose schedule ends there: rates fall to zero at the end, so a longer run gives no shorter one's result.
"""

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

from core.checkpoint import replacing
from core.provenance import ROOT
from core.result import ResultRow
from evaluation.paired_seeds import ImageScores, SeedDifference, are_paired, crossed_difference, seed_difference
from experiments.paper_table import difference, interval_in_points
from experiments.reporting.columns import COLUMNS, POCKET, computed_on
from experiments.reporting.results import read_records
from experiments.reporting.text_tables import plain_table
from experiments.result_file import read_scored, scores_of

NAME = "budget"
"""Of the folder in ``results/`` whose rows are for this alone."""
FIGURE = ROOT / "docs" / "budget.svg"
METHODS = ("slimsam", "scratch", "mobilesam", "tinysam", "mobilesam+tinysam")
FOLDERS = (NAME, *METHODS, "teacher")
"""Of ``results/``, whose rows are compared by images seen."""
MEASURES = {"miou": "box prompt", "miou_point": "one point"}
PUBLISHED = {400_000: "SlimSAM: 10,000 images, 40 epochs", 800_000: "MobileSAM: 100,000 images, 8 epochs"}
"""Images seen in the papers, as marks on the axis."""
Model = tuple[str, float | None]
"""Method and ratio."""


@dataclass(frozen=True)
class Budgets:
    """Rows of students by model and images seen, on one data set and under one teacher.

    Attributes:
        runs: a row a seed.
        scores: image by image, by the id of the run, where its file has them.
        comparisons: teacher, filled box and filled ellipse, by method.
    """

    runs: Mapping[Model, Mapping[int, Sequence[ResultRow]]]
    scores: Mapping[str, ImageScores]
    comparisons: Mapping[str, ResultRow]

    @classmethod
    def committed(cls, teacher: str = POCKET, data: str = "shapes", folders: Collection[str] = FOLDERS) -> "Budgets":
        """Those of some folders of ``results/``.

        Args:
            folders: without more, all but the presets' own rows, which have other lengths and fewer images.
        """
        paths = {row["path"] for row in read_records(None, True) if row["path"].parent.name in folders}
        rows, scores = read_scored(sorted(paths))
        return cls.of(rows, scores, teacher, data)

    @classmethod
    def of(cls, rows: Sequence[ResultRow], scores: Mapping[str, ImageScores], teacher: str, data: str) -> "Budgets":
        """Those among some rows that are of one data set and one teacher; ``scores`` as :attr:`scores`."""
        runs: dict[Model, dict[int, dict[Any, ResultRow]]] = {}
        comparisons: dict[str, ResultRow] = {}
        for row in rows:
            if row.data != data or row.status != "finished":
                continue
            if row.student is None and row.teacher in (teacher, None):
                comparisons[row.method] = row
            elif row.teacher == teacher and row.method in METHODS and row.images_seen and row.variant is None:
                by_seed = runs.setdefault((row.method, row.ratio), {}).setdefault(row.images_seen, {})
                # A method may have several students: the smallest is the one that compares.
                if row.seed not in by_seed or (row.parameters or 0) < (by_seed[row.seed].parameters or 0):
                    by_seed[row.seed] = row
        ordered = {
            model: {seen: list(runs[model][seen].values()) for seen in sorted(runs[model])}
            for model in sorted(runs, key=_place)
        }
        return cls(ordered, scores, comparisons)

    def level(self, rows: Sequence[ResultRow], column: str) -> SeedDifference | None:
        """A model's mIoU with its 95 % interval: over seeds and images, over seeds (†), or, of one seed, over images.

        None where neither is known.
        """
        known = [scores_of(row, self.scores) for row in rows]
        if are_paired(known, column):
            found = [one for one in known if one is not None]
            nothing = replace(found[0], iou={column: (0.0,) * len(found[0].images)})
            return crossed_difference(found, [nothing] * len(found), column)
        values = [value for row in rows if (value := getattr(row, column)) is not None]
        return seed_difference(values, [0.0] * len(values)) if len(values) > 1 else None

    def beside(self, rows: Sequence[ResultRow], comparison: ResultRow, column: str) -> SeedDifference | None:
        """A model's less that of the teacher or of filled prompts, over seeds and images; None where one is unknown."""
        other = scores_of(comparison, self.scores)
        known = [scores_of(row, self.scores) for row in rows]
        if other is None or not known or not are_paired([*known, other], column):
            return None
        return crossed_difference([one for one in known if one is not None], [other] * len(known), column)

    def between(
        self, first: Sequence[ResultRow], second: Sequence[ResultRow], column: str
    ) -> tuple[SeedDifference, int] | None:
        """Of two lines over the seeds that both have, and how many these are; of one seed, over images alone."""
        shared = {row.seed for row in first} & {row.seed for row in second}
        if len(shared) > 1:
            found = difference(first, second, column, dict(self.scores))
            return None if found is None else (found, len(shared))
        sides = [[row for row in rows if row.seed in shared] for rows in (first, second)]
        known = [scores_of(row, self.scores) for rows in sides for row in rows]
        if len(known) != 2 or not are_paired(known, column):
            return None
        one, other = (score for score in known if score is not None)
        return crossed_difference([one], [other], column), 1


def _place(model: Model) -> tuple[int, float]:
    return METHODS.index(model[0]), model[1] or 0.0


def label(model: Model) -> str:
    """Method and ratio, as tables name them."""
    method, ratio = model
    name = method.replace("+", ", then ")
    return name if ratio is None else f"{name} {ratio:g}"


def budget_table(found: Budgets) -> str:
    """Levels by images seen, what more images buy, and who is ahead at each number of images, as Markdown."""
    seen = sorted({budget for of_model in found.runs.values() for budget in of_model})
    if len(seen) < 2:
        return "No row is committed yet: `python -m experiments experiment=budget` makes them."
    parts = []
    for column, prompt in MEASURES.items():
        lines = [
            [label(model), *(_level(found, of_model.get(budget, ()), column) for budget in seen)]
            for model, of_model in found.runs.items()
        ]
        parts.append(f"mIoU, {prompt}, by images seen:\n\n" + plain_table(["", *(f"{n:,}" for n in seen)], lines))
    steps = [
        [label(model), f"{less:,} to {more:,}", *(_gain(found, of_model[more], of_model[less], c) for c in MEASURES)]
        for model, of_model in found.runs.items()
        for less, more in zip(list(of_model), list(of_model)[1:], strict=False)
    ]
    parts.append("What more images buy, in points:\n\n" + plain_table(["", "images seen", *MEASURES.values()], steps))
    rivals = [
        [f"{label(a)} - {label(b)}", *(_rivals(found, a, b, budget, column) for column in MEASURES for budget in seen)]
        for a, b in combinations(found.runs, 2)
        if found.runs[a].keys() & found.runs[b].keys()
    ]
    header = ["first less second, points", *(f"{prompt}, {n:,}" for prompt in MEASURES.values() for n in seen)]
    parts.append("Who is ahead:\n\n" + plain_table(header, rivals))
    one = found.comparisons["teacher"]
    trained = [row for of in found.runs.values() for rows in of.values() for row in rows]
    computed = computed_on([row.device for row in trained], [row.training_precision for row in trained], one.precision)
    about = (
        f"Protocol `{one.protocol}` on held-out `{one.data}`, {one.instances:,} instances in {one.images:,} images; "
        f"{computed}. In brackets 95 % intervals: over seeds and images; † over "
        "seeds alone (Student's t), where files have no scores image by image; ¹ one seed, over images alone, "
        "which says nothing of other seeds."
    )
    return "\n\n".join([about, *parts])


def findings(found: Budgets) -> str:
    """Who is ahead of all others at a number of images, and where curves cross, as a list in Markdown.

    Only what intervals decide is said; a pair is compared at the numbers of images that both have seen.
    """
    seen = sorted({budget for of_model in found.runs.values() for budget in of_model})
    lines = [line for budget in seen if (line := _leader(found, budget))]
    for (a, b), (column, prompt) in product(combinations(found.runs, 2), MEASURES.items()):
        shared = [budget for budget in seen if budget in found.runs[a] and budget in found.runs[b]]
        compared = [(n, found.between(found.runs[a][n], found.runs[b][n], column)) for n in shared]
        known = [(budget, *each) for budget, each in compared if each is not None]
        verdicts = [difference.verdict for _, difference, _ in known]
        if len(set(verdicts)) > 1:
            parts = (
                f"{_SAID[difference.verdict]} at {budget:,}{' with one seed' if seeds == 1 else ''} "
                f"({_shown(difference, seeds)})"
                for budget, difference, seeds in known
            )
            lines.append(f"- {label(a)} against {label(b)}, {prompt}: {', '.join(parts)}.")
    return "\n".join(lines) or "No row is committed yet: `python -m experiments experiment=budget` makes them."


_SAID = {"holds": "ahead", "reversed": "behind", "undecided": "undecided"}


def _leader(found: Budgets, budget: int) -> str:
    """The model that is ahead of all others at a number of images, with both prompts; empty where none is."""
    there = [model for model, of_model in found.runs.items() if budget in of_model]
    for model in there:
        compared = [
            found.between(found.runs[model][budget], found.runs[other][budget], column)
            for other, column in product(there, MEASURES)
            if other != model
        ]
        if compared and all(each is not None and each[0].verdict == "holds" for each in compared):
            least = min((each for each in compared if each is not None), key=lambda each: each[0].difference)
            lone = [each is not None and each[1] == 1 for each in compared]
            seeds = ", with one seed" if all(lone) else ", some of them with one seed" if any(lone) else ""
            others = "every other"
            if len(there) < len(found.runs):
                others += f" that was measured there ({', '.join(label(other) for other in there if other != model)})"
            return (
                f"- At {budget:,} images {label(model)} is ahead of {others}{seeds}, with both prompts, "
                f"by {_shown(*least)} points at least."
            )
    return ""


def _shown(difference: SeedDifference, seeds: int) -> str:
    return interval_in_points(difference) + ("¹" if seeds == 1 else "")


def _level(found: Budgets, rows: Sequence[ResultRow], column: str) -> str:
    if not rows:
        return "-"
    level = found.level(rows, column)
    if level is None:
        return COLUMNS[column].shown(getattr(rows[0], column)) + " (one seed)"
    mark = "" if level.over_images else "†"
    return f"{level.difference:.4f} [{level.low:.4f}, {level.high:.4f}]{mark}{'¹' if len(rows) == 1 else ''}"


def _gain(found: Budgets, more: Sequence[ResultRow], less: Sequence[ResultRow], column: str) -> str:
    compared = found.between(more, less, column)
    return "-" if compared is None else _shown(*compared)


def _rivals(found: Budgets, a: Model, b: Model, budget: int, column: str) -> str:
    first, second = (found.runs[model].get(budget, ()) for model in (a, b))
    return _gain(found, first, second, column) if first and second else "-"


def draw(found: Budgets, path: Path) -> None:
    """The figure: both prompts, against images seen and against hours of the CPU, with 95 % intervals.

    Rows of a chain have the seconds of its last run alone, so that chains stand on the side of images only.
    """
    # Here, because matplotlib makes folders in the user's home as soon as it is imported.
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    settings: Any = {"svg.hashsalt": NAME, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(9.6, 6.6), layout="constrained")
        axes = figure.subplots(2, 2, sharey="row", sharex="col")
        for row, (column, prompt) in enumerate(MEASURES.items()):
            for number, (model, of_model) in enumerate(found.runs.items()):
                marker = "osD^vP"[number % 6]
                levels = [(seen, rows, found.level(rows, column)) for seen, rows in of_model.items()]
                known = [(seen, rows, level) for seen, rows, level in levels if level is not None]
                if not known:
                    continue
                heights = [level.difference for *_, level in known]
                below = [level.difference - level.low for *_, level in known]
                above = [level.high - level.difference for *_, level in known]
                hours = [sum(each.train_seconds or 0.0 for each in rows) / len(rows) / 3600 for _, rows, _ in known]
                sides = [(axes[row][0], [seen for seen, *_ in known]), (axes[row][1], hours)]
                for ax, places in sides[:1] if "+" in model[0] else sides:
                    ax.errorbar(
                        places, heights, [below, above], marker=marker, markersize=4.5, capsize=2.5, label=label(model)
                    )
            for method, style in (("teacher", "-"), ("filled_ellipse", ":")):
                value = getattr(found.comparisons.get(method), column, None)
                if value is not None:
                    for ax in axes[row]:
                        ax.axhline(value, color="0.55", linewidth=0.9, linestyle=style)
                    # Where no curve is: between the runs and the papers' budgets.
                    place = {"transform": axes[row][0].get_yaxis_transform(), "ha": "center", "va": "bottom"}
                    axes[row][0].text(0.62, value, method.replace("_", " "), **place, color="0.4")
            axes[row][0].set_ylabel(f"mIoU, {prompt}")
        for ax in axes[:, 0]:
            ax.set_xscale("log")
            beside = {"rotation": 90, "ha": "right", "va": "bottom", "fontsize": 7, "color": "0.4"}
            for images, name in PUBLISHED.items():
                ax.axvline(images, color="0.8", linewidth=0.9, linestyle="--")
                ax.text(images, 0.03, name, transform=ax.get_xaxis_transform(), **beside)
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        for ax in axes[:, 1]:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            # Less than two powers of ten: the lines between them have labels too.
            ax.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
            ax.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes[1][0].set_xlabel("images seen; dashed: the papers' budgets, not reached here")
        axes[1][1].set_xlabel("hours of training on the CPU, other work beside it")
        lines, names = axes[0][0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside upper center", ncols=len(names), frameon=False)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def main() -> None:
    """Draw the committed rows.

    No option changes what is drawn; the parser is here so that ``--help`` writes nothing.
    """
    argparse.ArgumentParser(prog="python -m experiments.budget", description=__doc__).parse_args()
    found = Budgets.committed()
    if not found.runs:
        sys.exit("no committed rows: python -m experiments experiment=budget makes them")
    draw(found, FIGURE)
    print(FIGURE.relative_to(ROOT))


if __name__ == "__main__":
    main()
