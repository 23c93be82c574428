"""The CPU: its name, how many of its threads a process takes, and how they wait. Works without PyTorch loaded."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MOST_THREADS = 1024
"""No machine uses more, and the system would have to start each of them."""


def processor_name() -> str:
    """What the processor calls itself."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def let_idle_threads_sleep() -> None:
    """Make OpenMP's idle threads sleep rather than spin, unless ``OMP_WAIT_POLICY`` is set already.

    Spinning threads of two processes on the same cores take each other's time: several times the CPU seconds, and many
    times the wall clock. OpenMP reads the variable when PyTorch is loaded, so every entry calls this first; processes
    that are started from here inherit it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def take_threads() -> None:
    """Let PyTorch compute with no more threads than :func:`allowed`, unless ``OMP_NUM_THREADS`` says how many."""
    import torch

    if not given():
        torch.set_num_threads(min(torch.get_num_threads(), allowed()))


def given() -> bool:
    """Whether the environment says how many threads there are to be."""
    return "OMP_NUM_THREADS" in os.environ or "MKL_NUM_THREADS" in os.environ


@contextlib.contextmanager
def threads_taken() -> Iterator[None]:
    """:func:`take_threads` for a block, after which PyTorch has as many threads as before."""
    import torch

    before = torch.get_num_threads()
    take_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def allowed(process: Path = Path("/proc/self")) -> int:
    """How many CPUs this process may use, at least 1.

    The least of its affinity, the quota of its control groups (versions 1 and 2; of 1.5 CPUs it is 1) and Slurm's CPUs
    a task; of that an equal share with the other processes that ``torchrun`` started on this machine.

    Args:
        process: where the kernel describes it; its ``cgroup`` and ``mountinfo`` are read.
    """
    found: list[float] = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    found += [int(count) for count in [os.environ.get("SLURM_CPUS_PER_TASK", "")] if count.isdecimal()]
    found += _quotas(process)
    beside = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(min(found)) // max(1, int(beside) if beside.isdecimal() else 1))


def _quotas(process: Path) -> Iterator[float]:
    """The CPUs that each control group grants: a process's own and those around it, as far as they are mounted."""
    # On other systems and odd kernels there is nothing to read.
    with contextlib.suppress(OSError, ValueError, IndexError):
        groups = [line.split(":", 2) for line in (process / "cgroup").read_text().splitlines()]
        # A group of version 2 lists no controllers.
        own = {not kinds: PurePosixPath(path) for _, kinds, path in groups if not kinds or "cpu" in kinds.split(",")}
        for line in (process / "mountinfo").read_text().splitlines():
            # ID, parent, device, root, mount point, options, any number of fields, "-", type, source, options
            words = line.split()
            root, place, (kind, _, options) = words[3], Path(words[4]), words[words.index("-") + 1 :][:3]
            group = own.get(kind == "cgroup2")
            if group is None or not (kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(","))):
                continue
            # Inside a container the mount shows a part of the tree, in which the path may lie or not.
            within = group.is_relative_to(root) and ".." not in group.parts
            inside = group.relative_to(root) if within else PurePosixPath()
            for part in (inside, *inside.parents):
                yield from _quota(place / part)


def _quota(group: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        if quota not in ("max", "-1"):
            yield int(quota) / int(period)
