"""Ground truth and results to the figures that COCO's and LVIS's own evaluators report."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from core.errors import InputError
from evaluation.average_precision.prepared import GroundTruth, Prepared, prepare

_PRECISIONS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
_RECALLS_BY_SIZE = ("ar_small", "ar_medium", "ar_large")
FIGURES = {
    "coco": (*_PRECISIONS, "ar1", "ar10", "ar100", *_RECALLS_BY_SIZE),
    "lvis": (*_PRECISIONS, "ap_rare", "ap_common", "ap_frequent", "ar300", *_RECALLS_BY_SIZE),
}
"""The figures of each style, in the order of its own evaluator (``COCOeval.stats``, ``LVISEval.results``)."""

BACKENDS = ("faster", "official")
IOU_TYPES = ("segm", "bbox")


def average_precision(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    style: str = "coco",
    backend: str = "faster",
    iou_type: str = "segm",
    image_ids: Sequence[int] | None = None,
) -> dict[str, float | None]:
    """Average precision and recall of scored masks (or boxes), to the last digit those of the official evaluators.

    Rules worth knowing:

    - Detections belong to a size class by the area of their mask, also where a result brings a box. (pycocotools and
      lvis would take the box's area for those; a ground truth's class goes by its ``area``, or its mask without one.)
    - COCO counts the 1, 10 or 100 best detections of each category on an image, LVIS the 300 best of each image.
    - No detections at all is a result: figures are 0, or None where there is no ground truth either.
    - Annotations on images or of categories that ``truth`` does not list are left out, as in the official evaluators.
    - Annotations are numbered anew, since the official evaluators take a match with id 0 for none.
    - LVIS knows no crowds: ``iscrowd`` is not read.

    Args:
        truth: content of a COCO- or LVIS-style annotation file: ``images``, ``annotations``, ``categories``.
        results: COCO results: ``image_id``, ``category_id``, ``score`` and ``segmentation`` (any form that
            :func:`data.annotations.to_rle` takes) or, for boxes, ``bbox``.
        style: "coco", or "lvis" (categories with ``frequency``, images with ``neg_category_ids`` and
            ``not_exhaustive_category_ids``).
        backend: "faster" (faster-coco-eval), or "official" (pycocotools; lvis, in the extra ``official``).
        iou_type: "segm" for masks, "bbox" for boxes.
        image_ids: score these images only; all that ``truth`` lists by default.

    Returns:
        The figures of :data:`FIGURES` in their order, 0 to 1; None for one that is undefined, since no ground truth
        belongs to it. Nothing is printed, and neither ``truth`` nor ``results`` is changed.

    Raises:
        InputError: an unknown style, backend or ``iou_type``; a missing or wrong value in ``truth`` or ``results``;
            an id that ``truth`` does not list; no image to score; lvis is requested and not installed.
    """
    check_backend(style, backend)
    if iou_type not in IOU_TYPES:
        raise _unknown("iou_type", iou_type, IOU_TYPES)
    return figures_of(GroundTruth(truth, style, iou_type, image_ids), results, backend)


def figures_of(
    truth: GroundTruth,
    results: Sequence[Mapping[str, Any]],
    backend: str = "faster",
    image_ids: Sequence[int] | None = None,
) -> dict[str, float | None]:
    """The same, of ground truth that may have been checked long before; ``image_ids`` narrows it further.

    Raises:
        InputError: as :func:`average_precision`, of ``results``, ``backend`` and ``image_ids``.
    """
    check_backend(truth.style, backend)
    values = _evaluator(truth.style, backend)(prepare(truth, results, image_ids))
    # The evaluators write -1 for "undefined".
    return {name: None if value < 0 else float(value) for name, value in zip(FIGURES[truth.style], values, strict=True)}


def check_backend(style: str, backend: str) -> None:
    """Refuse what cannot be computed here.

    Raises:
        InputError: the style or the backend is unknown, or its package is missing or does not load.
    """
    if style not in FIGURES:
        raise _unknown("style", style, FIGURES)
    if backend not in BACKENDS:
        raise _unknown("backend", backend, BACKENDS)
    if (style, backend) == ("lvis", "official"):
        from evaluation.average_precision.official import check_lvis

        check_lvis()


def _unknown(name: str, value: object, known: Iterable[str]) -> InputError:
    return InputError(f"{name}: there is no {str(value)[:40]!r}; use one of {', '.join(known)}")


def _evaluator(style: str, backend: str) -> Callable[[Prepared], Sequence[float]]:
    """The function that turns prepared input into the figures of a style; imports only what it needs."""
    if backend == "faster":
        from evaluation.average_precision.faster import evaluate_faster

        return evaluate_faster
    if style == "coco":
        from evaluation.average_precision.official import evaluate_coco

        return evaluate_coco
    from evaluation.average_precision.official import evaluate_lvis

    return evaluate_lvis
