"""Timing shared by the benchmarks: rounds in turns, medians, and one line that says where they were taken."""

import gc
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

from core.provenance import git_sha
from evaluation.latency import device_name


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


def default_device() -> str:
    """An accelerator where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
