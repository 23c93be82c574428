"""A paper's table: measured beside published, and a verdict on every published ordering."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError
from core.result import ResultRow
from evaluation.paired_seeds import ImageScores
from experiments.paper_table import Entry, orderings, presets, rows_of_runs, table
from experiments.result_file import BESIDE, BY_IMAGE, write_result


def row(variant: str, seed: int, point: float, ratio: float = 0.77) -> ResultRow:
    return ResultRow(
        run_id=f"{variant}-r{ratio}-s{seed}-00000000", method="slimsam", variant=variant, ratio=ratio, seed=seed,
        student="student", teacher="sam_pocket", data="shapes", protocol="box_point@1", miou=point + 0.1,
        miou_point=point, instances=450, images=100, images_seen=1600, device="a machine", status="finished",
    )  # fmt: skip


def entry(variant: str, published: float) -> Entry:
    return Entry("Table", variant.upper(), variant, 0.77, published)


def test_orderings_are_judged_by_intervals_over_paired_seeds() -> None:
    """By hand: A less B is 0.2 and 0.2; B less C is -0.005 and 0.008; a t of one degree of freedom is 12.706."""
    entries = [entry("a", 0.5), entry("b", 0.4), entry("c", 0.3), entry("d", 0.2), entry("e", 0.1)]
    points = {"a": (0.70, 0.72), "b": (0.50, 0.52), "c": (0.505, 0.512), "d": (0.60, 0.61), "e": (0.1,)}
    measured = {(v, 0.77, None): [row(v, seed, p) for seed, p in enumerate(of)] for v, of in points.items()}
    lines = orderings(entries, measured, {})
    assert "Student's t over seeds alone, marked †" in lines[0]
    assert lines[4:] == [
        "| A > B | Table, 0.77 | **+20.0 [+20.0, +20.0]†** | +20.0 [+20.0, +20.0]† | published | holds |",
        "| B > C | Table, 0.77 | **+0.2 [-8.1, +8.4]†** | +0.2 [-8.1, +8.4]† | published | undecided |",
        "| C > D | Table, 0.77 | **-9.6 [-11.6, -7.7]†** | -9.6 [-11.6, -7.7]† | published | reversed |",
    ]


def test_seeds_are_paired_and_a_contradiction_of_the_other_prompt_is_named() -> None:
    """Seeds that one line alone has count nowhere; the other prompt's opposite verdict stands beside."""
    entries = [Entry("Ours", name, name, 0.77, None, False) for name in "ab"]
    ours = [row("a", 7, 0.1), *(row("a", seed, 0.7 + seed / 10) for seed in range(2))]
    theirs = [replace(row("b", seed, 0.6 + seed / 10), miou=0.95) for seed in range(2)]
    lines = orderings(entries, {("a", 0.77, None): ours, ("b", 0.77, None): theirs}, {})
    assert lines[-1].endswith("| here alone | holds |")
    assert "| **+10.0 [+10.0, +10.0]†** | -10.0 [-73.5, +53.5]† |" in lines[-1]
    theirs = [replace(one, miou=0.95 + index / 10) for index, one in enumerate(theirs)]
    lines = orderings(entries, {("a", 0.77, None): ours, ("b", 0.77, None): theirs}, {})
    assert lines[-1].endswith("| here alone | holds; reversed with boxes |")


def test_files_with_scores_by_image_are_judged_over_seeds_and_images() -> None:
    images, instances = (3, 5), (1, 3)
    measured = {(v, 0.77, None): [row(v, seed, p) for seed in range(2)] for v, p in (("a", 0.7), ("b", 0.5))}
    scores = {
        one.run_id: ImageScores(images, instances, {"miou_point": of, "miou": of})
        for (variant, *_), rows in measured.items()
        for one, of in zip(rows, ((0.9, 0.6), (0.8, 0.7)) if variant == "a" else ((0.5, 0.5), (0.5, 0.5)), strict=True)
    }
    lines = orderings([entry("a", 0.5), entry("b", 0.4)], measured, scores)  # type: ignore[arg-type]
    # Seeds: (0.4 x 1 + 0.1 x 3) / 4 and (0.3 + 0.2 x 3) / 4, 20 points in the mean, of variance 0.00125 / 2. Images
    # move it by 0.5 x 0.15 and 1.5 x -0.05: 0.005625. In all 0.00625 with 1.2195 degrees of freedom (quantile 8.398).
    assert "**+20.0 [-46.4, +86.4]** | +20.0 [-46.4, +86.4] | published | undecided" in lines[-1]
    assert "of Student's t over seeds and images." in lines[0]
    del scores[measured["b", 0.77, None][1].run_id]
    assert "†" in orderings([entry("a", 0.5), entry("b", 0.4)], measured, scores)[-1]  # type: ignore[arg-type]


def test_of_one_image_there_is_an_interval_over_seeds_alone() -> None:
    measured = {(v, 0.77, None): [row(v, seed, p) for seed in range(2)] for v, p in (("a", 0.7), ("b", 0.5))}
    scores = {
        str(one.run_id): ImageScores((3,), (4,), {"miou_point": (one.miou_point or 0,), "miou": (one.miou or 0,)})
        for rows in measured.values()
        for one in rows
    }
    entries = [entry("a", 0.5), entry("b", 0.4)]
    assert "| **+20.0 [+20.0, +20.0]†** | +20.0 [+20.0, +20.0]† |" in orderings(entries, measured, scores)[-1]
    assert not orderings(entries, {key: rows[:1] for key, rows in measured.items()}, scores), "one seed decides nothing"


def test_a_table_shows_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write_result(tmp_path / "run" / "result.json", [row("slimsam", 0, 0.75), row("slimsam", 1, 0.77)], {})
    # What a fresh start has set aside.
    write_result(tmp_path / ".run.earlier" / "result.json", [row("slimsam", 0, 0.25), row("slimsam", 1, 0.25)], {})
    write_result(tmp_path / "taylor.json", [row("taylor", 0, 0.7)], {})
    write_result(tmp_path / "unnamed.json", [ResultRow(method="slimsam", student="s", status="finished")], {})
    rows, scores = rows_of_runs(tmp_path)
    assert not scores
    assert [r.variant for r in rows] == ["slimsam", "slimsam", "taylor"]
    text = table("slimsam_table2", rows)
    assert "| Table 2: in one step | SlimSAM | 0.77 | 2 | 0.7600 ± 0.0141 | 0.8600 ± 0.0141 | *0.6740* |" in text
    assert "| Table 2: criterion inside SlimSAM | Taylor pruning | 0.77 | 1 | 0.7000 | 0.8000 | *0.6426* |" in text
    assert "| Table 2: in one step | SlimSAM | 0.5 | 0 | - | - | *0.7233* |" in text
    assert "450 instances in 100 images; 1,600 training images a run" in text
    with pytest.raises(InputError, match="start them with experiment=slimsam_ablations"):
        table("slimsam_ablations", [])


def write_quantised(folder: Path, seed: int, found: float, beside: bool, images: tuple[int, ...] = (1, 2)) -> Path:
    """A result of a quantised teacher of 0.9 with one point and 1.0 with boxes, which scores alike on each image."""
    student = replace(row("ptq_mixed", seed, found), run_id=f"mixed-{seed}", ratio=None, weight_bits=4)
    teacher = replace(row("teacher", seed, 0.9), run_id=f"mixed-{seed}", ratio=None, variant=None, student=None)

    def scores(point: float) -> dict[str, list[Any]]:
        return ImageScores(images, (1, 1), {"miou": (point + 0.1,) * 2, "miou_point": (point,) * 2}).to_dict()

    about: dict[str, Any] = {BY_IMAGE: scores(found)} | ({BESIDE: {"teacher": scores(0.9)}} if beside else {})
    write_result(path := folder / f"{seed}.json", [replace(teacher, method="teacher"), student], about)
    return path


def test_what_is_lost_is_seen_beside_the_teacher_of_the_same_runs(tmp_path: Path) -> None:
    for seed, found in enumerate((0.88, 0.9, 0.89)):
        write_quantised(tmp_path, seed, found, beside=False)
    rows, scores = rows_of_runs(tmp_path)
    assert set(scores) == {"mixed-0", "mixed-1", "mixed-2"}
    assert [(r.variant, r.seed) for r in rows].count(("teacher", 1)) == 1
    lines = table("ptq_mechanisms", rows, scores).splitlines()
    assert "| What is lost | float | 4 | 3 | 0.9000 ± 0.0000 | 1.0000 ± 0.0000 |  |" in lines
    # Differences 2, 0 and 1 points: a mean of 1, a standard error of 0.577, t of two degrees of freedom 4.30. The
    # student's scores image by image are not the teacher's: nothing is drawn over images.
    assert any("float > all deployable, ends with 8 bits" in line and "+1.0 [-1.5, +3.5]†" in line for line in lines)


def test_the_teachers_scores_image_by_image_are_paired_with_its_students(tmp_path: Path) -> None:
    for seed, found in enumerate((0.88, 0.9, 0.89)):
        # The teacher scores the same in all runs: one file of its scores is enough.
        write_quantised(tmp_path, seed, found, beside=seed == 1)
    lines = table("ptq_mechanisms", *rows_of_runs(tmp_path)).splitlines()
    # Nothing differs between images: the interval is that of seeds.
    (line,) = (line for line in lines if "float > all deployable, ends with 8 bits" in line)
    assert "+1.0 [-1.5, +3.5]" in line and "†" not in line


def test_scores_of_other_images_or_that_contradict_their_row_are_refused(tmp_path: Path) -> None:
    for seed, images in enumerate(((1, 2), (3, 4))):
        write_quantised(tmp_path, seed, 0.8, beside=True, images=images)
    with pytest.raises(InputError, match=r"teacher of mixed-\d and ptq of mixed-\d|were scored on different images"):
        table("ptq_mechanisms", *rows_of_runs(tmp_path))
    path = write_quantised(tmp_path, 1, 0.8, beside=True)
    path.write_text(path.read_text().replace("0.8", "0.7", 1))
    with pytest.raises(
        InputError, match=r"1\.json: miou_point of slimsam is 0\.7, but its scores .* a mean of 0\.8000"
    ):
        rows_of_runs(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 0, "run_id": "again"}, "slimsam-r0.77-s0-00000000 and again are of one line and seed"),
        ({"instances": 22, "images": 5}, "instances is 450 in slimsam-r0.77-s0-00000000 and 22 in slimsam-r0.77-s1"),
        ({"teacher": "sam_vit_b"}, "teacher is sam_pocket in slimsam-r0.77-s0-00000000 and sam_vit_b in slimsam"),
        ({"precision": "bfloat16"}, "precision is None in slimsam-r0.77-s0-00000000 and bfloat16 in slimsam-r0.77-s1"),
        (
            {"axes": {"size": "64"}},
            "axes is None in slimsam-r0.77-s0-00000000 and {'size': '64'} in slimsam-r0.77-s1",
        ),
        (
            {"images_seen": 8000},
            "s0-00000000 was trained on 1600 images, slimsam-r0.77-s1-00000000 of the same line on 8",
        ),
    ],
)
def test_runs_that_do_not_compare_are_not_averaged(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        table("slimsam_table2", [row("slimsam", 0, 0.75), replace(row("slimsam", 1, 0.77), **changes)])


def test_published_figures_are_those_of_the_shared_table(shared: Path) -> None:
    """The whole of Table 2 is in ``published.csv`` too: in one step, which is claimed, and beside what runs in two."""
    text = (shared / "published.csv").read_text(encoding="utf-8")
    names = {"slimsam": "SlimSAM", "scratch": "scratch-distillation", "group_fisher": "hessian-pruning"}
    counts = {True: 0, False: 0}
    for line in presets()["slimsam_table2"]:
        assert line.claimed == (line.group == "Table 2: in one step")
        if line.published is not None:
            variant = line.variant.removeprefix("one_step_")
            name = names.get(variant, f"{variant}-pruning") + f"-{100 * line.ratio:.0f}"
            assert f"{name},miou,{100 * line.published:.2f}," in text
            counts[line.claimed] += 1
    # The diagonal Hessian is nothing that the paper has.
    assert counts == {True: 12, False: 10}


def test_only_what_a_paper_publishes_is_claimed() -> None:
    lines = {preset: [(line.group, line.variant, line.claimed) for line in of] for preset, of in presets().items()}
    coupled = {variant: claimed for group, variant, claimed in lines["decoupled_vs_coupled"] if "frozen" in group}
    assert coupled == dict.fromkeys(("mobilesam", "semi_coupled", "coupled"), False)
    assert [claimed for group, _, claimed in lines["decoupled_vs_coupled"] if "distilled" in group] == [True, True]
    assert not any(claimed for _, _, claimed in lines["slimsam_released_options"])
    after = {
        variant for group, variant, claimed in lines["slimsam_ablations"] if claimed and "scored after it" in group
    }
    assert after == {"after_step1", "after_step1_final", "after_step1_dynamic"}
