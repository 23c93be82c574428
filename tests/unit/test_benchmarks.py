"""Every benchmark says, as its last line, how busy the machine was while it ran."""

import ast
import os
import time
from pathlib import Path

import pytest

from benchmarks import _timing
from core.provenance import ROOT

TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def began(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred seconds ago, on four CPUs; since then this process and its children computed for 80 seconds."""
    monkeypatch.setattr(time, "monotonic", lambda: 1100.0)
    monkeypatch.setattr(os, "times", lambda: (70.0, 10.0, 30.0, 20.0, 5.0))
    monkeypatch.setattr(os, "getloadavg", lambda: (3.14, 2.72, 1.0))
    monkeypatch.setattr(_timing, "allowed", lambda: 4)
    monkeypatch.setattr(_timing, "_BEGAN", (1000.0, 50.0, 1000.0, 5000.0))


def stat(folder: Path, *seconds: float) -> Path:
    (folder / "stat").write_text(f"cpu  {' '.join(f'{s * TICKS:.0f}' for s in seconds)}\ncpu0 1 2 3 4\n")
    return folder / "stat"


@pytest.mark.usefixtures("began")
def test_the_share_of_other_processes(tmp_path: Path) -> None:
    # Of 400 seconds 180 were work: 80 of this process, 100 of others. Guests count among the users.
    file = stat(tmp_path, 900, 50, 150, 5100, 120, 20, 30, 30, 700, 7)
    said = "in 100 s on 4 CPUs other processes took 25% of the CPU time, this one 20%; "
    assert _timing.busy(file) == said + "load average 3.1 over 1 minute, 2.7 over 5"


@pytest.mark.usefixtures("began")
@pytest.mark.parametrize("text", [None, "", "cpu a b\n"])
def test_without_linuxs_count_the_load_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    monkeypatch.setattr(_timing, "_BEGAN", (1000.0, 50.0, 0.0, 0.0))
    if text is not None:
        (tmp_path / "stat").write_text(text)
    assert _timing.busy(tmp_path / "stat") == "in 100 s on 4 CPUs load average 3.1 over 1 minute, 2.7 over 5"


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").glob("[!_]*.py")), ids=lambda file: file.stem)
def test_every_benchmark_says_so(file: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    printed = [ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func) == "print" and call.args]
    assert printed.count("busy()") == 1
