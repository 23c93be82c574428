"""Answers to point prompts, reduced to the masks worth keeping; whole batches at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from core.protocols import Masks
from evaluation.everything.candidates import Candidates
from evaluation.everything.crops import Crop
from evaluation.everything.run_lengths import encode_windows
from evaluation.everything.windows import Window, axes, windows
from evaluation.everything_settings import EverythingSettings
from evaluation.mask_measures import mask_boxes, stability_scores
from evaluation.preprocess import pixels_at_once


class MaskFilter:
    """The thresholds, for the answers on one crop of a picture.

    Args:
        crop: where in the picture.
        size_hw: of the picture.
        settings: the thresholds.
    """

    def __init__(self, crop: Crop, size_hw: tuple[int, int], settings: EverythingSettings) -> None:
        self.crop, self.size_hw, self.settings = crop, size_hw, settings

    def surviving(self, masks: Masks, points_xy: Tensor, covered: Tensor | None = None) -> Iterator[Candidates]:
        """Masks that pass, part by part, none of them empty.

        Args:
            masks: answers to ``N`` prompts on the crop, ``M`` candidates each.
            points_xy: the prompts, float64 ``[N, 2]`` in pixels of the crop.
            covered: bool ``[h, w]`` of the crop; set here at pixels where a surviving mask has a logit above
                ``settings.high_score_thresh``.
        """
        settings, device = self.settings, masks.iou_pred.device
        # [N * M]: the candidates of a prompt stand together
        iou_pred, per_prompt = masks.iou_pred.float().flatten(), masks.iou_pred.shape[1]
        chosen = torch.arange(len(iou_pred), device=device)
        if settings.pred_iou_thresh > 0:
            # Before anything is made as large as the picture.
            chosen = chosen[iou_pred > settings.pred_iou_thresh]
        lowest_cut = settings.mask_threshold - settings.stability_score_offset
        if covered is not None:
            lowest_cut = min(lowest_cut, settings.high_score_thresh)
        box = torch.tensor(self.crop.box_xyxy, device=device)
        sides = axes(self.crop.size_hw, masks.logits.shape[-1], masks.frame, device)
        pixels = pixels_at_once(device)
        for window in windows(masks.logits.flatten(0, 1)[chosen], lowest_cut, *sides, pixels):
            stability = stability_scores(window.logits, settings.mask_threshold, settings.stability_score_offset)
            binary = window.logits > settings.mask_threshold
            boxes = self._boxes(binary, window, box)
            keep = ~self.crop.cuts(boxes, self.size_hw)
            if settings.stability_score_thresh > 0:
                keep &= stability >= settings.stability_score_thresh
            kept = keep.nonzero()[:, 0]
            if not len(kept):
                continue
            window = Window(*(column[kept] for column in window))
            if covered is not None:
                _cover(covered, window, settings.high_score_thresh)
            prompts = chosen[window.which]
            rles = encode_windows(
                binary[kept].cpu().numpy(),
                (window.top + box[1]).cpu().numpy(),
                (window.left + box[0]).cpu().numpy(),
                self.size_hw,
            )
            yield Candidates(
                boxes[kept],
                iou_pred[prompts],
                stability[kept],
                points_xy[prompts // per_prompt] + box[:2],
                box.expand(len(kept), 4),
                rles,
            )

    def _boxes(self, binary: Tensor, window: Window, crop_xyxy: Tensor) -> Tensor:
        """Boxes in pixels of the picture, int64 ``[K, 4]``; an empty mask's is the crop's first pixel, as Meta's."""
        corner = torch.stack([window.left, window.top], 1).repeat(1, 2)
        something = binary.flatten(1).view(torch.uint8).amax(1, keepdim=True)
        return (mask_boxes(binary) + corner) * something + crop_xyxy[:2].repeat(2)


def _cover(covered: Tensor, window: Window, high_score: float) -> None:
    """Set the pixels of ``covered`` bool ``[h, w]`` where a logit of the window is above ``high_score``."""
    mask, y, x = (window.logits > high_score).nonzero().unbind(1)
    covered[y + window.top[mask], x + window.left[mask]] = True
