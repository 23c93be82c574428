"""Refusals of settings that cannot be meant: each names the key, the value and what would do. Imports no PyTorch."""

from compressors.optimizer_settings import OptimizerConfig
from core.errors import InputError


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
