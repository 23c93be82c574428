"""Thousands of rows folded into the leaderboard, against reading the same files as JSON alone.

``python -m benchmarks.leaderboard``. The files are made in a temporary folder: runs of four rows, and single rows. Each
piece of work is done by a process of its own, whose peak memory is printed beside what it has after its imports.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from benchmarks._timing import busy, machine
from core.memory import peak_resident_bytes
from core.result import ResultRow
from experiments.reporting.documents import leaderboard_markdown
from experiments.reporting.leaderboard_page import leaderboard_page
from experiments.reporting.results import csv_of, fold, gather
from experiments.result_file import NAME

COMMAND = "python -m experiments leaderboard"
_STUDENT = ResultRow(
    method="slimsam", ratio=0.5, teacher="sam_pocket", student="sam_pocket-slimsam-0.5", data="shapes",
    protocol="box_point@1", parameters=1_424_000, encoder_parameters=664_000, macs_full=236_800_000,
    macs_modules=212_600_000, encoder_macs_full=204_000_000, encoder_macs_modules=162_000_000, size_bytes=5_700_000,
    decoder_latency_ms=6.25, peak_memory_bytes=15_980_176, device="a processor", precision="float32", seed=0,
    images_seen=5600, train_seconds=312.5, status="finished", git_sha="f" * 40, instances=892, images=200,
    skipped={"crowd": 11}, train_images_per_s=17.92, train_peak_memory_bytes=1_502_412_800, device_hours=0.0868,
)  # fmt: skip


def made_rows(number: int) -> list[ResultRow]:
    """The four rows of a run; the models differ by their ratio, three seeds each."""
    ratio, noise = 0.2 + 0.7 * ((number // 3) * 0.618 % 1), ((number * 7919) % 1000) * 1e-5
    run = f"slimsam-r{ratio:.6f}-s{number % 3}-{number:08x}"
    student = replace(
        _STUDENT, run_id=run, ratio=ratio, seed=number % 3, miou=0.93 - 0.3 * ratio**3 + noise, miou_point=0.8 + noise,
        macs_full=round(7e8 * (1 - ratio)), parameters=round(2.9e6 * (1 - ratio)), encoder_latency_ms=20 + 1e3 * noise,
    )  # fmt: skip
    fillings = [
        ResultRow(method=name, run_id=run, data="shapes", protocol="box_point@1", miou=miou, status="finished")
        for name, miou in (("filled_box", 0.5702), ("filled_ellipse", 0.6248))
    ]
    teacher = replace(_STUDENT, run_id=run, method="teacher", ratio=None, student=None, seed=None, miou=0.9148)
    return [*fillings, teacher, student]


def make_files(folder: Path, rows: int, each: int) -> None:
    """Result files with ``each`` rows apiece, of the size that runs write."""
    about = {
        "config": {f"setting_{number}": {"value": number, "words": "x" * 20} for number in range(60)},
        "provenance": {
            "argv": ["method=slimsam", "ratio=0.5"], "versions": {"torch": torch.__version__}, "utc": "2026-01-01",
        },
        "student_sha256": "0" * 64, "teacher_sha256": "1" * 64, "paper": "arXiv 2312.05284",
    }  # fmt: skip
    for number in range(rows // each):
        found = made_rows(number)[-each:]
        path = folder / str(found[0].run_id) / NAME
        path.parent.mkdir(parents=True)
        # As a run's file is, but not forced to the disk one by one.
        path.write_text(json.dumps({"rows": [row.to_dict() for row in found], **about}, indent=1), encoding="utf-8")


def read_json(runs: Path) -> None:
    """The same files, read and thrown away."""
    for path in sorted(runs.glob(f"*/{NAME}")):
        json.loads(path.read_text(encoding="utf-8"))


def read_rows(runs: Path) -> None:
    """Rows checked, grouped over seeds, and equal comparisons left out."""
    gather(runs, results=False, published=False)


def write_csv(runs: Path) -> None:
    """What every run does at its end."""
    fold(runs, results=False, published=False)


def write_all(runs: Path) -> None:
    """CSV, Markdown and page, without pages of single runs."""
    found = gather(runs, results=False, published=False)
    for text in (csv_of(found.rows), leaderboard_markdown(found, COMMAND), leaderboard_page(found, COMMAND)):
        (runs / ".written").write_text(text, encoding="utf-8")


WORKS: dict[str, Callable[[Path], None]] = {
    "JSON alone": read_json,
    "rows, grouped": read_rows,
    "leaderboard.csv": write_csv,
    "CSV, Markdown, HTML": write_all,
}


def measured(work: str, runs: Path) -> tuple[float, float, float, float]:
    """Seconds, seconds of the processor, and MB of memory before the work and at its peak, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.leaderboard", "--work", work, "--runs", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, processor, before, peak = map(float, done.stdout.split())
    return seconds, processor, before, peak


def main() -> None:
    """Parse the command line, measure, print one line a piece of work."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leaderboard", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        before = peak_resident_bytes()
        began, used = time.perf_counter(), time.process_time()
        WORKS[given.work](given.runs)
        seconds, processor = time.perf_counter() - began, time.process_time() - used
        print(seconds, processor, before / 2**20, peak_resident_bytes() / 2**20)
        return
    print(f"{given.rows} rows, {given.rounds} rounds; {machine(torch.device('cpu'))}")
    for each in (4, 1):
        with tempfile.TemporaryDirectory() as folder:
            make_files(Path(folder), given.rows, each)
            size = f"{given.rows // each} files of {each} row{'s' * (each > 1)}"
            print(f"{size}: seconds, of the processor, their ratio, peak memory (of which imports)")
            found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in WORKS}
            for _ in range(given.rounds):
                for name, times in found.items():
                    times.append(measured(name, Path(folder)))
            # Other processes on the machine change a time more than they change the processor's.
            alone = median(time[1] for time in found["JSON alone"])
            for name, times in found.items():
                seconds, processor = (median(time[place] for time in times) for place in (0, 1))
                before, peak = times[-1][2:]
                memory = f"{peak:7.0f} MB ({before:.0f} MB)"
                print(f"{name:<20} {seconds:8.2f} s {processor:8.2f} s {processor / alone:7.2f}x {memory}", flush=True)
    print(busy())


if __name__ == "__main__":
    main()
