"""What the runs behind rows were given, so that runs that were given different things are not averaged."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from data.content import IDENTITY

_PATHS = ("method.init", "method.student.weights", "data.root", "data.annotations", "data.images")


def settings_behind(about: Mapping[str, Any]) -> dict[str, str]:
    """The settings that a student depends on, but for its seed, and the teacher's weights.

    Args:
        about: what a run's result says beside its rows.

    Returns:
        Values as JSON by dotted names; without paths, which name a machine's folders, but with the images' content.
    """
    config = about.get("config")
    parts = {part: config.get(part) for part in ("method", "data")} if isinstance(config, Mapping) else {}
    found = {name: json.dumps(value, sort_keys=True) for name, value in _flat(parts) if name not in _PATHS}
    if isinstance(about.get("teacher_sha256"), str):
        found["teacher"] = about["teacher_sha256"]
    # Earlier files have a hash of names there, which tells less than the settings.
    if about.get("identity") == IDENTITY and isinstance(about.get("training_pictures_sha256"), str):
        found["images"] = about["training_pictures_sha256"]
    return found


def are_different(settings: Iterable[Mapping[str, str]]) -> bool:
    """Whether two of them give one thing different values; a thing that older files do not name tells nothing."""
    known: dict[str, str] = {}
    return any(known.setdefault(name, value) != value for given in settings for name, value in given.items())


def _flat(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
