"""A process tells its own peak of memory, not that of the program that started it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.memory import peak_resident_bytes

ROOT = Path(__file__).parents[2]
MB = 1 << 20


def test_the_peak_stays_when_memory_is_given_back() -> None:
    before = peak_resident_bytes()
    large = torch.ones(100 * MB, dtype=torch.uint8)
    during = peak_resident_bytes()
    del large
    assert during >= max(before, 100 * MB)
    # Linux counts pages in batches.
    assert peak_resident_bytes() >= during - 8 * MB


@pytest.mark.slow
def test_what_started_a_process_is_not_counted() -> None:
    assert torch.ones(300 * MB, dtype=torch.uint8).sum() > 0
    program = "from core.memory import peak_resident_bytes; print(peak_resident_bytes())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    # An interpreter alone, started by this large process.
    assert MB < int(done.stdout) < 100 * MB
