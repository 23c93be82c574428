"""Functions of other people's modules with names of ours, while their modules stay untouched.

pycocotools prints, and lvis asks numpy for a name that numpy 2 has dropped. Replacing ``sys.stdout`` or a module's
attribute for the time of a call would reach every other thread too; a function of its own reaches nobody.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any


def rebound(function: Callable[..., Any], **names: Any) -> Callable[..., Any]:
    """A copy of a Python function in which the global ``names`` mean what is given here.

    The other globals are those that the function's module has now. ``super()`` works as in the original class.
    """
    assert isinstance(function, FunctionType)
    surroundings = {**function.__globals__, **names}
    copy = FunctionType(function.__code__, surroundings, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def silent(*_: object, **__: object) -> None:
    """A ``print`` that prints nothing."""
