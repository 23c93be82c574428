"""Which points of a crop become prompts: all of a grid, or first a coarse grid and then what that left open."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.feature_maps import Features
from core.protocols import Prompt, Segmenter
from evaluation.adaptive_batch import AdaptiveBatch
from evaluation.everything.candidates import Candidates, joined
from evaluation.everything.filters import Crop, MaskFilter, grid_points, shared_points
from evaluation.everything_settings import EverythingSettings


class CropSearch:
    """Prompts one crop of an image by points and collects what survives.

    Args:
        model: any segmenter.
        embedding: of the crop, ``[1, C, g, g]``.
        crop: where in the image.
        size_hw: of the image.
        settings: thresholds.
        prompt_batch: how many points are decoded together.

    Attributes:
        prompts: number of points decoded.
        parts: what survived, in the order of the points.
    """

    def __init__(
        self,
        model: Segmenter,
        embedding: Features,
        crop: Crop,
        size_hw: tuple[int, int],
        settings: EverythingSettings,
        prompt_batch: AdaptiveBatch,
    ) -> None:
        self.model, self.embedding, self.crop, self.settings, self.prompt_batch = (
            model,
            embedding,
            crop,
            settings,
            prompt_batch,
        )
        self.filter = MaskFilter(crop, size_hw, settings)
        self.prompts = 0
        self.parts: list[Candidates] = []

    def decode(self, points_xy: NDArray[np.float64], covered: Tensor | None = None) -> None:
        """Decode points ``[P, 2]`` in pixels of the crop, each a prompt; ``covered`` as in :class:`MaskFilter`."""
        points = torch.from_numpy(points_xy).to(self.embedding.device)

        def of_part(part: slice) -> list[Candidates]:
            # [N, 1, 2]
            prompt = Prompt.foreground(points[part, None].float())
            masks = self.model.decode(self.embedding, prompt, self.crop.size_hw, multimask=True)
            # Decoded again in smaller parts, the same masks cover the same pixels.
            return list(self.filter.surviving(masks, points[part], covered))

        for _, found in self.prompt_batch.parts(len(points), of_part):
            self.parts += found
        self.prompts += len(points_xy)

    def best(self) -> Candidates:
        """What survived, without duplicates, best predicted first."""
        found = joined(self.parts, self.embedding.device)
        return found.without_overlaps(found.iou_pred, self.settings.box_nms_thresh)


def search_dense(search: CropSearch) -> None:
    """Decode every point of the grid."""
    search.decode(grid_points(search.settings.dense_side(search.crop.layer), search.crop.size_hw))


def search_hierarchically(search: CropSearch) -> None:
    """Decode a coarse grid, then those points of the dense grid that lie on no confident pixel of a coarse mask.

    TinySAM's strategy (arXiv 2312.13789) with Meta's dense grid. A pixel is confident where a mask of the coarse grid
    that passed the filters has a logit above ``high_score_thresh``. A point of both grids is decoded once.
    """
    settings, crop = search.settings, search.crop
    coarse, dense = settings.coarse_side(crop.layer), settings.dense_side(crop.layer)
    covered = torch.zeros(crop.size_hw, dtype=torch.bool, device=search.embedding.device)
    search.decode(grid_points(coarse, crop.size_hw), covered)
    points = grid_points(dense, crop.size_hw)[~shared_points(dense, coarse)]
    # All points are looked up at once, in one transfer. Each [P]
    column, row = torch.from_numpy(points).long().to(covered.device).unbind(1)
    search.decode(points[~covered[row, column].cpu().numpy()])


SEARCHES: dict[str, Callable[[CropSearch], None]] = {"dense": search_dense, "hierarchical": search_hierarchically}
"""By the name of the strategy."""
