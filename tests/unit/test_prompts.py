"""Prompts from masks: what jitter may do, where points fall, and the centre by brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from data.prompts import central_point, jitter_boxes, random_points


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@st.composite
def boxes_in_images(draw: st.DrawFn) -> tuple[NDArray[np.float64], tuple[int, int]]:
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    boxes = []
    for _ in range(draw(st.integers(1, 4))):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        boxes.append([x, y, draw(st.integers(x + 1, width)), draw(st.integers(y + 1, height))])
    return np.array(boxes, dtype=np.float64), (height, width)


@given(boxes_in_images(), st.sampled_from([0.05, 0.1, 1.0, 5.0]), st.integers(0, 1000))
def test_jittered_boxes_are_boxes_inside_the_image(
    case: tuple[NDArray[np.float64], tuple[int, int]], amount: float, seed: int
) -> None:
    boxes, (height, width) = case
    moved = jitter_boxes(boxes, (height, width), amount, rng(seed))
    assert moved.shape == boxes.shape
    assert (moved >= 0).all()
    assert (moved <= [width, height, width, height]).all()
    assert (moved[:, 2:] - moved[:, :2] >= 1 - 1e-9).all()


@given(boxes_in_images())
def test_no_jitter_changes_nothing(case: tuple[NDArray[np.float64], tuple[int, int]]) -> None:
    boxes, size = case
    assert np.array_equal(jitter_boxes(boxes, size, 0.0, rng()), boxes)


def test_jitter_moves_a_side_by_at_most_twenty_pixels() -> None:
    boxes = np.tile([[400.0, 400.0, 600.0, 600.0]], (2000, 1))
    shift = jitter_boxes(boxes, (1000, 1000), 0.1, rng()) - boxes
    assert np.abs(shift).max() == 20.0
    # A standard deviation of 20 pixels is cut off at one: about 32 % of the sides meet the limit.
    assert 0.29 < (np.abs(shift) == 20.0).mean() < 0.35


def test_jitter_is_a_share_of_the_side() -> None:
    boxes = np.tile([[100.0, 400.0, 150.0, 900.0]], (20_000, 1))
    spread = (jitter_boxes(boxes, (1000, 1000), 0.01, rng()) - boxes).std(0)
    np.testing.assert_allclose(spread, [0.5, 5.0, 0.5, 5.0], rtol=0.03)


def test_random_points_fall_on_the_mask_and_everywhere_on_it() -> None:
    mask = np.zeros((7, 5), dtype=np.bool_)
    mask[1, 2] = mask[6, 0] = mask[3, 4] = True
    points = random_points(mask, 300, rng())
    assert (points.shape, points.dtype) == ((300, 2), np.float64)
    assert {(x, y) for x, y in points.astype(int)} == {(2, 1), (0, 6), (4, 3)}
    counts = [int((points == place).all(1).sum()) for place in ((2, 1), (0, 6), (4, 3))]
    assert min(counts) > 70


def test_random_points_repeat_where_there_are_too_few() -> None:
    mask = np.zeros((3, 3), dtype=np.bool_)
    mask[2, 1] = True
    assert random_points(mask, 4, rng()).tolist() == [[1, 2]] * 4


def brute_force_distance(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """From each pixel's centre to the centre of the nearest pixel that is background or outside the image."""
    padded = np.pad(mask, 1)
    outside = np.argwhere(~padded)
    distance = np.zeros(mask.shape)
    for y, x in np.argwhere(mask):
        distance[y, x] = np.sqrt(((outside - [y + 1, x + 1]) ** 2).sum(1).min())
    return distance


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(lambda mask: mask.any()))
def test_the_central_point_is_the_first_pixel_farthest_from_the_border(mask: NDArray[np.bool_]) -> None:
    distance = brute_force_distance(mask)
    row, column = np.unravel_index(distance.argmax(), mask.shape)
    assert central_point(mask).tolist() == [column, row]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 5), st.integers(0, 5))
def test_a_filled_rectangle_has_its_centre_in_the_middle(height: int, width: int, top: int, left: int) -> None:
    mask = np.zeros((top + height + 3, left + width + 2), dtype=np.bool_)
    mask[top : top + height, left : left + width] = True
    x, y = central_point(mask)
    depth = (min(height, width) + 1) // 2
    assert brute_force_distance(mask)[int(y), int(x)] == depth
    if height <= width:
        assert y == top + (height - 1) // 2
    else:
        assert x == left + (width - 1) // 2


@pytest.mark.parametrize(
    ("image", "point"),
    [
        (np.ones((5, 9), np.bool_), [2, 2]),  # the image's edge is a border: the first of the middle row
        (np.ones((1, 1), np.bool_), [0, 0]),
        (np.ones((1, 6), np.bool_), [0, 0]),
        (np.eye(4, dtype=np.bool_), [0, 0]),
    ],
)
def test_central_points_by_hand(image: NDArray[np.bool_], point: list[int]) -> None:
    assert central_point(image).tolist() == point


def test_one_pixel() -> None:
    mask = np.zeros((6, 8), dtype=np.bool_)
    mask[4, 7] = True
    found = central_point(mask)
    assert (found.tolist(), found.dtype) == ([7, 4], np.float64)


def test_a_ring_is_pointed_at_on_the_ring() -> None:
    y, x = np.mgrid[:41, :41] - 20
    radius = np.hypot(x, y)
    ring = (radius <= 18) & (radius >= 10)
    ring[:20] &= radius[:20] <= 16  # the lower half is thicker
    px, py = central_point(ring).astype(int)
    assert ring[py, px]
    assert py > 20
    assert brute_force_distance(ring)[py, px] == brute_force_distance(ring).max()


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="an empty mask has no central point"):
        central_point(np.zeros((3, 3), dtype=np.bool_))
    with pytest.raises(ValueError, match="cannot draw a point from an empty mask"):
        random_points(np.zeros((3, 3), dtype=np.bool_), 1, rng())
