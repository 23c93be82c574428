"""A model's candidates for some prompts, asked for once however many protocols want them, and the choice among them."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.protocols import Masks, PictureMasks, PictureSegmenter, Prompt, Segmenter, device_of
from evaluation.framing import framed_image, placed_prompt
from evaluation.scoring_protocol import ScoringProtocol


def embedded(model: Segmenter | PictureSegmenter, image: NDArray[np.uint8], framing: tuple[str, str]) -> Any:
    """What a model makes of a picture uint8 ``[H, W, 3]``: ``[1, C, g, g]``, or what its ``encode_picture`` gives.

    Args:
        framing: :attr:`ScoringProtocol.framing`, of models that are given frames.
    """
    if isinstance(model, PictureSegmenter):
        return model.encode_picture(image)
    return model.encode(framed_image(image, model.input_size, framing)[None].to(device_of(model)))


class Answers:
    """What a model answers to some prompts on one picture.

    Args:
        embedding: ``[1, C, g, g]``, or what ``encode_picture`` gave.
        prompt: in original pixels.
        size_hw: of the original image.
        rounding: of the picture's sides in the frame; see :class:`ScoringProtocol`.
    """

    def __init__(
        self,
        model: Segmenter | PictureSegmenter,
        embedding: Any,
        prompt: Prompt,
        size_hw: tuple[int, int],
        rounding: str = "nearest",
    ) -> None:
        self.model, self.embedding, self.size_hw = model, embedding, size_hw
        if not isinstance(model, PictureSegmenter):
            prompt = placed_prompt(prompt, size_hw, model.input_size, rounding)
        self.prompt = prompt.to(embedding.device) if isinstance(embedding, Tensor) else prompt
        self._known: dict[bool, Masks | PictureMasks] = {}

    def candidates(self, choice: str) -> Masks | PictureMasks:
        """Those that a choice is among: one, three, or all four."""
        if choice == "best_of_4":
            one, three = self._decoded(False), self._decoded(True)
            logits, iou_pred = torch.cat([one.logits, three.logits], 1), torch.cat([one.iou_pred, three.iou_pred], 1)
            return replace(one, logits=logits, iou_pred=iou_pred)
        return self._decoded(choice != "single")

    def chosen(self, protocol: ScoringProtocol) -> tuple[Masks | PictureMasks, Tensor]:
        """What a protocol chooses without looking at the truth: ``M = 1``, and which candidates: int64 ``[N]``."""
        masks = self.candidates(protocol.choice)
        index = masks.iou_pred.argmax(1)
        rows = torch.arange(len(index), device=index.device)
        logits, iou_pred = masks.logits[rows, index][:, None], masks.iou_pred[rows, index][:, None]
        return replace(masks, logits=logits, iou_pred=iou_pred), index

    def _decoded(self, multimask: bool) -> Masks | PictureMasks:
        if multimask not in self._known:
            self._known[multimask] = self.model.decode(self.embedding, self.prompt, self.size_hw, multimask)
        return self._known[multimask]
