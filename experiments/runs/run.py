"""One run: compress a teacher, score student and teacher by the same code, and keep what was found."""

import dataclasses
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from compressors.method import Compressor, RunContext
from compressors.setting_checks import settings_without_effect
from core import distributed, provenance
from core.checkpoint import file_sha256, weights_sha256, write_text
from core.errors import InputError, first_line
from core.memory import reraise_oom
from core.progress import say
from core.result import ResultRow
from core.seeding import seed_for
from core.storage import check_place
from data.content import IDENTITY
from evaluation.latency import PRECISIONS, device_name
from experiments.compressed_check import check_compressed, promised_parameters
from experiments.config.files import FOLLOWING
from experiments.config.schema import RunConfig
from experiments.config.targets import build_method
from experiments.config.words import literal
from experiments.reporting.columns import LEADERBOARD
from experiments.reporting.run_record import PAGE, stage_names
from experiments.reporting.run_report import print_comparison
from experiments.result_file import FAILED, NAME, read_rows, write_result
from experiments.runs.began import is_of_this_command
from experiments.runs.build import build_device, build_engine, build_teacher, check_precision
from experiments.runs.checkpoints import STUDENT, check_named, find_model
from experiments.runs.data_content import contents_of_run, require_held_out
from experiments.runs.folder import lock_run_dir
from experiments.runs.identity import method_name, resolved, run_group, run_id, run_sha256
from experiments.runs.kept_threads import NAME as THREADS
from experiments.runs.kept_threads import keep_threads, take_one_thread
from experiments.runs.mended_run import NAME as STOPPED_BY
from experiments.runs.mended_run import refusals_noted, take_over, whatever_is_damaged
from experiments.runs.rows import SCORING, Parts, about_student, of_chain, ratio_of, score_run
from experiments.scoring import Fillings, score_fillings, training_score
from experiments.tracking.local_files import METRICS, metrics_csv
from experiments.tracking.logger import Outcome, RunMetadata
from experiments.tracking.settings import CsvLogger, check_installed
from experiments.tracking.tracking import Tracking, tracked
from experiments.widths import widths_of
from students.files import load_model, save_model
from students.self_check import encoder_problem

IMAGE = "masks.png"


def run_chain(settings: RunConfig, cfg: DictConfig) -> list[ResultRow]:
    """Do the run, and then the next ones, each on the student before it. What is finished is read, not done again.

    A stage's name and rows carry the chain (``slimsam+ptq``): a student's file says what made it. Jobs of a sweep may
    share all stages but the last: one of them does a shared stage, the others wait and read it.
    """
    following = {key: method for key in FOLLOWING if (method := getattr(settings, key)) is not None}
    for method in following.values():
        # What is wrong with a later method is reported before the first one trains.
        _checked_method(method)
    alone, first = replace(settings, then=None, lastly=None), cfg.copy()
    first.then = first.lastly = None
    rows, earlier = run(alone, first, wait=bool(following)), [settings.method]
    for place, (key, method) in enumerate(following.items(), 1):
        # Of several processes the first alone has rows and writes the student; the others wait until it is there.
        name = distributed.from_main(lambda made=rows: str(made[-1].run_id))  # type: ignore[misc]
        init = str(Path(settings.runs) / name / STUDENT)
        stage = first.copy()
        OmegaConf.set_struct(stage, False)
        stage.method = cfg[key]
        stage.method.init = literal(init)
        stage_settings = replace(alone, method=replace(method, init=init))
        rows = [*rows, *run(stage_settings, stage, tuple(earlier), wait=place < len(following))]
        earlier.append(method)
    return rows


def run(settings: RunConfig, cfg: DictConfig, earlier: tuple[Any, ...] = (), wait: bool = False) -> list[ResultRow]:
    """Do a run, continue one that was stopped, or read one that is finished; returns its rows and prints them.

    Args:
        earlier: settings of the methods before this one in its chain.
        wait: for another process that does this run, whose rows are read then; else that is an error.

    Raises:
        InputError: something was given wrong; nothing is left behind.
    """
    device = build_device(settings.engine)
    check_precision("evaluation.precision", settings.evaluation.precision, device)
    method = _checked_method(settings.method)
    build_engine(settings.engine, Path(settings.runs), device)
    # Of several processes the first reads the images, and tells the others.
    distributed.init(device)
    trained_on, scored_on = contents_of_run(settings)
    sha256 = run_sha256(settings, device, (trained_on, scored_on))
    name = run_id(settings, device, sha256)
    folder = Path(settings.runs) / name
    rows: list[ResultRow] = []
    # Another job may end it at any moment, so that each process by itself might find otherwise.
    finished = distributed.from_main(lambda: _is_finished(settings, folder))
    if not finished:
        for line in settings_without_effect(method):
            say(line, style="dim")
        check_installed(settings.logger)
        check_place(folder / NAME)
        teacher = build_teacher(settings.teacher, device)
        # Fails here rather than halfway where nothing would be left, or a width does not divide.
        promised_parameters(method, teacher)
        require_held_out(trained_on, scored_on)
        apart = run_sha256(whatever_is_damaged(settings), device, (scored_on,))
        if distributed.is_main() and not settings.force:
            take_over(folder, apart, trained_on)
        locked = lock_run_dir(folder, lambda: _starts_over(settings, folder), wait)
        with locked if distributed.is_main() else nullcontext():
            distributed.barrier()
            # By the process that was waited for.
            finished = distributed.from_main(lambda: _is_finished(settings, folder))
            if not finished:
                if settings.engine.threads is None:
                    take_one_thread(teacher, device)
                keep_threads(folder, chosen=settings.engine.threads is not None)
                with refusals_noted(folder, sha256, apart, trained_on) as key:
                    parts = Parts(settings, name, key, folder, device, method, teacher, trained_on, scored_on, earlier)
                    rows = _do(parts, resolved(cfg))
    if finished:
        rows = _read_finished(settings, folder)
    elif distributed.is_main():
        _fold(Path(settings.runs))
    if settings.format == "table" and distributed.is_main():
        print_comparison(rows, folder)
    return rows if distributed.is_main() else []


def _is_finished(settings: RunConfig, folder: Path) -> bool:
    """Whether there is nothing to do; ``force`` has a run done once by all jobs of a command."""
    return (folder / NAME).is_file() and (not settings.force or is_of_this_command(folder / NAME))


def _starts_over(settings: RunConfig, folder: Path) -> bool:
    """Whether what a run's folder holds is thrown away: not what another job of this command left there."""
    return settings.force and not any(is_of_this_command(folder / name) for name in (NAME, FAILED))


def _read_finished(settings: RunConfig, folder: Path) -> list[ResultRow]:
    """The rows of a finished run; what it had still to do when it was stopped is done."""
    rows = read_rows(folder / NAME)
    if distributed.is_main() and not (folder / PAGE).is_file():
        _end(settings, folder)
    if distributed.is_main() and _is_newer(folder / NAME, Path(settings.runs) / LEADERBOARD):
        # It was stopped between its own end and this.
        _fold(Path(settings.runs))
    by_whom = "by another job of this command" if settings.force else "earlier; force=true does it again"
    say(f"{folder}: finished {by_whom}", style="dim")
    return rows


def _checked_method(settings: Any) -> Compressor:
    """The method, of which all processes can share a step: known before the first image is read.

    Raises:
        InputError: its settings are wrong, what names a model is none, or its images a step cannot be shared.
    """
    method = build_method(settings)
    parts: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(method) if dataclasses.is_dataclass(method) else ()
    for name in ("init", *(part.name for part in parts if part.metadata.get("identity") == "model")):
        if (checkpoint := getattr(method, name)) is not None:
            check_named(checkpoint, f"method.{name}")
    if method.images_per_step is not None:
        distributed.check_shared(method.images_per_step, distributed.announced())
    return method


def _fold(runs: Path) -> None:
    """Make ``leaderboard.csv`` anew. What keeps it from that is said: the run is finished all the same."""
    # Here, so that other commands do not wait for pandas.
    from experiments.reporting.results import fold

    try:
        fold(runs)
    except (OSError, ValueError) as error:
        say(f"{runs / LEADERBOARD}: not made anew ({first_line(error)}); python -m experiments leaderboard makes it")


def _is_newer(result: Path, leaderboard: Path) -> bool:
    """Whether a run ended after the rows were last put together, or they never were."""
    return not leaderboard.is_file() or leaderboard.stat().st_mtime_ns < result.stat().st_mtime_ns


def _do(parts: Parts, config: Mapping[str, Any]) -> list[ResultRow]:
    config = provenance.redact_paths(config)
    about = {"config": config, "provenance": provenance.capture(device_name(parts.device), provenance.command_line())}
    if distributed.is_main():
        for name in (FAILED, PAGE):
            (parts.folder / name).unlink(missing_ok=True)
    try:
        with tracked(parts.settings.logger, parts.folder, parts.evaluation_set, _tracked_as(parts, about)) as tracking:
            rows = _work(parts, about, tracking)
        if distributed.is_main():
            # Last, so that its list of files is whole.
            _write_page(parts.folder / NAME)
        return rows
    except InputError:
        raise
    except Exception as error:
        if not distributed.is_main():
            raise
        row = ResultRow(
            **about_student(parts),
            git_sha=about["provenance"]["git_sha"],
            data=parts.evaluation_set.name,
            status="failed",
            reason=f"{type(error).__name__}: {error}",
        )
        write_result(parts.folder / FAILED, [row], {**about, "stages": stage_names(parts.folder)})
        _write_page(parts.folder / FAILED)
        raise


def _tracked_as(parts: Parts, about: Mapping[str, Any]) -> RunMetadata:
    """The run as loggers show it."""
    settings, method = parts.settings, method_name(parts.settings)
    preset = HydraConfig.get().runtime.choices.get("experiment") if HydraConfig.initialized() else None
    tags = (method, parts.teacher.name, parts.evaluation_set.name, *([str(preset)] if preset else ()))
    config = {**about["config"], "run_id": parts.run_id, "provenance": about["provenance"]}
    group = run_group(settings, parts.device, (parts.trained_on, parts.scored_on), parts.earlier)
    return RunMetadata(parts.run_id, group, tags, config, settings.force)


def _work(parts: Parts, about: Mapping[str, Any], tracking: Tracking) -> list[ResultRow]:
    settings, teacher = parts.settings, parts.teacher
    # Before anything is trained: a held-out image that cannot be read is met here.
    fillings = score_fillings(parts.evaluation_set) if distributed.is_main() else Fillings()
    torch.manual_seed(seed_for(settings.seed, "run"))
    engine = replace(build_engine(settings.engine, parts.folder, parts.device), callback=tracking.callback)
    # What a method may choose its weights by.
    batch, is_used = settings.evaluation.prompt_batch_size, parts.method.validations > 0
    context = RunContext(
        seed=settings.seed,
        folder=parts.folder,
        engine=engine,
        cache=settings.engine.cache,
        cache_folder=Path(settings.engine.cache_folder),
        validate=training_score(parts.data, batch, is_used) if parts.trained_on.labels else None,
        load=lambda checkpoint, setting: find_model(checkpoint, setting=setting).model,
        sha256=parts.key,
    )
    problem = encoder_problem(teacher, PRECISIONS[engine.precision], "engine.precision")
    if problem is not None:
        raise InputError(f"{teacher.name}: {problem}")
    with reraise_oom(f"{parts.run_id}", "give a smaller method.batch, or engine.precision=bfloat16"):
        compressed = parts.method.compress(teacher, parts.data, context)
    file = parts.folder / STUDENT
    facts = {
        "method": method_name(settings),
        "ratio": ratio_of(settings),
        "seed": settings.seed,
        **of_chain(settings, compressed),
        "teacher": teacher.name,
        "teacher_sha256": weights_sha256(teacher),
        "run_id": parts.run_id,
    }
    if distributed.is_main():
        save_model(file, compressed.student, facts)
    distributed.barrier()
    # What is scored, by all processes together, is what was saved.
    student = load_model(file).to(parts.device)
    check_compressed(student, teacher, parts.method, parts.evaluation_set, parts.run_id)
    rows, by_image = score_run(parts, compressed, student, fillings, about["provenance"]["git_sha"])
    if not distributed.is_main():
        return []
    # Here, so that a finished run is shown without waiting for matplotlib.
    from experiments.reporting.mask_images import draw_masks

    models = {"teacher": teacher, "student": student}
    draw_masks(parts.folder / IMAGE, models, parts.evaluation_set, parts.run_id)
    files = {
        "student_sha256": file_sha256(file),
        "teacher_sha256": facts["teacher_sha256"],
        "identity": IDENTITY,
        "training_images_sha256": parts.trained_on.sha256,
        "scored_images_sha256": parts.scored_on.sha256,
        "paper": parts.method.paper,
        "training_precision": engine.precision,
        "stages": stage_names(parts.folder),
        "widths": {"teacher": widths_of(teacher), "student": widths_of(student)},
        **by_image,
    }
    write_result(parts.folder / NAME, rows, {**about, **files})
    _remove_states(parts.folder)
    tracking.finished(
        Outcome(rows, models, parts.evaluation_set, file, facts, parts.folder / IMAGE, parts.folder / NAME)
    )
    return rows


def _remove_states(folder: Path) -> None:
    """Only a run that was cut off needs them, and they are several times the size of the model."""
    for state in (*folder.glob("*.state"), folder / THREADS):
        # Another process that found the run finished may do the same.
        state.unlink(missing_ok=True)
    shutil.rmtree(folder / SCORING, ignore_errors=True)
    (folder / STOPPED_BY).unlink(missing_ok=True)


def _end(settings: RunConfig, folder: Path) -> None:
    """What a run that was stopped right after its result had still to do: its last file is the page."""
    _remove_states(folder)
    if isinstance(settings.logger, CsvLogger):
        write_text(folder / METRICS, metrics_csv(folder))
    _write_page(folder / NAME)


def _write_page(result: Path) -> None:
    # Here, because a command that finds its run finished has nothing to draw.
    from experiments.reporting.run_page import write_run_page

    write_run_page(result)
