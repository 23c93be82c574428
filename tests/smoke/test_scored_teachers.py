"""The runs of a sweep score their teacher once, and nothing else stands in for what they score."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evaluation.scorer import Scorer
from experiments.cli.command_line import main
from experiments.result_file import read_rows
from experiments.runs.rows import SCORED
from tests.unit.tiny import pocket_file


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The model of every image that is scored."""
    seen: list[str] = []
    score = Scorer._score

    def noted(self: Scorer, data: Any, images: Any, contents: Sequence[str]) -> Any:
        for image in score(self, data, images, contents):
            seen.append(self.model.name)
            yield image

    monkeypatch.setattr(Scorer, "_score", noted)
    return seen


def test_a_teacher_is_scored_once_for_all_runs_of_a_folder(tmp_path: Path, scored: list[str]) -> None:
    teacher, runs = pocket_file(tmp_path / "pocket.pth"), tmp_path / "runs"
    words = ["experiment=smoke", f"teacher.checkpoint={teacher}", f"runs={runs}", "format=json"]
    rows = []
    for seed in (0, 1):
        before = len(scored)
        assert main([*words, f"seed={seed}"]) == 0
        of_run = scored[before:]
        assert of_run.count("sam_pocket") == (4 if seed == 0 else 0)
        assert of_run.count("sam_pocket-slimsam-0.5") == 4
        (path,) = runs.glob(f"smoke-r0.5-s{seed}-*/result.json")
        rows.append(next(row for row in read_rows(path) if row.method == "teacher"))
    assert (rows[0].miou, rows[0].miou_point, rows[0].instances) == (
        rows[1].miou,
        rows[1].miou_point,
        rows[1].instances,
    )
    # A damaged line is scored again; another number of images takes what is known and adds the rest.
    (part,) = (runs / SCORED).glob("part-*.jsonl")
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join([lines[0], lines[1][:40] + b"\n", *lines[2:]]))
    before = len(scored)
    assert main([*words, "seed=2", "evaluation.images=5"]) == 0
    assert scored[before:].count("sam_pocket") == 2
    assert len([line for line in part.read_bytes().splitlines() if b'"records"' in line]) == 6
