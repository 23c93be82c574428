"""Hard prompts: where points fall, which iteration's counts, and that chance goes by the place in the order."""

from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compressors.tinysam import ITERATIONS, draw_iterations, draw_points, hard_points, mask_cells, point_prompt
from core.protocols import Prompt
from teachers.mask_decoder import Decoded
from teachers.sam import Sam

FRAME, SIDE = 64, 16


def cells_of(points: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the cells in which points of the frame lie."""
    cells = ((points + 0.5) / (FRAME / SIDE)).floor().long()
    return cells[..., 1], cells[..., 0]


class FakeStudent:
    """Answers every point with given masks: candidate 2 by the predicted IoU, the others empty.

    Attributes:
        requested: the points of each round.
    """

    input_size = FRAME

    def __init__(self, masks: Tensor) -> None:
        self.masks, self.requested = masks, list[Tensor]()

    def decode_frame(self, embedding: Tensor, prompt: Prompt) -> Decoded:
        assert prompt.points_xy is not None and prompt.labels is not None and bool((prompt.labels == 1).all())
        self.requested.append(prompt.points_xy[:, 0])
        # The embedding says which image it is.
        masks = self.masks[embedding[:, 0, 0, 0].long()].flatten(0, 1)
        logits = torch.full((len(prompt), 4, SIDE, SIDE), -1.0)
        logits[:, 2][masks] = 1.0
        return Decoded(logits, torch.tensor([9.0, 0.1, 0.8, 0.3]).expand(len(prompt), -1), torch.zeros(0))


def run(coverage: Tensor, answered: Tensor, iterations: list[int]) -> tuple[Tensor, FakeStudent]:
    student = FakeStudent(answered)
    images, prompts = coverage.shape[:2]
    embeddings = torch.arange(images).float().reshape(-1, 1, 1, 1)
    chances = torch.rand(images, ITERATIONS, prompts)
    return hard_points(cast(Sam, student), embeddings, coverage, torch.tensor(iterations), chances), student


def test_the_next_point_lies_in_what_the_student_missed() -> None:
    coverage = torch.zeros(2, 3, SIDE, SIDE)
    coverage[:, :, 2:10, 3:12] = 1
    answered = torch.zeros(2, 3, SIDE, SIDE, dtype=torch.bool)
    # All but two columns is found; and a region outside the mask, which must not matter.
    answered[:, :, 2:10, 3:10], answered[:, :, 12:] = True, True
    points, student = run(coverage, answered, [3, 1])
    rows, columns = cells_of(points)
    assert bool(((rows >= 2) & (rows < 10) & (columns >= 10) & (columns < 12)).all())
    # Three rounds for the first image, one of which is for the second too.
    assert [len(points) for points in student.requested] == [6, 3, 3]


def test_iteration_zero_asks_nobody() -> None:
    coverage = torch.zeros(1, 5, SIDE, SIDE)
    coverage[..., 4:7, 1:3] = 1
    points, student = run(coverage, torch.zeros(1, 5, SIDE, SIDE, dtype=torch.bool), [0])
    rows, columns = cells_of(points)
    assert bool(((rows >= 4) & (rows < 7) & (columns >= 1) & (columns < 3)).all())
    assert student.requested == []


def test_where_nothing_is_missing_the_point_stays() -> None:
    coverage = torch.zeros(1, 2, SIDE, SIDE)
    coverage[..., 4:12, 4:12] = 1
    answered = coverage.bool()
    answered[0, 1] = False
    points, student = run(coverage, answered, [4])
    assert all(torch.equal(requested[0], student.requested[0][0]) for requested in student.requested)
    assert torch.equal(points[0, 0], student.requested[0][0])
    assert not all(torch.equal(requested[1], student.requested[0][1]) for requested in student.requested)


def test_no_gradient_passes() -> None:
    coverage = torch.ones(1, 1, SIDE, SIDE)
    points, _ = run(coverage, torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool), [2])
    assert not points.requires_grad


def test_chance_goes_by_the_place_alone() -> None:
    together = draw_iterations(7, (3, 4, 5), 2)
    for i, place in enumerate((3, 4, 5)):
        alone = draw_iterations(7, (place,), 2)
        assert all(torch.equal(a[i], b[0]) for a, b in zip(together, alone, strict=True))
    assert not torch.equal(draw_iterations(8, (3,), 2)[1], draw_iterations(7, (3,), 2)[1])


def test_iterations_are_uniform_from_0_to_9() -> None:
    drawn = draw_iterations(0, range(2000), 1)[0]
    counts = torch.bincount(drawn, minlength=ITERATIONS)
    assert len(counts) == 10
    # Chi-squared with nine degrees of freedom: above 27.9 once in a thousand seeds.
    assert float(((counts - 200.0) ** 2 / 200).sum()) < 27.9


@given(st.integers(0, 2**31), st.floats(0, 0.999999))
def test_a_drawn_point_lies_in_its_region(seed: int, chance: float) -> None:
    cells = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) > 0.9
    cells[5, 5] = True
    rows, columns = cells_of(draw_points(cells, torch.tensor(chance), FRAME))
    assert bool(cells[rows, columns])


def test_every_cell_is_equally_likely_and_points_are_centres() -> None:
    cells = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    cells[0, 1] = cells[3, 15] = cells[9, 0] = True
    points = draw_points(cells.expand(6, -1, -1), torch.arange(6) / 6, FRAME)
    # Cells are four pixels wide: pixels 4 to 7 have their centre at 5.5.
    assert points.tolist() == [[5.5, 1.5]] * 2 + [[61.5, 13.5]] * 2 + [[1.5, 37.5]] * 2


@pytest.mark.parametrize(("most", "expected"), [(1.0, [0, 0, 1, 1]), (0.3, [0, 0, 0, 1]), (0.0, [0, 0, 0, 0])])
def test_tiny_masks_keep_the_cell_that_holds_most_of_them(most: float, expected: list[int]) -> None:
    coverage = most * torch.tensor([[0.0, 0.4], [0.5, 1.0]])
    assert mask_cells(coverage).flatten().int().tolist() == expected


def test_prompts_of_one_image_stay_together() -> None:
    points = torch.arange(12.0).reshape(2, 3, 2)
    prompt = point_prompt(points)
    assert prompt.points_xy is not None and prompt.labels is not None
    assert prompt.points_xy.shape == (6, 1, 2) and bool((prompt.labels == 1).all())
    assert torch.equal(prompt.points_xy[3, 0], points[1, 0])
