"""The masks behind records, made again: records hold figures alone, and pictures of a few instances need the masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.protocols import PictureSegmenter, Prompt, Segmenter
from data.sample import ImageSample
from evaluation.answers import embedded
from evaluation.clicks import answered_to_the_last_click
from evaluation.framing import framed_truth, upscaled_in_parts
from evaluation.instances import pairwise_iou
from evaluation.prompt_rules import prompts_of
from evaluation.scoring_protocol import ScoringProtocol


def chosen_masks(
    model: Segmenter | PictureSegmenter,
    sample: ImageSample,
    protocol: ScoringProtocol,
    places: Sequence[int],
    seed: int = 0,
) -> tuple[NDArray[np.bool_], list[float]]:
    """What a protocol scores of some instances of a picture: masks bool ``[N, H, W]``, and their IoUs.

    Args:
        protocol: one whose truth is the annotation's mask, not a reference model's.
        places: of the instances in the picture.
        seed: of what the protocol draws.
    """
    if protocol.truth == "reference":
        raise ValueError(f"{protocol.name} takes its truth from a reference model")
    with torch.inference_mode():
        embedding = embedded(model, sample.image, protocol.framing)
        prompts = prompts_of(sample, protocol, seed)
        found = [_chosen(model, embedding, prompts, sample, protocol, place) for place in places]
    return np.stack([mask for mask, _ in found]), [iou for _, iou in found]


def _chosen(
    model: Segmenter | PictureSegmenter,
    embedding: Any,
    prompts: Prompt,
    sample: ImageSample,
    protocol: ScoringProtocol,
    place: int,
) -> tuple[NDArray[np.bool_], float]:
    size_hw = (sample.image.shape[0], sample.image.shape[1])
    part = slice(place, place + 1)
    truth = torch.from_numpy(sample.masks[part])
    answers = answered_to_the_last_click(model, embedding, prompts[part], size_hw, protocol, truth)
    if protocol.truth == "frame" and not isinstance(model, PictureSegmenter):
        truth = framed_truth(truth, model.input_size)
    oracle = protocol.choice == "oracle"
    masks = _binary(answers.candidates("oracle") if oracle else answers.chosen(protocol)[0], size_hw, protocol)
    iou = pairwise_iou(masks, truth.expand(len(masks), -1, -1))
    best = int(iou.argmax())
    return masks[best].numpy(), float(iou[best])


def _binary(masks: Any, size_hw: tuple[int, int], protocol: ScoringProtocol) -> Tensor:
    """The candidates of one prompt at the original size: bool ``[M, H, W]``."""
    return torch.cat([logits[0] > 0 for _, logits in upscaled_in_parts(masks, size_hw, protocol)]).cpu()
