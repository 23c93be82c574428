"""The official evaluators: pycocotools for COCO, lvis for LVIS."""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from core.errors import InputError
from evaluation.average_precision.entries import MOST_LVIS_DETECTIONS
from evaluation.average_precision.prepared import Prepared


def rebound(function: Callable[..., Any], **names: Any) -> Callable[..., Any]:
    """A copy of a Python function in which the global ``names`` mean what is given here.

    The other globals are those that the function's module has now. ``super()`` works as in the original class.
    """
    assert isinstance(function, FunctionType)
    surroundings = {**function.__globals__, **names}
    copy = FunctionType(function.__code__, surroundings, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def silent(*_: object, **__: object) -> None:
    """A ``print`` that prints nothing."""


class _Quiet(COCO):
    """An annotation file's content, indexed without a word.

    Detections are given as such content too: ``loadRes`` cannot take an empty list, and all that it adds is there.
    """

    createIndex = rebound(COCO.createIndex, print=silent)

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__()
        self.dataset = content
        self.createIndex()


class _QuietEvaluation(COCOeval):
    evaluate = rebound(COCOeval.evaluate, print=silent)
    accumulate = rebound(COCOeval.accumulate, print=silent)
    summarize = rebound(COCOeval.summarize, print=silent)


def evaluate_coco(prepared: Prepared) -> Sequence[float]:
    """The twelve of ``COCOeval.stats``; -1 for one that is undefined."""
    listed = {"images": prepared.images, "categories": prepared.categories}
    truth = _Quiet({**listed, "annotations": prepared.annotations})
    found = _Quiet({**listed, "annotations": prepared.detections})
    evaluation = _QuietEvaluation(truth, found, prepared.iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float(figure) for figure in evaluation.stats]


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
