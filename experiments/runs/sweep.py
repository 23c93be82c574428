"""Many runs by one command: which combinations of values make sense, where they run, and what became of each."""

import itertools
import sys
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from core.errors import InputError, RunFailed
from core.result import ResultRow, Row
from experiments.config.compose import compose
from experiments.config.files import group_choices
from experiments.config.targets import method_options
from experiments.config.words import hydra_words
from experiments.runs.job import Job, Outcome, run_job
from experiments.runs.sweep_output import check_outputs

SHARED = ("ratio", "student")
"""Settings outside ``method`` that only some methods take."""
_OF_ROW = ("run_id", "method", "variant")
"""What tells the rows of finished runs apart."""


def drop_unsupported(
    jobs: Sequence[Sequence[str]], options: Mapping[str, Collection[str]]
) -> tuple[list[list[str]], dict[str, list[str]]]:
    """The jobs of a sweep over several methods, each without the options its method does not have, each once.

    An option that none of the sweep's methods has stays, to be refused like anywhere else.

    Args:
        jobs: the settings of each job, ``key=value``.
        options: the names of the settings that each method has.

    Returns:
        The jobs, in order, and for every option that was left out somewhere the methods without it.
    """
    methods = list(dict.fromkeys(name for job in jobs if (name := _method(job)) and name in options))
    if len(methods) < 2:
        return [list(job) for job in jobs], {}
    kept: dict[tuple[str, ...], None] = {}
    left_out: dict[str, list[str]] = {}
    for job in jobs:
        method, words = _method(job), []
        for word in job:
            option = _option(word)
            takers = [name for name in methods if option in options[name]] if option else []
            if method in methods and takers and method not in takers:
                without = left_out.setdefault(_key(word), [])
                without += [method] if method not in without else []
            else:
                words.append(word)
        kept[tuple(words)] = None
    return [list(job) for job in kept], left_out


def taken_of_preset(preset: Sequence[str], words: Sequence[str], options: Mapping[str, Collection[str]]) -> list[str]:
    """What a preset sweeps over, without options that no method has which is left where ``words`` choose some.

    Args:
        preset: its words, ``key=values``.
        words: what was typed.
        options: as of :func:`drop_unsupported`.
    """
    chosen = _method([word for word in reversed([*preset, *words]) if _key(word) == "method"]).split(",")
    if not all(name in options for name in chosen):
        return list(preset)
    has = set().union(*(options[name] for name in chosen))
    return [word for word in preset if (option := _option(word)) is None or option in has]


def left_out_lines(jobs: int, kept: int, left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """The options that were left out, a line each, and how many runs that makes."""
    lines = [
        f"{key}: {' and '.join(methods)} {'has' if len(methods) == 1 else 'have'} no such option; left out there"
        for key, methods in left_out.items()
    ]
    return [*lines, f"{kept} different runs of {jobs} combinations"] if left_out else []


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _method(job: Sequence[str]) -> str:
    return next((word.partition("=")[2] for word in job if _key(word) == "method"), "")


def _option(word: str) -> str | None:
    """The name of a method's setting that a word sets, if it sets one."""
    first, _, rest = _key(word).partition(".")
    if first == "method":
        return rest.partition(".")[0] or None
    return first if first in SHARED else None


def is_sweep(words: Sequence[str]) -> bool:
    """Whether a setting has several values, in Hydra's grammar."""
    return any(override.is_sweep_override() for override in OverridesParser.create().parse_overrides(list(words)))


def sweep_jobs(words: Sequence[str], folder: Path | None = None, say: bool = True) -> list[list[str]]:
    """Every combination of the values given, in order; of a setting that is given twice the last counts.

    Options that some of the methods do not have are left out there.

    Args:
        folder: of ``--config-dir``.
        say: whether that is said on standard error.

    Raises:
        InputError: a setting is swept over nothing, or over a range without steps.
    """
    values: dict[str, list[str]] = {}
    for override in OverridesParser.create(_Groups(folder)).parse_overrides(list(words)):  # type: ignore[arg-type]
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = (
                [f"{key}={override.get_value_element_as_str()}"] if "=" in (override.input_line or "") else [key]
            )
        elif not override.is_discrete_sweep():
            raise InputError(f"{override.input_line}: has no steps; give the values, such as a,b or range(0,3)")
        else:
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            if not values[key]:
                raise InputError(f"{override.input_line}: gives no value, so nothing would run; give at least one")
    jobs = [list(job) for job in itertools.product(*values.values())]
    kept, left_out = drop_unsupported(jobs, method_options())
    for line in left_out_lines(len(jobs), len(kept), left_out) if say else ():
        print(line, file=sys.stderr)
    return kept


class _Groups:
    """What ``glob(*)`` chooses from."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get_group_options(self, group_name: str, results_filter: object = None) -> list[str]:
        """The names of the files of a group, those in the folder of ``--config-dir`` too."""
        own = [] if self.folder is None else [path.stem for path in (self.folder / group_name).glob("*.yaml")]
        return sorted({*group_choices(group_name), *own})


def run_sweep(job: Job, first: DictConfig, words: Sequence[str], folder: Path | None) -> list[Outcome]:
    """Compose the settings of all jobs, and then do them, here or by the launcher that the settings name.

    Where one of several processes fails alone, its other jobs are not begun: the others would wait for it in vain.

    Args:
        first: the settings with one value each, and Hydra's own: launcher, and what a preset sweeps over.
        words: settings in Hydra's grammar.
        folder: of ``--config-dir``.

    Raises:
        InputError, HydraException: of one job, or jobs would write to one place; none has begun.
    """
    params = first.hydra.sweeper.get("params") or {}
    preset = hydra_words(job.command, [f"{key}={value}" for key, value in params.items()], sweep=True)
    preset = taken_of_preset(preset, words, method_options())
    hydras = [word for word in words if word.lstrip("+~").startswith(("hydra.", "hydra/"))]
    jobs = sweep_jobs([*preset, *(word for word in words if word not in hydras)], folder)
    composed = [compose(job.command, [*hydras, *own], folder) for own in jobs]
    check_outputs(job.command, composed)
    if str(first.hydra.launcher._target_).rpartition(".")[2] != "BasicLauncher":
        return _launch(job, first, jobs)
    outcomes = []
    for settings in composed:
        outcomes.append(run_job(job, settings))
        if outcomes[-1].is_alone:
            break
    return outcomes


def _launch(job: Job, first: DictConfig, jobs: Sequence[Sequence[str]]) -> list[Outcome]:
    """By a launcher of Hydra, which composes the settings again where the job runs."""
    folder = Path(first.hydra.sweep.dir)
    if "${" in str(folder):
        raise InputError(f"runs={folder.parent}: a launcher cannot write to a folder with ${{ in its name; rename it")
    first.hydra.mode = RunMode.MULTIRUN
    # Settings with callbacks are refused: these do nothing.
    context = HydraContext(GlobalHydra.instance().config_loader(), Callback())  # type: ignore[arg-type]
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=job, config=first)
    size = first.hydra.sweeper.get("max_batch_size") or len(jobs)
    returned: list[JobReturn] = []
    try:
        for start in range(0, len(jobs), size):
            returned += launcher.launch([list(own) for own in jobs[start : start + size]], initial_job_idx=start)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("joblib", "submitit"):
            raise
        raise RunFailed(
            f"a job of the sweep was ended from outside ({type(error).__name__}: {_last_line(error)}); "
            f"its output, if any, stands below {folder}; the same command goes on with what is missing"
        ) from error
    return [result.return_value for result in returned]


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip(" -")), "no message")


def rows_once(outcomes: Sequence[Outcome]) -> list[Row]:
    """The rows of a sweep's jobs. Those of a run are there once: chains may begin with the same one."""
    found: dict[Hashable, Row] = {}
    for outcome in outcomes:
        for row in outcome.rows or getattr(outcome.error, "rows", ()):
            is_of_run = isinstance(row, ResultRow) and row.status == "finished" and row.run_id is not None
            found.setdefault(tuple(getattr(row, key) for key in _OF_ROW) if is_of_run else len(found), row)
    return list(found.values())


def print_summary(outcomes: Sequence[Outcome]) -> None:
    """Print the students of a sweep, best box mIoU first; runs that ended in an error stand last, with their reason."""
    from evaluation.baselines import BASELINES

    students = [
        row
        for row in rows_once(outcomes)
        if isinstance(row, ResultRow) and row.status == "finished" and row.method not in (*BASELINES, "teacher")
    ]
    ended = [outcome for outcome in outcomes if outcome.error is not None]
    if not students and not ended:
        return
    # Here, since only a sweep is summed up.
    from rich.table import Table

    from core.terminal import terminal
    from experiments.reporting.columns import COLUMNS

    table = Table(show_edge=False, pad_edge=False)
    table.add_column("run", no_wrap=True)
    for name in ("box", "point", "parameters", "MACs"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in sorted(students, key=lambda row: -(row.miou or 0)):
        names = ("miou", "miou_point", "parameters", "macs_full")
        table.add_row(row.run_id, *(COLUMNS[name].bare(getattr(row, name)) or "-" for name in names))
    console = terminal()
    console.print(f"\n{len(outcomes)} runs, {len(ended)} of them without a result", soft_wrap=True)
    console.print(table)
    for outcome in ended:
        console.print(f"{' '.join(outcome.overrides)}: {outcome.error}", soft_wrap=True)
    console.print("all rows on one page: python -m experiments leaderboard", soft_wrap=True)
