"""What Weights & Biases takes as a name; what it would refuse, it refuses only after a run has trained."""

import hashlib
import re

LONGEST = 128
"""Characters of a project, a group or an artifact."""
LONGEST_RUN = 96
"""Of a run: the package makes artifacts of its own that are called after it."""
LONGEST_TAG = 64
_NOT_IN_ADDRESSES = "/\\#?%:"
_TAIL = 48
"""Characters at the end of a name that stay: seed, hash of the run, and what an artifact is."""


def flaw_of(name: str) -> str | None:
    """Why a name is none of a project or an entity; None where it is one."""
    if not name:
        return "is empty"
    if name != name.strip():
        return "begins or ends with a space"
    if len(name) > LONGEST:
        return f"has {len(name)} characters, {LONGEST} is the most"
    wrong = [sign for sign in name if sign in _NOT_IN_ADDRESSES or not sign.isprintable()]
    return f"holds {wrong[0]!r}, which no name may ({' '.join(_NOT_IN_ADDRESSES)})" if wrong else None


def shortened(name: str, longest: int = LONGEST) -> str:
    """A name that is too long, with its end and a hash of all of it: different ones stay different."""
    if len(name) <= longest:
        return name
    end = f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}{name[-_TAIL:]}"
    return name[: longest - len(end)] + end


def artifact_name(name: str) -> str:
    """A name as an artifact may have it: ASCII letters, digits, ``.``, ``_`` and ``-``."""
    return shortened(re.sub(r"[^A-Za-z0-9_.-]", "-", name))
