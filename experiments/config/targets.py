"""Classes that a ``_target_`` names: which are allowed, what their settings are, and what YAML fills in their place."""

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from compressors import settings as built_in
from core.errors import InputError
from evaluation.everything_settings import EverythingSettings
from experiments.config.files import CONF, FOLLOWING, config_name, read_settings
from experiments.config.groups import BY_CONTENT, DATA, MISSING
from experiments.config.schema import COMMANDS
from experiments.tracking.settings import LOGGERS
from students.student import Student

if TYPE_CHECKING:
    from compressors.method import Compressor

FILES = ("init", "weights", "checkpoint")
"""Names of settings of methods that name files of weights: a run is named by their content."""
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


def build(settings: Any, key: str, find: Callable[[str], type[Any]] = target_class) -> Any:
    """The object that settings with a ``_target_`` describe.

    Args:
        key: where the settings stand in the configuration, for messages.
        find: what makes a class of the target's name: the class itself, or that of its settings.

    Raises:
        InputError: the target is not of this project, or refuses its arguments.
    """
    arguments = dict(settings) if isinstance(settings, Mapping) else dataclasses.asdict(settings)
    target = find(arguments.pop("_target_"))
    hints = get_type_hints(target) if dataclasses.is_dataclass(target) else {}
    typed = {name: _typed(value, hints.get(name), f"{key}.{name}") for name, value in arguments.items()}
    try:
        return target(**typed)
    except InputError as error:
        # Methods speak of their settings as those of the first one.
        raise InputError(str(error).replace("method.", f"{key}.")) from error


def build_method(settings: Any) -> "Compressor":
    """The compression method, its settings checked.

    Raises:
        InputError: the target is no :class:`Compressor`, or refuses its arguments.
    """
    method_class(settings._target_)
    method: Compressor = build(settings, "method")
    return method


def method_class(target: str) -> type["Compressor"]:
    """The class of a method.

    Raises:
        InputError: it is no :class:`Compressor`.
    """
    # Here, since settings alone are known without PyTorch.
    from compressors.method import Compressor

    found = target_class(target)
    if not issubclass(found, Compressor):
        raise InputError(f"method: {found.__name__} is no compressors.method.Compressor; let the class inherit it")
    return found


def _typed(value: Any, hint: Any, key: str) -> Any:
    """A plain value as the field it is for wants it: nested settings as their class, lists as tuples."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        hints = get_type_hints(hint)
        try:
            return hint(**{name: _typed(part, hints.get(name), f"{key}.{name}") for name, part in value.items()})
        except ValueError as error:
            raise InputError(f"{key}: {error}") from None
    return tuple(value) if isinstance(value, list) else value


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
            default = MISSING if default is dataclasses.MISSING else default
            metadata = BY_CONTENT if part.name in FILES else part.metadata
            parts.append((part.name, hint, field(default=default, metadata=metadata)))
    return dataclasses.make_dataclass(settings.__name__, parts, namespace={"__doc__": settings.__doc__})


GENERATOR = mirror(EverythingSettings, without=("output",))
"""Of the command ``everything``, which writes COCO's run lengths, whatever the generator could give."""


def settings_class(target: str) -> type[Any]:
    """The dataclass whose fields are the settings of a class that a ``_target_`` names.

    That of :mod:`compressors.settings` for a method that has one there, so that PyTorch is not imported; else the class
    itself.

    Raises:
        InputError: as :func:`target_class`.
    """
    module, _, name = target.rpartition(".")
    found: type[Any] | None = getattr(built_in, f"{name}Settings", None)
    if found is not None and module.startswith("compressors.") and importlib.util.find_spec(module) is not None:
        return found
    return target_class(target)


_methods: dict[str, type[Any]] = {}
"""What YAML fills for each method that :func:`register` found."""
_stored: dict[str, type[Any]] = {}
"""That which Hydra has, which keeps what an earlier call found."""


def method_classes() -> dict[str, type[Any]]:
    """What YAML fills for each method that :func:`register` found, by the method's name."""
    return dict(_methods)


def method_options() -> dict[str, frozenset[str]]:
    """The names of the settings that each method has, by the method's name."""
    return {
        name: frozenset(part.name for part in dataclasses.fields(node)) - {"_target_"}
        for name, node in sorted(_methods.items())
    }


@cache
def _register_own() -> None:
    """What is the same in every call."""
    # Here, so that help need not wait for Hydra.
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for name, node in COMMANDS.items():
        store.store(group="schema", name=name, node=node)
        # Hydra looks for the first file before it knows where files are.
        store.store(name=f"{name}_command", node={"defaults": [config_name(name), "_self_"]})
    for name, data in DATA.items():
        store.store(group="schema/data", name=name, node=data)
    for name, logger in LOGGERS.items():
        store.store(group="schema/logger", name=name, node=logger)
    store.store(group="schema", name="generator", node=GENERATOR)


def register(folder: Path | None = None) -> None:
    """Put every schema where the YAML files name it; below ``schema/``, so that none shows as a choice.

    Args:
        folder: of further settings, with files of its own in ``method/``; see ``--config-dir``.
    """
    _register_own()
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    # Hydra copies its sources with every composition, and with them this one store of all schemas.
    ConfigStore.__deepcopy__ = lambda self, _: self  # type: ignore[attr-defined]
    _methods.clear()
    for root in [CONF] if folder is None else [CONF, folder]:
        for path in sorted((root / "method").glob("*.yaml")):
            settings = read_settings(path)
            target = settings.get("_target_")
            if "init" in settings:
                # What can begin with a model can follow another method.
                for group in FOLLOWING:
                    store.store(group=group, name=path.stem, node={"defaults": [f"/method/{path.stem}@_here_"]})
            if isinstance(target, str):
                found: type = settings_class(target)
                _methods[path.stem] = node = mirror(found, target)
                if _stored.get(path.stem) is not node:
                    store.store(group="schema/method", name=path.stem, node=node)
                    _stored[path.stem] = node
