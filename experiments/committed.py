"""The files of ``results/``: rows that were measured and committed, a folder a method, preset or kind."""

from pathlib import Path

from core.provenance import ROOT

EVERYTHING = "everything"
"""The folder of rows of the command ``everything``, which have columns of their own."""


def committed_files() -> list[Path]:
    """The files of result rows, in order; those of :data:`EVERYTHING` hold others."""
    return [path for path in sorted((ROOT / "results").glob("*/*.json")) if path.parent.name != EVERYTHING]


def committed_strategies() -> list[Path]:
    """The files of :data:`EVERYTHING`, in order."""
    return sorted((ROOT / "results" / EVERYTHING).glob("*.json"))
