"""One line for each named protocol, made of the choices in which it differs."""

import re
from collections.abc import Iterable
from itertools import groupby

from evaluation.protocols import ScoringProtocol

_PROMPTS = {
    "box": "annotated box",
    "detector_box": "boxes of a detector",
    "central_point": "point farthest from the border",
    "box_centre": "middle of the box",
    "annotated_point": "point the annotation was made from",
    "mass_centre": "centre of mass",
}
_CHOICES = {
    "single": "single mask",
    "best_of_3": "best of three",
    "best_of_4": "best of four",
    "oracle": "best of three by the truth",
}
_TRUTHS = {"frame": "truth in the model's frame", "reference": "another model's masks as the truth"}


def protocol_lines(protocols: Iterable[ScoringProtocol]) -> list[tuple[str, str]]:
    """Names and lines, in order; those that differ in the number of clicks alone stand on one line."""
    lines = []
    for (family, _), group in groupby(protocols, key=_family):
        members = list(group)
        first = members[0]
        if len(members) == 1:
            lines.append((first.name, _line(first, str(first.clicks))))
            continue
        numbers = [str(member.clicks) for member in members]
        shown = f"{numbers[0]}..{numbers[-1]}" if len(numbers) > 2 else "|".join(numbers)
        lines.append((family.format(shown), _line(first, shown.replace("..", " to ").replace("|", " or "))))
    return lines


def _family(protocol: ScoringProtocol) -> tuple[str, str]:
    many = re.sub(rf"_{protocol.clicks}@", "_{}@", protocol.name) if protocol.clicks > 1 else protocol.name
    return many, protocol.source


def _line(protocol: ScoringProtocol, clicks: str) -> str:
    parts = [_PROMPTS[protocol.prompt], _CHOICES[protocol.choice]]
    if protocol.clicks > 1:
        parts[0] = f"{clicks} points, each where the answer errs"
    parts += [f"sides moved by {protocol.jitter:.0%} noise"] if protocol.jitter else []
    parts += [_TRUTHS[protocol.truth]] if protocol.truth in _TRUTHS else []
    parts += ["crowds count"] if protocol.crowd else []
    parts += ["average precision"] if protocol.is_detected else []
    return ", ".join(parts)
