"""The comparison of one run: readable at eighty columns."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from core.result import ResultRow
from experiments.reporting.columns import count
from experiments.reporting.run_report import comparison, conditions, cost_line, print_comparison

THIRD = 1 / 3


def rows_of(run: str, seed: int, latency: float = 12.345678901234567) -> list[ResultRow]:
    """Four rows as a run has them."""
    shared = {"run_id": run, "data": "shapes", "protocol": "box_point@1", "status": "finished", "git_sha": "f" * 40}
    machine = {
        "device": "a processor",
        "precision": "float32",
        "encoder_latency_ms": latency,
        "instances": 7,
        "images": 2,
    }
    return [
        ResultRow(method="filled_box", miou=0.6, **shared, instances=7, images=2),  # type: ignore[arg-type]
        ResultRow(method="filled_ellipse", miou=2 * THIRD, **shared, instances=7, images=2),  # type: ignore[arg-type]
        ResultRow(  # type: ignore[arg-type]
            method="teacher", teacher="sam_pocket", miou=0.9, miou_point=0.8, parameters=2_863_849, **shared, **machine
        ),
        ResultRow(  # type: ignore[arg-type]
            method="slimsam", ratio=0.77, teacher="sam_pocket", student="sam_pocket-slimsam-0.77", seed=seed,
            miou=0.1 + 0.2, miou_point=THIRD, parameters=1_000_001, images_seen=6000, skipped={"crowd": 2, "a, b": 1},
            **shared, **machine,
        ),
    ]  # fmt: skip


def test_the_table_fits_eighty_columns_and_shows_the_differences() -> None:
    rows = rows_of("run-s0", 0)
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(comparison(rows))
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    lines = {line.split("│")[0].strip(): [cell.strip() for cell in line.split("│")[1:]] for line in text.splitlines()}
    assert lines["mIoU, box"] == ["0.6000", "0.6667", "0.9000", "0.3000"]
    assert next(line for line in text.splitlines() if "to teacher" in line).split("│")[1:][3].strip() == "-60.00"
    assert lines["parameters"] == ["-", "-", "2.864 M", "1 M"]
    assert "MACs, counter full" not in lines, "what nobody has is left out"
    for heading in ("filled", "ellipse", "sam_pocket", "slimsam", "ratio 0.77"):
        assert heading in text


def test_the_line_above_says_what_it_was_measured_on(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of("run-s0", 3)
    assert conditions(rows) == "box_point@1 on shapes: 7 instances in 2 images, a processor, float32, seed 3"
    print_comparison(rows, Path("runs/run-s0"))
    assert "pocket scale" in capsys.readouterr().out
    print_comparison([replace(row, teacher="sam_photo" if row.teacher else None) for row in rows])
    assert "pocket scale" in capsys.readouterr().out
    big = [replace(row, teacher="sam_vit_b" if row.teacher else None) for row in rows]
    print_comparison(big)
    assert "pocket scale" not in capsys.readouterr().out


def test_what_was_left_out_stands_below(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of("run", 0)
    print_comparison([replace(row, skipped={}) for row in rows])
    assert "left out" not in capsys.readouterr().out
    print_comparison([*rows[:-1], replace(rows[-1], skipped={"crowd": 1200, "training_empty_box": 1})])
    assert "left out or changed by rule: crowd 1,200, training_empty_box 1\n" in capsys.readouterr().out


def test_numbers_for_people() -> None:
    assert [count(n) for n in (999, 5_658_968, 371_814_000_000)] == ["999", "5.659 M", "371.8 G"]


def test_a_part_of_a_cost_stands_behind_the_whole_in_brackets() -> None:
    row = replace(
        rows_of("run", 0)[2], encoder_parameters=2_104_800, macs_full=639_485_184, encoder_macs_full=607_300_000
    )
    assert cost_line(row) == (
        "parameters 2.864 M (image encoder 2.105 M); MACs, counter full 639.5 M (image encoder 607.3 M); "
        "encoder latency 12.3 ms"
    )
