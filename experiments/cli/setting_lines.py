"""Every setting of a command or of a choice, with type, default and one line: from classes and ``conf/``."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from experiments.config.files import CONF, chosen_groups, config_name, group_choices, read_settings
from experiments.config.groups import DATA, MISSING
from experiments.config.schema import COMMANDS, OTHER_NAMES
from experiments.config.targets import GENERATOR, settings_class
from experiments.tracking.settings import LOGGERS

CHOICES: dict[str, dict[str, type[Any]]] = {"data": dict(DATA), "logger": LOGGERS}
"""Groups whose choices have classes of their own."""
SCORED = "evaluation.data"
"""Below it stand the settings of the data set that is scored."""
_SCORED_LINE = "settings of the data set that is scored"
_SELECT = re.compile(r"\$\{oc\.select:([\w.]+),(\w+)\}")
"""Another setting's value, and what stands instead where there is no such setting."""


@dataclass(frozen=True)
class SettingLine:
    """One setting, as help shows it and completion completes it.

    Attributes:
        key: with dots, as it is typed.
        type: in words of Python; empty for a group.
        default: as it is typed; None for what must be given.
        line: what it is; may be empty only in a file of one's own.
        group: the folder of ``conf/`` whose files are its values; None for a plain value.
    """

    key: str
    type: str
    default: str | None
    line: str
    group: str | None = None


@cache
def command_settings(command: str) -> tuple[SettingLine, ...]:
    """Every setting of a command: its own first, then groups, then what stands in each group that has one type.

    Those of ``method`` and ``then``, ``data`` and ``logger`` depend on the choice: :func:`method_settings`,
    :func:`choice_settings`; so do those of ``evaluation.data``: :func:`scored_settings`.
    """
    schema, chosen = COMMANDS[command], chosen_groups(command)
    typed = {name: typed for typed, name in OTHER_NAMES.get(command, {}).items()}
    values = {**read_settings(CONF / "base.yaml"), **read_settings(CONF / f"{config_name(command)}.yaml")}
    hints, lines = get_type_hints(schema), attribute_lines(schema)
    own, groups, nested = [], [], []
    for part in dataclasses.fields(schema):
        is_group = part.name in chosen and len(group_choices(part.name)) > 1
        kind = GENERATOR if part.name == "generator" else _dataclass(hints[part.name])
        if is_group:
            line = lines.get(part.name) or f"one of conf/{part.name}; see below"
            groups.append(SettingLine(part.name, "", _shown(chosen[part.name]), line, part.name))
        elif kind is None:
            key = typed.get(part.name, part.name)
            own.append(_line(part, key, hints[part.name], lines, values))
        if kind is not None:
            inner = _with_fallbacks(read_settings(CONF / part.name / f"{chosen.get(part.name)}.yaml"), schema)
            nested += list(_below(kind, part.name, inner))
    nested = _with_scored(nested, typed, with_data="data" in chosen)
    for group in ("variant", "experiment"):
        if group in chosen:
            groups.append(SettingLine(group, "", chosen[group], f"one of conf/{group}; see below", group))
    return (*own, *groups, *nested)


@cache
def method_settings(path: Path, prefix: str = "method") -> tuple[SettingLine, ...]:
    """Every setting of a method, from its file in ``conf/method/`` and from the class that this names.

    Raises:
        InputError: the class is in a package of one's own that is not named (``packages=``), or does not exist.
    """
    values = read_settings(path)
    return tuple(_below(settings_class(str(values.get("_target_"))), prefix, values))


@cache
def choice_settings(group: str, choice: str) -> tuple[SettingLine, ...]:
    """Every setting of a data set or a logger.

    Args:
        group: a key of :data:`CHOICES`.
    """
    values = read_settings(CONF / group / f"{choice}.yaml")
    return tuple(_below(CHOICES[group][choice], group, values))


@cache
def scored_settings() -> dict[str, tuple[SettingLine, ...]]:
    """Every setting of the data set that is scored, by data set, with the values of the evaluation of its name."""
    given = {name: read_settings(CONF / "evaluation" / f"{name}.yaml").get("data", {}) for name in DATA}
    return {name: tuple(_below(schema, SCORED, given[name])) for name, schema in DATA.items()}


def attribute_lines(documented: type[Any]) -> dict[str, str]:
    """What the docstrings of a class and of those it extends say of each attribute, in plain words."""
    lines: dict[str, str] = {}
    for base in reversed(documented.__mro__):
        lines |= read_attributes(base.__doc__ or "")
    return lines


def read_attributes(docstring: str) -> dict[str, str]:
    """The lines below ``Attributes:`` of a docstring, by name, in plain words."""
    lines: dict[str, str] = {}
    inside, names = False, [""]
    for text in inspect.cleandoc(docstring).splitlines():
        if re.fullmatch(r"[A-Z]\w+:", text):
            inside = text == "Attributes:"
        elif inside and (match := re.match(r" {4}(\w[\w, ]*): (.*)", text)):
            names = match[1].split(", ")
            lines |= dict.fromkeys(names, match[2])
        elif inside and text.strip():
            lines |= {name: f"{lines.get(name, '')} {text.strip()}".strip() for name in names}
    return {name: _plain(line) for name, line in lines.items() if name}


def _with_fallbacks(values: dict[str, Any], schema: type[Any]) -> dict[str, Any]:
    """Values of a file, with the fallback of what is taken from a setting that the command's class has not."""
    names = {part.name for part in dataclasses.fields(schema)}

    def chosen(found: re.Match[str]) -> str:
        return found[0] if found[1] in names else found[2]

    return {key: _SELECT.sub(chosen, value) if isinstance(value, str) else value for key, value in values.items()}


def _with_scored(lines: list[SettingLine], typed: dict[str, str], with_data: bool) -> list[SettingLine]:
    """Settings with the shorter names that those of :data:`SCORED` have, which stand with the command's ``data``.

    Args:
        typed: the other names of settings.
        with_data: whether the settings of each data set are shown for ``data`` already.
    """
    found = [
        line if with_data or line.key != SCORED else replace(line, line=f"{_SCORED_LINE}, listed below")
        for line in lines
    ]
    for name, short in typed.items():
        if name.startswith(f"{SCORED}."):
            part = f"part of the data set that is scored: validation, train or (sa1b) all; short for {name}"
            place = max(number for number, line in enumerate(found) if line.key.startswith("data.")) + 1
            found.insert(place, SettingLine(short, "str", f"<{name}>", part))
    return found


def _below(schema: type[Any], prefix: str, values: dict[str, Any]) -> Iterator[SettingLine]:
    """The settings of a class, those of classes inside it included.

    Args:
        values: what a file of ``conf/`` sets.
    """
    hints, lines = get_type_hints(schema), attribute_lines(schema)
    for part in dataclasses.fields(schema):
        key, kind = f"{prefix}.{part.name}", _dataclass(hints[part.name])
        given = values.get(part.name)
        if part.name == "_target_":
            continue
        if part.name == "data":
            yield SettingLine(key, "", None, f"{_SCORED_LINE}, as those of data=", "data")
        elif kind is not None and group_choices(part.name):
            yield SettingLine(key, "", None, lines.get(part.name, f"the group {part.name}"), part.name)
        elif kind is not None:
            yield from _below(kind, key, given if isinstance(given, dict) else {})
        else:
            yield _line(part, key, hints[part.name], lines, values)


def _line(
    part: dataclasses.Field[Any], key: str, hint: Any, lines: dict[str, str], values: dict[str, Any]
) -> SettingLine:
    default = part.default_factory() if part.default_factory is not dataclasses.MISSING else part.default
    value = values.get(part.name, MISSING if default is dataclasses.MISSING else default)
    return SettingLine(key, _type(hint), _shown(value), lines.get(part.name, ""))


def _dataclass(hint: Any) -> type[Any] | None:
    """The class of settings that a type is, or is one of."""
    found = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
    return found[0] if found else None


def _type(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    text = text.replace("typing.", "").replace(" | None", "").replace("list[Any]", "list").replace("tuple", "list")
    return text.replace(", ...]", "]").replace("Any", "")


def _shown(value: Any) -> str | None:
    """A default as it would be typed: what is taken from another setting by that setting's name; None: to be given."""
    if value == MISSING:
        return None
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(str(_shown(part)) for part in value)}]"
    text = _SELECT.sub(r"${\1}", str(value))
    return re.sub(r"\$\{([\w.]+)\}", r"<\1>", text)


def _plain(text: str) -> str:
    """Without the marks of reStructuredText, None as it is typed, and no full stop behind a single sentence."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"\1", text).replace("``", "").strip()
    text = re.sub(r"\bNone\b", "null", text)
    return text.removesuffix(".") if ". " not in text else text
