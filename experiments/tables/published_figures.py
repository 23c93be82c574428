"""What papers say, for the protocols of this project that ask as they did."""

import csv
from typing import Any

from core.errors import InputError
from core.provenance import ROOT
from core.terminal import terminal
from experiments.tables.row import PUBLISHED, TableRow

FIGURES = ROOT / "results" / "published" / "figures.csv"
COUNTERS = {"full": "macs_full", "modules": "macs_modules", "full-scaled-by-bits": "macs_scaled"}
"""The column of a published count, by the counter that its source used."""


def published_rows() -> list[TableRow]:
    """The published figures with a comparable protocol.

    None in an installed copy, which carries no results; it is said on standard error.

    Raises:
        InputError: a figure cannot be read.
    """
    if not FIGURES.is_file():
        told = (
            "no results of the repository and no published figures here: an installed copy carries none, a clone does"
        )
        terminal(stderr=True).print(told, soft_wrap=True)
        return []
    with open(FIGURES, encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    try:
        return [_row(line) for line in lines if line["protocol"]]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{FIGURES}: not a table of published figures ({error}); restore the file") from None


def _row(line: dict[str, str]) -> TableRow:
    macs: dict[str, Any] = {}
    if line["macs_g"]:
        macs = {COUNTERS[line["macs_counter"]]: round(float(line["macs_g"]) * 1e9)}
    return TableRow(
        kind=PUBLISHED,
        data=line["dataset"],
        protocol=line["protocol"],
        model=line["model"],
        metric=line["metric"],
        score=float(line["value"]) / 100,
        small=_share(line["small"]),
        medium=_share(line["medium"]),
        large=_share(line["large"]),
        parameters=round(float(line["params_m"]) * 1e6) if line["params_m"] else None,
        macs_counter=line["macs_counter"] if line["macs_g"] else None,
        source=line["source"],
        **macs,
    )


def _share(percent: str) -> float | None:
    return float(percent) / 100 if percent else None
