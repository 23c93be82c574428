"""The command line that gives some settings, as files say what made them."""

import shlex
from collections.abc import Sequence

from core.provenance import redact_paths
from experiments.config.schema import OTHER_NAMES, CommandConfig
from experiments.config.words import typed_value


def typed_command(word: str, settings: CommandConfig, keys: Sequence[str]) -> str:
    """A command with the settings that are not as usual, as a shell takes it, without what is personal.

    Args:
        word: of the command.
        keys: of the settings that count.
    """
    usual, typed = type(settings)(), {name: key for key, name in OTHER_NAMES.get(word, {}).items()}
    words = ["python", "-m", "experiments", word]
    for key in keys:
        value = getattr(settings, key)
        if value != getattr(usual, key):
            shown = str(value).lower() if isinstance(value, bool) else typed_value(value)
            words.append(f"{typed.get(key, key)}={shown}")
    return shlex.join(redact_paths(words))
