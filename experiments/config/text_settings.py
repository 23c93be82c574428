"""Which settings are text or paths, by the types of the schema: these are taken as they are typed."""

import dataclasses
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from evaluation.everything_settings import EverythingSettings
from experiments.config.data_schema import DATA
from experiments.config.model_schema import StudentConfig
from experiments.config.schema import COMMANDS, method_classes
from experiments.tracking.settings import LOGGERS

PATHS = frozenset(
    (
        *("root", "checkpoint", "image", "out", "runs", "detections", "first", "second", "init"),
        *("cache_folder", "annotations", "images", "weights", "reference"),
    )
)
"""Last parts of settings that take a file or a folder, where they are text."""


@dataclass(frozen=True)
class TextSetting:
    """A setting that is text.

    Attributes:
        optional: whether ``null`` leaves it unset.
        several: whether it is a list of texts.
        path: whether it may name a file or a folder, so that a leading ``~`` is the home folder.
    """

    optional: bool
    several: bool
    path: bool


def text_settings(command: str, words: Sequence[str] = ()) -> Mapping[str, TextSetting | None]:
    """Every setting of a command by its dotted key; None for those that are not text.

    Args:
        command: of :data:`experiments.config.schema.COMMANDS`.
        words: what was typed: where methods disagree about a setting, those count that were chosen.
    """
    chosen = {key: tuple(value.split(",")) for key, sign, value in (word.partition("=") for word in words) if sign}
    known = method_classes()
    chosen_methods = tuple(
        tuple(dict.fromkeys(known[name] for name in chosen.get(group, ()) if name in known)) or tuple(known.values())
        for group in ("method", "then")
    )
    return _table(command, *chosen_methods)


def any_text_settings() -> Mapping[str, TextSetting | None]:
    """Those of all commands together, as files of settings serve several."""
    return _together(tuple(method_classes().values()))


@lru_cache(maxsize=8)
def _together(methods: tuple[type[Any], ...]) -> Mapping[str, TextSetting | None]:
    return _agreed(found for command in COMMANDS for found in _table(command, methods, methods).items())


@lru_cache(maxsize=64)
def _table(
    command: str, methods: tuple[type[Any], ...], after: tuple[type[Any], ...]
) -> Mapping[str, TextSetting | None]:
    datasets = tuple(DATA.values())
    groups: dict[str, tuple[type[Any], ...]] = {
        "method": methods,
        "then": after,
        "method.student": (StudentConfig,),
        "then.student": (StudentConfig,),
        "data": datasets,
        "evaluation.data": datasets,
        "logger": tuple(LOGGERS.values()),
        "generator": (EverythingSettings,),
    }
    return _agreed(_below(COMMANDS[command], "", groups))


def _agreed(found: Any) -> dict[str, TextSetting | None]:
    """One answer a key; a setting that is text in one place and something else in another is left to Hydra."""
    table: dict[str, TextSetting | None] = {}
    for key, kind in found:
        before = table.setdefault(key, kind)
        if before is None or kind is None or before.several != kind.several:
            table[key] = None
        else:
            table[key] = dataclasses.replace(kind, optional=before.optional or kind.optional)
    return table


def _below(
    node: type[Any], prefix: str, groups: Mapping[str, tuple[type[Any], ...]]
) -> Iterator[tuple[str, TextSetting | None]]:
    hints = get_type_hints(node)
    for part in dataclasses.fields(node):
        key = f"{prefix}{part.name}"
        members, optional = _members(hints[part.name])
        nested: tuple[Any, ...] = tuple(member for member in members if dataclasses.is_dataclass(member))
        if Any in members:
            nested = groups.get(key, ())
        for inner in nested:
            yield from _below(inner, f"{key}.", groups)
        if not nested:
            yield key, _kind(members, optional, part.name)


def _members(hint: Any) -> tuple[tuple[Any, ...], bool]:
    """The types of a union without None, and whether None is one."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(member for member in members if member is not types.NoneType), types.NoneType in members


def _kind(members: tuple[Any, ...], optional: bool, name: str) -> TextSetting | None:
    path = name in PATHS
    if members and set(members) <= {str, Path}:
        return TextSetting(optional, False, path)
    if len(members) == 1 and get_origin(members[0]) in (list, tuple) and get_args(members[0])[:1] == (str,):
        return TextSetting(optional, True, path)
    return None
