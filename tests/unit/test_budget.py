"""What training buys: levels and differences by images seen, from rows whose answer is known, and their figure."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from scipy.stats import t

from core.provenance import ROOT
from core.result import ResultRow
from evaluation.paired_seeds import ImageScores
from experiments.budget import PUBLISHED, Budgets, budget_table, draw, findings, label
from experiments.paper_table import interval_in_points

FACTS = {
    "protocol": "box_point@1",
    "data": "shapes",
    "instances": 4,
    "images": 2,
    "device": "CPU",
    "precision": "fp32",
} | {"status": "finished"}


def run(method: str, seen: int, seed: int, miou: float, ratio: float | None = None) -> ResultRow:
    return ResultRow(
        method=method,
        ratio=ratio,
        seed=seed,
        student=f"sam_pocket-{method}",
        run_id=f"{method}-{seen}-{seed}",
        images_seen=seen,
        miou=miou,
        miou_point=miou - 0.1,
        train_seconds=3.6 * seen,
        **FACTS,  # type: ignore[arg-type]
    )


def scored(row: ResultRow) -> ImageScores:
    """Of two images with one and three instances; the mean is the row's."""
    assert row.miou is not None and row.miou_point is not None
    means = {"miou": row.miou, "miou_point": row.miou_point}
    return ImageScores((1, 2), (1, 3), {column: (mean - 0.3, mean + 0.1) for column, mean in means.items()})


@pytest.fixture
def budgets() -> Budgets:
    slimsam = {
        1600: [run("slimsam", 1600, s, 0.80 + s / 100, 0.5) for s in (0, 1)],
        20000: [run("slimsam", 20000, 0, 0.9)],
    }
    tinysam = {1600: [run("tinysam", 1600, s, 0.50 + s / 100) for s in (0, 1)], 20000: [run("tinysam", 20000, 0, 0.95)]}
    of_images = [*slimsam[1600], *slimsam[20000], *tinysam[20000]]
    teacher = ResultRow(method="teacher", miou=0.97, miou_point=0.9, **FACTS)  # type: ignore[arg-type]
    return Budgets(
        {("slimsam", 0.5): slimsam, ("tinysam", None): tinysam},
        {str(row.run_id): scored(row) for row in of_images},
        {"teacher": teacher},
    )


def test_levels_and_differences_say_what_their_intervals_cover(budgets: Budgets) -> None:
    slimsam, tinysam = budgets.runs["slimsam", 0.5], budgets.runs["tinysam", None]
    # Image by image: seeds give 0.00005 / 2, the images (0.15 ** 2 + 0.15 ** 2) / 2, with one degree of freedom each.
    level = budgets.level(slimsam[1600], "miou")
    assert level is not None and level.over_images and level.difference == pytest.approx(0.805)
    assert (level.high - level.low) / 2 == pytest.approx(
        t.ppf(0.975, 0.022525**2 / (0.000025**2 + 0.0225**2)) * 0.022525**0.5
    )
    # Means alone: Student's t of 0.50 and 0.51, whose quantile for one degree of freedom is 12.706.
    level = budgets.level(tinysam[1600], "miou")
    assert level is not None and not level.over_images
    assert (level.high - level.low) / 2 == pytest.approx(12.706 * 0.005, rel=1e-3)
    # One seed and no scores by image: no interval.
    assert Budgets(budgets.runs, {}, {}).level(slimsam[20000], "miou") is None
    # Two seeds of means, one seed by image; the same difference in every image has no width.
    both = budgets.between(slimsam[1600], tinysam[1600], "miou")
    assert both is not None and both[1] == 2 and interval_in_points(both[0]) == "+30.0 [+30.0, +30.0]†"
    one = budgets.between(tinysam[20000], slimsam[20000], "miou_point")
    assert one is not None and one[1] == 1 and interval_in_points(one[0]) == "+5.0 [+5.0, +5.0]"
    assert budgets.between(tinysam[20000], [run("slimsam", 20000, 7, 0.9)], "miou") is None


def test_of_one_image_and_one_seed_nothing_is_decided(budgets: Budgets) -> None:
    lone = {run_id: ImageScores((1,), (4,), {"miou": (0.9,)}) for run_id in budgets.scores}
    found, slimsam = replace(budgets, scores=lone), budgets.runs["slimsam", 0.5]
    assert found.between(budgets.runs["tinysam", None][20000], slimsam[20000], "miou") is None
    assert found.level(slimsam[20000], "miou") is None
    level = found.level(slimsam[1600], "miou")
    assert level is not None and not level.over_images


def test_the_tables(budgets: Budgets) -> None:
    table = budget_table(budgets)
    assert "mIoU, box prompt, by images seen" in table and "| 1,600 | 20,000 |" in table
    levels = re.findall(r"^\| tinysam \| (.*) \| (.*) \|$", table, re.MULTILINE)
    assert levels[0] == ("0.5050 [0.4415, 0.5685]†", "0.9500 [-0.9559, 2.8559]¹")
    assert "| slimsam 0.5 | 1,600 to 20,000 | +10.0 [+10.0, +10.0]¹ | +10.0 [+10.0, +10.0]¹ |" in table
    each = "+30.0 [+30.0, +30.0]† | -5.0 [-5.0, -5.0]¹"
    assert f"| slimsam 0.5 - tinysam | {each} | {each} |" in table


def test_findings_are_what_intervals_decide(budgets: Budgets) -> None:
    first, last, box, point = findings(budgets).splitlines()
    # Both prompts have the same difference; at 20,000 tinysam is ahead of the only other one, which has one seed.
    assert first.startswith(
        "- At 1,600 images slimsam 0.5 is ahead of every other, with both prompts, by +30.0 [+30.0,"
    )
    assert last.startswith("- At 20,000 images tinysam is ahead of every other, with one seed, with both")
    crossing = "ahead at 1,600 (+30.0 [+30.0, +30.0]†), behind at 20,000 with one seed (-5.0 [-5.0, -5.0]¹)."
    assert box == f"- slimsam 0.5 against tinysam, box prompt: {crossing}"
    assert point == f"- slimsam 0.5 against tinysam, one point: {crossing}"


def test_those_that_were_measured_at_a_budget_are_named_where_not_all_were(budgets: Budgets) -> None:
    alone = {("scratch", 0.5): {1600: [run("scratch", 1600, seed, 0.4) for seed in (0, 1)]}}
    more = replace(budgets, runs={**budgets.runs, **alone})
    last = next(line for line in findings(more).splitlines() if "At 20,000" in line)
    assert "tinysam is ahead of every other that was measured there (slimsam 0.5), with one seed, with both" in last


def test_of_comparisons_only_some_of_which_have_one_seed_that_is_said(budgets: Budgets) -> None:
    slimsam, tinysam = budgets.runs["slimsam", 0.5], budgets.runs["tinysam", None]
    scratch = {1600: [run("scratch", 1600, 0, 0.4)]}
    runs = {"slimsam": {1600: slimsam[1600]}, "tinysam": {1600: tinysam[1600]}, "scratch": scratch}
    scores = {**budgets.scores, "scratch-1600-0": scored(scratch[1600][0])}
    (line,) = findings(Budgets({(name, None): of for name, of in runs.items()}, scores, {})).splitlines()
    assert line.startswith("- At 1,600 images slimsam is ahead of every other, some of them with one seed, with both")


def test_with_one_number_of_images_there_is_nothing_to_say(budgets: Budgets) -> None:
    one = {model: {1600: of_model[1600]} for model, of_model in budgets.runs.items()}
    assert budget_table(Budgets(one, {}, budgets.comparisons)).startswith("No row is committed yet")


def test_the_figure_has_every_model_and_the_papers_budgets(budgets: Budgets, tmp_path: Path) -> None:
    path = tmp_path / "budget.svg"
    draw(budgets, path)
    first = path.read_bytes()
    drawn = first.decode()
    for text in (*map(label, budgets.runs), *PUBLISHED.values(), "mIoU, one point", "teacher"):
        assert f"<!-- {text} -->" in drawn
    draw(budgets, path)
    assert path.read_bytes() == first


def test_the_page_has_the_time_of_an_image_in_committed_rows() -> None:
    page = (ROOT / "docs" / "budget.md").read_text(encoding="utf-8")
    found = Budgets.committed().runs
    for model in (("slimsam", 0.5), ("slimsam", 0.77), ("scratch", 0.5), ("mobilesam", None)):
        cells = []
        for seen in (1600, 5600, 20000):
            each = [1000 * (row.train_seconds or 0) / seen for row in found[model][seen]]
            cells.append(" to ".join(dict.fromkeys(f"{time:.0f}" for time in (min(each), max(each)))))
        assert f"| {label(model)} | {' | '.join(cells)} |" in page
    devices = {
        seen: {str(row.device)[:3] for of in found.values() for row in of.get(seen, ())} for seen in (1600, 20000)
    }
    assert devices == {1600: {"AMD"}, 20000: {"Int"}}


def test_chains_have_no_place_among_hours(budgets: Budgets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their seconds are of the last run alone, and their images of all."""
    chain = {("mobilesam+tinysam", None): {1600: [run("mobilesam+tinysam", 1600, s, 0.6) for s in (0, 1)]}}
    drawn: list[tuple[str, float]] = []

    def errorbar(ax: Axes, places: list[float], *_: object, label: str, **__: object) -> None:
        drawn.extend((label, place) for place in places)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    draw(replace(budgets, runs={**budgets.runs, **chain}), tmp_path / "budget.svg")
    of_chain = [place for name, place in drawn if name == "mobilesam, then tinysam"]
    assert of_chain == [1600, 1600], "by images, once a prompt"
    # 3.6 seconds an image.
    assert [place for name, place in drawn if name == "tinysam"] == 2 * [1600, 20000, 1.6, 20.0]


def test_committed_rows_are_students_of_one_teacher_at_their_budgets() -> None:
    found = Budgets.committed()
    assert len(found.runs["slimsam", 0.77][5600]) == 3 and set(found.comparisons) >= {"teacher", "filled_ellipse"}
    for model, of_model in found.runs.items():
        for seen, rows in of_model.items():
            assert {(row.method, row.ratio, row.images_seen, row.teacher) for row in rows} == {
                (*model, seen, "sam_pocket")
            }
            assert len({row.seed for row in rows}) == len(rows)
