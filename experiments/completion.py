"""The command ``completion``: a script for a shell, with everything it completes written into it."""

import sys
from typing import TYPE_CHECKING, Any

from core.errors import InputError
from experiments.completion_candidates import SHELLS, candidates

if TYPE_CHECKING:
    from experiments.schema import CompletionConfig


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
    from experiments import completion_bash, completion_fish, completion_zsh

    written = {"bash": completion_bash.script, "zsh": completion_zsh.script, "fish": completion_fish.script}
    return written[shell](candidates())
