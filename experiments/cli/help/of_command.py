"""``COMMAND --help``: usage, every setting with type, default and one line, what is written, examples."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from core.errors import InputError
from evaluation.protocols import PROTOCOLS
from experiments.cli.help.guides import GUIDES
from experiments.cli.help.launchers import LAUNCHERS
from experiments.cli.help.layout import columns, listed, paragraph, single_lines
from experiments.cli.help.overview import choices, owner_of
from experiments.cli.help.protocol_lines import protocol_lines
from experiments.cli.help.setting_lines import (
    CHOICES,
    CONF,
    SettingLine,
    choice_settings,
    command_settings,
    commands,
    group_choices,
    method_settings,
)
from experiments.config.own_settings import own_settings
from students.catalog import RELEASED

_WITH_MODEL = ("evaluate", "convert", "export", "predict", "everything")
_COMPACT = ("variant", "experiment")
_DEFAULTS = "Of a default <key> is another setting: its value is taken."


def help_for(arguments: Sequence[str]) -> str:
    """The help of the command among the arguments, ``run`` where only settings are.

    Args:
        arguments: what was typed, without ``--help``; ``method=NAME`` adds that method's own settings.

    Raises:
        InputError: a word that is no command, or a method that does not exist.
    """
    known = commands()
    words = [argument for argument in arguments if "=" not in argument and not argument.startswith("-")]
    command = next((word for word in words if word in known), "run")
    if words and words[0] not in known and arguments[0] == words[0]:
        from experiments.config.messages import nearest

        raise InputError(f"{words[0]} is no command; {nearest(words[0], known)}")
    guide, settings = GUIDES[command], command_settings(command)
    parts = [f"usage: python -m experiments {guide.usage}", paragraph(guide.about), *_own(settings)]
    if "method" in [setting.key for setting in settings]:
        parts.append(_method(arguments))
    parts += _groups(command, settings)
    if command in _WITH_MODEL:
        parts.append("checkpoint=... also takes the name of a teacher, or of a released model\n" + listed(RELEASED))
    if command == "evaluate":
        parts.append("protocols\n" + columns(protocol_lines(PROTOCOLS.values()), 31))
    if command == "run":
        parts.append("launchers, of -m: hydra/launcher=NAME\n" + single_lines(LAUNCHERS.items()))
    parts += [paragraph(_DEFAULTS)] if any("<" in (setting.default or "") for setting in settings) else []
    parts += [
        paragraph(f"writes {guide.writes}"),
        "examples\n" + "\n".join(f"  python -m experiments {example}" for example in guide.examples),
    ]
    return "\n\n".join(parts)


def _own(settings: Iterable[SettingLine]) -> list[str]:
    """Blocks of settings: the command's own, then one for each group that stands before a dot."""
    blocks: dict[str, list[SettingLine]] = {"settings": []}
    for setting in settings:
        if setting.group is not None and "." not in setting.key:
            continue
        first, dot, _ = setting.key.partition(".")
        blocks.setdefault(f"settings of {first}" if dot else "settings", []).append(setting)
    return [block(title, found) for title, found in blocks.items() if found]


def block(title: str, settings: Sequence[SettingLine]) -> str:
    """Settings below a title: what is typed, with type and default, and its line."""
    left = min(34, max(len(_typed(setting)) for setting in settings))
    return f"{title}\n" + columns(((_typed(s), _told(s)) for s in settings), left)


def _typed(setting: SettingLine) -> str:
    value = setting.type or ("NAME" if setting.group else "")
    return f"{setting.key}={value}" if value else setting.key


def _told(setting: SettingLine) -> str:
    default = "must be given" if setting.default is None else f"default {setting.default}"
    line = setting.line.replace("; see below", "")
    if line.startswith("or ") and setting.default:
        line = f"{setting.default} {line}"
    return line if setting.group else f"{line} ({default})" if line else f"({default})"


def _groups(command: str, settings: Sequence[SettingLine]) -> list[str]:
    """Choices of every group that a command takes, its default named."""
    parts = []
    for setting in settings:
        if setting.group is None or "." in setting.key:
            continue
        default = "" if setting.default in (None, "null") else f" (default {setting.default})"
        title = f"{setting.key}=NAME{default}"
        found = choices(setting.group)
        if setting.group == "experiment":
            found = {name: line for name, line in found.items() if owner_of(name) == command}
        if setting.group == "evaluation" and command == "run":
            # Others are for evaluate: a run is scored by one protocol of its own.
            found = {name: line for name, line in found.items() if name in group_choices("data")}
        body = listed(found) if setting.group in _COMPACT else columns(found.items(), min(22, max(map(len, found))))
        parts.append(f"{title}\n{body}")
        for name in found if setting.group in CHOICES else ():
            if settings_of_choice := choice_settings(setting.group, name):
                parts.append(block(f"settings of {setting.group}={name}", settings_of_choice))
    return parts


def _method(arguments: Sequence[str]) -> str:
    """The settings of the method that is named, or how to see them."""
    name = next((value for key, _, value in (text.partition("=") for text in arguments) if key == "method"), None)
    if name is None:
        return "settings of method: depend on it, see\n" + listed(
            f"method={method} --help" for method in group_choices("method")
        )
    own, _ = own_settings(arguments)
    path = _method_file(name, [CONF] if own is None else [CONF, own])
    return block(f"settings of method={name}", method_settings(path))


def _method_file(name: str, roots: Sequence[Path]) -> Path:
    found = [path for root in roots for path in (root / "method").glob("*.yaml")]
    for path in found:
        if path.stem == name:
            return path
    from experiments.config.messages import nearest

    raise InputError(f"method={name} does not exist; {nearest(name, [path.stem for path in found])}")
