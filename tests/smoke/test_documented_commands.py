"""Every command of README.md and docs/ does what it says: run with small numbers, or composed where that cannot be.

A new command needs nothing here if it is one of this project's own. Otherwise it fails with what to add.
"""

import ast
import contextlib
import importlib.util
import io
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from core.provenance import ROOT
from experiments.command_line import main
from experiments.schema import COMMANDS, CONF
from students.catalog import RELEASED
from teachers.catalog import MODELS
from tests.smoke.documented import Command, commands_of, documented
from tests.smoke.documented_place import Place

ALL = documented()
PRODUCED = {word.partition("=")[2]: c for c in reversed(ALL) for word in c.words if re.match(r"out=[^A-Z]+$", word)}
"""Which command writes what later ones read."""

NOT_HERE = {
    "trtexec": "TensorRT needs its own GPU",
    "sbatch": "there is no Slurm",
    "tensorboard": "serves until it is stopped",
    "wandb": "talks to a server",
    "-m pytest": "tests/smoke/test_own_method.py runs it",
    "-m experiments.pretrain": "trains for hours",
    "-m experiments.everything_figure": "needs photographs",
    "-m experiments.readme": "writes into the repository; tests/results compares what it makes",
    "-m experiments.paper_table": "needs a preset's runs; tests/unit/test_paper_table.py has them",
    "cd": "changes the folder",
    "git": "changes the repository",
    "export": "sets a variable",
    "source": "is the shell's",
    "eval": "is the shell's",
}
"""Programs that are not run, and why. Of modules it is still checked that they exist."""
COMPOSED = {
    r"^teacher=sam_vit_": "needs SAM's weights and its time",
    r"^teacher\.name=sam_vit_": "a preset that needs SAM's weights and its time",
    r"^engine\.device=cuda": "needs a GPU",
    r"^hydra/launcher=": "starts processes or Slurm jobs; tests/smoke/test_sweeps.py does",
    r"^student\.weights=": "needs the weights of a backbone",
    r"^logger(\.name)?=.*wandb": "talks to a server; the tests of tracking do it offline",
    r"^student(\.name)?=(tiny_vit_(5m|11m|21m)|.*efficientvit.*)$": "a student of SAM's size",
}
"""Settings (typed, or composed as ``teacher.name``) with which a run is composed and checked, and not done; and why."""
SMALL = {
    "steps": 1, "batch": 1, "decoder_steps": 1, "images": 1, "importance_images": 2, "prompts": 1, "candidates": 1,
    "rounds": 1, "validations": 1,
}  # fmt: skip
"""Numbers of a method that do not change what a command is about."""
SLOW = (r"to=openvino", r"runtime=openvino", r"precision=int8", r"to=torch", r"^python -c")
"""Commands that take long even with small numbers."""


def marked(command: Command) -> Any:
    slow = any(re.search(pattern, shlex.join(command.words)) for pattern in SLOW)
    return pytest.param(command, id=str(command), marks=[pytest.mark.slow] if slow else [])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("documented")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        # What a command would look for on a real machine's disks or network.
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        yield Place(folder)


@pytest.mark.parametrize("command", [marked(command) for command in ALL])
def test_a_documented_command_does_what_it_says(command: Command, place: Place) -> None:
    perform(command, place)


def perform(command: Command, place: Place) -> None:
    """Run a command, after those whose files it reads; once."""
    if command.words in place.done:
        return
    place.done.add(command.words)
    for path, earlier in PRODUCED.items():
        if earlier is not command and any(
            re.search(rf"(?<![\w-]){re.escape(path)}(?![\w-])", w) for w in command.words
        ):
            perform(earlier, place)
    program = command.program
    if program == "experiments":
        of_this_project(command, place)
    elif program in CHECKS:
        CHECKS[program](command)
    else:
        module = program.removeprefix("-m ")
        if module != program:
            assert importlib.util.find_spec(module), f"{command}: there is no module {module}"
        known = program in NOT_HERE or module.startswith("benchmarks.")
        assert known, f"{command}: say in {Path(__file__).name} how {program} is run (CHECKS), or why not (NOT_HERE)"


def of_this_project(command: Command, place: Place) -> None:
    words = command.arguments
    if command.words[0] == "torchrun":
        check_torchrun(command)
    if {"--help", "-h", "--cfg", "--info", "--hydra-help"} & set(words):
        call(command, placed(words, {}, place, command))
        return
    word = next((w for w in words if w in COMMANDS), "run")
    first, rest = jobs(words)
    settings, *_ = [composed(command, stood_in(job)) for job in (first, *rest)]
    names = [*words, *first, f"teacher.name={(settings.get('teacher') or {}).get('name')}"]
    names.append(
        f"student.name={(settings.get('student') or {}).get('name')}" if "student" in words_of(settings) else ""
    )
    if word == "run":
        check_processes(command, settings)
    if word == "run" and any(re.search(pattern, name) for pattern in COMPOSED for name in names):
        return
    done = placed(first, settings, place, command)
    call(command, [*done, *small(word, settings, done)])


def words_of(settings: dict[str, Any]) -> set[str]:
    """The settings of the method."""
    return set(settings.get("method") or {})


def placed(words: list[str], settings: dict[str, Any], place: Place, command: Command) -> list[str]:
    """The words with files in the place of placeholders."""
    if "compare" in words:
        names = iter(place.evaluations)
        words = [next(names) if re.fullmatch("[A-Z]+", w) else w for w in words]
    try:
        return [place.word(word, settings, words) for word in words]
    except ValueError as error:
        pytest.fail(f"{command}: {error}")


def jobs(words: list[str]) -> tuple[list[str], list[list[str]]]:
    """The words of a sweep's first job, and those of jobs in which one word has another of its values."""
    words = [word for word in words if word not in ("-m", "--multirun")]
    preset = next((word.partition("=")[2] for word in words if word.startswith("experiment=")), None)
    if preset:
        raw = yaml.safe_load((CONF / "experiment" / f"{preset}.yaml").read_text(encoding="utf-8"))
        swept = ((raw.get("hydra") or {}).get("sweeper") or {}).get("params") or {}
        typed = {word.partition("=")[0] for word in words}
        words = [*words, *(f"{key}={value}" for key, value in swept.items() if key not in typed)]
        words += ["hydra.mode=RUN"] if swept else []
    values = [alternatives(word) for word in words]
    first = [several[0] for several in values]
    rest = [[*first[:i], other, *first[i + 1 :]] for i, several in enumerate(values) for other in several[1:]]
    return first, rest


def alternatives(word: str) -> list[str]:
    """The values of a sweep's word, each as a word; the word itself of any other."""
    if "=" not in word or word.startswith("-") or re.search(r"=.*[A-Z]{3}", word):
        return [word]
    override = OverridesParser.create().parse_override(word)
    return (
        [f"{override.key_or_group}={v}" for v in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [word]
    )


def stood_in(words: list[str]) -> list[str]:
    """The words for composing alone, where files do not matter."""
    return ["--config-dir=conf" if w.startswith("--config-dir=") else w.replace("CONF", "conf") for w in words]


def composed(command: Command, words: list[str]) -> dict[str, Any]:
    """The settings, as ``--cfg job`` shows them."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        flags = [] if "--cfg" in words else ["--cfg", "job"]
        call(command, [*words, *flags])
    found = yaml.safe_load(shown.getvalue())
    return found if isinstance(found, dict) else {}


def call(command: Command, words: list[str]) -> None:
    """Run the command line; anything but success fails with what it said."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        status = main(words)
    assert status == 0, f"{command}\nrun as {shlex.join(words)}\nended with status {status}: {told.getvalue()[-2000:]}"


def small(word: str, settings: dict[str, Any], typed: list[str]) -> list[str]:
    """Words that make a command quick, as far as it has such settings."""
    found: dict[str, object] = {}
    for part in ("method", "then"):
        own = settings.get(part) or {}
        found |= {f"{part}.{name}": value for name, value in SMALL.items() if own.get(name)}
        if isinstance(own.get("optimisation"), dict):
            found[f"{part}.optimisation.accumulate"] = 1
    for key, of_shapes in (
        ("data", settings.get("data")),
        ("evaluation.data", (settings.get("evaluation") or {}).get("data")),
    ):
        if isinstance(of_shapes, dict) and of_shapes.get("count"):
            found[f"{key}.count"] = 4
    if settings.get("evaluation"):
        found |= {"evaluation.images": 2 if word != "everything" else 1}
        found |= {"evaluation.latency_runs": 1} if "latency_runs" in settings["evaluation"] else {}
    if word == "everything" and not any(w.startswith("generator.points_per_side=") for w in typed):
        found["generator.points_per_side"] = 8
    return [f"{key}={value}" for key, value in found.items()]


def check_processes(command: Command, settings: dict[str, Any]) -> None:
    """The pictures of a step can be shared."""
    own = settings.get("method") or {}
    if command.processes > 1 and "batch" in own:
        accumulate = (own.get("optimisation") or {}).get("accumulate", 1)
        recipe = settings["teacher"]["recipe"]
        numbers = [recipe[v.rpartition(".")[2][:-1]] if isinstance(v, str) else v for v in (own["batch"], accumulate)]
        pictures = numbers[0] * numbers[1]
        assert pictures % command.processes == 0, (
            f"{command}: {pictures} pictures a step cannot be shared by {command.processes}; give method.batch"
        )


def check_torchrun(command: Command) -> None:
    """torchrun takes these options."""
    from torch.distributed.run import get_args_parser

    until = command.words.index("-m") + 2
    get_args_parser().parse_args(list(command.words[1:until]))


def shapes(command: Command) -> None:
    from data.shapes_command import main as write

    words = [re.sub(r"^\d+$", "4", word) if before == "--count" else word for before, word in
             zip(["", *command.arguments], command.arguments, strict=False)]  # fmt: skip
    assert write([word.lower() if word.isupper() else word for word in words]) == 0


def code(command: Command) -> None:
    tree = ast.parse(command.words[2])
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    if not {module for module in modules if importlib.util.find_spec(module.partition(".")[0]) is None}:
        exec(compile(tree, str(command), "exec"), {})


def make(command: Command) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    asked = [word for word in command.arguments if "=" not in word and not word.startswith("-")]
    assert asked and set(asked) <= set(targets), f"{command}: the Makefile has {', '.join(targets)}"


def pip(command: Command) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"(?:sampress|\.)\[([^\]]*)\]", " ".join(command.words)):
        unknown = {name.strip() for name in extras.split(",")} - set(project["optional-dependencies"])
        assert not unknown, f"{command}: pyproject.toml has no extra {', '.join(unknown)}"


def curl(command: Command) -> None:
    addresses = {release.url for release in RELEASED.values()}
    addresses |= {model.release.url for model in MODELS.values() if model.release}
    asked = [word for word in command.arguments if word.startswith("http")]
    assert set(asked) <= addresses, f"{command}: no catalogue has this address"
    if "-o" in command.arguments:
        assert os.path.basename(asked[0]) == command.arguments[command.arguments.index("-o") + 1], str(command)


CHECKS = {"-m data.shapes": shapes, "-c": code, "make": make, "pip": pip, "curl": curl}
"""How programs other than this project's command line are run or checked."""


def test_commands_are_found_as_a_reader_finds_them() -> None:
    text = """
```
OMP_NUM_THREADS=1 python -m experiments method=slimsam \\
  ratio=0.77   # a word on it
sampress leaderboard | head && make test
```
```text
python -m experiments is shown here, not typed
```
```
runs/
    slimsam-r0.77/    a listing
```
```console
$ torchrun --nproc-per-node=2 -m experiments method=ptq
what it answers
```
"""
    found = list(commands_of(text, "page.md"))
    assert [(c.place, c.program, c.arguments) for c in found] == [
        ("page.md:3", "experiments", ["method=slimsam", "ratio=0.77"]),
        ("page.md:5", "experiments", ["leaderboard"]),
        ("page.md:5", "make", ["test"]),
        ("page.md:15", "experiments", ["method=ptq"]),
    ]
    assert found[-1].processes == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("python -m experiments method=slimsm ratio=0.5", "slimsm"),
        ("python -m experiments method=slimsam ratio=0.5 method.stpes=3", "stpes"),
        ("python -m experiments method=slimsam ratio=0.5 teacher=sam_vit_b data=sa1b data.rot=DIR", "data.rot"),
        ("torchrun --nproc-per-node=3 -m experiments method=slimsam ratio=0.5", "cannot be shared by 3"),
        (
            "python -m experiments predict checkpoint=FILE image=photo.jpg engine.device=DEVICE",
            "does not know",
        ),
        ("python -m experiments.nothing", "no module"),
        ("docker run sampress", "say in test_documented_commands.py how docker is run"),
        ("make everything", "the Makefile has"),
        ("pip install 'sampress[magic]'", "no extra magic"),
        ("curl -O https://example.org/weights.pth", "no catalogue"),
    ],
)
def test_what_is_wrong_fails_and_says_so(text: str, message: str, place: Place) -> None:
    (command,) = commands_of(f"```bash\n{text}\n```", "page.md")
    with pytest.raises((AssertionError, pytest.fail.Exception), match=re.escape(message)):
        perform(command, place)
