"""The command ``completion``: a script for a shell, with everything it completes written into it."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import InputError
from experiments.cli.completion.candidates import SHELLS, Candidates, candidates

if TYPE_CHECKING:
    from experiments.config.schema import CompletionConfig

_PLAIN = re.compile(r"[\w./=@+,-]+")


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
    """The script for one of :data:`SHELLS`: what it completes as functions, and the file beside this one."""
    known = candidates()
    tables = fish_tables(known) if shell == "fish" else posix_tables(known)
    body = Path(__file__).with_name(f"sampress.{shell}").read_text(encoding="utf-8")
    return f"# Completion of sampress for {shell}; made by: sampress completion {shell}\n{tables}\n{body}"


def posix_tables(known: Candidates) -> str:
    """For bash and zsh: ``_sampress_commands``, ``_sampress_keys COMMAND``, ``_sampress_below GROUP=NAME``,
    ``_sampress_default 'COMMAND GROUP'``, ``_sampress_values COMMAND KEY``, ``_sampress_is_path KEY``.

    Raises:
        InputError: a name in ``conf/`` that a shell would read as more than a word.
    """
    parts = [f"_sampress_commands() {{ echo '{_words(known.commands)}'; }}"]
    for name, table in _tables(known).items():
        cases = "\n".join(f"  {_pattern(key)}) echo '{_words(words)}';;" for key, words in table.items())
        subject = '"$1 $2"' if name == "values" else '"$1"'
        parts.append(f"_sampress_{name}() {{\n  case {subject} in\n{cases}\n  esac\n}}")
    parts.append(f'_sampress_is_path() {{ case "$1" in {"|".join(known.paths)}) return 0;; *) return 1;; esac; }}')
    return "\n".join(parts)


def fish_tables(known: Candidates) -> str:
    """The same for fish, words on lines; names as in :func:`posix_tables`.

    Raises:
        InputError: as there.
    """
    parts = [f"function __sampress_commands\n    string split ' ' '{_words(known.commands)}'\nend"]
    for name, table in _tables(known).items():
        cases = "\n".join(
            f"        case '{key}'\n            string split ' ' '{_words(words)}'" for key, words in table.items()
        )
        parts.append(f'function __sampress_{name}\n    switch "$argv"\n{cases}\n    end\nend')
    parts.append(f"function __sampress_is_path\n    contains -- $argv[1] {_words(known.paths)}\nend")
    return "\n".join(parts)


def _tables(known: Candidates) -> dict[str, dict[str, tuple[str, ...]]]:
    """What each function of a script answers, by its argument; ``*`` stands for any command."""
    # Values of one command come first: the first case that fits counts.
    ordered = sorted(known.values.items(), key=lambda entry: " " not in entry[0])
    return {
        "keys": dict(known.keys),
        "below": dict(known.below),
        "default": {key: (word,) for key, word in known.defaults.items()},
        "values": {(key if " " in key else f"* {key}"): words for key, words in ordered},
    }


def _pattern(key: str) -> str:
    return f"*' {key[2:]}'" if key.startswith("* ") else f"'{key}'"


def _words(words: Iterable[str]) -> str:
    words = [str(word) for word in words]
    for word in words:
        if not _PLAIN.fullmatch(word):
            raise InputError(f"conf/ has the name {word!r}, which shells read as more than a word; rename it")
    return " ".join(words)
