"""What settings of every method have, and refusals of those that cannot be meant. Imports no PyTorch.

A refusal names the key, the value and what would do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

from compressors.optimizer_settings import OptimizerConfig
from core.errors import InputError


class MethodSettings:
    """What the settings of every method have.

    Attributes:
        choices: the values of settings that are words; others are refused.
    """

    choices: ClassVar[Mapping[str, Sequence[str]]] = {}

    def __post_init__(self) -> None:
        for name, allowed in self.choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise InputError(f"method.{name}={value} is not one of {', '.join(allowed)}")

    @property
    def images_per_step(self) -> int | None:
        """Images behind one update of the weights, which processes share: ``batch`` times ``optimisation.accumulate``.

        None of a method that has no such settings.
        """
        batch, optimisation = getattr(self, "batch", None), getattr(self, "optimisation", None)
        if type(batch) is not int or not isinstance(optimisation, OptimizerConfig):
            return None
        return batch * optimisation.accumulate

    def purposes(self) -> Mapping[str, tuple[str, ...]]:
        """Settings that change nothing beside the others, by what they would be for."""
        return {}

    # What a method may have as a setting, in place of these.

    @property
    def init(self) -> str | None:
        """A model to begin with; methods with this setting may follow another method (``then=``)."""
        return None

    @property
    def validations(self) -> int:
        """How often a stage is scored on labelled training images."""
        return 0

    @property
    def reads_labels(self) -> bool:
        """Whether masks of the training images are used."""
        return self.validations > 0


def settings_without_effect(settings: MethodSettings) -> list[str]:
    """A line for each purpose that the others rule out, of the settings for it that are not at their defaults.

    Those of ``optimisation`` are among them, of methods that have it.
    """
    lines = _without_effect(settings, settings.purposes(), "method")
    optimisation = getattr(settings, "optimisation", None)
    if isinstance(optimisation, OptimizerConfig):
        lines += _without_effect(optimisation, optimisation.purposes(), "method.optimisation")
    return lines


def _without_effect(settings: object, purposes: Mapping[str, tuple[str, ...]], key: str) -> list[str]:
    lines = []
    defaults: dict[str, object] = {}
    if is_dataclass(settings):
        defaults = {part.name: part.default for part in fields(settings)}
    for purpose, names in purposes.items():
        given = {name: value for name in names if (value := getattr(settings, name)) != defaults[name]}
        if given:
            listed = ", ".join(f"{key}.{name}={_as_typed(value)}" for name, value in given.items())
            lines.append(f"{listed}: for {purpose} alone, without effect here")
    return lines


def _as_typed(value: object) -> object:
    """A value as it is typed: lists in brackets, without blanks."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else value


def unset_by_default(settings: Any) -> frozenset[str]:
    """The names of settings that are null where nothing is said, and may be given as null."""
    return frozenset(part.name for part in fields(settings) if part.default is None)


def check_at_least(settings: object, **least: int) -> None:
    """Refuse numbers below what each setting needs, and those that are not finite; what is unset stays so.

    Raises:
        InputError: the message has the least value.
    """
    optional = unset_by_default(settings)
    for name, value in least.items():
        given = getattr(settings, name)
        # Written so that NaN fails too.
        if not (given is None and name in optional) and not value <= given < math.inf:
            finite = "" if math.isfinite(given) else " and finite"
            raise InputError(
                f"method.{name}={given} must be at least {value}{finite}{', or null' * (name in optional)}"
            )


def check_ratio(ratio: float) -> None:
    """Refuse a share of channels that would leave all of them, or none.

    Raises:
        InputError: the message has two that work.
    """
    if not 0 < ratio < 1:
        raise InputError(f"ratio={ratio} is outside (0, 1); try ratio=0.5 or ratio=0.77")


def check_above_zero(settings: object, *names: str) -> None:
    """Refuse numbers that are not above zero, or not finite.

    Raises:
        InputError: the message has the key and the value.
    """
    for name in names:
        if not 0 < getattr(settings, name) < math.inf:
            raise InputError(f"method.{name}={getattr(settings, name)} must be above 0 and finite")


def check_unvalidated(optimisation: OptimizerConfig) -> None:
    """Refuse a schedule that goes by validation, of a method that has none.

    Raises:
        InputError: the message has the schedules that are left.
    """
    if optimisation.schedule == "plateau":
        raise InputError(
            "method.optimisation.schedule=plateau goes by validation, which this method has none of; "
            "choose constant, cosine or step"
        )
