"""What ``doctor`` finds: one line, with the command that mends it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

STATES = ("ok", "missing", "broken", "unknown")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of the thing.
        state: ``ok``; ``missing``: not here, and not needed for a run; ``broken``: here or needed, and unusable;
            ``unknown``: the look itself failed.
        found: version, size, place, or what is wrong.
        fix: the command that mends it; empty where nothing is to be done.
        needed: whether a run of the embedded teacher on ``shapes`` needs it.
        part: of the table: ``machine``, ``packages`` ...; :func:`probed` fills it in.
    """

    name: str
    state: str
    found: str
    fix: str = ""
    needed: bool = False
    part: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Part, name, state, what was found, and the fix."""
        return {key: getattr(self, key) for key in ("part", "name", "state", "found", "fix")}


def probed(part: str, name: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a look gives; whatever goes wrong in it becomes a finding of its own."""
    try:
        return [replace(finding, part=part) for finding in look()]
    except Exception as error:
        reason = str(error).strip().splitlines()
        found = f"{type(error).__name__}: {reason[0] if reason else 'no reason given'}"
        return [Finding(name, "unknown", found, part=part)]
