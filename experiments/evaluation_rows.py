"""From a pass's records to the columns of a row."""

from collections.abc import Mapping
from typing import Any

from core.provenance import redact_paths
from data.annotated_images import AnnotatedImages
from data.detections import DETECTION_REASONS
from evaluation.average_precision.figures import figures_of
from evaluation.average_precision.prepared import GroundTruth
from evaluation.metrics import bootstrap_interval, grouped_mean_iou, mean_iou
from evaluation.protocols import ScoringProtocol
from evaluation.records import DetectionRecord, InstanceRecord
from evaluation.scorer import Scored
from experiments.config.groups import EvaluationConfig
from experiments.scoring import EvaluationSet, require_records

ABOUT_DETECTIONS = (*DETECTION_REASONS, "unknown_category", "unreadable_image", "image_left_out")
"""Reasons for leaving something out that concern average precision."""
SIZES = ("miou", "miou_small", "miou_medium", "miou_large")
PRECISIONS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ap_rare", "ap_common", "ap_frequent")
RECALLS = {"coco": "ar100", "lvis": "ar300"}
"""Recall with all detections that count, by style."""


def protocol_columns(
    protocol: ScoringProtocol,
    scored: Scored,
    held: EvaluationSet,
    evaluation: EvaluationConfig,
    hashes: Mapping[str, str | None],
    truth: GroundTruth | None = None,
) -> dict[str, Any]:
    """The columns of one protocol.

    Args:
        hashes: ``reference_sha256`` of a model, and ``detections_sha256`` of a file, that protocols use.
        truth: what average precision compares with, of protocols that take a detector's boxes.
    """
    axes = protocol.axes() | ({} if held.data_sha256 is None else {"data_sha256": held.data_sha256})
    if evaluation.reference is not None and protocol.truth == "reference":
        axes["reference"] = str(redact_paths(evaluation.reference))
        axes["reference_sha256"] = str(hashes["reference_sha256"])
    shared: dict[str, Any] = {
        "data": held.name,
        "protocol": protocol.name,
        "skipped": {reason: count for reason, count in scored.skipped.items() if count},
    }
    if protocol.is_detected:
        axes["detections_sha256"] = str(hashes["detections_sha256"])
        axes |= {"backend": evaluation.backend, "boxes": "all" if evaluation.top is None else f"best {evaluation.top}"}
        most = "300 an image" if held.name == "lvis" else "100 a category and image"
        axes |= {"ranked_by": "the detector's score", "most_detections": most}
        # The evaluator has rules of its own about annotations, to the letter those of COCO or LVIS.
        axes |= {"crowd": f"as {held.name}", "least_area": f"as {held.name}"}
        shared["skipped"] = {reason: n for reason, n in scored.skipped.items() if n and reason in ABOUT_DETECTIONS}
        places = [place for place in range(scored.images) if place not in scored.left_out]
        detected = scored.detected(protocol.name)
        assert truth is not None
        found = _precision_columns(detected, held, places, evaluation.backend, truth)
        assert isinstance(held.data, AnnotatedImages)
        if held.data.unusable_in_truth:
            shared["skipped"]["unusable_annotation"] = held.data.unusable_in_truth
        return shared | {"axes": axes} | found
    axes["interval"] = "bootstrap over images"
    records = scored.instances(protocol.name)
    require_records(records, held.data)
    return shared | {"axes": axes} | _iou_columns(records, protocol)


def _iou_columns(records: list[InstanceRecord], protocol: ScoringProtocol) -> dict[str, Any]:
    found: dict[str, Any] = {"instances": len(records), "images": len({record.image_id for record in records})}
    metrics = mean_iou(records, protocol.bounds)
    low, high = bootstrap_interval(records)
    found |= {name: metrics[name].value for name in SIZES if name in metrics}
    return found | grouped_mean_iou(records) | {"miou_low": low, "miou_high": high}


def _precision_columns(
    records: list[DetectionRecord], held: EvaluationSet, places: list[int], backend: str, truth: GroundTruth
) -> dict[str, Any]:
    data = held.data
    assert isinstance(data, AnnotatedImages)
    image_ids = [data.image_id(index) for index in (held.indices[place] for place in places)]
    figures = figures_of(truth, [record.result() for record in records], backend, image_ids)
    found: dict[str, Any] = {name: figures[name] for name in PRECISIONS if name in figures}
    recall = figures[RECALLS[truth.style]]
    return found | {"average_recall": recall, "detections": len(records), "images": len(image_ids)}
