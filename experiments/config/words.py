"""From words as people type them to words as Hydra reads them, and back.

Hydra has a grammar for values: ``1e5`` is a number in it, ``a,b`` a sweep, ``~``, ``(`` and every letter outside ASCII
an error, and OmegaConf looks up what ``${...}`` refers to. A setting that is text by the types of the schema is
therefore handed on in quotes.
"""

import dataclasses
import os
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from core.errors import InputError
from evaluation.everything_settings import EverythingSettings
from experiments.config.files import FOLLOWING
from experiments.config.groups import DATA, StudentConfig
from experiments.config.schema import COMMANDS
from experiments.config.targets import method_classes
from experiments.tracking.settings import LOGGERS

PATHS = frozenset(
    (
        *("root", "checkpoint", "image", "out", "runs", "detections", "first", "second", "init"),
        *("cache_folder", "annotations", "images", "names", "weights", "reference"),
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
        for group in ("method", *FOLLOWING)
    )
    return _table(command, *chosen_methods)


def any_text_settings() -> Mapping[str, TextSetting | None]:
    """Those of all commands together, as files of settings serve several."""
    return _together(tuple(method_classes().values()))


@lru_cache(maxsize=8)
def _together(methods: tuple[type[Any], ...]) -> Mapping[str, TextSetting | None]:
    return _agreed(
        found for command in COMMANDS for found in _table(command, *[methods] * (1 + len(FOLLOWING))).items()
    )


@lru_cache(maxsize=64)
def _table(
    command: str, methods: tuple[type[Any], ...], *following: tuple[type[Any], ...]
) -> Mapping[str, TextSetting | None]:
    datasets = tuple(DATA.values())
    groups: dict[str, tuple[type[Any], ...]] = {
        "method": methods,
        **dict(zip(FOLLOWING, following, strict=True)),
        "method.student": (StudentConfig,),
        **{f"{group}.student": (StudentConfig,) for group in FOLLOWING},
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


Value = str | list[str] | None

_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_PART = re.compile(rf"\s*({_QUOTED}|[^,]*?)\s*(,|\Z)", re.DOTALL)
_LIST = re.compile(rf"\s*(\[(?:{_QUOTED}|[^\]])*+\])\s*(,|\Z)", re.DOTALL)
_CHOICE = re.compile(r"\s*choice\((.*)\)\s*", re.DOTALL)
_ESCAPED = re.compile(r"\\([\\()\[\]{}:=, \t])")
"""What stands for a sign in Hydra's grammar outside of quotes."""


def hydra_words(command: str, words: Sequence[str], sweep: bool) -> list[str]:
    """Settings as Hydra's grammar has them; those that are no text are left as they are.

    Args:
        command: of :data:`experiments.config.schema.COMMANDS`.
        words: ``key=value``, as typed.
        sweep: whether several values make several runs, as with ``-m``.

    Raises:
        InputError: a sweep over text has a value that is empty.
    """
    known = text_settings(command, words)
    return [_hydra_word(word, known, sweep) for word in words]


def typed_words(command: str, words: Sequence[str]) -> list[str]:
    """The settings of one run as they would be typed, from words of :func:`hydra_words`."""
    known = text_settings(command, words)
    return [_typed_word(word, known) for word in words]


def typed_value(value: Value, optional: bool = True) -> str:
    """A text or a list of texts as it would be typed: in quotes where it means something else without.

    Args:
        optional: whether ``null`` would leave the setting unset.
    """
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(_typed_part(part) for part in value)}]"
    return quoted(value) if re.fullmatch(_QUOTED, value, re.DOTALL) or (optional and value == "null") else value


def quoted(text: str) -> str:
    """A text in quotes, which Hydra's grammar reads as that text."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text) + "'"


def literal(text: str) -> str:
    """A text that OmegaConf keeps, whatever it seems to refer to."""
    return re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", text)


def _hydra_word(word: str, known: Mapping[str, TextSetting | None], sweep: bool) -> str:
    key, sign, value = word.partition("=")
    kind = known.get(key.lstrip("+"))
    if not sign or key.startswith("~"):
        return word
    if kind is not None:
        return f"{key}={','.join(_shown(part) for part in _values(word, value, kind, sweep))}"
    if key.lstrip("+") not in known and not key.startswith("hydra"):
        # A group or no setting at all: that is what shall be said, rather than that a sign is wrong.
        try:
            OverridesParser.create().parse_override(word)
        except HydraException:
            return f"{key}={quoted(value)}"
    return word


def _values(word: str, value: str, kind: TextSetting, sweep: bool) -> list[Value]:
    """The values that a word gives: one, or those of a sweep."""
    if sweep and not os.path.lexists(os.path.expanduser(value)):
        choice = _CHOICE.fullmatch(value)
        inside = value if choice is None else choice[1]
        parts = _parts(inside, _LIST if kind.several else _PART)
        if len(parts) > 1 or (parts and choice is not None):
            if "" in parts:
                raise InputError(f"{word}: a value of the sweep is empty; give one, in quotes if a comma belongs to it")
            return [_read(part, kind) for part in parts]
    return [_read(value, kind)]


def _parts(text: str, pattern: re.Pattern[str] = _PART) -> list[str]:
    """What stands between commas, without the spaces around it; nothing where a part is not as the pattern has it."""
    parts: list[str] = []
    place = 0
    while found := pattern.match(text, place):
        parts.append(found[1])
        place = found.end()
        if not found[2]:
            return parts
    return []


def _read(value: str, kind: TextSetting) -> Value:
    listed = re.fullmatch(r"\s*\[(.*)\]\s*", value, re.DOTALL) if kind.several else None
    if listed is not None:
        return [_text(part, kind.path) for part in _parts(listed[1])] if listed[1].strip() else []
    return None if kind.optional and value == "null" else _text(value, kind.path)


def _text(value: str, path: bool) -> str:
    """A text without the quotes that enclose it, if any do; of a path ``~`` at its beginning is the home folder."""
    if re.fullmatch(_QUOTED, value, re.DOTALL):
        mark = value[0]
        inner = re.sub(rf"(\\*)({mark})", lambda found: found[1][: len(found[1]) // 2] + found[2], value[1:])
        value = inner[:-1]
    if not path:
        return value
    if value == "???":
        # Alone these signs mean to OmegaConf that a value is missing.
        return "./???"
    place = os.path.expanduser(value)
    # As in Hydra's grammar a path may hold escaped signs, if there is no such path otherwise.
    plain = os.path.expanduser(_ESCAPED.sub(r"\1", value))
    return plain if not os.path.lexists(place) and os.path.lexists(plain) else place


def _shown(value: Value) -> str:
    if value is None:
        return "null"
    return f"[{','.join(map(_shown, value))}]" if isinstance(value, list) else quoted(literal(value))


def _typed_word(word: str, known: Mapping[str, TextSetting | None]) -> str:
    key, sign, _ = word.partition("=")
    kind = known.get(key.lstrip("+"))
    if not sign or kind is None:
        return word
    value = OverridesParser.create().parse_override(word).value()
    if isinstance(value, list):
        return f"{key}={typed_value([_plain(str(text)) for text in value])}"
    return f"{key}={typed_value(_plain(value), kind.optional)}" if isinstance(value, str) else word


def _plain(text: str) -> str:
    """A text from what :func:`literal` made of it."""
    return re.sub(r"(\\+)\$\{", lambda found: found[1][: len(found[1]) // 2] + "${", text)


def _typed_part(text: str) -> str:
    whole = text and _parts(text) == [text] and text[0] not in ("'", '"')
    return text if whole else quoted(text)
