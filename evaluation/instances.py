"""Scores every instance of a picture under several protocols: each embedding and each answer is computed once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.protocols import Masks, PictureSegmenter, Prompt, Segmenter
from data.readable import readable_samples
from data.sample import ImageData, ImageSample
from evaluation.answers import Answers, embedded
from evaluation.clicks import answered_to_the_last_click
from evaluation.fitting import prompts_fitting
from evaluation.framing import check_framing, framed_truth, most_prompts, upscaled_in_parts
from evaluation.mask_measures import stability_scores
from evaluation.prompt_rules import prompts_of
from evaluation.scoring_protocol import ScoringProtocol

STABILITY_OFFSET = 1.0
"""Of SAM's stability score: the IoU of a mask cut that much above and below zero."""


@dataclass(frozen=True)
class InstanceRecord:
    """How well one prompt was answered. Any aggregate can be recomputed from these.

    Attributes:
        image_id, annotation_id: the data set's ids.
        area: the annotation's area in original pixels.
        iou: IoU of the chosen mask with the ground truth, at the original size.
        iou_pred: what the model predicted it to be.
        mask_index: which candidate was chosen.
        stability: of the chosen mask (SAM's stability score); not a number where no model answered, or one that gives
            no logits.
        category_id: None where the data set has no categories.
    """

    image_id: int
    annotation_id: int
    area: float
    iou: float
    iou_pred: float
    mask_index: int
    stability: float = float("nan")
    category_id: int | None = None


def pairwise_iou(predicted: Tensor, truth: Tensor) -> Tensor:
    """IoU of masks ``[N, H, W]`` bool, pair by pair: float64 ``[N]``; 1 where both are empty."""
    return _ratio(_pixels(predicted & truth), _pixels(predicted | truth))


def _pixels(masks: Tensor) -> Tensor:
    return torch.count_nonzero(masks.flatten(1), 1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    ratio = part.double() / whole.clamp(min=1).double()
    return torch.where(whole > 0, ratio, torch.ones_like(ratio))


def stability_of(logits: Tensor) -> Tensor:
    """SAM's stability scores of masks given as logits ``[N, H, W]``: float32 ``[N]``, not numbers for bool masks."""
    if logits.dtype == torch.bool:
        return torch.full((len(logits),), torch.nan, device=logits.device)
    return stability_scores(logits, 0.0, STABILITY_OFFSET)


def decode_in_batches(
    model: Segmenter, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool, batch: int
) -> list[Masks]:
    """Decode ``N`` prompts on one image, at most ``batch`` at a time."""
    return [
        model.decode(embedding, prompt[start : start + batch], size_hw, multimask)
        for start in range(0, len(prompt), batch)
    ]


class PictureScorer:
    """Scores the instances of pictures.

    Args:
        batch: prompts decoded together.
        seed: of what protocols draw.
        reference: the model whose answers are the truth of protocols that say so.
    """

    def __init__(
        self,
        model: Segmenter | PictureSegmenter,
        protocols: Sequence[ScoringProtocol],
        batch: int = 64,
        seed: int = 0,
        reference: Segmenter | PictureSegmenter | None = None,
    ) -> None:
        self.model, self.protocols, self.seed = model, tuple(protocols), seed
        self.reference, self.fitting = reference, prompts_fitting(batch)

    def score(
        self, sample: ImageSample, embeddings: Mapping[tuple[str, str], Any], of_reference: Any = None
    ) -> dict[str, list[InstanceRecord]]:
        """The records of one picture, by protocol.

        Args:
            embeddings: ``[1, C, g, g]``, or what ``encode_picture`` gave, by :attr:`ScoringProtocol.framing`.
            of_reference: the reference model's.
        """
        records: dict[str, list[InstanceRecord]] = {protocol.name: [] for protocol in self.protocols}
        if not len(sample.masks):
            return records
        shared: dict[tuple[object, ...], Prompt] = {}

        def of_part(part: slice) -> dict[str, list[InstanceRecord]]:
            return self._of_part(sample, part, embeddings, shared, of_reference)

        limit = most_prompts(self.model, (sample.image.shape[0], sample.image.shape[1]))
        for _, found in self.fitting.parts(len(sample.masks), of_part, limit):
            for name, part_records in found.items():
                records[name] += part_records
        return records

    def _of_part(
        self,
        sample: ImageSample,
        part: slice,
        embeddings: Mapping[tuple[str, str], Any],
        shared: dict[tuple[object, ...], Prompt],
        of_reference: Any,
    ) -> dict[str, list[InstanceRecord]]:
        """The records of some instances of a picture, by protocol; ``shared`` keeps the prompts of all of them."""
        records: dict[str, list[InstanceRecord]] = {}
        answers: dict[tuple[object, ...], Answers] = {}
        for protocol in self.protocols:
            # Protocols that ask alike share the answers; those of several clicks part where their choices do.
            asked = (protocol.prompt, protocol.jitter, *protocol.framing)
            key = asked if protocol.clicks == 1 else (*asked, protocol.name)
            if asked not in shared:
                shared[asked] = prompts_of(sample, protocol, self.seed)
            if key not in answers:
                answers[key] = answered_to_the_last_click(
                    self.model,
                    embeddings[protocol.framing],
                    shared[asked][part],
                    (sample.image.shape[0], sample.image.shape[1]),
                    protocol,
                    torch.from_numpy(sample.masks[part]),
                )
            records[protocol.name] = list(self._records(answers[key], sample, part, protocol, of_reference))
        return records

    def _records(
        self,
        answers: Answers,
        sample: ImageSample,
        part: slice,
        protocol: ScoringProtocol,
        of_reference: Any,
    ) -> Iterator[InstanceRecord]:
        """One record an instance of a part."""
        oracle = protocol.choice == "oracle"
        if oracle:
            masks, index = answers.candidates(protocol.choice), None
        else:
            masks, index = answers.chosen(protocol)
        truths = torch.from_numpy(sample.masks[part])
        for place, logits in upscaled_in_parts(masks, answers.size_hw, protocol):
            truth = self._truth(truths, place, answers, protocol, of_reference).to(logits.device)
            if oracle:
                binary = logits > 0
                every = torch.stack([pairwise_iou(binary[:, m], truth) for m in range(binary.shape[1])], 1)
                iou, best = every.max(1)
                rows = torch.arange(len(best), device=best.device)
                shown, predicted = logits[rows, best], masks.iou_pred[place][rows, best]
            else:
                assert index is not None
                shown, predicted, best = logits[:, 0], masks.iou_pred[place][:, 0], index[place]
                iou = pairwise_iou(shown > 0, truth)
            figures = (iou, predicted.float(), best, stability_of(shown))
            columns = zip(*(column.tolist() for column in figures), strict=True)
            for i, (found, expected, candidate, stability) in enumerate(columns, part.start + place.start):
                category = sample.category_ids[i] if sample.category_ids else None
                ids = (sample.image_id, sample.annotation_ids[i], float(sample.areas[i]))
                yield InstanceRecord(*ids, found, expected, candidate, stability, category)

    def _truth(
        self, truths: Tensor, place: slice, answers: Answers, protocol: ScoringProtocol, of_reference: Any
    ) -> Tensor:
        if protocol.truth == "original":
            return truths[place]
        if protocol.truth == "frame":
            # Whoever gave the protocols has checked them.
            assert not isinstance(self.model, PictureSegmenter)
            return framed_truth(truths[place], self.model.input_size)
        assert self.reference is not None and of_reference is not None
        wanted = Answers(self.reference, of_reference, answers.prompt[place], answers.size_hw)
        masks, _ = wanted.chosen(protocol)
        return torch.cat([logits[:, 0] > 0 for _, logits in upscaled_in_parts(masks, answers.size_hw, protocol)])


def score_instances(
    model: Segmenter | PictureSegmenter,
    data: ImageData,
    protocols: Sequence[ScoringProtocol],
    *,
    batch: int = 64,
    indices: Sequence[int] | None = None,
    on_image: Callable[[int], None] | None = None,
    seed: int = 0,
) -> dict[str, list[InstanceRecord]]:
    """Score a model on a data set under several protocols at once, in this process and without files.

    Args:
        batch: prompts decoded together.
        indices: images to use; all of them by default.
        on_image: called with the number of images done.

    Returns:
        The records of each protocol by its name, in the order of the data set.

    Raises:
        InputError: a protocol is not for this model; see :func:`evaluation.framing.check_framing`.
    """
    check_framing(model, protocols)
    scorer = PictureScorer(model, protocols, batch, seed)
    framings = {protocol.framing for protocol in protocols}
    records: dict[str, list[InstanceRecord]] = {protocol.name: [] for protocol in protocols}
    with torch.inference_mode():
        for done, (_, sample) in enumerate(readable_samples(data, range(len(data)) if indices is None else indices), 1):
            if sample is not None and len(sample.masks):
                embeddings = {framing: embedded(model, sample.image, framing) for framing in framings}
                for name, found in scorer.score(sample, embeddings).items():
                    records[name] += found
            if on_image:
                on_image(done)
    return records
