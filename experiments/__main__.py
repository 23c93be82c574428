"""``python -m experiments``: compress a SAM, score it beside its teacher, and keep the row.

The arguments become an exit status in :mod:`experiments.cli.command_line`; ``--help`` lists all commands and settings.
"""

import sys

from core.closed_pipes import outlive_closed_pipes
from experiments.cli.help import asks_for_help, show_help

OWN = ("core", "data", "teachers", "students", "compressors", "evaluation", "experiments", "conf", "hydra_plugins")
"""The packages of this project: what is missing of them is a defect, and keeps its traceback."""


def command() -> int:
    """Run what the process's arguments say; returns the exit status, 1 where a package is missing.

    Without PyTorch or Hydra only ``--help`` and ``doctor`` answer, which then says what to install.
    """
    outlive_closed_pipes()
    argv = sys.argv[1:]
    if asks_for_help(argv):
        return show_help(argv)
    try:
        # Here, so that --help answers at once.
        from experiments.cli.command_line import main

        return main(argv)
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] in OWN:
            raise
        if "doctor" in argv:
            from experiments.cli.doctor.command import doctor_alone

            return doctor_alone(argv)
        print(f"error: {error}; see what to install: python -m experiments doctor", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(command())
