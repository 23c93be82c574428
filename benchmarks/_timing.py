"""Timing shared by the benchmarks: rounds in turns, medians, where they were taken, and how busy the machine was."""

import gc
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import torch

from core.provenance import git_sha
from core.threads import allowed, take_threads
from evaluation.latency import device_name

take_threads()


def seconds_in_turns(
    works: Mapping[str, Callable[[], object]], device: torch.device, rounds: int, warmup: int = 1
) -> dict[str, float]:
    """Median seconds of each piece of work. They take turns, so that a change of the machine's load meets them all."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(warmup + rounds):
        for name, work in works.items():
            taken = _seconds(work, device)
            if number >= warmup:
                times[name].append(taken)
    return {name: median(of_work) for name, of_work in times.items()}


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def machine(device: torch.device) -> str:
    """Device, threads, version of PyTorch, and commit."""
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{device_name(device)}{threads}, torch {torch.__version__}, commit {git_sha()[:12]}"


def busy(stat: Path = Path("/proc/stat")) -> str:
    """One line, to be printed last: how busy the machine was since this module was loaded.

    Other processes' share is of the CPU time that the machine had; this one's includes those it started and waited for.

    Args:
        stat: where Linux counts the machine's CPU time.
    """
    wall, own, work, idle = (now - before for now, before in zip(_clocks(stat), _BEGAN, strict=True))
    line = "load average {:.1f} over 1 minute, {:.1f} over 5".format(*os.getloadavg())
    if work + idle > 0:
        others = max(0.0, work - own) / (work + idle)
        line = f"other processes took {others:.0%} of the CPU time, this one {own / (work + idle):.0%}; {line}"
    return f"in {wall:.0f} s on {allowed()} CPUs {line}"


def _clocks(stat: Path) -> tuple[float, float, float, float]:
    """Seconds: of the clock; of the CPUs, of this process and its children; of all processes; and without work."""
    own = os.times()
    try:
        # user, nice, system, idle, iowait, irq, softirq, steal; what follows is contained in user
        fields = [int(word) / os.sysconf("SC_CLK_TCK") for word in stat.read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        fields = []
    idle = sum(fields[3:5])
    return time.monotonic(), sum(own[:4]), sum(fields) - idle, idle


_BEGAN = _clocks(Path("/proc/stat"))


def default_device() -> str:
    """An accelerator where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
