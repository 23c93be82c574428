"""Values of the options of ``python -m experiments.pretrain``, as argparse reads them.

Each raises ``argparse.ArgumentTypeError``, which says what was typed and what is needed.
"""

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

import torch

N = TypeVar("N", int, float)


def normalised_shares(text: str) -> tuple[float, ...]:
    """Numbers divided by commas, of which their shares of the sum are taken."""
    shares = tuple(_number(part, float, "number; give shares such as 0.5,0.3,0.2") for part in text.split(","))
    # Written so that NaN fails too.
    if not (all(share >= 0 for share in shares) and 0 < sum(shares) < math.inf):
        raise argparse.ArgumentTypeError(f"{text}: shares must be at least 0 and not all 0, such as 0.5,0.3,0.2")
    return tuple(share / sum(shares) for share in shares)


def at_least_one(text: str) -> int:
    """A whole number of at least 1."""
    if (number := _number(text, int, "whole number; give one of at least 1")) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


def above_zero(text: str) -> float:
    """A finite number above 0."""
    if not 0 < (number := _number(text, float, "number; give one above 0")) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return number


def below_one(text: str) -> float:
    """A number from 0 to below 1."""
    if not 0 <= (number := _number(text, float, "number; give one from 0 to below 1")) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 0 and below 1")
    return number


def _number(text: str, kind: Callable[[str], N], needed: str) -> N:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no {needed}") from None


def usable_device(text: str) -> torch.device:
    """A device by PyTorch's name, if this machine has it."""
    try:
        device = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text} is unknown; choose cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError(f"{text}: this machine has no CUDA device that PyTorch can use; give cpu")
    return device
