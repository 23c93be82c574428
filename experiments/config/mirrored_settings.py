"""A class that a ``_target_`` names, and a dataclass that YAML can fill in its place."""

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import field
from functools import cache
from typing import Any, get_type_hints

from omegaconf import MISSING

from core.errors import InputError
from students.student import Student

PACKAGES = ("compressors", "students", "data")
"""Where a ``_target_`` may point: code of this project."""
_allowed: list[str] = []
"""Packages of others, by the user's word."""


def allow(packages: Iterable[str]) -> None:
    """Let a ``_target_`` point into packages of one's own too; those of an earlier call are forgotten.

    Raises:
        InputError: a name is none, or is that of a module of Python's own.
    """
    names = list(packages)
    for name in names:
        if not name.isidentifier():
            raise InputError(f"packages={name}: not the name of a package; give its import name, such as my_package")
        if name in sys.stdlib_module_names:
            raise InputError(f"packages={name}: that is Python's own; name the package that holds your method")
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"packages={name}: there is no such package; install it, or put the folder that holds it on PYTHONPATH"
            )
    _allowed[:] = names


def target_class(target: str) -> type[Any]:
    """The class a ``_target_`` names.

    Raises:
        InputError: it is outside this project's packages, or does not exist.
    """
    module, _, name = target.rpartition(".")
    package, known = module.split(".")[0], (*PACKAGES, *_allowed)
    if package not in known:
        own = f"; if it is your own, give packages={package}" if package.isidentifier() else ""
        raise InputError(f"_target_={target}: only classes of {', '.join(known)} may be built{own}")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise InputError(f"_target_={target}: there is no module {error.name}; correct the name") from None
    except AttributeError:
        raise InputError(f"_target_={target}: {module} has no {name}; correct the name") from None
    if not isinstance(found, type):
        raise InputError(f"_target_={target}: is not a class; name a class")
    return found


@cache
def mirror(settings: type[Any], target: str | None = None, without: tuple[str, ...] = ()) -> type[Any]:
    """A dataclass with the fields of another: types kept, values open, and not frozen, so that YAML can fill it.

    Args:
        without: fields to leave out.
    """
    hints = get_type_hints(settings)
    parts: list[Any] = [("_target_", str, field(default=target))] if target else []
    for part in dataclasses.fields(settings):
        hint, default, factory = hints[part.name], part.default, part.default_factory
        if part.name in without:
            continue
        if hint is Student:
            # A group of its own, to which the method's file refers and which has its type there.
            parts.append((part.name, Any, field(default=MISSING)))
        elif dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            nested = mirror(hint)
            parts.append((part.name, nested, field(default_factory=nested)))
        elif factory is not dataclasses.MISSING:
            parts.append((part.name, hint, field(default_factory=factory)))
        else:
            parts.append((part.name, hint, field(default=MISSING if default is dataclasses.MISSING else default)))
    return dataclasses.make_dataclass(settings.__name__, parts)
