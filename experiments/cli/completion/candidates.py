"""What can stand at a place of the command line: command words, settings, and the values that are known."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from experiments.cli.setting_lines import CHOICES, SettingLine, choice_settings, command_settings, method_settings
from experiments.config.files import CONF, FOLLOWING, LAUNCHERS, chosen_groups, group_choices, read_settings
from experiments.config.schema import COMMANDS
from experiments.config.targets import settings_class
from experiments.config.words import PATHS

SHELLS = ("bash", "zsh", "fish")
"""That have a script."""
OPTIMIZERS = ("adam", "adamw", "muon")
SCHEDULES = ("constant", "cosine", "step", "plateau")
"""Of :class:`compressors.distill.optimizer.OptimizerConfig`."""


@dataclass(frozen=True)
class Candidates:
    """Everything a script completes.

    Attributes:
        commands: the command words.
        keys: the settings of each command, without those that depend on a choice.
        below: the settings that come with a choice, such as ``method=slimsam``.
        defaults: the choice of each command where none is typed: ``run method`` -> ``slimsam``.
        values: known values, by setting, or by command and setting where they differ.
        paths: settings that take a file or a folder.
    """

    commands: tuple[str, ...]
    keys: Mapping[str, tuple[str, ...]]
    below: Mapping[str, tuple[str, ...]]
    defaults: Mapping[str, str]
    values: Mapping[str, tuple[str, ...]]
    paths: tuple[str, ...]


def candidates() -> Candidates:
    """All of them, from the schema, from ``conf/`` and from the constants that values are checked against."""
    own = {command: command_settings(command) for command in COMMANDS}
    below = {f"method={name}": method_settings(CONF / "method" / f"{name}.yaml") for name in group_choices("method")}
    for group in FOLLOWING:
        below |= {
            f"{group}={name}": _renamed(below[f"method={name}"], "method", group) for name in group_choices(group)
        }
    for group in CHOICES:
        below |= {f"{group}={name}": choice_settings(group, name) for name in group_choices(group)}
    scored = [
        setting
        for name in group_choices("data")
        for setting in _renamed(below[f"data={name}"], "data", "evaluation.data")
    ]
    every = [line for lines in (*own.values(), *below.values(), scored) for line in lines]
    values = _values(every)
    keys = {}
    for command, lines in own.items():
        with_data = scored if "evaluation.data" in [line.key for line in lines] else []
        names = [line.key for line in (*lines, *with_data) if line.key != "evaluation.data"]
        keys[command] = _unique([*names, "hydra/launcher"])
    return Candidates(
        tuple(own),
        keys,
        {choice: _unique(line.key for line in lines) for choice, lines in below.items()},
        _defaults(own),
        values,
        _unique(line.key for line in every if _is_path(line, values)),
    )


def _renamed(lines: Sequence[SettingLine], old: str, new: str) -> tuple[SettingLine, ...]:
    return tuple(replace(line, key=new + line.key.removeprefix(old)) for line in lines)


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _defaults(own: Mapping[str, Sequence[SettingLine]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for command in own:
        chosen = chosen_groups(command)
        found |= {
            f"{command} {group}": chosen[group]
            for group in ("method", *CHOICES)
            if group_choices(group) and group in chosen and chosen[group] != "null"
        }
    return found


def _is_path(line: SettingLine, values: Mapping[str, Sequence[str]]) -> bool:
    last = line.key.rpartition(".")[2]
    named = last in ("checkpoint", "init") or line.key not in values
    return line.type == "str" and last in PATHS and named


def _values(lines: Iterable[SettingLine]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {"hydra/launcher": tuple(LAUNCHERS)}
    for line in lines:
        if line.group is not None and line.key == line.group:
            found[line.key] = group_choices(line.group)
        elif line.type == "bool":
            found[line.key] = ("true", "false")
    return found | _checked() | _of_methods()


def _of_methods() -> dict[str, tuple[str, ...]]:
    """The choices of methods' settings, by what their classes are checked against."""
    found: dict[str, tuple[str, ...]] = {}
    for name in group_choices("method"):
        target = read_settings(CONF / "method" / f"{name}.yaml")["_target_"]
        for key, allowed in getattr(settings_class(target), "choices", {}).items():
            for group in ("method", *(FOLLOWING if name in group_choices("then") else ())):
                found[f"{group}.{key}"] = _unique((*found.get(f"{group}.{key}", ()), *allowed))
    return found


def _checked() -> dict[str, tuple[str, ...]]:
    """Values by the constants that the program itself compares with."""
    from evaluation.average_precision.figures import BACKENDS
    from evaluation.everything_settings import STRATEGIES
    from evaluation.latency import PRECISIONS
    from evaluation.protocols import PROTOCOLS
    from experiments.commands.convert import LAYOUTS
    from experiments.config.schema import CACHES, FORMATS, TABLE_FORMATS
    from experiments.tracking.settings import MODES
    from students.catalog import RELEASED
    from students.export.manifest import PRECISIONS as EXPORTED
    from students.export.runtimes import RUNTIMES, WRITES
    from students.kinds import KINDS
    from teachers.catalog import MODELS

    models = (*MODELS, *RELEASED)
    found: dict[str, Iterable[str]] = {
        "format": FORMATS,
        "table format": TABLE_FORMATS,
        "cache": CACHES,
        "engine.cache": CACHES,
        "engine.device": ("auto", "cpu", "cuda"),
        "engine.precision": ("auto", *PRECISIONS),
        "evaluation.precision": PRECISIONS,
        "evaluation.protocols": PROTOCOLS,
        "compare protocol": PROTOCOLS,
        "table protocol": PROTOCOLS,
        "evaluation.backend": BACKENDS,
        "evaluation.reference": models,
        "checkpoint": models,
        "method.init": models,
        **{f"{group}.init": models for group in FOLLOWING},
        "convert to": LAYOUTS,
        "export to": WRITES,
        "export precision": EXPORTED,
        "latency precision": PRECISIONS,
        "runtime": RUNTIMES,
        "generator.strategy": STRATEGIES,
        "logger.mode": MODES,
        "shell": SHELLS,
        "student.kind": [kind for kind in KINDS if kind != "vit"],
        "teacher.name": MODELS,
        "table data": group_choices("data"),
        "leaderboard data": group_choices("data"),
        "leaderboard protocol": PROTOCOLS,
    }
    for key in ("optimizer", "scratch_optimizer"):
        found[f"teacher.recipe.{key}"] = OPTIMIZERS
    for prefix in ("method", *FOLLOWING):
        found |= {f"{prefix}.optimisation.optimizer": OPTIMIZERS, f"{prefix}.optimisation.schedule": SCHEDULES}
    for prefix in ("data", "evaluation.data"):
        found |= {f"{prefix}.split": ("train", "validation", "all")}
        found |= {f"{prefix}.{key}": ("refuse", "skip") for key in ("missing", "unusable")}
    return {key: tuple(values) for key, values in found.items()}
