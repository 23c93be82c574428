"""Every setting of a command or of a method, with type, default and one line: from ``schema.py`` and ``conf/``."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from experiments.cli.help.class_text import ROOT, Setting, assigned, class_settings, find_class, plain
from experiments.cli.help.yaml_comments import yaml_defaults, yaml_values

CONF = ROOT / "conf"
"""The folder of settings; :data:`experiments.config.schema.CONF` without its imports."""
_SCHEMA = "experiments.config.schema"
CHOICES = {"data": ("experiments.config.data_schema", "DATA"), "logger": ("experiments.tracking.settings", "LOGGERS")}
"""Groups whose choices have classes of their own: the module and the table that has them by name."""
_OPEN = {"generator": ("evaluation.everything_settings", "EverythingSettings", ("output",))}
"""Settings typed ``Any`` in the schema that mirror a class: its module, its name, and what is left out."""


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
def group_choices(group: str) -> tuple[str, ...]:
    """The names of the files of a group of ``conf/``, in order; none where there is no such group.

    Those of ``then`` are the methods that can begin with a model.
    """
    names = sorted(path.stem for path in group_file(group, "").parent.glob("*.yaml"))
    return tuple(n for n in names if group != "then" or "\ninit:" in group_file(group, n).read_text(encoding="utf-8"))


def group_file(group: str, name: str) -> Path:
    """The file of a choice; a second method has the settings of the first."""
    return CONF / ("method" if group == "then" else group) / f"{name}.yaml"


@cache
def commands() -> dict[str, str]:
    """The class of the settings of each command, by its word, in order."""
    table = assigned(_SCHEMA, "COMMANDS")
    assert isinstance(table, ast.Dict)
    return {
        ast.literal_eval(key): ast.unparse(value) for key, value in zip(table.keys, table.values, strict=True) if key
    }


@cache
def _other_names() -> dict[str, dict[str, str]]:
    table = assigned(_SCHEMA, "OTHER_NAMES")
    assert table is not None
    return dict(ast.literal_eval(table))


@cache
def command_settings(command: str) -> tuple[SettingLine, ...]:
    """Every setting of a command: its own first, then groups, then what stands in each group that has one type.

    Those of ``method`` and ``then``, ``data`` and ``logger`` depend on the choice: :func:`method_settings`,
    :func:`choice_settings`.
    """
    file = CONF / f"{'config' if command == 'run' else command}.yaml"
    chosen = yaml_defaults(file)
    typed = {name: typed for typed, name in _other_names().get(command, {}).items()}
    values = {**yaml_values(CONF / "base.yaml"), **yaml_values(file)}
    fields = class_settings(_SCHEMA, commands()[command])
    own, groups, nested = [], [], []
    for part in fields:
        parts = list(_below(part, part.name, chosen.get(part.name)))
        if part.name in chosen and len(group_choices(part.name)) > 1:
            line = part.line or f"one of conf/{part.name}; see below"
            groups.append(SettingLine(part.name, "", _shown(chosen[part.name]), line, part.name))
        elif not parts:
            own.append(_line(part, typed.get(part.name, part.name), values.get(part.name)))
        nested += parts
    known = {part.name for part in fields}
    for group in ("logger", "variant", "experiment", "hydra/launcher"):
        if group in chosen and group not in known and group_choices(group):
            groups.append(SettingLine(group, "", chosen[group], f"one of conf/{group}; see below", group))
    return (*own, *groups, *nested)


@cache
def method_settings(path: Path) -> tuple[SettingLine, ...]:
    """Every setting of a method, from its file in ``conf/method/`` and from the class that this names."""
    return tuple(_of_target(path, "method"))


@cache
def choice_settings(group: str, choice: str) -> tuple[SettingLine, ...]:
    """Every setting of a data set or a logger, from its file in ``conf/`` and from the classes behind it.

    Args:
        group: a key of :data:`CHOICES`.
    """
    module, table = CHOICES[group]
    parts = class_settings(module, _named(module, table, choice))
    target = str(next((part.default for part in parts if part.name == "_target_"), ""))
    said = {part.name: part.line for part in class_settings(target.rpartition(".")[0], target.rpartition(".")[2])}
    values = yaml_values(CONF / group / f"{choice}.yaml")
    return tuple(
        _line(part, f"{group}.{part.name}", values.get(part.name), said.get(part.name, ""))
        for part in parts
        if part.name != "_target_"
    )


def _of_target(path: Path, prefix: str) -> Iterator[SettingLine]:
    values = yaml_values(path)
    module, _, name = values.get("_target_", ("", ""))[0].rpartition(".")
    parts = class_settings(module, name)
    for part in parts:
        key, value = f"{prefix}.{part.name}", values.get(part.name)
        if group_choices(part.name):
            yield SettingLine(key, "", None, part.line or f"the group {part.name}", part.name)
            continue
        below = [
            _line(inner, f"{key}.{inner.name}", values.get(f"{part.name}.{inner.name}")) for inner in _class_of(part)
        ]
        yield from below or [_line(part, key, value, yaml_first=True)]
    if not parts:
        # A class of one's own, outside this project: its file alone says what there is.
        for key, (written, comment) in values.items():
            if key != "_target_":
                yield SettingLine(f"{prefix}.{key}", "", _shown(written), comment)


def _below(part: Setting, key: str, choice: str | None) -> Iterator[SettingLine]:
    """The settings below one whose type is a class of settings."""
    values = yaml_values(CONF / part.name / f"{choice}.yaml")
    module, name, without = _OPEN.get(part.name, ("", "", ()))
    inner = [field for field in class_settings(module, name) if field.name not in without] or _class_of(part)
    for field in inner:
        deeper = list(_class_of(field))
        for last in deeper:
            yield _line(last, f"{key}.{field.name}.{last.name}", values.get(f"{field.name}.{last.name}"))
        if deeper:
            continue
        if field.name == "data":
            yield SettingLine(
                f"{key}.data", "", None, "settings of the data set that is scored, as those of data=", "data"
            )
        else:
            yield _line(field, f"{key}.{field.name}", values.get(field.name))


def _class_of(part: Setting) -> tuple[Setting, ...]:
    """The settings of the class that a setting's type is, if it is one of settings."""
    name = part.type.removesuffix(" | None")
    found = find_class(part.home, name) if re.fullmatch(r"[A-Z]\w+", name) and name not in ("Any", "Path") else None
    return class_settings(found[0], found[1].name) if found else ()


def _line(
    part: Setting, key: str, value: tuple[str, str] | None, otherwise: str = "", yaml_first: bool = False
) -> SettingLine:
    written, comment = value or (None, "")
    lines = (plain(comment), part.line) if yaml_first else (part.line, plain(comment))
    line = next((text for text in (*lines, otherwise) if text), "")
    default = part.default if written is None else _shown(written)
    return SettingLine(key, _type(part.type), default, line)


def _shown(value: str) -> str | None:
    """A default as help shows it: what is taken from another setting by that setting's name."""
    if value == "???":
        return None
    value = re.sub(r"\$\{oc\.select:(\w+),\w+\}", r"${\1}", value)
    return re.sub(r"\$\{([\w.]+)\}", r"<\1>", value).strip("\"'")


def _type(annotation: str) -> str:
    text = annotation.replace("Path | str", "str").replace(" | None", "")
    return text.replace("list[Any]", "list").replace("tuple", "list").replace(", ...]", "]").replace("Any", "")


def _named(module: str, table: str, key: str) -> str:
    """The name of the class that a table has for a key; empty where it has none."""
    value = assigned(module, table)
    assert isinstance(value, ast.Dict)
    entries = zip(value.keys, value.values, strict=True)
    return next((ast.unparse(part) for name, part in entries if name and ast.literal_eval(name) == key), "")
