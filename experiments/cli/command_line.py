"""From arguments to an exit status: command word, settings, and every refusal in one line."""

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from core.errors import InputError, OthersLost, RunFailed
from experiments.cli.help import asks_for_help, show_help
from experiments.config.compose import check_preset, compose, composing, known_settings, search_path
from experiments.config.files import CONF, CONFIG_DIR, nearest, own_settings
from experiments.config.messages import as_input_error
from experiments.config.schema import COMMANDS, OTHER_NAMES, WORDS
from experiments.config.targets import allow, register
from experiments.config.words import hydra_words, text_settings
from experiments.runs.job import Job, Outcome, environment, run_job
from experiments.runs.sweep import is_sweep, print_summary, rows_once, run_sweep, sweep_jobs

FLAGS = ("-m", "--multirun", "--cfg", "-c", "--resolve", "--package", "-p", "--info", "-i", "--hydra-help", *CONFIG_DIR)
"""What is passed to Hydra; ``--cfg job`` shows the composed settings."""
_SWEEPING = {"-m", "--multirun"}
_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--info", "-i", *CONFIG_DIR)


def main(argv: Sequence[str]) -> int:
    """Run one command; returns the exit status: 0, or 2 with one line on standard error for what was given wrong.

    A run that failed by what it computed gives 1, with one line too; whatever else goes wrong keeps its traceback. Of
    several processes the first says what all of them met, and each what it met alone.
    """
    try:
        return _status(argv)
    finally:
        # Only once everything is said: that this process is gone ends the others.
        if "core.distributed" in sys.modules:
            from core import distributed

            distributed.shut_down()


def _status(argv: Sequence[str]) -> int:
    if asks_for_help(argv):
        return show_help(argv)
    try:
        command, typed = _command(argv)
        _check_characters(typed)
        options, words = _parted(typed)
        settings = _named(command, words)
        _check_known(options, settings)
        check_preset(command, settings)
        outcomes = _compose_and_call(command, options, settings, typed)
    except InputError as error:
        _complain(error)
        return 2
    except RunFailed as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what is saved", file=sys.stderr)
        return 130
    if outcomes and outcomes[0].format == "json" and _speaks():
        print(json.dumps({"rows": [row.to_dict() for row in rows_once(outcomes)]}, allow_nan=False))
    alone = [outcome.error for outcome in outcomes if outcome.is_alone]
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    refused = [found for found in errors if isinstance(found, InputError)]
    failed = [found for found in errors if isinstance(found, RunFailed)]
    for reported in (*refused, *failed):
        _complain(reported, reported in alone)
    if defects := [found for found in errors if not isinstance(found, InputError | RunFailed)]:
        raise defects[0]
    return 2 if refused else 1 if failed else 0


def _speaks() -> bool:
    """Whether this is the process that prints, of those that ``torchrun`` started."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def _complain(error: Exception, alone: bool = False) -> None:
    """Say an error in one line. What all processes have, the first of each machine says.

    Args:
        alone: whether only this process may have it.
    """
    first_here = os.environ.get("LOCAL_RANK", "0") == "0"
    if _speaks() or ((alone or first_here) and not isinstance(error, OthersLost)):
        # One line, whatever signs stand in what was typed.
        text = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in str(error))
        process = "" if _speaks() else f"process {os.environ.get('RANK')}: "
        print(f"error: {process}{text}", file=sys.stderr)


def _check_characters(arguments: Sequence[str]) -> None:
    """Refuse what no file that is written here could hold: bytes in names of files that are not UTF-8."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(f"{argument!r} is not UTF-8; give the file or folder another name") from None


def _command(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The command word, or ``run``, and the arguments without it; options may stand before the word."""
    _, words = _parted(argv)
    if words and words[0] in COMMANDS:
        place = argv.index(words[0])
        return words[0], [*argv[:place], *argv[place + 1 :]]
    if not argv or "=" in argv[0] or argv[0].startswith(("-", "~")):
        return "run", list(argv)
    words = [name for name in COMMANDS if name != "run"]
    raise InputError(f"{argv[0]} is no command; {nearest(argv[0], words)} (a run has none: method=slimsam ratio=0.77)")


def _parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options with what they take, and words: Hydra's parser takes settings on one side of an option only."""
    options: list[str] = []
    words: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        (options if argument.startswith("-") or before in _WITH_VALUE else words).append(argument)
    return options, words


def _named(command: str, words: Sequence[str]) -> list[str]:
    """Words with the names that settings have: bare words where a command takes them, and other names."""
    keys = [word.partition("=")[0] for word in words if "=" in word]
    open_names = [name for name in WORDS.get(command, ()) if name not in keys]
    others = OTHER_NAMES.get(command, {})
    named = []
    for word in words:
        key, sign, value = word.partition("=")
        if sign and key in others:
            word = f"{others[key]}={value}"
        elif sign and (below := [name for name in others if _parent(name) == _parent(key) in text_settings(command)]):
            # Hydra would take a mapping for the text that the setting above it is.
            raise InputError(f"{key} is no setting; {nearest(key, below)}")
        elif command in WORDS and _is_bare(command, word):
            if not open_names:
                raise InputError(f"{word!r} is one word too many; {command} takes {' and '.join(WORDS[command])}")
            word = f"{open_names.pop(0)}={word}"
        named.append(word)
    return named


def _parent(key: str) -> str:
    """What stands before the last dot of a setting; nothing where there is none."""
    return key.rpartition(".")[0]


def _is_bare(command: str, word: str) -> bool:
    """Whether a word is a bare one, rather than a setting."""
    key, sign, _ = word.partition("=")
    if word.startswith("~"):
        # Hydra takes ~key for "without this setting".
        return word == "~" or "/" in word
    # The name of a folder may hold "=".
    return not sign or (key not in text_settings(command) and os.path.lexists(word))


def _check_known(options: Sequence[str], settings: Sequence[str]) -> None:
    for option in options:
        if option.startswith("-") and option.partition("=")[0] not in FLAGS:
            raise InputError(f"{option} is no option; settings are given as key=value, see --help")
    for word in settings:
        if "=" not in word and not word.startswith("~"):
            raise InputError(f"{word!r} is no setting; settings are given as key=value, see --help")


def _compose_and_call(
    command: str, options: Sequence[str], given: Sequence[str], typed: Sequence[str]
) -> list[Outcome]:
    """Compose the settings, for one job or for each of a sweep, and call the command with them.

    Args:
        given: settings, each by its own name.
        typed: all arguments as they were typed but for the command's word, to be recorded.
    """
    if command == "cost" and not any(re.match(r"\+*(method|ratio|student)[.=]", word) for word in given):
        # Nothing is said of a student: teachers alone are counted.
        given = [*given, "~method"]
    folder, packages = own_settings([*given, *options])
    allow(packages)
    register(folder)
    # Hydra learns of the folder of further settings by its search path.
    pairs = zip(["", *options], options, strict=False)
    options = [option for before, option in pairs if not {before, option.partition("=")[0]} & set(CONFIG_DIR)]
    job = Job(command, packages, () if folder is None else (CONFIG_DIR[0], str(folder)), tuple(typed))
    # Jobs put what was typed into the process's arguments.
    with composing(), _arguments(sys.argv):
        try:
            outcomes = _outcomes(job, options, given, folder)
        except (HydraException, OmegaConfBaseException, ValueError, OverflowError) as error:
            known = known_settings(command, given, folder)
            raise as_input_error(error, given, known, OTHER_NAMES.get(command, {})) from error
    if len(outcomes) > 1 and outcomes[0].format == "table" and _speaks():
        from experiments.everything.strategies import print_sweep
        from experiments.paper_table import print_paper_table
        from experiments.quantisers_table import print_quantisers

        print_paper_table(outcomes[0].preset, outcomes[0].runs)
        print_quantisers(outcomes[0].preset, outcomes[0].runs)
        print_sweep([row for outcome in outcomes for row in outcome.rows])
        print_summary(outcomes)
    return outcomes


def _outcomes(job: Job, options: Sequence[str], given: Sequence[str], folder: Path | None) -> list[Outcome]:
    """Do the jobs, or what an option asks for."""
    words = hydra_words(job.command, given, sweep=_sweeps(options, given, folder))
    several = is_sweep(words)
    hydras = [word for word in words if word.lstrip("+~").startswith(("hydra.", "hydra/"))]
    own = [word for word in words if word not in hydras]
    first = compose(job.command, [*hydras, *(sweep_jobs(own, folder, say=False)[0] if several else own)], folder)
    if not set(options) <= _SWEEPING:
        if several or set(options) & _SWEEPING:
            raise InputError(
                "--cfg and --info show the settings of one run; leave out -m and give each setting one value"
            )
        arguments = [sys.argv[0], *options, search_path(folder), *words]
        # Only so does Hydra hand its errors on instead of printing them.
        with _arguments(arguments), environment({"HYDRA_FULL_ERROR": "1"}):
            GlobalHydra.instance().clear()
            hydra.main(version_base="1.3", config_path=None, config_name=f"{job.command}_command")(job)()
        return []
    if options or first.hydra.mode == RunMode.MULTIRUN:
        return run_sweep(job, first, words, folder)
    if several:
        key = next(word for word in words if is_sweep([word])).partition("=")[0]
        raise InputError(f"{key} gives several values; add -m to run each of them")
    return [run_job(job, first)]


@contextmanager
def _arguments(argv: Sequence[str]) -> Iterator[None]:
    """A block in which these are the process's arguments: Hydra reads them, and so do results what was typed."""
    before, sys.argv = sys.argv, [*argv]
    try:
        yield
    finally:
        sys.argv = before


def _sweeps(options: Sequence[str], settings: Sequence[str], folder: Path | None) -> bool:
    """Whether several values make several runs: by ``-m``, or by a preset that is a sweep."""
    modes = [setting.partition("=")[2] for setting in settings if setting.startswith("hydra.mode=")]
    if modes:
        return modes[-1].upper() == "MULTIRUN"
    presets = [
        root / "experiment" / f"{setting.partition('=')[2]}.yaml"
        for setting in settings
        if setting.startswith("experiment=")
        for root in (CONF, folder)
        if root is not None
    ]
    found = [path.read_text(encoding="utf-8") for path in presets if os.path.isfile(path)]
    return "-m" in options or "--multirun" in options or any("MULTIRUN" in text for text in found)
