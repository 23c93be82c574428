"""The command line that gives some settings, as files say what made them."""

from collections.abc import Sequence

from core.provenance import impersonal
from experiments.schema import OTHER_NAMES, CommandConfig


def typed_command(word: str, settings: CommandConfig, keys: Sequence[str]) -> str:
    """The words of a command with the settings that are not as usual, without what is personal.

    Args:
        word: of the command.
        keys: of the settings that count.
    """
    usual, typed = type(settings)(), {name: key for key, name in OTHER_NAMES.get(word, {}).items()}
    words = ["python -m experiments", word]
    for key in keys:
        value = getattr(settings, key)
        if value != getattr(usual, key):
            words.append(f"{typed.get(key, key)}={str(value).lower() if isinstance(value, bool) else value}")
    return str(impersonal(" ".join(words)))
