"""What reports say of rows that do not change, byte for byte: ``python -m tests.golden.reports`` writes it anew.

What is written is committed; a change shows as a difference to it. Write it again only where the change is meant, and
say so in the commit.
"""

import argparse
import contextlib
import io
import os
import tempfile
from pathlib import Path

from experiments.cli.command_line import main
from tests.unit.leaderboard_files import write_runs

FOLDER = Path(__file__).with_name("reports")
COMMITTED = (
    "decoupled_vs_coupled/coupled-s0-2280cc79",
    "evaluations/sam_pocket-coco_box",
    "evaluations/sam_pocket-coco_detector_box",
    "mobilesam/mobilesam-s0-dab6f986",
    "mobilesam+ptq/mobilesam+ptq-s0-8ec7759e",
    "mobilesam_options/student_vit-s0-bb796e8e",
    "ptq_ablations/ptq_mse-s0-4f16273a",
    "scratch/scratch-r0.77-s0-bdff1b0f",
    "slimsam/slimsam-r0.5-s0-18d66956",
    "slimsam+ptq/slimsam+ptq-r0.77-s0-48673bff",
)
"""Files of ``results/`` whose rows are compared: one a method, and one of each kind of evaluation."""


def reports(folder: Path) -> dict[str, str]:
    """Every report of a few made-up runs, and the leaderboard's lines of some committed rows.

    Args:
        folder: an empty one, to work in.
    """
    write_runs(folder / "runs")
    alone = ("runs=runs", "results=false")
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        commands = [
            ("leaderboard", *alone, "published=false", "pages=false", "out=board"),
            ("leaderboard", "runs=none", "pages=false", "out=committed"),
            *(("table", *alone, "data=shapes", f"format={form}", f"out=table.{form}") for form in FORMATS),
        ]
        for words in commands:
            if main(words) != 0:
                raise RuntimeError(f"{' '.join(words)} failed")
    found = {f"table.{form}": _text(folder / f"table.{form}") for form in FORMATS}
    found |= {name: _text(folder / "board" / name) for name in ("leaderboard.csv", "leaderboard.md")}
    header, *lines = _text(folder / "committed" / "leaderboard.csv").splitlines(keepends=True)
    pinned = tuple(f"results/{name}.json\r\n" for name in COMMITTED)
    return {**found, "committed.csv": "".join([header, *(line for line in lines if line.endswith(pinned))])}


FORMATS = ("csv", "markdown", "latex", "json")


def _text(path: Path) -> str:
    return path.read_bytes().decode()


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tests.golden.reports", description=__doc__).parse_args()
    os.environ["COLUMNS"] = "100"
    with tempfile.TemporaryDirectory() as place:
        for name, text in reports(Path(place)).items():
            (FOLDER / name).write_bytes(text.encode())
