"""Training at pocket scale: images a second of each method, by threads and processes, and against another checkout.

``python -m benchmarks.training`` compares the defaults with batches and the teacher's embeddings made when they are
needed, with two threads an operator, and with two processes of one thread each (``--ways`` chooses);
``--against PATH`` also runs each of them from another checkout of this project. Every way is the command line in a
process of its own, with the teacher's cache off so that all do the same work; they take turns, and ratios are to the
first. Seconds of the processor are those of the whole command, imports and the scoring of one image included.

``--profile`` instead shows where the time of one method's steps goes, and what share of the measured peak of matrix
products (float32) its operations reach.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import hydra
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._timing import busy, machine, seconds_in_turns
from compressors.distill.engine import Engine
from compressors.method import RunContext
from core.provenance import ROOT
from experiments.config.compose import settings_of
from experiments.config.targets import build_method, register
from experiments.runs.build import build_data, build_teacher

METHODS = {"slimsam": ("ratio=0.77",), "mobilesam": (), "tinysam": ()}
WAYS = {
    "defaults": (),
    "nothing ahead": ("engine.workers=0",),
    "2 threads": ("engine.threads=2",),
    "2 processes": ("engine.threads=1", "processes=2"),
}
SMALL = ("cache=off", "evaluation.images=1", "evaluation.latency_runs=1", "method.optimisation.warmup=0", "format=json")


def train(checkout: Path, words: Sequence[str]) -> tuple[float, float]:
    """One run from a checkout: images a second of its training, and seconds of the processor an image.

    Raises:
        RuntimeError: it ended with an error.
    """
    # Threads that are given in the environment are no defaults.
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment["PYTHONPATH"] = str(checkout)
    before = os.times()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments", *words, *SMALL, "runs=runs"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{checkout}: {' '.join(words)}: {done.stderr[-1000:]}")
    after = os.times()
    row = json.loads(done.stdout.strip().splitlines()[-1])["rows"][-1]
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return row["train_images_per_s"], used / row["images_seen"]


def compare(method: str, chosen: Sequence[str], steps: int, rounds: int, against: Path | None) -> None:
    """Print a line for each way of one method."""
    checkouts = {"": ROOT} | ({" (other)": against.resolve()} if against else {})
    ways = {f"{way}{mark}": (checkout, WAYS[way]) for way in chosen for mark, checkout in checkouts.items()}
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, (checkout, words) in ways.items():
            found[way].append(train(checkout, [f"method={method}", *METHODS[method], f"method.steps={steps}", *words]))
    first = None
    for way, taken in found.items():
        speed, used = (median(column) for column in zip(*taken, strict=True))
        first = first or speed
        print(f"{method:10} {way:22} {speed:8.1f} {speed / first:6.2f}x {1000 * used:10.1f} ms")


def show_profile(method: str, steps: int) -> None:
    """Print the operators that take most, and the share of the peak."""
    register()
    with hydra.initialize_config_module("conf", version_base="1.3"):
        words = [f"method={method}", *METHODS[method], f"method.steps={steps}", "method.optimisation.warmup=0"]
        settings = settings_of(hydra.compose("config", words))
    device = torch.device("cpu")
    teacher, data = build_teacher(settings.teacher, device), build_data(settings.data)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            context = RunContext(settings.seed, Path(folder), Engine(Path(folder)), cache="off")
            build_method(settings.method).compress(teacher, data, context)

    began = time.perf_counter()
    work()
    taken = time.perf_counter() - began
    with FlopCounterMode(display=False) as counted:
        work()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        work()
    left, right = torch.randn(2, 2048, 2048).unbind()
    peak = 2 * 2048**3 / seconds_in_turns({"peak": lambda: left @ right}, device, 5)["peak"]
    flops = counted.get_total_flops()
    print(f"{method}: {flops / 1e9:.1f} GFLOP in {taken:.2f} s, {flops / taken / peak:.0%} of {peak / 1e9:.0f} GFLOP/s")
    print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=50))


def main() -> None:
    """Parse the command line, measure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--steps", type=int, default=20, help="method.steps")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--profile", action="store_true", help="where the time goes, instead")
    options = parser.parse_args()
    if options.against is not None and not (options.against / "experiments").is_dir():
        parser.error(f"--against {options.against}: holds no checkout of this project")
    print(machine(torch.device("cpu")))
    if not options.profile:
        print(f"{'method':10} {'way':22} {'images/s':>8} {'ratio':>7} {'CPU an image':>13}")
    for method in options.methods:
        if options.profile:
            show_profile(method, options.steps)
        else:
            compare(method, options.ways, options.steps, options.rounds, options.against)


if __name__ == "__main__":
    main()
    print(busy())
