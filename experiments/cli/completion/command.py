"""The command ``completion``: a script for a shell, with everything it completes written into it."""

import sys
from typing import TYPE_CHECKING, Any

from core.errors import InputError
from experiments.cli.completion.candidates import SHELLS, candidates

if TYPE_CHECKING:
    from experiments.config.schema import CompletionConfig


def completion(settings: "CompletionConfig", cfg: Any) -> list[Any]:
    """Print the script.

    Raises:
        InputError: a shell that has none, or a format that a script does not have.
    """
    if settings.shell not in SHELLS:
        raise InputError(f"shell={settings.shell} is unknown; choose one of {', '.join(SHELLS)}")
    if settings.format != "table":
        raise InputError(f"format={settings.format}: completion prints a script; leave format out")
    sys.stdout.write(script(settings.shell))
    return []


def script(shell: str) -> str:
    """The script for one of :data:`SHELLS`."""
    from experiments.cli.completion import bash, fish, zsh

    written = {"bash": bash.script, "zsh": zsh.script, "fish": fish.script}
    return written[shell](candidates())
