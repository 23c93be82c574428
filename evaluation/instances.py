"""Scores every instance of a data set: each image encoded once, all its prompts decoded in batches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.protocols import Masks, Prompt, Segmenter, device_of
from data.images import to_frame
from data.sample import ImageData, ImageSample
from evaluation.prompt_rules import PromptRule


@dataclass(frozen=True)
class InstanceRecord:
    """How well one prompt was answered. Any aggregate can be recomputed from these.

    Attributes:
        image_id, annotation_id: the data set's ids.
        area: the annotation's area in original pixels.
        iou: IoU of the chosen mask with the ground truth, at the original size.
        iou_pred: what the model predicted it to be.
        mask_index: which candidate was chosen.
    """

    image_id: int
    annotation_id: int
    area: float
    iou: float
    iou_pred: float
    mask_index: int


def pairwise_iou(predicted: Tensor, truth: Tensor) -> Tensor:
    """IoU of masks ``[N, H, W]`` bool, pair by pair: float64 ``[N]``; 1 where both are empty."""
    intersection = (predicted & truth).flatten(1).sum(1, dtype=torch.int64)
    union = (predicted | truth).flatten(1).sum(1, dtype=torch.int64)
    ratio = intersection.double() / union.clamp(min=1).double()
    return torch.where(union > 0, ratio, torch.ones_like(ratio))


def decode_in_batches(
    model: Segmenter, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool, batch: int
) -> list[Masks]:
    """Decode ``N`` prompts on one image, at most ``batch`` at a time."""
    return [
        model.decode(embedding, prompt[start : start + batch], size_hw, multimask)
        for start in range(0, len(prompt), batch)
    ]


def score_image(
    model: Segmenter, embedding: Tensor, sample: ImageSample, rule: PromptRule, batch: int
) -> list[InstanceRecord]:
    """Score every instance of one image under one rule; ``embedding`` is ``[1, C, g, g]``."""
    size_hw = sample.image.shape[:2]
    prompt = rule.prompt(sample).to(embedding.device)
    truth = torch.from_numpy(sample.masks)
    records: list[InstanceRecord] = []
    for masks in decode_in_batches(model, embedding, prompt, size_hw, rule.multimask, batch):
        start = len(records)
        chosen = rule.choose(masks)
        rows = torch.arange(len(chosen), device=chosen.device)
        picked = Masks(masks.logits[rows, chosen][:, None], masks.iou_pred[rows, chosen][:, None], masks.frame)
        binary = picked.binary(size_hw)[:, 0]
        iou = pairwise_iou(binary, truth[start : start + len(chosen)].to(binary.device))
        for i, (value, predicted, index) in enumerate(
            zip(iou.tolist(), picked.iou_pred[:, 0].float().tolist(), chosen.tolist(), strict=True), start
        ):
            records.append(
                InstanceRecord(
                    sample.image_id, sample.annotation_ids[i], float(sample.areas[i]), value, predicted, index
                )
            )
    return records


def score_instances(
    model: Segmenter,
    data: ImageData,
    rules: Mapping[str, PromptRule],
    *,
    batch: int = 64,
    indices: Sequence[int] | None = None,
    on_image: Callable[[int], None] | None = None,
) -> dict[str, list[InstanceRecord]]:
    """Score a model on a data set under several rules at once.

    Args:
        batch: prompts decoded together.
        indices: images to use; all of them by default.
        on_image: called with the number of images done.

    Returns:
        The records of each rule, in the order of the data set.
    """
    device = device_of(model)
    records: dict[str, list[InstanceRecord]] = {name: [] for name in rules}
    chosen = range(len(data)) if indices is None else indices
    with torch.inference_mode():
        for done, index in enumerate(chosen, 1):
            sample = data.sample(index)
            if len(sample.masks):
                embedding = model.encode(to_frame(sample.image, model.input_size)[None].to(device))
                for name, rule in rules.items():
                    records[name] += score_image(model, embedding, sample, rule, batch)
            if on_image:
                on_image(done)
    return records
