"""``--help``: the overview, with every choice that ``conf/`` offers. Nothing here imports PyTorch or Hydra."""

from evaluation.protocols import PROTOCOLS
from experiments.cli.help.guides import GUIDES
from experiments.cli.help.launchers import LAUNCHERS
from experiments.cli.help.layout import listed, paragraph, single_lines
from experiments.cli.help.protocol_lines import protocol_lines
from experiments.cli.help.setting_lines import commands, group_choices, group_file
from experiments.cli.help.yaml_comments import first_comment
from students.catalog import RELEASED

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
    ("ratio=R", "share of the channels to cut, in (0, 1)"),
    ("seed=N", "of everything random; default 0"),
    ("cache=MODE", "of the teacher's embeddings: disk (shared by all runs), memory (of this run), off"),
    ("force=true", "start this run over"),
    ("name=TEXT", "first part of the run's name"),
    ("format=json", '{"rows": [...]} on standard output and nothing else there; every command has it'),
    ("runs=FOLDER", "of runs, evaluations and the leaderboard; every command has it"),
    ("-m", "run every combination of values given as a,b,c"),
    ("--cfg job", "show all settings, with the choices made, and stop"),
)
_EXAMPLES = (
    "method=slimsam ratio=0.77",
    "-m method=slimsam,scratch ratio=0.5,0.77 seed=0,1",
    "evaluate checkpoint=sam_pocket evaluation=coco data.root=FOLDER",
    "predict checkpoint=sam_pocket image=photo.jpg 'box=[120,90,560,470]'",
)


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
        "protocols: 'evaluation.protocols=[NAME,...]' (evaluate)\n"
        + single_lines(protocol_lines(PROTOCOLS.values()), 31),
        "launchers, of -m: hydra/launcher=NAME\n" + single_lines(LAUNCHERS.items()),
        "prepared experiments: experiment=NAME\n"
        + single_lines((name, line.partition(";")[0]) for name, line in choices("experiment").items()),
        "single changes to a method, which experiments sweep over: variant=NAME\n" + listed(choices("variant")),
        "checkpoint=... (evaluate, convert, export, predict, everything)\n" + paragraph(released, 2),
        "settings\n" + single_lines(_SETTINGS),
        "examples\n" + "\n".join(f"  python -m experiments {example}" for example in _EXAMPLES),
    ]
    return "\n\n".join(parts)


def owner_of(experiment: str) -> str:
    """The command that a prepared experiment is for: the one its name begins with, else ``run``."""
    return next((word for word in commands() if experiment.startswith(f"{word}_")), "run")


def choices(group: str) -> dict[str, str]:
    """The files of a group of ``conf/``, each with what its first comment says."""
    return {name: first_comment(group_file(group, name)) for name in group_choices(group)}
