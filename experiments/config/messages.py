"""Hydra's and OmegaConf's errors, as one line that names key, value and fix."""

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, Node
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, GrammarParseError, ValidationError

from core.errors import InputError
from experiments.config.files import LAUNCHERS, group_choices, nearest
from experiments.config.schema import RENAMED


def as_input_error(
    error: Exception, overrides: Sequence[str], known: DictConfig | None, others: Iterable[str] = ()
) -> InputError:
    """The error of a composition as an :class:`InputError`.

    Args:
        overrides: what was typed.
        known: the configuration without the overrides, to find what was meant.
        others: further names that settings of the command are typed by.
    """
    if isinstance(error, OverrideParseException):
        return InputError(f"{error.override!r} cannot be read; give key=value, with a value such as 0.5, true or [1,2]")
    if isinstance(error, MissingConfigException):
        return _missing(error)
    chain = list(_chain(error))
    if any(isinstance(part, GrammarParseError) for part in chain):
        return InputError(
            f"{_line(error)}: ${{ begins a reference in files of settings, and stands in the name of no folder to work "
            f"in ({os.getcwd()}) and to sweep into (runs=)"
        )
    of_type = any(isinstance(part, ValidationError) for part in chain)
    for part in chain:
        text = _line(part)
        if not of_type and (match := re.search(r"Could not override '([^']+)'", text)):
            return unknown(match[1], known, others)
    for part in chain:
        if isinstance(part, ValidationError) and part.full_key:
            return InputError(f"{_typed(part.full_key, overrides)}: {_kind(_line(part), part.child_node)}")
    for part in chain:
        if isinstance(part, ConfigKeyError | ConfigAttributeError) and part.full_key:
            return unknown(part.full_key, known, others)
    for text in overrides:
        key, _, value = text.partition("=")
        if value in ("null", "") and (names := group_choices(key)):
            return InputError(f"{text}: {nearest(value, names)}")
    text = _line(error)
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return InputError(f"{match[1]} gives several values; add -m to run each of them")
    return InputError(text)


def _missing(error: MissingConfigException) -> InputError:
    group, _, name = (error.missing_cfg_file or "").removesuffix(".yaml").rpartition("/")
    options = sorted(error.options or ())
    if group == "hydra/launcher" and name in LAUNCHERS:
        return InputError(f"{group}={name} is not installed; pip install 'sampress[sweeps]'")
    if not group:
        return InputError(_line(error))
    if not options:
        return InputError(f"{group}={name}: there is no such group of settings")
    if group in ("then", "lastly") and name in group_choices("method"):
        takers = " or ".join(options)
        return InputError(f"{group}={name}: {name} takes no model to begin with, so it stands first; choose {takers}")
    return InputError(f"{group}={name} is unknown; {nearest(name, options)}")


def unknown(key: str, known: DictConfig | None, others: Iterable[str] = ()) -> InputError:
    """A key that does not exist, with the one that was probably meant.

    Args:
        others: further names that settings of the command are typed by, with dots.
    """
    if key in RENAMED:
        return InputError(f"{key} is called {RENAMED[key]} now")
    node: Any = known
    parents = key.split(".")
    for depth, part in enumerate(parents):
        prefix = ".".join(parents[:depth])
        names = _names(node)
        if part in names:
            node = node._get_node(part)
            continue
        names += [other.removeprefix(f"{prefix}.") for other in others if prefix and other.startswith(f"{prefix}.")]
        if not isinstance(node, DictConfig) and not names:
            break
        names += ["experiment"] if not depth else []
        if not depth and (below := _below(part, node)):
            return InputError(f"{key} is no setting; did you mean {' or '.join(below)}?")
        near = difflib.get_close_matches(part, names, n=1, cutoff=0.6)
        if near:
            return InputError(f"{key} is no setting; did you mean {'.'.join([*parents[:depth], near[0]])}?")
        where = f"{prefix} has" if prefix else "there are"
        return InputError(f"{key} is no setting; {where} {', '.join(sorted(set(names))) or 'none'}")
    if isinstance(node, DictConfig):
        return InputError(f"{key} is no choice here; give what it has: {', '.join(f'{key}.{name!s}' for name in node)}")
    return InputError(f"{key} is no setting here; see --help")


def _names(node: Any) -> list[str]:
    """The settings below a node; none below a value."""
    return [str(name) for name in node] if isinstance(node, DictConfig) and not node._is_none() else []


def _below(name: str, known: DictConfig) -> list[str]:
    """Settings of this name that stand in a group: in the method's, where it has one, else in any."""
    groups = sorted(_names(known), key="method".__ne__)
    found = [f"{group}.{name}" for group in groups if name in _names(known._get_node(group))]
    return found[:1] if found[:1] == [f"method.{name}"] else found


def _typed(key: str, overrides: Sequence[str]) -> str:
    """The override that set a key, as it was typed, or else the key."""
    for text in overrides:
        if text.lstrip("+~").partition("=")[0] == key:
            return text
    return key


def _kind(text: str, node: Node | None) -> str:
    """OmegaConf's complaint about a value, in plain words.

    Args:
        node: what has the setting's type.
    """
    unset = ", or null" if node is not None and node._is_optional() else ""
    kinds = {"Float": "a number, such as 0.5", "Integer": "a whole number", "Bool": "true or false"}
    if (match := re.search(r"could not be converted to (\w+)", text)) and match[1] in kinds:
        return f"give {kinds[match[1]]}{unset}"
    if "is not Optional" in text or "Incompatible value 'None'" in text:
        return "null is not possible here; give a value"
    if "is not a valid bool" in text:
        return f"give true or false{unset}"
    if "is not a ListConfig" in text:
        return f"give a list, such as [1,2]{unset}"
    return text


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
