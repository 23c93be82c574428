"""Masks for a detector's boxes, as run lengths that average precision is computed from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_api
from torch import Tensor

from core.protocols import PictureSegmenter, Prompt, Segmenter
from data.detections import ImageDetections
from evaluation.answers import Answers
from evaluation.fitting import Fitting
from evaluation.framing import most_prompts, upscaled_in_parts
from evaluation.instances import stability_of
from evaluation.scoring_protocol import ScoringProtocol


@dataclass(frozen=True)
class DetectionRecord:
    """The mask of one detected box.

    Attributes:
        image_id, category_id: the data set's ids.
        index: the entry's place in the detector's file.
        score: the detector's, which average precision ranks by.
        size: of the image, ``[H, W]``.
        counts: the mask's compressed run lengths.
        iou_pred, mask_index, stability: as of :class:`evaluation.instances.InstanceRecord`.
    """

    image_id: int
    category_id: int
    index: int
    score: float
    size: list[int]
    counts: str
    iou_pred: float
    mask_index: int
    stability: float

    def result(self) -> dict[str, Any]:
        """As an entry of COCO's results format."""
        segmentation = {"size": self.size, "counts": self.counts}
        return {
            "image_id": self.image_id,
            "category_id": self.category_id,
            "segmentation": segmentation,
            "score": self.score,
        }


def run_lengths(masks: Tensor) -> list[str]:
    """Compressed run lengths of masks bool ``[N, H, W]`` on any device."""
    # Run lengths go down the columns: [N, W, H] in memory is what pycocotools calls [H, W, N].
    columns: NDArray[np.uint8] = masks.transpose(1, 2).contiguous().view(torch.uint8).cpu().numpy()
    return [rle["counts"].decode("ascii") for rle in mask_api.encode(columns.T)]


def answer_detections(
    model: Segmenter | PictureSegmenter,
    embeddings: Mapping[tuple[str, str], Any],
    image_id: int,
    size_hw: tuple[int, int],
    found: ImageDetections,
    protocols: Sequence[ScoringProtocol],
    fitting: Fitting,
) -> dict[str, list[DetectionRecord]]:
    """The records of one picture's boxes, by protocol, in the order of the boxes.

    Args:
        embeddings: ``[1, C, g, g]``, or what ``encode_picture`` gave, by :attr:`ScoringProtocol.framing`.
        size_hw: of the original image.
        fitting: how many boxes are asked for together; however many there are, no more answers are held at a time.
    """
    records: dict[str, list[DetectionRecord]] = {protocol.name: [] for protocol in protocols}
    boxes = torch.from_numpy(found.boxes_xyxy).float()

    def of_part(part: slice) -> dict[str, list[DetectionRecord]]:
        answers: dict[tuple[str, str], Answers] = {}
        some: dict[str, list[DetectionRecord]] = {protocol.name: [] for protocol in protocols}
        for protocol in protocols:
            if protocol.framing not in answers:
                embedding, prompt = embeddings[protocol.framing], Prompt(boxes_xyxy=boxes[part])
                answers[protocol.framing] = Answers(model, embedding, prompt, size_hw, protocol.rounding)
            for offset, figures in _masks(answers[protocol.framing], protocol):
                i = part.start + offset
                ids = (image_id, int(found.category_ids[i]), int(found.indices[i]), float(found.scores[i]))
                some[protocol.name].append(DetectionRecord(*ids, list(size_hw), *figures))
        return some

    for _, some in fitting.parts(len(boxes), of_part, most_prompts(model, size_hw)):
        for name, part_records in some.items():
            records[name] += part_records
    return records


def _masks(answers: Answers, protocol: ScoringProtocol) -> Iterator[tuple[int, tuple[str, float, int, float]]]:
    masks, index = answers.chosen(protocol)
    for place, logits in upscaled_in_parts(masks, answers.size_hw, protocol):
        shown = logits[:, 0]
        figures = (masks.iou_pred[place][:, 0].float(), index[place], stability_of(shown))
        columns = (run_lengths(shown > 0), *(column.tolist() for column in figures))
        yield from enumerate(zip(*columns, strict=True), place.start)
