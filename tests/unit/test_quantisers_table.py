"""The table of quantisers: which runs belong to which cell, and what the intervals decide."""

from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import InputError
from core.result import ResultRow
from experiments.quantisers_table import Quantisers, print_quantisers, quantisers_table
from experiments.result_file import write_result


def write_run(folder: Path, name: str, seed: int, miou: float, bits: tuple[int, int] = (4, 4)) -> Path:
    """A run of one cell, with the teacher at 0.9 beside it."""
    weights, activations = bits
    teacher = ResultRow(
        run_id=f"{name}-w{weights}-s{seed}", method="teacher", teacher="sam_pocket", data="shapes", status="finished",
        protocol="box_point@1", miou=0.9, miou_point=0.8, instances=450, images=100, device="a machine",
        precision="float32",
    )  # fmt: skip
    student = replace(
        teacher, method="ptq", variant=f"{name}_a{activations}", student="sam_pocket-w4a4", seed=seed, miou=miou,
        weight_bits=weights, activation_bits=activations, images_seen=0,
    )  # fmt: skip
    path = folder / f"{student.run_id}-a{activations}.json"
    write_result(path, [teacher, student], {})
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, spread in ((0, 0.0), (1, 0.01), (2, -0.01)):
        write_run(tmp_path, "ptq_statistics_mse_fisher", seed, 0.86 + spread)
        write_run(tmp_path, "ptq_statistics_hessian_fisher", seed, 0.85 + 2 * spread)
        write_run(tmp_path, "ptq_big_pcc_mse_fisher", seed, 0.86 + spread)
        write_run(tmp_path, "ptq_blocks_mse_fisher", seed, 0.88 + spread)
    write_run(tmp_path, "ptq_statistics_mse_fisher", 0, 0.899, (4, 32))
    return tmp_path


def test_cells_say_what_is_lost_and_what_is_gained(folder: Path) -> None:
    """By hand: t of two degrees of freedom is 4.303; a spread of 0.01 over three seeds gives 4.303 x 0.01 / sqrt(3)."""
    text = quantisers_table(Quantisers.of(folder))
    assert "its difference to float (0.9000) in points; protocol `box_point@1` on held-out" in text
    assert "`shapes`, 450 instances in 100 images" in text
    assert "| bits | mechanisms | seeds | squared error | hessian (Fisher) |" in text
    lines = text.splitlines()
    assert "| W4A4 | statistics | 3 | 0.8600, **-4.00 [-6.48, -1.52]†** | 0.8500, **-5.00 [-9.97, -0.03]†** |" in lines
    assert "| W4, activations float | statistics | 1 | 0.8990 |  |" in lines
    # The same seeds move together: nothing is left of their spread.
    assert "| W4A4 | + BIG, PCC | +0.00 [+0.00, +0.00]† |  |" in lines
    assert "| W4A4 | + reconstruction | **+2.00 [+2.00, +2.00]†** |  |" in lines
    assert "| bits | mechanisms | hessian (Fisher) over squared error |" in lines
    assert "| W4A4 | statistics | -1.00 [-3.48, +1.48]† |" in lines


def test_runs_that_do_not_belong_together_are_refused(folder: Path) -> None:
    again = write_run(folder, "ptq_blocks_mse_fisher", 0, 0.5)
    again.rename(folder / "again.json")
    write_run(folder, "ptq_blocks_mse_fisher", 0, 0.6)
    with pytest.raises(InputError, match=r"two runs of ptq_blocks_mse_fisher_a4 have one seed"):
        Quantisers.of(folder)


def test_runs_that_were_scored_otherwise_are_refused(folder: Path) -> None:
    path = write_run(folder, "ptq_big_pcc_hessian_fisher", 0, 0.6)
    path.write_text(path.read_text().replace('"instances": 450', '"instances": 892'))
    with pytest.raises(InputError, match=r"not scored alike.*450.*892"):
        Quantisers.of(folder)


def test_a_sweep_without_a_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_quantisers("ptq_state_of_the_art_w4", tmp_path)
    assert "holds no finished run of experiment=ptq_state_of_the_art" in capsys.readouterr().out
    print_quantisers("slimsam_table2", tmp_path)
    assert capsys.readouterr().out == ""
