"""The command ``evaluate``: one model, one data set, one pass, a row for every protocol."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from core import distributed, provenance
from core.checkpoint import file_sha256
from core.errors import InputError
from core.geometry import Stretched
from core.plain_file import home_path
from core.progress import counted, say
from core.protocols import Segmenter
from core.provenance import redact_paths
from core.result import ResultRow
from core.storage import check_place
from core.terminal import terminal
from data.annotated_images import AnnotatedImages
from data.content import IDENTITY
from data.detections import DETECTION_REASONS, Detections
from data.sample import ImageData
from evaluation.average_precision.figures import check_backend, figures_of
from evaluation.average_precision.prepared import GroundTruth
from evaluation.latency import PRECISIONS, device_name
from evaluation.metrics import bootstrap_interval, grouped_mean_iou, mean_iou
from evaluation.paired_seeds import ImageScores
from evaluation.protocols import BOX_POINT, ScoringProtocol, protocol_named
from evaluation.records import (
    InstanceRecord,
    PartialRecords,
    remove_parts,
    write_images,
    write_records,
)
from evaluation.scorer import Scored, Scorer
from experiments.config.groups import EvaluationConfig
from experiments.config.schema import EvaluateConfig
from experiments.model_columns import about_columns, cost_columns, latency_columns
from experiments.recorded_evaluation import FOLDER
from experiments.reporting.run_report import print_comparison, print_protocols
from experiments.result_file import BESIDE, BY_IMAGE, NAME, write_result
from experiments.runs.build import build_data, data_name, evaluation_indices
from experiments.runs.checkpoints import find_model
from experiments.runs.data_content import data_content
from experiments.runs.folder import lock_run_dir, remove_taken_over
from experiments.runs.identity import model_sha256, resolved
from experiments.runs.segmenters import ChosenSegmenter, chosen_segmenter, segmenters_device
from experiments.scoring import (
    IOUS,
    RULES,
    EvaluationSet,
    columns,
    described,
    images_at_once,
    own_rules,
    require_instances,
    require_points,
    require_records,
    score_fillings,
)

ABOUT_DETECTIONS = (*DETECTION_REASONS, "unknown_category", "unreadable_image", "image_left_out")
"""Reasons for leaving something out that concern average precision."""
AVERAGE_PRECISIONS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ap_rare", "ap_common", "ap_frequent")
RECALLS = {"coco": "ar100", "lvis": "ar300"}
"""Recall with all detections that count, by style."""


def evaluate(settings: EvaluateConfig, cfg: DictConfig) -> list[ResultRow]:
    """Score one model; write its records and rows to ``out``. Under ``torchrun`` each process scores its share."""
    evaluation = settings.evaluation
    protocols = chosen_protocols(evaluation)
    if settings.detections is not None and not any(protocol.is_detected for protocol in protocols):
        names = ", ".join(protocol.name for protocol in protocols)
        raise InputError(f"detections={settings.detections}: {names} take none; give evaluation=coco_detector_box")
    if evaluation.reference is not None and not any(protocol.truth == "reference" for protocol in protocols):
        problem = f"evaluation.reference={evaluation.reference}: no protocol here compares with a model's masks"
        raise InputError(f"{problem}; leave it out, or give evaluation=mobilesam")
    check_place((Path(settings.runs) / FOLDER if settings.out is None else home_path(settings.out)) / NAME)
    # Of several processes the first lists what there is, and the others hear of it.
    distributed.init(segmenters_device(settings))
    data = build_data(admitting(evaluation.data, protocols))
    indices = evaluation_indices(evaluation, data)
    if not all(protocol.is_detected for protocol in protocols):
        require_instances(data, indices, "evaluation.data")
    if any(protocol.prompt == "annotated_point" for protocol in protocols):
        require_points(data, indices)
    detections = _detections(settings, data, protocols)
    # The first process alone compares with it.
    truth = None if detections is None else distributed.on_main(lambda: _ground_truth(evaluation, data, indices))
    evaluated = chosen_segmenter(settings, evaluation.precision)
    say(evaluated.description)
    reference = _reference(evaluation, evaluated)
    hashes = {
        "model_sha256": evaluated.identity,
        "reference_sha256": None if reference is None else model_sha256(reference),
        "detections_sha256": None if detections is None else file_sha256(home_path(str(settings.detections))),
    }
    content = data_content(data, indices, True, Path(settings.runs))
    scoring = Scoring(evaluation, protocols, evaluated, data, indices, hashes, truth)
    key = scoring.key()
    of_all = hashlib.sha256(f"{key} {len(indices)} {content.sha256}".encode()).hexdigest()
    evaluations = Path(settings.runs) / FOLDER
    name = f"{evaluated.model.name}-{data.name}-{of_all[:8]}"
    folder = evaluations / name if settings.out is None else home_path(settings.out)
    image_batch, workers = images_at_once(evaluation, evaluated.device)
    scorer = Scorer(
        evaluated.model,
        protocols,
        detections,
        reference,
        prompt_batch_size=evaluation.prompt_batch_size,
        image_batch_size=image_batch,
        workers=workers,
        seed=evaluation.seed,
        autocast=PRECISIONS[evaluated.precision],
    )
    beside = sorted({path.parent for path in evaluations.glob("*/part-*.jsonl")} - {folder})
    partial = PartialRecords(folder, key, [str(image) for image in content.images], beside)
    with lock_run_dir(folder, fresh=False) if distributed.is_main() else nullcontext():
        distributed.barrier()
        with counted(f"scoring {evaluated.model.name}", len(indices)) as done:
            scored = scorer.score(data, indices, partial=partial, on_image=done, for_main=True)
        if not distributed.is_main():
            return []
        if len(scored.left_out) == len(indices):
            raise InputError(f"{data.name}: none of the {len(indices)} images could be read; look at the first of them")
        rows, by_image = scoring.rows(scored, content.column())
        # An earlier evaluation in this folder goes first: its rows never stand beside these records.
        (folder / NAME).unlink(missing_ok=True)
        write_records(folder, scored.records)
        write_images(folder, content.images if content.is_read else [])
        write_result(
            folder / NAME,
            rows,
            {
                "config": resolved(cfg),
                "provenance": provenance.capture(device_name(evaluated.device), provenance.command_line()),
                "identity": IDENTITY,
                "scored_images_sha256": content.sha256,
                **hashes,
                **by_image,
            },
        )
        # Here, because only this end of the command needs it.
        from experiments.reporting.run_page import write_run_page

        write_run_page(folder / NAME)
        # Last: whatever could not be written is written from them by the same command.
        remove_parts(folder, key)
        remove_taken_over(partial.beside, key, partial.contents)
    if settings.format == "table":
        if evaluation.protocols:
            print_protocols(rows)
        else:
            print_comparison([*rows[1:], rows[0]])
        terminal().print(f"records: {folder}/", soft_wrap=True)
    return rows


def chosen_protocols(evaluation: EvaluationConfig) -> tuple[ScoringProtocol, ...]:
    """The protocols of an evaluation, with its own jitter.

    Raises:
        InputError: one is unknown, occurs twice, or they admit other instances than each other.
    """
    protocols = [protocol_named(name) for name in evaluation.protocols] or list(BOX_POINT)
    if evaluation.jitter is not None:
        if not any(protocol.prompt == "box" for protocol in protocols):
            raise InputError(f"evaluation.jitter={evaluation.jitter}: no protocol here takes ground-truth boxes")
        protocols = [
            dataclasses.replace(p, jitter=evaluation.jitter, name=f"{p.name}+jitter_{evaluation.jitter:g}")
            if p.prompt == "box"
            else p
            for p in protocols
        ]
    names = [protocol.name for protocol in protocols]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"evaluation.protocols: {twice} occurs twice; leave one out")
    if len({(protocol.crowd, protocol.least_area) for protocol in protocols}) > 1:
        raise InputError(
            f"evaluation.protocols: {', '.join(names)} count other instances than each other (crowds, least area); "
            "score them one after the other"
        )
    return tuple(protocols)


def admitting(data: Any, protocols: Sequence[ScoringProtocol]) -> Any:
    """Settings of the data set that admit what the protocols count.

    Raises:
        InputError: the settings have a rule of their own where the protocols have another than the usual one.
    """
    first, usual, changes = protocols[0], ScoringProtocol(name="usual"), {}
    for key in RULES:
        own, of_protocol = getattr(data, key, None), getattr(first, key)
        if own is None or of_protocol == getattr(usual, key):
            continue
        if own not in (getattr(usual, key), of_protocol):
            raise InputError(
                f"evaluation.data.{key}={own:g}: {first.name} is defined with {of_protocol:g}; leave it out, "
                "or give another protocol"
            )
        changes[key] = of_protocol
    return dataclasses.replace(data, **changes)


def _detections(settings: EvaluateConfig, data: ImageData, protocols: Sequence[ScoringProtocol]) -> Detections | None:
    needing = [protocol.name for protocol in protocols if protocol.is_detected]
    if not needing:
        return None
    if settings.detections is None:
        raise InputError(f"detections is missing: {needing[0]} needs a detector's boxes; give detections=FILE.json")
    if not isinstance(data, AnnotatedImages):
        raise InputError(f"{needing[0]}: {data.name} has no image ids that detections name; give COCO or LVIS")
    most = settings.evaluation.max_detections
    return Detections(home_path(settings.detections), data.sizes_hw(), most, data.category_ids)


def _ground_truth(evaluation: EvaluationConfig, data: ImageData, indices: Sequence[int]) -> GroundTruth:
    """What average precision compares with, checked: whatever it refuses is refused before anything is scored."""
    assert isinstance(data, AnnotatedImages), "others have no image ids that detections name"
    style = "lvis" if data_name(evaluation.data) == "lvis" else "coco"
    try:
        check_backend(style, evaluation.backend)
    except InputError as error:
        raise InputError(f"evaluation.{error}") from None
    truth = data.truth()
    try:
        found = GroundTruth(truth, style, "segm", [data.image_id(index) for index in indices]).checked()
    except InputError as error:
        raise InputError(f"{data.truth_path}: {error}") from None
    # LVIS passes over what has no area, COCO over crowds.
    if not any(raw["area"] > 0 if style == "lvis" else not raw["iscrowd"] for raw in found.annotations):
        problem = f"has no annotation that average precision counts on the {len(indices)} images"
        raise InputError(f"{data.truth_path}: {problem}; correct the file, or give a larger evaluation.images")
    return found


def _reference(evaluation: EvaluationConfig, evaluated: ChosenSegmenter) -> Segmenter | None:
    if evaluation.reference is None:
        return None
    model = find_model(evaluation.reference, setting="evaluation.reference").model.to(evaluated.device)
    if isinstance(model.input_size, Stretched) != isinstance(evaluated.model.input_size, Stretched):
        raise InputError(
            f"evaluation.reference={evaluation.reference}: of it and {evaluated.model.name} one is given images that "
            "are stretched to a square, the other padded ones; give a reference of the same generation"
        )
    if model.input_size != evaluated.model.input_size:
        raise InputError(
            f"evaluation.reference={evaluation.reference}: takes images of {model.input_size} pixels, "
            f"{evaluated.model.name} of {evaluated.model.input_size}; give a reference of the same input size"
        )
    return model


@dataclass(frozen=True)
class Scoring:
    """What is scored on what, and the rows that come of it.

    Attributes:
        evaluation: the settings.
        protocols: those of the settings, see :func:`chosen_protocols`.
        evaluated: the model.
        hashes: of the model, of the reference's model and of the detector's file; None where there is none.
        truth: what average precision compares with, of protocols that take a detector's boxes; in the first process.
    """

    evaluation: EvaluationConfig
    protocols: tuple[ScoringProtocol, ...]
    evaluated: ChosenSegmenter
    data: ImageData
    indices: Sequence[int]
    hashes: Mapping[str, str | None]
    truth: GroundTruth | None

    def key(self) -> str:
        """What the records of an image depend on besides the image and its annotations, as text."""
        evaluation = self.evaluation
        content = {
            "identity": IDENTITY,
            "data": [self.data.name, described(evaluation.data)],
            "protocols": [protocol.axes() for protocol in self.protocols],
            "settings": [
                *(evaluation.max_detections, evaluation.seed),
                *(evaluation.prompt_batch_size, evaluation.image_batch_size),
            ],
            "computed": [self.evaluated.device.type, self.evaluated.precision],
            **self.hashes,
        }
        return json.dumps(content, sort_keys=True)

    def rows(self, scored: Scored, data_sha256: str | None) -> tuple[list[ResultRow], dict[str, Any]]:
        """A row a protocol; of the protocol of runs one of the model, and one of each baseline.

        Args:
            data_sha256: of the images and their annotations; None where they are made and not read.

        Returns:
            The rows, and of the protocol of runs what a result file keeps image by image, as runs have it.
        """
        evaluation, found = self.evaluation, self.evaluated
        about = (evaluation.prompt_batch_size, evaluation.protocol, found.precision, data_sha256)
        rules = own_rules(admitting(evaluation.data, self.protocols))
        evaluation_set = EvaluationSet(self.data, data_name(evaluation.data), self.indices, *about, rules=rules)
        origin: dict[str, Any] = {"status": "evaluated", "git_sha": provenance.git_sha()}
        shared = about_columns(found) | origin | cost_columns(found.model)
        shared |= latency_columns(found.model, evaluation.latency_runs, found.device, found.precision)
        if evaluation.protocols:
            return [ResultRow(**shared, **self._columns(p, scored, evaluation_set)) for p in self.protocols], {}
        box, point = (scored.instances(protocol.name) for protocol in BOX_POINT)
        skipped = {"skipped": {reason: count for reason, count in scored.skipped.items() if count}}
        row = ResultRow(**shared, **columns(box, point, evaluation_set) | skipped)
        fillings = score_fillings(evaluation_set)
        filled = [ResultRow(method=name, **origin, **{**one, **skipped}) for name, one in fillings.columns.items()]
        by_image = ImageScores.of(dict(zip(IOUS, (box, point), strict=True)))
        return [row, *filled], {BY_IMAGE: by_image.to_dict(), BESIDE: fillings.by_image}

    def _columns(self, protocol: ScoringProtocol, scored: Scored, evaluation_set: EvaluationSet) -> dict[str, Any]:
        """The columns of one protocol."""
        evaluation, data = self.evaluation, self.data
        axes = protocol.axes() | evaluation_set.rules
        if evaluation_set.data_sha256 is not None:
            axes["data_sha256"] = evaluation_set.data_sha256
        if evaluation.reference is not None and protocol.truth == "reference":
            axes["reference"] = str(redact_paths(evaluation.reference))
            axes["reference_sha256"] = str(self.hashes["reference_sha256"])
        shared: dict[str, Any] = {
            "data": evaluation_set.name,
            "protocol": protocol.name,
            "axes": axes,
            "skipped": {reason: count for reason, count in scored.skipped.items() if count},
        }
        if not protocol.is_detected:
            axes["interval"] = "bootstrap over images"
            records = scored.instances(protocol.name)
            require_records(records, data)
            return shared | _iou_columns(records, protocol)
        assert self.truth is not None and isinstance(data, AnnotatedImages)
        axes["detections_sha256"] = str(self.hashes["detections_sha256"])
        boxes = "all" if evaluation.max_detections is None else f"best {evaluation.max_detections}"
        axes |= {"backend": evaluation.backend, "boxes": boxes}
        most = "300 an image" if evaluation_set.name == "lvis" else "100 a category and image"
        axes |= {"ranked_by": "the detector's score", "most_detections": most}
        # The evaluator has rules of its own about annotations, size classes and means, to the letter COCO's or LVIS's.
        axes |= dict.fromkeys(("crowd", "least_area", "bounds", "average"), f"as {evaluation_set.name}")
        shared["skipped"] = {reason: n for reason, n in shared["skipped"].items() if reason in ABOUT_DETECTIONS}
        if data.unusable_in_truth:
            shared["skipped"]["unusable_annotation"] = data.unusable_in_truth
        places = (place for place in range(scored.images) if place not in scored.left_out)
        image_ids = [data.image_id(self.indices[place]) for place in places]
        detected = scored.detected(protocol.name)
        figures = figures_of(self.truth, [record.result() for record in detected], evaluation.backend, image_ids)
        found: dict[str, Any] = {name: figures[name] for name in AVERAGE_PRECISIONS if name in figures}
        counted_on = {"detections": len(detected), "images": len(image_ids)}
        return shared | found | {"average_recall": figures[RECALLS[self.truth.style]]} | counted_on


def _iou_columns(records: list[InstanceRecord], protocol: ScoringProtocol) -> dict[str, Any]:
    found: dict[str, Any] = {"instances": len(records), "images": len({record.image_id for record in records})}
    metrics = mean_iou(records, protocol.bounds, protocol.average)
    low, high = bootstrap_interval(records, average=protocol.average)
    found |= {name: metric.value for name, metric in metrics.items()}
    return found | grouped_mean_iou(records) | {"miou_low": low, "miou_high": high}
