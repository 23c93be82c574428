"""``-h`` and ``--help``: the overview, or a command's own help. Nothing here imports PyTorch or Hydra."""

import sys
from collections.abc import Sequence

from core.errors import InputError
from experiments.cli.help.of_command import help_for
from experiments.cli.help.overview import help_text

_HELP = ("-h", "--help")


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether help is among the arguments."""
    return any(argument in _HELP for argument in argv)


def show_help(argv: Sequence[str]) -> int:
    """Print the overview, or the help of the command that is named; returns the exit status.

    2, with one line on standard error, for a command or method that does not exist.
    """
    arguments = [argument for argument in argv if argument not in _HELP]
    try:
        print(help_for(arguments) if arguments else help_text())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
