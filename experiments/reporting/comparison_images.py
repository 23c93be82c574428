"""Images of the instances where two models differ most: the masks are made again, records hold figures alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import InputError
from data.content import ImageContent
from data.sample import ImageData, ImageSample
from data.shapes import tight_box
from evaluation.comparison import Comparison, InstancePair
from evaluation.latency import PRECISIONS
from evaluation.protocols import ScoringProtocol
from evaluation.scorer import Scorer
from experiments.config.groups import DATA, EvaluationConfig
from experiments.config.schema import CompareConfig, SegmenterConfig
from experiments.evaluate import admitting, chosen_protocols
from experiments.recorded_evaluation import RecordedEvaluation
from experiments.reporting.mask_images import border_of, grid, overlaid, save
from experiments.runs.build import build_data
from experiments.runs.data_content import data_content
from experiments.runs.segmenters import ChosenSegmenter, chosen_segmenter

WORST, BEST = "worst.png", "best.png"
MARGIN = 0.5
"""Around an instance, as a share of its longer side."""
LEAST_MARGIN = 12
"""In pixels."""
ALIKE = 0.005
"""IoUs that differ by no more come from the same mask, computed elsewhere."""


class NotDrawn(Exception):
    """There are no images; the message says why."""


@dataclass(frozen=True)
class _Drawn:
    """One instance, cut out.

    Attributes:
        image: uint8 ``[H, W, 3]``.
        truth: bool ``[H, W]``.
        masks: each model's.
        labels: what stands above the truth and above each mask.
    """

    image: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    masks: tuple[NDArray[np.bool_], ...]
    labels: tuple[str, ...]


def draw_extremes(
    out: Path, sides: Mapping[str, RecordedEvaluation], name: str, comparison: Comparison, settings: CompareConfig
) -> list[str]:
    """Draw the largest losses and gains under one protocol; returns the names of the files.

    Args:
        sides: the first and the second, by what each is called.
        name: of the protocol.

    Raises:
        NotDrawn: a model or the data cannot be opened again, or there is nothing to draw.
    """
    chosen = {WORST: comparison.worst(settings.count), BEST: comparison.best(settings.count)}
    for file in chosen:
        # Of an earlier comparison.
        (out / file).unlink(missing_ok=True)
    if not any(chosen.values()):
        raise NotDrawn("count=0" if settings.count == 0 else "no instance differs")
    evaluations = list(sides.values())
    try:
        protocols = [_protocol(evaluation, name) for evaluation in evaluations]
        data = _data(evaluations[0], protocols[0], settings.data.root)
        models = [_model(evaluation, settings) for evaluation in evaluations]
        image_ids = {pair.first.image_id for pairs in chosen.values() for pair in pairs}
        samples = _samples(data, image_ids, evaluations[0].images, Path(settings.runs))
        drawn = {
            file: [_drawn(pair, samples[pair.first.image_id], models, protocols, evaluations) for pair in pairs]
            for file, pairs in chosen.items()
        }
    except InputError as error:
        raise NotDrawn(str(error)) from None
    titles = (f"{name}: ground truth", *(f"{side}: {evaluation.name()}" for side, evaluation in sides.items()))
    written = [file for file, instances in drawn.items() if instances]
    for file in written:
        _draw(out / file, drawn[file], titles)
    return written


def _protocol(evaluation: RecordedEvaluation, name: str) -> ScoringProtocol:
    names, jitter = evaluation.setting("evaluation", "protocols"), evaluation.setting("evaluation", "jitter")
    if not isinstance(names, list):
        raise NotDrawn(f"{evaluation.folder}: result.json holds no settings of an evaluation")
    found = [p for p in chosen_protocols(EvaluationConfig(protocols=names, jitter=jitter)) if p.name == name]
    if not found or found[0].truth == "reference":
        raise NotDrawn(f"{name}: its truth is another model's masks" if found else f"{name} is not in its settings")
    return found[0]


def _data(evaluation: RecordedEvaluation, protocol: ScoringProtocol, root: str | None) -> ImageData:
    """The data set as it was scored: with the annotations that the protocol admits."""
    raw = evaluation.setting("evaluation", "data")
    schema = next(
        (s() for s in DATA.values() if isinstance(raw, Mapping) and s()._target_ == raw.get("_target_")), None
    )
    if schema is None:
        raise NotDrawn(f"{evaluation.folder}: result.json names no data set of this version")
    given = {**raw} if root is None else {**raw, "root": root}
    known = {part.name for part in dataclasses.fields(schema)}
    settings = dataclasses.replace(schema, **{key: value for key, value in given.items() if key in known})
    return build_data(admitting(settings, [protocol]))


def _model(evaluation: RecordedEvaluation, settings: CompareConfig) -> ChosenSegmenter:
    checkpoint = evaluation.setting("checkpoint")
    if not isinstance(checkpoint, str):
        raise NotDrawn(f"{evaluation.folder}: result.json names no checkpoint")
    again = SegmenterConfig(checkpoint=checkpoint, runtime=evaluation.setting("runtime"), engine=settings.engine)
    return chosen_segmenter(again, evaluation.setting("evaluation", "precision") or "float32")


def _samples(
    data: ImageData, image_ids: set[int], scored: Mapping[int, ImageContent], runs: Path
) -> dict[int, ImageSample]:
    """Images by their ids, if they are what was scored."""
    indices = [index for index in range(len(data)) if data.image_id(index) in image_ids]
    missing = sorted(image_ids - {data.image_id(index) for index in indices})
    if missing:
        raise NotDrawn(f"{data.name} has no image {missing[0]} now")
    for image in data_content(data, indices, True, runs).images if scored else ():
        if image != scored.get(image.image_id):
            raise NotDrawn(f"image {image.image_id} or its annotations are others now than those that were scored")
    return {data.image_id(index): data.sample(index) for index in indices}


def _drawn(
    pair: InstancePair,
    sample: ImageSample,
    models: Sequence[ChosenSegmenter],
    protocols: Sequence[ScoringProtocol],
    sides: Sequence[RecordedEvaluation],
) -> _Drawn:
    record = pair.first
    if record.annotation_id not in sample.annotation_ids:
        raise NotDrawn(f"image {record.image_id} has no annotation {record.annotation_id} now")
    place = sample.annotation_ids.index(record.annotation_id)
    masks, labels = [], [f"image {record.image_id}, annotation {record.annotation_id}"]
    records = (pair.first, pair.second)
    for model, protocol, evaluation, scored in zip(models, protocols, sides, records, strict=True):
        cast = PRECISIONS.get(model.precision)
        with torch.autocast(model.device.type, cast, enabled=cast is not None):
            seed = evaluation.setting("evaluation", "seed") or 0
            (mask,), (iou,) = Scorer(model.model, [protocol], seed=seed).masks(sample, protocol, [place])
        masks.append(mask)
        again = "" if abs(iou - scored.iou) <= ALIKE else f" (as drawn {iou:.3f})"
        labels.append(f"IoU {scored.iou:.3f}{again}")
    rows, columns = window(sample.masks[place])
    cut = tuple(mask[rows, columns] for mask in masks)
    return _Drawn(sample.image[rows, columns], sample.masks[place][rows, columns], cut, tuple(labels))


def window(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns around a mask ``[H, W]``, with a margin."""
    x0, y0, x1, y1 = map(int, tight_box(mask))
    margin = max(LEAST_MARGIN, round(MARGIN * (max(x1 - x0, y1 - y0) - 1)))
    return slice(max(0, y0 - margin), y1 + margin), slice(max(0, x0 - margin), x1 + margin)


def _draw(path: Path, instances: Sequence[_Drawn], titles: Sequence[str]) -> None:
    """A row an instance: the truth, then each model's mask with the truth's border in white."""
    figure, axes = grid([instance.image for instance in instances], len(titles), lines=2)
    for place, (row, instance) in enumerate(zip(axes, instances, strict=True)):
        masks = (instance.truth, *instance.masks)
        for axis, mask, label, title in zip(row, masks, instance.labels, titles, strict=True):
            shown = overlaid(instance.image, mask[None])
            shown[border_of(instance.truth)] = 255
            axis.imshow(shown)
            axis.set_title(f"{title}\n{label}" if place == 0 else label, fontsize=8, loc="left")
    save(figure, path, Description=", ".join(titles))
