"""When the command began whose job this is: ``force=true`` throws away what is older, so jobs do a run they share once.

Kept in the environment, where the processes of a job (``torchrun``'s) find it too.
"""

import os
import time
from pathlib import Path

BEGAN = "SAMPRESS_BEGAN"
"""The variable of the environment while a job is done: nanoseconds since 1970."""


def command_began() -> int:
    """Nanoseconds since 1970: of the command that this process works for, or now if it begins one."""
    given = os.environ.get(BEGAN, "")
    return int(given) if given.isdecimal() else time.time_ns()


def is_of_this_command(file: Path) -> bool:
    """Whether a file was written since the command began, by this job or by another one; False if there is none."""
    began = command_began()
    try:
        return file.stat().st_mtime_ns > began
    except OSError:
        return False
