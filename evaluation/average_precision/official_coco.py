"""COCO's figures by its own evaluator, pycocotools."""

from collections.abc import Sequence
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evaluation.average_precision.prepared import Prepared
from evaluation.average_precision.rebound import rebound, silent


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
