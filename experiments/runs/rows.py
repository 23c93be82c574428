"""What a run works with, and the rows that say what it found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compressors.method import Compressed, Compressor
from core import distributed
from core.result import ResultRow, joined_precisions
from data.content import IDENTITY
from data.exclusions import ABOUT_IMAGES
from data.sample import ImageData
from evaluation.latency import device_name
from experiments.config.schema import RunConfig
from experiments.model_columns import compared_latencies, cost_columns
from experiments.result_file import BESIDE, BY_IMAGE
from experiments.runs.build import data_name
from experiments.runs.data_content import DataContent
from experiments.runs.identity import method_name, parent_metadata
from experiments.scoring import EvaluationSet, Fillings, Kept, described, images_at_once, own_rules, score_model
from teachers.sam import Sam

SCORING = "scoring"
"""Folder of what was scored, by model, while scoring goes on."""
SCORED = ".scored"
"""Folder below that of the runs: teachers' scores image by image, so that the runs of a sweep score a teacher once."""


@dataclass(frozen=True)
class Parts:
    """What a run works with, built and checked.

    Attributes:
        key: of its states.
        earlier: settings of the methods before this one in its chain.
    """

    settings: RunConfig
    run_id: str
    key: str
    folder: Path
    device: torch.device
    method: Compressor
    teacher: Sam
    trained_on: DataContent
    scored_on: DataContent
    earlier: tuple[Any, ...] = ()

    @property
    def data(self) -> ImageData:
        """What is trained on."""
        return self.trained_on.data

    @property
    def evaluation_set(self) -> EvaluationSet:
        """What is scored."""
        evaluation, scored = self.settings.evaluation, self.scored_on
        about = (evaluation.prompt_batch_size, evaluation.protocol, evaluation.precision, scored.column())
        reading = images_at_once(evaluation, self.device)
        name, rules = data_name(evaluation.data), own_rules(evaluation.data)
        return EvaluationSet(scored.data, name, scored.indices, *about, *reading, rules)


def score_run(
    parts: Parts, compressed: Compressed, student: Sam, fillings: Fillings, git_sha: str
) -> tuple[list[ResultRow], dict[str, Any]]:
    """Both baselines, the teacher and the student, all scored on the same images; without costs where not first.

    Returns:
        The rows, and what a result file keeps of them image by image.
    """
    settings, evaluation_set = parts.settings, parts.evaluation_set
    shared: dict[str, Any] = {"run_id": parts.run_id, "git_sha": git_sha, "status": "finished"}
    machine: dict[str, Any] = {"device": device_name(parts.device), "precision": settings.evaluation.precision}
    machine |= {"threads": torch.get_num_threads()}
    rows = [ResultRow(method=name, **shared, **filling) for name, filling in fillings.columns.items()]
    found: list[dict[str, Any]] = []
    by_image: dict[str, Any] = {}
    for model in (parts.teacher, student):
        about = {"method": "teacher", "teacher": parts.teacher.name}
        if model is student:
            about = about_student(parts, student.name) | {
                **of_chain(settings, compressed),
                "train_seconds": compressed.train_seconds,
                "train_images_per_s": compressed.images_seen / max(compressed.train_seconds, 1e-9),
                "train_peak_memory_bytes": compressed.peak_memory_bytes,
                "device_hours": compressed.device_hours,
            }
        kept = Kept(
            parts.folder / SCORING / str(about["method"]),
            [IDENTITY, git_sha, evaluation_set.data.name, described(settings.evaluation.data)],
            [str(image) for image in parts.scored_on.images],
            Path(settings.runs) / SCORED if model is parts.teacher else None,
        )
        measured, by_image[about["method"]] = score_model(model, evaluation_set, kept)
        if distributed.is_main():
            measured |= cost_columns(model)
        if model is student:
            measured["skipped"] = measured["skipped"] | _left_out_of_training(parts)
        found.append({**shared, **machine, **about, **measured})
    if distributed.is_main():
        runs, precision = settings.evaluation.latency_runs, settings.evaluation.precision
        timed = compared_latencies([parts.teacher, student], runs, parts.device, precision)
        found = [columns | times for columns, times in zip(found, timed, strict=True)]
    of_student = by_image.pop(about["method"])
    kept_scores = {BY_IMAGE: of_student, BESIDE: {**fillings.by_image, **by_image}}
    return [*rows, *(ResultRow(**columns) for columns in found)], kept_scores


def _left_out_of_training(parts: Parts) -> dict[str, int]:
    """What training did without, as far as this process (since it last began) has met it."""
    skipped = parts.data.skipped
    reasons = (*ABOUT_IMAGES, "unusable_annotation")
    return {f"training_{reason}": skipped[reason] for reason in reasons if skipped.get(reason)}


def about_student(parts: Parts, name: str | None = None) -> dict[str, Any]:
    """The columns that say what made a run's student.

    Args:
        name: of the student; None where there is none.
    """
    settings = parts.settings
    return {
        "run_id": parts.run_id,
        "method": method_name(settings),
        "variant": settings.name,
        "ratio": ratio_of(settings),
        "teacher": parts.teacher.name,
        "student": name,
        "seed": settings.seed,
    }


def ratio_of(settings: RunConfig) -> float | None:
    """What was cut, by this run or by the one that made what it begins with."""
    return settings.ratio if settings.ratio is not None else parent_metadata(settings).get("ratio")


def of_chain(settings: RunConfig, compressed: Compressed) -> dict[str, Any]:
    """Of the run and of those before it in the chain: images trained on and behind scores of channels; precision."""
    earlier = parent_metadata(settings)
    counts = {n: getattr(compressed, n) + (earlier.get(n) or 0) for n in ("images_seen", "importance_images")}
    precisions = joined_precisions([*compressed.precisions, earlier.get("training_precision")])
    return {**counts, "training_precision": precisions}
