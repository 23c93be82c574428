"""A model's candidates for some prompts, asked for once however many protocols want them, and the choice among them."""

import torch
from torch import Tensor

from core.protocols import Masks, Prompt, Segmenter
from evaluation.framing import placed_prompt
from evaluation.scoring_protocol import ScoringProtocol


class Answers:
    """What a model answers to some prompts on one picture.

    Args:
        embedding: ``[1, C, g, g]``.
        prompt: in original pixels.
        size_hw: of the original image.
        rounding: of the picture's sides in the frame; see :class:`ScoringProtocol`.
    """

    def __init__(
        self, model: Segmenter, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], rounding: str = "nearest"
    ) -> None:
        self.model, self.embedding, self.size_hw = model, embedding, size_hw
        self.prompt = placed_prompt(prompt, size_hw, model.input_size, rounding).to(embedding.device)
        self._known: dict[bool, Masks] = {}

    def candidates(self, choice: str) -> Masks:
        """Those that a choice is among: one, three, or all four."""
        if choice == "best_of_4":
            one, three = self._decoded(False), self._decoded(True)
            logits, iou_pred = torch.cat([one.logits, three.logits], 1), torch.cat([one.iou_pred, three.iou_pred], 1)
            return Masks(logits, iou_pred, one.frame)
        return self._decoded(choice != "single")

    def chosen(self, protocol: ScoringProtocol) -> tuple[Masks, Tensor]:
        """What a protocol chooses without looking at the truth: ``M = 1``, and which candidates: int64 ``[N]``."""
        masks = self.candidates(protocol.choice)
        index = masks.iou_pred.argmax(1)
        rows = torch.arange(len(index), device=index.device)
        return Masks(masks.logits[rows, index][:, None], masks.iou_pred[rows, index][:, None], masks.frame), index

    def _decoded(self, multimask: bool) -> Masks:
        if multimask not in self._known:
            self._known[multimask] = self.model.decode(self.embedding, self.prompt, self.size_hw, multimask)
        return self._known[multimask]
