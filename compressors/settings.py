"""Checks that the settings of methods share: one line with the key, the value and the fix."""

from collections.abc import Mapping, Sequence

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
