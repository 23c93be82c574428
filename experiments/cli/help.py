"""``--help``: the overview, or a command's own help. Nothing here imports PyTorch or Hydra."""

import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from core.errors import InputError
from evaluation.protocols import BOX_AND_POINT, PROTOCOLS, ScoringProtocol
from experiments.cli.setting_lines import (
    CHOICES,
    SCORED,
    SettingLine,
    choice_settings,
    command_settings,
    method_settings,
    scored_settings,
)
from experiments.config.files import (
    CONF,
    LAUNCHERS,
    choices,
    group_choices,
    nearest,
    own_settings,
    owner_of,
    read_settings,
)
from experiments.config.schema import COMMANDS
from experiments.config.targets import allow
from students.catalog import RELEASED


@dataclass(frozen=True)
class Guide:
    """The words about one command.

    Attributes:
        line: in the list of commands.
        usage: what stands behind ``python -m experiments``.
        about: a paragraph.
        writes: which files, where.
        examples: at least three, each what stands behind ``python -m experiments`` (a launcher may stand before it).
    """

    line: str
    usage: str
    about: str
    writes: str
    examples: Sequence[str]


GUIDES = {name: Guide(**words) for name, words in read_settings(Path(__file__).with_name("guides.yaml")).items()}
"""By command, in the order of the list."""
_HELP = ("-h", "--help")
WIDTH = 100
_WITH_MODEL = ("evaluate", "convert", "export", "predict", "everything")
_COMPACT = ("variant", "experiment")
_DEFAULTS = "A default written <key> is the value of that other setting."
_GROUPS = {
    "method": "methods: method=NAME",
    "teacher": "teachers: teacher=NAME",
    "student": "students, of methods that take one: student=NAME",
    "data": "data to train on: data=NAME",
    "evaluation": "what is scored on what: evaluation=NAME",
    "logger": "loggers: logger=NAME",
}
_SETTINGS = (
    ("then=NAME", f"a second method, on what the first one made: {' or '.join(group_choices('then'))}"),
    ("lastly=NAME", "a third method, on what the second one made"),
    ("ratio=R", "share of the channels to cut, in (0, 1)"),
    ("seed=N", "of everything random; default 0"),
    ("cache=MODE", "of the teacher's embeddings: disk (shared by all runs), memory (of this run), off"),
    ("force=true", "start this run over"),
    ("name=TEXT", "first part of the run's name"),
    ("format=json", '{"rows": [...]} on standard output and nothing else there; every command but completion'),
    ("runs=FOLDER", "of runs, evaluations and the leaderboard; every command has it"),
    ("-m", "run every combination of values given as a,b,c"),
    ("--cfg job", "show all settings, with the choices made, and stop"),
)
_EXAMPLES = (
    "method=slimsam ratio=0.77",
    "-m method=slimsam,scratch ratio=0.5,0.77 seed=0,1",
    "evaluate checkpoint=sam_photo evaluation=coco data.root=FOLDER",
    "predict checkpoint=sam_photo image=photo.jpg 'box=[120,90,560,470]'",
)
_PROMPTS = {
    "box": "annotated box",
    "detector_box": "boxes of a detector",
    "central_point": "point farthest from the border",
    "box_centre": "middle of the box",
    "annotated_point": "point the annotation was made from",
    "mass_centre": "centre of mass",
}
_CHOICES = {
    "single": "single mask",
    "best_of_3": "best of three",
    "best_of_4": "best of four",
    "oracle": "best of three by the truth",
}
_TRUTHS = {"frame": "truth in the model's frame", "reference": "another model's masks as the truth"}


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether help is among the arguments, or nothing is."""
    return not argv or any(argument in _HELP for argument in argv)


def show_help(argv: Sequence[str]) -> int:
    """Print the overview, or the help of the command that is named; returns the exit status.

    2, with one line on standard error, for a command or method that does not exist, and where nothing was typed: a
    script whose arguments came out empty has not done what it was for.
    """
    arguments = [argument for argument in argv if argument not in _HELP]
    try:
        print(help_for(arguments) if arguments else help_text())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not argv:
        print("error: nothing is given; begin with method=slimsam ratio=0.77, or COMMAND --help", file=sys.stderr)
        return 2
    return 0


def help_text() -> str:
    """Commands, every choice with its line, settings and examples."""
    parts = [
        "usage: python -m experiments [COMMAND] [key=value ...] [-m] [--cfg job]\n"
        "       python -m experiments COMMAND --help        all settings of a command\n"
        "       python -m experiments method=NAME --help    all settings of a run and of its method",
        "Compress the Segment Anything Model, and measure what that costs and keeps.",
        "commands\n" + single_lines((name, guide.line) for name, guide in GUIDES.items()),
    ]
    for group, title in _GROUPS.items():
        if group_choices(group):
            parts.append(f"{title}\n{single_lines(choices(group).items())}")
    released = (
        f"a file or folder, recognised by what is in it; a teacher's name; or a released model: {', '.join(RELEASED)}"
    )
    parts += [
        "protocols: 'evaluation.protocols=[NAME,...]' (evaluate)\n" + single_lines(_protocols(), 31),
        "launchers, of -m: hydra/launcher=NAME\n" + single_lines(LAUNCHERS.items()),
        "prepared experiments: experiment=NAME\n"
        + single_lines((name, line.partition(";")[0]) for name, line in choices("experiment").items()),
        "single changes to a method, which experiments sweep over: variant=NAME\n" + listed(choices("variant")),
        "checkpoint=... (evaluate, convert, export, predict, everything)\n" + paragraph(released, 2),
        "settings\n" + single_lines(_SETTINGS),
        "examples\n" + "\n".join(f"  python -m experiments {example}" for example in _EXAMPLES),
    ]
    return "\n\n".join(parts)


def help_for(arguments: Sequence[str]) -> str:
    """The help of the command among the arguments, ``run`` where only settings are.

    Args:
        arguments: what was typed, without ``--help``; ``method=NAME`` adds that method's own settings.

    Raises:
        InputError: a word that is no command, or a method that does not exist.
    """
    known = COMMANDS
    words = [argument for argument in arguments if "=" not in argument and not argument.startswith("-")]
    command = next((word for word in words if word in known), "run")
    if words and words[0] not in known and arguments[0] == words[0]:
        raise InputError(f"{words[0]} is no command; {nearest(words[0], known)}")
    guide, settings = GUIDES[command], command_settings(command)
    parts = [f"usage: python -m experiments {guide.usage}", paragraph(guide.about), *_own(settings)]
    if "method" in [setting.key for setting in settings]:
        parts.append(_method(arguments))
    parts += _groups(command, settings)
    if command in _WITH_MODEL:
        parts.append("checkpoint=... also takes the name of a teacher, or of a released model\n" + listed(RELEASED))
    if command == "evaluate":
        parts.append("protocols\n" + columns(_protocols(), 31))
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
    return f"{title}\n" + columns(((_typed(s), _explained(s)) for s in settings), left)


def _typed(setting: SettingLine) -> str:
    value = setting.type or ("NAME" if setting.group else "")
    return f"{setting.key}={value}" if value else setting.key


def _explained(setting: SettingLine) -> str:
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
    keys = [setting.key for setting in settings]
    if SCORED in keys and "data" not in keys:
        parts += [block(f"settings of {SCORED}, of {name}", lines) for name, lines in scored_settings().items()]
    return parts


def _method(arguments: Sequence[str]) -> str:
    """The settings of the method that is named, or how to see them."""
    name = next((value for key, _, value in (text.partition("=") for text in arguments) if key == "method"), None)
    if name is None:
        return "settings of method: depend on it, see\n" + listed(
            f"method={method} --help" for method in group_choices("method")
        )
    own, packages = own_settings(arguments)
    allow(packages)
    path = _method_file(name, [CONF] if own is None else [CONF, own])
    return block(f"settings of method={name}", method_settings(path))


def _method_file(name: str, roots: Sequence[Path]) -> Path:
    found = [path for root in roots for path in (root / "method").glob("*.yaml")]
    for path in found:
        if path.stem == name:
            return path
    raise InputError(f"method={name} does not exist; {nearest(name, [path.stem for path in found])}")


def _protocols() -> list[tuple[str, str]]:
    """The protocol of runs, then those that an evaluation may name."""
    line = "box, single mask, and one point, best of three; when evaluation.protocols is empty"
    return [(BOX_AND_POINT, line), *protocol_lines(PROTOCOLS.values())]


def protocol_lines(protocols: Iterable[ScoringProtocol]) -> list[tuple[str, str]]:
    """Names and lines, in order; those that differ in the number of clicks alone stand on one line."""
    lines = []
    for (family, _), group in groupby(protocols, key=_family):
        members = list(group)
        first = members[0]
        if len(members) == 1:
            lines.append((first.name, _line(first, str(first.clicks))))
            continue
        numbers = [str(member.clicks) for member in members]
        shown = f"{numbers[0]}..{numbers[-1]}" if len(numbers) > 2 else "|".join(numbers)
        lines.append((family.format(shown), _line(first, shown.replace("..", " to ").replace("|", " or "))))
    return lines


def _family(protocol: ScoringProtocol) -> tuple[str, str]:
    many = re.sub(rf"_{protocol.clicks}@", "_{}@", protocol.name) if protocol.clicks > 1 else protocol.name
    return many, protocol.source


def _line(protocol: ScoringProtocol, clicks: str) -> str:
    parts = [_PROMPTS[protocol.prompt], _CHOICES[protocol.choice]]
    if protocol.clicks > 1:
        parts[0] = f"{clicks} points, each where the answer errs"
    parts += [f"sides moved by {protocol.jitter:.0%} noise"] if protocol.jitter else []
    parts += [_TRUTHS[protocol.truth]] if protocol.truth in _TRUTHS else []
    parts += ["crowds count"] if protocol.crowd else []
    parts += ["average precision"] if protocol.is_detected else []
    return ", ".join(parts)


def columns(rows: Iterable[tuple[str, str]], left: int = 22) -> str:
    """Names and what they are, aligned; a long line goes on below itself, a long name has a line of its own.

    Args:
        left: width of the names.
    """
    lines = []
    for name, text in rows:
        first = f"  {name:<{left}}  "
        if len(name) > left:
            lines.append(f"  {name}")
            first = " " * (left + 4)
        lines.append(textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=" " * (left + 4)) or first)
    return "\n".join(line.rstrip() for line in lines)


def single_lines(rows: Iterable[tuple[str, str]], most: int = 22) -> str:
    """Names and what they are, one line each: a text that is too long ends where a part of it does.

    Args:
        most: width of the names; longer ones push their own text to the right.
    """
    rows = list(rows)
    left = min(max((len(name) for name, _ in rows), default=0), most)
    lines = [(f"  {name:<{left}}  ", text) for name, text in rows]
    return "\n".join(f"{name}{_clipped(text, WIDTH - len(name))}".rstrip() for name, text in lines)


def _clipped(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    ends = [match.start() for match in re.finditer(r"[,;:] | \(", text[: width + 1])]
    return text[: ends[-1]] if ends and ends[-1] > width // 2 else textwrap.shorten(text, width, placeholder=" ...")


def paragraph(text: str, indent: int = 0) -> str:
    """Words, filled."""
    return textwrap.fill(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent)


def listed(names: Iterable[str]) -> str:
    """Names with commas, indented and filled; none is broken."""
    return textwrap.fill(
        ", ".join(names),
        WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
