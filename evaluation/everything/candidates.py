"""The masks found so far: their figures as tensors, the masks themselves as run lengths."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """``K`` masks of an image, in its pixels.

    Attributes:
        boxes_xyxy: int64 ``[K, 4]``: the first and last column and row of each mask.
        iou_pred: float32 ``[K]``.
        stability: float32 ``[K]``.
        points_xy: float64 ``[K, 2]``, the prompt that was answered.
        crops_xyxy: int64 ``[K, 4]``, the crop it was found in.
        rles: compressed RLEs of the whole image, on the host.
    """

    boxes_xyxy: Tensor
    iou_pred: Tensor
    stability: Tensor
    points_xy: Tensor
    crops_xyxy: Tensor
    rles: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, index: Tensor) -> "Candidates":
        """Those of an index int64 ``[K']``, in its order."""
        return self._each(lambda column: column[index], [self.rles[i] for i in index.tolist()])

    def to(self, device: torch.device) -> "Candidates":
        """The same with tensors on a device."""
        return self._each(lambda column: column.to(device), self.rles)

    def without_overlaps(self, scores: Tensor, threshold: float) -> "Candidates":
        """Non-maximum suppression by boxes: the best by ``scores`` float32 ``[K]`` first, equals in their order."""
        # Here, because importing it takes a second or two, which only a mask generator waits for.
        from torchvision.ops import nms

        return self[nms(self.boxes_xyxy.float(), scores, threshold)]

    def _each(self, change: Callable[[Tensor], Tensor], rles: list[dict[str, Any]]) -> "Candidates":
        return Candidates(
            change(self.boxes_xyxy),
            change(self.iou_pred),
            change(self.stability),
            change(self.points_xy),
            change(self.crops_xyxy),
            rles,
        )


def joined(parts: Sequence[Candidates], device: torch.device) -> Candidates:
    """Masks one part after the other; of no parts, no masks, on a device."""
    # A part of none beside the others says which dtypes and shapes there are.
    boxes, real = torch.zeros(0, 4, dtype=torch.int64, device=device), torch.zeros(0, device=device)
    none = Candidates(boxes, real, real, torch.zeros(0, 2, dtype=torch.float64, device=device), boxes, [])
    parts = [none, *parts]
    return Candidates(
        torch.cat([part.boxes_xyxy for part in parts]),
        torch.cat([part.iou_pred for part in parts]),
        torch.cat([part.stability for part in parts]),
        torch.cat([part.points_xy for part in parts]),
        torch.cat([part.crops_xyxy for part in parts]),
        [rle for part in parts for rle in part.rles],
    )
