"""What a strategy finds on each image of a data set, and what that takes: kept image by image, to be gone on with."""

import functools
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from core.plain_file import parse_json
from core.progress import counted
from core.protocols import Metric
from data.exclusions import readable_samples
from data.sample import ImageData
from evaluation.everything import EverythingGenerator, ImageProposals, image_proposals, proposal_scores
from evaluation.latency import PRECISIONS, peak_memory, timed
from evaluation.records import PartFile, part_lines
from experiments.scoring import require_records


@dataclass(frozen=True)
class MeasuredImage:
    """One image as a line of a part file.

    Attributes:
        content: what the image and its annotations are.
        best_iou, recalled, proposals: of :class:`evaluation.everything.ImageProposals`.
        prompts, encodings: of :class:`evaluation.everything.Everything`.
        seconds, processor_seconds: it took.
        peak_memory_bytes: of the first image of the process that made it.
        skipped: what the data set's rules left out when the image was read, by reason.
    """

    content: str
    best_iou: list[float]
    recalled: dict[str, list[int]]
    proposals: int
    prompts: int
    encodings: int
    seconds: float
    processor_seconds: float
    peak_memory_bytes: int | None
    skipped: dict[str, int]

    def found(self) -> ImageProposals:
        """What the scores are made of."""
        recalled = {int(budget): np.array(counts, np.int64) for budget, counts in self.recalled.items()}
        return ImageProposals(np.array(self.best_iou, np.float64), recalled, self.proposals)


def measured_images(
    generator: EverythingGenerator,
    data: ImageData,
    indices: Sequence[int],
    contents: Sequence[str],
    device: torch.device,
    precision: str,
    folder: Path,
    key: str,
    label: str,
) -> tuple[list[MeasuredImage], dict[str, int]]:
    """Every image that can be read, in order; those that an earlier process has done are taken from its folder.

    Args:
        generator: its model is on the device.
        contents: what each image and its annotations are.
        folder: where images are kept as they are done; in other folders ``*.parts`` beside it they count too.
        key: what must be equal for them to count: model, settings, precision.

    Returns:
        The images, and what was left out by reason (:data:`data.exclusions.REASONS`): when the data set was opened,
        and when these images were read, in whichever process.

    Raises:
        InputError: an image cannot be read, or none has an instance.
    """
    known = _known(folder.parent.glob("*.parts"), key)
    left = [place for place, content in enumerate(contents) if content not in known]
    counts = dict(data.skipped)
    skipped = Counter(counts)
    if left:
        cast, model = PRECISIONS[precision], generator.model
        part = PartFile(folder, 0, key)
        is_first, peak = True, None
        try:
            with counted(label, len(indices)) as done, torch.autocast(device.type, cast, enabled=cast is not None):
                samples = readable_samples(data, [indices[place] for place in left])
                for number, (place, (_, sample)) in enumerate(zip(left, samples, strict=True), 1):
                    before, counts = counts, dict(data.skipped)
                    own = {reason: cases - before[reason] for reason, cases in counts.items() if cases > before[reason]}
                    if sample is None:
                        # In no line of the file: whoever goes on tries the image again, and counts it.
                        skipped.update(own)
                        continue
                    if is_first:
                        # Not timed: following every tensor takes time, and so does a first call.
                        is_first, peak = False, _first_run(generator, model, sample.image, device)
                    processor = time.process_time()
                    answer, seconds = timed(functools.partial(generator.run, sample.image), device)
                    processor = time.process_time() - processor
                    found = image_proposals(answer.records, sample)
                    recalled = {str(budget): of_budget.tolist() for budget, of_budget in found.recalled.items()}
                    figures = (found.best_iou.tolist(), recalled, found.proposals, answer.prompts, answer.encodings)
                    image = MeasuredImage(contents[place], *figures, seconds, processor, peak, own)
                    part.add(image)
                    known[image.content] = image
                    done(len(contents) - len(left) + number)
        finally:
            part.close()
    images = [known[content] for content in contents if content in known]
    require_records([iou for image in images for iou in image.best_iou], data)
    for image in images:
        skipped.update(image.skipped)
    return images, {reason: cases for reason, cases in skipped.items() if cases}


def _first_run(
    generator: EverythingGenerator, model: Any, image: NDArray[np.uint8], device: torch.device
) -> int | None:
    """The peak memory of a run in bytes; None of another runtime's, which cannot be followed tensor by tensor."""
    if isinstance(model, nn.Module):
        return peak_memory(lambda: generator.run(image), [*model.parameters(), *model.buffers()], device)
    generator.run(image)
    return None


def columns(images: Sequence[MeasuredImage], skipped: Mapping[str, int], device: torch.device) -> dict[str, Any]:
    """The columns of :class:`experiments.everything.strategies.StrategyRow` that rest on the images."""
    scores = proposal_scores([image.found() for image in images])
    best: Metric = scores["mean_best_iou"]
    return {
        "images": len(images),
        "instances": best.n,
        "mean_best_iou": best.value,
        "mean_best_iou_low": best.low,
        "mean_best_iou_high": best.high,
        "average_recall_100": scores["average_recall_100"].value,
        "average_recall_1000": scores["average_recall_1000"].value,
        **{name: mean(getattr(one, name) for one in images) for name in ("proposals", "prompts", "encodings")},
        "seconds": median(image.seconds for image in images),
        "processor_seconds": median(image.processor_seconds for image in images) if device.type == "cpu" else None,
        "peak_memory_bytes": images[0].peak_memory_bytes,
        "skipped": dict(skipped),
    }


def _known(folders: Iterable[Path], key: str) -> dict[str, MeasuredImage]:
    """The images that earlier processes have done, by content; a damaged line is left out."""
    found = {}
    for line in (line for folder in folders for line in part_lines(folder, key)):
        try:
            image = MeasuredImage(**parse_json(line))
            image.found()
            sound = all(type(cases) is int for cases in image.skipped.values())
        except (ValueError, TypeError, AttributeError):
            continue
        if sound:
            found[image.content] = image
    return found
