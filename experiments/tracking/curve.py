"""mIoU over time: the student scored now and then while it trains. What is found chooses nothing."""

from dataclasses import replace

import torch

from core.protocols import Segmenter, device_of
from evaluation.instances import score_instances
from evaluation.metrics import mean_iou
from experiments.scoring import BOX_POINT, Held


class Curve:
    """Scores a student on the first held-out pictures, in float32 and without a bar.

    Args:
        held: the pictures that finished models are scored on.
        scores: how many times a stage; 0 never.
        pictures: how many of them count here.
    """

    def __init__(self, held: Held, scores: int, pictures: int) -> None:
        self.held, self.scores = replace(held, indices=held.indices[:pictures], precision="float32"), scores

    def scores_at(self, step: int, steps: int) -> bool:
        """Whether the student is scored after a step: at equal parts of the stage, and at its end."""
        return any(step == -(-part * steps // self.scores) for part in range(1, self.scores + 1))

    def score(self, model: Segmenter) -> dict[str, float]:
        """``miou`` with boxes and ``miou_point`` with one point; empty where the pictures have no objects."""
        held = self.held
        records = score_instances(model, held.data, BOX_POINT, batch=held.batch, indices=held.indices)
        device = device_of(model)
        if device.type == "cuda":
            # Whoever trains has read its own peak before; what scoring needs is none of it.
            torch.cuda.reset_peak_memory_stats(device)
        found = {}
        for name, protocol in zip(("miou", "miou_point"), BOX_POINT, strict=True):
            if "miou" in (metrics := mean_iou(records[protocol.name])):
                found[name] = metrics["miou"].value
        return found
