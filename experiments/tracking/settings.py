"""The settings of ``logger=``: where the figures of a run's training go."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from core.errors import InputError

MODES = ("online", "offline", "disabled")
"""Of Weights & Biases."""
_NEEDED = ("tensorboard", "wandb")
"""Loggers that need a package, and its extra, of their own name."""
LONGEST = 128
"""Most characters of a project, a group or an artifact."""
LONGEST_RUN = 96
"""Of a run's name: the package makes artifacts of its own that are called after it."""
LONGEST_TAG = 64
_NOT_IN_ADDRESSES = "/\\#?%:"
_TAIL = 48
"""Characters at the end of a name that stay: seed, hash of the run, and what an artifact is."""


@dataclass
class NoLogger:
    """Nothing beside the log of every stage, and the student is not scored while it trains."""


@dataclass
class CsvLogger:
    """``metrics.csv`` in the run's folder.

    Attributes:
        scores: how many times a stage the student is scored while it trains, the last time at its end; 0 never.
        images: of the held-out set, the first ones, that it is scored on then.
    """

    scores: int = 4
    images: int = 16


@dataclass
class TensorboardLogger(CsvLogger):
    """The same, and TensorBoard's files in ``tensorboard/``."""


@dataclass
class WandbLogger(CsvLogger):
    """The same, and a run of Weights & Biases.

    Attributes:
        mode: ``online``, ``offline`` (files in ``wandb/``, for ``wandb sync``) or ``disabled``.
        project: the project in which the run appears.
        entity: the user or team that has it; null: whoever is logged in.
        group: of runs that belong together; null: of those that differ by seed alone.
        tags: null: method, teacher, data and the preset.
        init_s: seconds to wait for the server at the beginning; then the run is recorded offline.
        finish_s: seconds to wait for uploads at the end.
    """

    mode: str = "online"
    project: str = "sampress"
    entity: str | None = None
    group: str | None = None
    tags: list[str] | None = None
    init_s: float = 30.0
    finish_s: float = 120.0


LOGGERS: dict[str, type[Any]] = {
    "none": NoLogger,
    "csv": CsvLogger,
    "tensorboard": TensorboardLogger,
    "wandb": WandbLogger,
}


def check_logger(settings: Any) -> None:
    """Refuse what types cannot say of a logger's settings.

    Raises:
        InputError: a value is out of range.
    """
    if not isinstance(settings, tuple(LOGGERS.values())):
        raise InputError(f"logger={settings} is unknown; choose one of {', '.join(LOGGERS)}")
    for key, least in (("scores", 0), ("images", 1), ("init_s", 1), ("finish_s", 1)):
        value = getattr(settings, key, least)
        if not least <= value < float("inf"):
            raise InputError(f"logger.{key}={value} must be a number from {least}")
    if isinstance(settings, WandbLogger):
        if settings.mode not in MODES:
            raise InputError(f"logger.mode={settings.mode} is unknown; choose one of {', '.join(MODES)}")
        for key, name in (("project", settings.project), ("entity", settings.entity)):
            if name is not None and (flaw := flaw_of(name)) is not None:
                raise InputError(f"logger.{key}={name} {flaw}; give {_better(name)}")
        if len(settings.group or "") > LONGEST:
            raise InputError(f"logger.group={settings.group} has more than {LONGEST} characters; give a shorter one")
        wrong = next((tag for tag in settings.tags or () if not 1 <= len(tag) <= LONGEST_TAG), None)
        if wrong is not None:
            raise InputError(f"logger.tags: {wrong!r} is too long; a tag has 1 to {LONGEST_TAG} characters")


def _better(name: str) -> str:
    """What may have been meant by a name that is none."""
    entity, sign, project = name.partition("/")
    if sign and flaw_of(entity) is None and flaw_of(project) is None:
        return f"logger.entity={entity} logger.project={project}"
    return "another name, such as logger.project=sampress"


def check_installed(settings: Any) -> None:
    """Whether the package behind a logger is there.

    Raises:
        InputError: it is not; the message has the command that installs it.
    """
    name = next(name for name, schema in LOGGERS.items() if type(settings) is schema)
    if name not in _NEEDED or getattr(settings, "mode", None) == "disabled":
        return
    try:
        # Only this one is imported: nobody waits for the other, or needs to have it.
        __import__(name)
    except ImportError as error:
        raise InputError(
            f"logger={name}: the package {name} cannot be imported ({error}); pip install 'sampress[{name}]'"
        ) from None


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
