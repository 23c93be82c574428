"""A run on several processes of one machine, started from the inside: ``processes=8`` in a sweep's job."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from core import distributed
from core.errors import InputError, RunFailed
from core.result import ResultRow

_OWN = ("processes", "format", "hydra.mode")


def wants_torchrun(settings: Any) -> bool:
    """Whether a run asks for several processes and ``torchrun`` has not started them.

    Raises:
        InputError: fewer than one, or another number than ``torchrun`` started.
    """
    count = getattr(settings, "processes", 1)
    if count < 1:
        raise InputError(f"processes={count} must be at least 1")
    started = distributed.announced()
    if count > 1 and started not in (1, count):
        raise InputError(f"processes={count}: torchrun started {started}; leave out processes under torchrun")
    return count > 1 and started == 1


def run_under_torchrun(
    settings: Any, overrides: Sequence[str], flags: Sequence[str], number: int | None = None
) -> list[ResultRow]:
    """Start ``torchrun`` with the settings of this job, and read its rows.

    Args:
        overrides: the job's settings, as typed.
        flags: options of the command line that belong to every process.
        number: of the job among those that run beside each other on this machine, from 0; None: it runs alone.

    Raises:
        RunFailed: it ended with an error, which stands on standard error.
    """
    words = [word for word in overrides if word.partition("=")[0] not in _OWN]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={settings.processes}", "-m", "experiments", *flags, *words]
    # The preset of a sweep would otherwise begin it again inside each of its jobs.
    command += ["format=json", "hydra.mode=RUN"]
    environment = _environment()
    if number is not None:
        environment |= _devices(number, settings.processes)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise RunFailed(f"processes={settings.processes}: torchrun ended with status {done.returncode}; see above")
    rows = [ResultRow.from_dict(raw, "torchrun") for raw in json.loads(done.stdout.strip().splitlines()[-1])["rows"]]
    if settings.format == "table":
        from experiments.reporting.run_report import print_comparison

        print_comparison(rows)
    return rows


def _devices(number: int, processes: int) -> dict[str, str]:
    """The variable that names the CUDA devices of one of the jobs beside each other, which take them in turn.

    Nothing where there are too few devices for a job: its processes say so.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if processes > count:
        return {}
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    names = visible[:count] if len(visible) >= count else [str(index) for index in range(count)]
    chosen = [names[(number * processes + place) % count] for place in range(processes)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(chosen)}


def _environment() -> dict[str, str]:
    """This process's, without what a launcher said of its own tasks."""
    own = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")
    return {key: value for key, value in os.environ.items() if key not in own}
