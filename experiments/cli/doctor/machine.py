"""``doctor`` on the machine: Python, processor, accelerators, disk, and which code this is."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from core.threads import allowed, processor_name
from experiments.cli.doctor.finding import Finding
from experiments.config.files import ROOT

OLDEST = (3, 11)
"""The first Python that this project runs on."""
LEAST_DISK = 500_000_000
"""Bytes that a run of the embedded teacher can need, its embeddings and saved states included."""


def python() -> Iterator[Finding]:
    """The interpreter."""
    version = platform.python_version()
    least = ".".join(map(str, OLDEST))
    if sys.version_info < OLDEST:
        yield Finding("Python", "broken", f"{version}, {least} is needed", f"install Python {least}", True)
    else:
        yield Finding("Python", "ok", f"{version} at {_without_home(Path(sys.executable))}", needed=True)


def code() -> Iterator[Finding]:
    """The revision of this repository."""
    from core import provenance

    facts = provenance.capture("cpu")
    if facts["git_sha"] == "unknown":
        yield Finding("code", "missing", "no git repository: results cannot name it", "git clone it")
    else:
        changed = ", with changes that are not committed" if facts["git_dirty"] else ""
        yield Finding("code", "ok", f"git {facts['git_sha'][:12]}{changed}")


def processor() -> Iterator[Finding]:
    """The CPU, its cores and the memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    usable = allowed()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limited = f", of which {usable} may be used (quota of the control group, or Slurm)" if usable < (cores or 1) else ""
    yield Finding("processor", "ok", f"{processor_name()}, {cores} cores{limited}, {_size(memory)} of memory")


def accelerators(device: str = "auto") -> Iterator[Finding]:
    """PyTorch's CUDA, the driver, and each GPU.

    Args:
        device: that ``engine.device`` asks for.
    """
    import torch

    driver = _driver()
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    about = f"PyTorch {torch.__version__}, {built}, driver {driver or 'none'}"
    on_cuda = device.startswith("cuda")
    if not torch.cuda.is_available():
        lame = driver is not None or on_cuda
        fix = "pip install torch with CUDA, as https://pytorch.org/get-started/locally says"
        fix = fix if lame else "nothing has to be done; long runs want a machine with an NVIDIA GPU"
        state = "broken" if lame else "missing"
        yield Finding("CUDA", state, f"{about}; runs use the CPU", fix, needed=on_cuda)
        return
    yield Finding("CUDA", "ok", about)
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        fast = "bfloat16" if facts.major >= 8 else "no fast bfloat16: give engine.precision=float16"
        memory = _size(facts.total_memory)
        yield Finding(f"cuda:{number}", "ok", f"{facts.name}, {memory}, {fast}")
    _, colon, index = device.partition(":")
    if on_cuda and colon and not (index.isdigit() and int(index) < torch.cuda.device_count()):
        fix = f"give engine.device=cuda:N with N below {torch.cuda.device_count()}"
        yield Finding(f"engine.device={device}", "broken", "no such device", fix, True)


def disk(runs: Path) -> Iterator[Finding]:
    """Whether the folder of runs, or the one it will be made in, can be written, and what is free there."""
    place = runs.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    name, found = f"runs={runs}", f"{_size(free)} free"
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield Finding(name, "broken", f"{place} cannot be written", "give runs=FOLDER of your own", True)
    elif free < LEAST_DISK:
        fix = "remove old runs, or give runs=FOLDER on another disk"
        yield Finding(name, "broken", f"{found}, {_size(LEAST_DISK)} is needed", fix, True)
    else:
        yield Finding(name, "ok", found, needed=True)


def _driver() -> str | None:
    """The version of NVIDIA's driver; None where its tool is not there or does not answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _without_home(path: Path) -> str:
    for folder, sign in ((ROOT, "."), (Path.home(), "~")):
        if path.is_relative_to(folder) and len(folder.parts) > 1:
            return f"{sign}/{path.relative_to(folder)}"
    return str(path)
