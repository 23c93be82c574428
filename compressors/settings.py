"""Checks that the settings of methods share: one line with the key, the value and the fix."""

from collections.abc import Mapping, Sequence

from compressors.distill.schedule import Optimisation
from core.errors import InputError


def check_choices(settings: object, choices: Mapping[str, Sequence[str]]) -> None:
    """Refuse a setting that is none of its choices.

    Raises:
        InputError: the message has the choices.
    """
    for name, allowed in choices.items():
        value = getattr(settings, name)
        if value not in allowed:
            raise InputError(f"method.{name}={value} is not one of {', '.join(allowed)}")


def check_at_least(settings: object, **least: int) -> None:
    """Refuse numbers below what each setting needs.

    Raises:
        InputError: the message has the least value.
    """
    for name, value in least.items():
        if getattr(settings, name) < value:
            raise InputError(f"method.{name}={getattr(settings, name)} must be at least {value}")


def check_ratio(ratio: float) -> None:
    """Refuse a share of channels that would leave all of them, or none.

    Raises:
        InputError: the message has two that work.
    """
    if not 0 < ratio < 1:
        raise InputError(f"ratio={ratio} is outside (0, 1); try ratio=0.5 or ratio=0.77")


def check_above_zero(settings: object, *names: str) -> None:
    """Refuse numbers that are not above zero.

    Raises:
        InputError: the message has the key and the value.
    """
    for name in names:
        if not getattr(settings, name) > 0:
            raise InputError(f"method.{name}={getattr(settings, name)} must be above 0")


def check_unvalidated(optimisation: Optimisation) -> None:
    """Refuse a schedule that goes by validation, of a method that has none.

    Raises:
        InputError: the message has the schedules that are left.
    """
    if optimisation.schedule == "plateau":
        raise InputError(
            "method.optimisation.schedule=plateau goes by validation, which this method has none of; "
            "choose constant, cosine or step"
        )
