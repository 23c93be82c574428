"""TinySAM's online hard prompt sampling: the next point lies where the student's mask is missing (section 3.3).

Eqs. 8 and 9: ``M_i = D(E_prompt(P_i), E_img(I))`` is the student's answer to a point, and ``P_(i+1)`` is drawn from
``M_gt \\ M_i`` and replaces it. The iteration whose point is trained on is drawn uniformly from 0 to 9.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from compressors.candidates import best_of_three
from core.protocols import Prompt
from core.seeding import generator_for
from teachers.sam import Sam

ITERATIONS = 10
"""Points ``P_0`` to ``P_9``."""


def draw_iterations(seed: int, places: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
    """What chance decides for the pictures at some places of the training order, on the CPU.

    Args:
        count: points a picture.

    Returns:
        The iteration of each picture, int64 ``[B]``, and uniform numbers, float32 ``[B, ITERATIONS, count]``.
    """
    generators = [generator_for(seed, "hard prompts", place) for place in places]
    iterations = [torch.randint(ITERATIONS, (), generator=generator) for generator in generators]
    chances = [torch.rand(ITERATIONS, count, generator=generator) for generator in generators]
    return torch.stack(iterations), torch.stack(chances)


def mask_cells(coverage: Tensor) -> Tensor:
    """The cells that are mask: covered by half at least, or as much as any where none is (tiny masks).

    Args:
        coverage: ``[..., l, l]`` in [0, 1].

    Returns:
        bool, same shape; none where the coverage is zero throughout.
    """
    most = coverage.flatten(-2).amax(-1)[..., None, None]
    return (coverage >= most.clamp(max=0.5)) & (coverage > 0)


def draw_points(cells: Tensor, chance: Tensor, frame: int) -> Tensor:
    """One point in each of several regions, every cell being equally likely.

    Args:
        cells: bool ``[..., l, l]``; where a region has none, the point is that of the first cell.
        chance: ``[...]`` uniform in [0, 1).
        frame: side of the model's frame.

    Returns:
        xy float32 ``[..., 2]``, the cells' centres as pixels of the frame.
    """
    side = cells.shape[-1]
    # float32 counts cells exactly: there are fewer than 2 ** 24
    counted = cells.flatten(-2).cumsum(-1, dtype=torch.float32)
    wanted = (chance * counted[..., -1]).floor()
    index = (counted > wanted[..., None]).to(torch.uint8).argmax(-1)
    xy = torch.stack([index % side, index // side], -1).float()
    return (xy + 0.5) * (frame / side) - 0.5


@torch.no_grad()
def hard_points(student: Sam, embeddings: Tensor, coverage: Tensor, iterations: Tensor, chances: Tensor) -> Tensor:
    """The point of each mask at its picture's iteration; where nothing is missing any more, a point stays.

    Args:
        embeddings: the student's, ``[B, C, g, g]``.
        coverage: masks ``[B, K, l, l]`` in [0, 1].
        iterations: int64 ``[B]`` on the CPU; 0 gives a random point of the mask, ``P_0``.
        chances: uniform numbers ``[B, ITERATIONS, K]``.

    Returns:
        xy float32 ``[B, K, 2]``, pixels of the frame.
    """
    frame, masks = student.input_size, mask_cells(coverage)
    points = draw_points(masks, chances[:, 0], frame)
    for iteration in range(1, int(iterations.max()) + 1):
        active = (iterations >= iteration).nonzero()[:, 0].to(points.device)
        answered = student.decode_frame(embeddings[active], point_prompt(points[active]))
        missed = masks[active] & ~best_of_three(answered.logits, answered.iou_pred).unflatten(0, (len(active), -1))
        drawn = draw_points(missed, chances[active, iteration], frame)
        points[active] = torch.where(missed.flatten(2).any(2)[..., None], drawn, points[active])
    return points


def point_prompt(points_xy: Tensor) -> Prompt:
    """Foreground points ``[B, K, 2]`` as ``B * K`` prompts, those of one picture together."""
    return Prompt.foreground(points_xy.flatten(0, 1)[:, None])
