"""Values and comments of the files of ``conf/``, read line by line: quicker than a parser, which drops comments."""

import re
from functools import cache
from pathlib import Path

_LINE = re.compile(r"( *)([\w@/]+):\s*(.*)")


@cache
def yaml_values(path: Path) -> dict[str, tuple[str, str]]:
    """Each setting of a file by its dotted key: the value as it is written, and the comment behind it.

    Lists below ``defaults`` are no settings; a key that only holds others has an empty value. Lists written over
    several lines have none either.
    """
    found: dict[str, tuple[str, str]] = {}
    parents: list[tuple[int, str]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        match = _LINE.fullmatch(text)
        if match is None or match[2] == "defaults":
            continue
        depth, key = len(match[1]), match[2]
        parents = [(deep, name) for deep, name in parents if deep < depth]
        value, _, comment = f" {match[3]}".partition(" #")
        found[".".join([*(name for _, name in parents), key])] = (value.strip(), comment.strip())
        parents.append((depth, key))
    return found


@cache
def yaml_defaults(path: Path) -> dict[str, str]:
    """The choices that a file makes for groups (``defaults: - teacher: sam_pocket``), ``null`` ones included."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return dict(re.findall(r"^  - (?:optional )?([\w/]+): (\S+)$", text, re.MULTILINE))


def first_comment(path: Path) -> str:
    """What a file says of itself: its first comment that is no instruction to Hydra; empty where it has none."""
    comments = (
        line.removeprefix("#").strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")
    )
    return next((comment for comment in comments if not comment.startswith("@package")), "")
