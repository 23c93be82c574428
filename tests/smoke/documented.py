"""The commands of README.md and docs/: found in their fenced blocks, and sorted by the program they call."""

import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.provenance import ROOT

SHELLS = ("", "bash", "sh", "shell", "console")
"""What follows the backticks of blocks that hold commands."""
PROGRAMS = (
    "python", "python3", "torchrun", "sampress", "make", "pip", "curl", "trtexec", "tensorboard", "wandb", "sbatch",
    "npm", "cd", "git", "export", "source", "eval",
)  # fmt: skip
"""What a line of a block without a language must begin with to be a command."""
_FENCE = re.compile(r"^\s*(`{3,})\s*([^`]*)$")
_VARIABLE = re.compile(r"^[A-Z_][A-Z0-9_]*=")
_ENDS = ("&&", ";", "||")
_REDIRECTIONS = ("|", ">", ">>", "2>", "<", "&")


@dataclass(frozen=True)
class Command:
    """A command as it is written.

    Attributes:
        place: the document and the line.
        words: as a shell splits them, without comments, variables before them and what stands behind a pipe.
    """

    place: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place} {shlex.join(self.words)}"

    @property
    def program(self) -> str:
        """``experiments`` for this project's own, a module as ``-m MODULE``, ``-c`` for code, else the first word."""
        words = self.words
        if words[0] == "sampress":
            return "experiments"
        if words[0] == "torchrun":
            return words[words.index("-m") + 1] if "-m" in words else "torchrun"
        if words[0] in ("python", "python3") and words[1:2] in (("-m",), ("-c",)):
            return ("experiments" if words[2] == "experiments" else f"-m {words[2]}") if words[1] == "-m" else "-c"
        return words[0]

    @property
    def arguments(self) -> list[str]:
        """What the program is given."""
        words = list(self.words)
        if words[0] == "torchrun" and "-m" in words:
            return words[words.index("-m") + 2 :]
        return words[3:] if words[0] in ("python", "python3") and words[1] == "-m" else words[1:]

    @property
    def processes(self) -> int:
        """How many ``torchrun`` or ``processes=`` start on one machine."""
        found = re.search(r"(?:--nproc-per-node|(?<=\s)processes)[= ](\d+)", shlex.join(self.words).replace("_", "-"))
        return int(found[1]) if found else 1


def documents() -> list[Path]:
    """README.md and every page of docs/."""
    return [
        ROOT / "README.md",
        *(p for p in sorted((ROOT / "docs").rglob("*.md")) if not {"_build", "node_modules"} & {*p.parts}),
    ]


def commands_of(text: str, name: str) -> Iterator[Command]:
    """The commands of a document, in their order.

    Args:
        name: of the document, for messages.

    Raises:
        ValueError: a line of a block of commands cannot be split as a shell would.
    """
    for first, language, lines in _blocks(text.splitlines()):
        joined = list(_joined(first, lines))
        if language == "console" and any(line.startswith("$ ") for _, line in joined):
            joined = [(number, line[2:]) for number, line in joined if line.startswith("$ ")]
        found = [(number, part) for number, line in joined for part in _commands(line)]
        # Without a language a block is one of commands if any line is one; a listing has none.
        if language or any(words[0] in PROGRAMS for _, words in found):
            yield from (Command(f"{name}:{number}", tuple(words)) for number, words in found)


def documented() -> list[Command]:
    """Every command of every document, equal ones once."""
    found: dict[tuple[str, ...], Command] = {}
    for page in documents():
        for command in commands_of(page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix()):
            found.setdefault(command.words, command)
    return list(found.values())


def _blocks(lines: Sequence[str]) -> Iterator[tuple[int, str, list[str]]]:
    """The number of its first line, the language and the lines of each fenced block of commands."""
    fence, language, first, block = "", "", 0, list[str]()
    for number, line in enumerate(lines, 1):
        found = _FENCE.match(line)
        if not fence and found:
            fence, language, first, block = found[1], found[2].strip(), number + 1, []
        elif fence and line.strip().startswith(fence) and not line.strip(" `"):
            if language in SHELLS:
                yield first, language, block
            fence = ""
        elif fence:
            block.append(line)


def _joined(first: int, lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; those that end in a backslash go on in the next."""
    stored, start = "", first
    for number, line in enumerate(lines, first):
        start = start if stored else number
        stored += line.strip()
        if stored.endswith("\\"):
            stored = stored[:-1]
            continue
        if stored and not stored.startswith("#"):
            yield start, stored
        stored = ""


def _commands(line: str) -> Iterator[list[str]]:
    for is_end, words in itertools.groupby(shlex.split(line, comments=True), _ENDS.__contains__):
        kept = list(itertools.takewhile(lambda word: word not in _REDIRECTIONS, [] if is_end else words))
        while kept and _VARIABLE.match(kept[0]):
            kept.pop(0)
        if kept:
            yield kept
