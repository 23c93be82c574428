"""LVIS's figures by its own evaluator, the package lvis, which numpy 2 would stop."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from core.errors import InputError
from evaluation.average_precision.entries import MOST_LVIS_DETECTIONS
from evaluation.average_precision.prepared import Prepared
from evaluation.average_precision.rebound import rebound


class _NumpyWithFloat:
    """numpy, and ``float``: the name that lvis uses and numpy 2 no longer has."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def check_lvis() -> None:
    """Load the package lvis.

    Raises:
        InputError: it is missing, or does not load.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        import lvis  # noqa: F401
    except ImportError as error:
        raise InputError(
            f'backend "official" of the style "lvis" needs the package lvis ({error}); '
            'pip install "sampress[official]", or use the backend "faster"'
        ) from None
    finally:
        # lvis sets up logging for the whole program when it is imported.
        for handler in [handler for handler in root.handlers if handler not in handlers]:
            root.removeHandler(handler)
        root.setLevel(level)


@cache
def _classes() -> tuple[type, type, type]:
    """LVIS's classes of truth, detections and evaluation, made to take objects instead of paths and to run here."""
    check_lvis()
    from lvis import LVIS, LVISEval, LVISResults

    class Truth(LVIS):
        def _load_json(self, path: dict[str, Any]) -> dict[str, Any]:
            return path

    class Detections(LVISResults):
        # LVISResults' own constructor cannot take an empty list; all that it adds to a detection is there already.
        def __init__(self, truth: Any, detections: list[dict[str, Any]]) -> None:
            self.logger = truth.logger
            best = self.limit_dets_per_image(detections, MOST_LVIS_DETECTIONS)
            self.dataset = {**truth.dataset, "annotations": best}
            self._create_index()

    class Evaluation(LVISEval):
        accumulate = rebound(LVISEval.accumulate, np=_NumpyWithFloat())

    return Truth, Detections, Evaluation


def evaluate_lvis(prepared: Prepared) -> Sequence[float]:
    """The thirteen of ``LVISEval.results``; -1 for one that is undefined.

    Raises:
        InputError: the package lvis is missing, or does not load.
    """
    Truth, Detections, Evaluation = _classes()
    if not prepared.categories:
        return [-1.0] * 13  # lvis would warn in a way that is itself deprecated
    content = {
        "images": prepared.images,
        "categories": prepared.categories,
        "annotations": prepared.annotations,
    }
    truth = Truth(content)
    evaluation = Evaluation(truth, Detections(truth, prepared.detections), prepared.iou_type)
    evaluation.run()
    return [float(figure) for figure in evaluation.results.values()]
