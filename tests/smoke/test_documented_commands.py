"""Every command of README.md and docs/: composed and checked, and run with small numbers where that can be.

A new command of this project's own needs nothing here. Another fails with what to add.
"""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from core.errors import InputError
from tests.smoke.documented import Command, commands_of, documented
from tests.smoke.documented_place import Place
from tests.smoke.documented_programs import RUNS, check
from tests.smoke.documented_runs import SHOWING, call, composed, small, word_of

ALL = documented()
PRODUCED = {word.partition("=")[2]: c for c in reversed(ALL) for word in c.words if re.match(r"out=[^A-Z]+$", word)}
"""Which command writes what later ones read."""
NOT_RUN = {
    r"^experiment=(?!smoke|everything_p)": "its jobs are methods that other commands run with small numbers",
    r"^--config-dir": "tests/smoke/test_own_method.py runs it",
    r"^engine\.device=cuda": "needs a GPU",
    r"^hydra/launcher=": "starts processes or Slurm jobs; tests/smoke/test_sweeps.py does",
    r"^logger=wandb": "talks to a server; the tests of tracking do it offline",
    r"^student\.weights=": "needs the weights of a backbone",
    r"^run teacher=sam(_vit|2_1)_": "needs SAM's weights and its time",
    r"^run student=(tiny_vit_(5m|11m|21m)|.*efficientvit.*)$": "a student of SAM's size",
}
"""Words of commands that are composed, but not run; and why. A run's teacher and student may come from a preset."""
SLOW = (
    r" export ",
    r" to=hf",
    r"-onnx\b",
    r"^python -c",
    r"coco_clicks",
    r" then=ptq",
    r"method=tinysam method\.init=",
    r" -m method=",
    r" compare EVAL",
    r" latency checkpoint=sam_(vit_b|pocket,runs/RUN/)",
    r"student=timm",
    r"teacher=sam_photo data=coco",
)
"""Commands that take long even with small numbers."""


def to_run(command: Command) -> Any:
    slow = any(re.search(pattern, shlex.join(command.words)) for pattern in SLOW)
    if command.program == "experiments" and command.place.startswith("docs/") and not SHOWING & set(command.words):
        # All together they take long: of the fast tests are README.md's.
        slow = True
    marks = [pytest.mark.slow] if slow else []
    return pytest.param(command, id=str(command), marks=marks)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("documented")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        # What a command would find on a real machine's disks, or fetch.
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        yield Place(folder)


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, id=str(c), marks=pytest.mark.slow if c.place.startswith("docs/") else ()) for c in ALL],
)
def test_a_documented_command_is_typed_right(command: Command, place: Place) -> None:
    examine(command)


@pytest.mark.parametrize("command", [to_run(command) for command in ALL if command.program in ("experiments", *RUNS)])
def test_a_documented_command_does_what_it_says(command: Command, place: Place) -> None:
    perform(command, place)


def examine(command: Command) -> None:
    """All that can be known without running it."""
    if command.program != "experiments":
        check(command)
    elif not SHOWING & set(command.words):
        composed(command)


def perform(command: Command, place: Place) -> None:
    """Run a command, after those whose files it reads; once."""
    if command.words in place.done:
        return
    place.done.add(command.words)
    for path, earlier in PRODUCED.items():
        named = re.compile(rf"(?<![\w-]){re.escape(path)}(?![\w-])")
        if earlier is not command and any(named.search(word) for word in command.words):
            perform(earlier, place)
    if command.program in RUNS:
        RUNS[command.program](command)
    elif SHOWING & set(command.words):
        call(command, placed(command, {}, place))
    else:
        settings = composed(command)
        if not any(re.search(pattern, word) for pattern in NOT_RUN for word in reported(command, settings)):
            words = placed(command, settings, place)
            call(command, [*words, *small(word_of(words), settings, words)])


def reported(command: Command, settings: dict[str, Any]) -> list[str]:
    """The words of a command, and what it runs."""
    words = command.arguments
    if word_of(words) == "run":
        words.append(f"run teacher={settings['teacher']['name']}")
        if "student" in settings["method"]:
            name = settings["student"]["name"]
            words.append(f"run student={settings['teacher']['student'] if name.startswith('$') else name}")
    return words


def placed(command: Command, settings: dict[str, Any], place: Place) -> list[str]:
    """The words of the first job, with files in the place of placeholders."""
    try:
        return place.words(command.arguments, settings)
    except InputError as error:
        pytest.fail(f"{command}: {error}")


def test_commands_at_full_size_give_the_number_of_images_of_their_paper() -> None:
    """A recipe counts in steps; how many epochs these are, and for how many of them features are aligned, data say."""
    published = {"slimsam": "10000", "mobilesam": "100000", "tinysam": "110000"}
    found = set()
    for command in ALL:
        text = shlex.join(command.words)
        if command.program != "experiments" or not re.search(r" data=sa1b .*root=DIR", text):
            continue
        method = re.search(r"(?:method=|experiment=)(slimsam|mobilesam|tinysam)(?:_reference)?(?![\w])", text)
        if method and re.search(r"teacher=sam(_vit|2_1)_|_reference", text):
            assert f" data.count={published[method[1]]}" in text, f"{command}: give data.count={published[method[1]]}"
            found.add(method[1])
    assert found == set(published)


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
        ("python -m experiments predict checkpoint=FILE image=photo.jpg engine.device=DEVICE", "does not know"),
        ("python -m experiments.nothing", "no module"),
        ("docker run sampress", "say in documented_programs.py how docker is run"),
        ("make everything", "the Makefile has"),
        ("pip install 'sampress[magic]'", "no extra magic"),
        ("curl -O https://example.org/weights.pth", "no catalogue"),
    ],
)
def test_what_is_wrong_fails_and_says_so(text: str, message: str, place: Place) -> None:
    (command,) = commands_of(f"```bash\n{text}\n```", "page.md")
    with pytest.raises((AssertionError, pytest.fail.Exception), match=re.escape(message)):
        examine(command)
        perform(command, place)
