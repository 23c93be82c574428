"""After a sweep: one line a run, and what became of it."""

from collections.abc import Sequence

from rich.table import Table

from core.result import ResultRow
from core.terminal import terminal
from evaluation.baselines import BASELINES
from experiments.reporting.columns import count, share
from experiments.runs.sweeps.outcome import Outcome


def print_summary(outcomes: Sequence[Outcome]) -> None:
    """Print the students of a sweep, best box mIoU first; runs that ended in an error stand last, with their reason."""
    students = [
        (row, outcome)
        for outcome in outcomes
        for row in outcome.rows
        if isinstance(row, ResultRow) and row.status == "finished" and row.method not in (*BASELINES, "teacher")
    ]
    ended = [outcome for outcome in outcomes if outcome.error is not None]
    if not students and not ended:
        return
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("run", no_wrap=True)
    for name in ("box", "point", "parameters", "MACs"):
        table.add_column(name, justify="right", no_wrap=True)
    for row, _ in sorted(students, key=lambda pair: -(pair[0].miou or 0)):
        table.add_row(
            row.run_id,
            "-" if row.miou is None else share(row.miou),
            "-" if row.miou_point is None else share(row.miou_point),
            "-" if row.parameters is None else count(row.parameters),
            "-" if row.macs_full is None else count(row.macs_full),
        )
    console = terminal()
    console.print(f"\n{len(outcomes)} runs, {len(ended)} of them without a result", soft_wrap=True)
    console.print(table)
    for outcome in ended:
        console.print(f"{' '.join(outcome.overrides)}: {outcome.error}", soft_wrap=True)
    console.print("all rows on one page: python -m experiments leaderboard", soft_wrap=True)
