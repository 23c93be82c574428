"""All rows as a table of pandas, for notebooks and scripts of one's own."""

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.leaderboard.columns import LEADERBOARD_COLUMNS
from experiments.leaderboard.folding import gather

if TYPE_CHECKING:
    import pandas as pd


def leaderboard_frame(runs: Path | None = Path("runs"), results: bool = True, published: bool = True) -> "pd.DataFrame":
    """The lines of ``leaderboard.csv`` with its columns (``docs/leaderboard.md``), nothing written.

    Args:
        runs: the folder of runs; None for none.
        results, published: whether the committed rows and the published figures are in it.

    Returns:
        A line a row. Numbers have pandas' own types, so that what is unknown is missing and whole numbers stay whole.
    """
    import pandas as pd

    lines = [entry.to_dict() for entry in gather(runs, results, published).entries]
    return pd.DataFrame(lines, columns=list(LEADERBOARD_COLUMNS)).convert_dtypes()
