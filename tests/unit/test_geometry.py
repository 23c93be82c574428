"""Frames: sizes, prompts, padding and the way back, against values worked out by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.geometry import (
    PIXEL_MEAN,
    PIXEL_STD,
    Stretched,
    boxes_to_frame,
    normalise,
    points_to_frame,
    resized_size,
    upscale_logits,
    valid_cells,
)

SIDES = st.integers(1, 4000)
FRAMES = st.sampled_from([64, 128, 1024])


@pytest.mark.parametrize(
    ("size", "frame", "expected"),
    [
        ((480, 640), 1024, (768, 1024)),
        ((640, 427), 1024, (1024, 683)),  # 683.2
        ((375, 500), 1024, (768, 1024)),
        ((3, 8), 4, (2, 4)),  # 1.5 is rounded up
        ((5, 8), 4, (3, 4)),  # 2.5 too: half up, not half to even
        ((1, 1), 128, (128, 128)),
        ((1, 4000), 128, (1, 128)),  # 0.03, but an image has at least one row
        ((4000, 3), 1024, (1024, 1)),
        ((128, 128), 128, (128, 128)),
    ],
)
def test_resized_size_by_hand(size: tuple[int, int], frame: int, expected: tuple[int, int]) -> None:
    assert resized_size(size, frame) == expected


@given(SIDES, SIDES, FRAMES)
def test_the_longer_side_fills_the_frame_and_the_other_keeps_the_aspect(height: int, width: int, frame: int) -> None:
    new = resized_size((height, width), frame)
    assert max(new) == frame
    assert min(new) >= 1
    for side, was in zip(new, (height, width), strict=True):
        exact = was * frame / max(height, width)
        assert abs(side - exact) <= 0.5 + 1e-9 or (side == 1 and exact < 0.5)
    assert resized_size((width, height), frame) == new[::-1]


def test_points_and_boxes_to_the_frame_by_hand() -> None:
    # 640 x 427 (h x w) becomes 1024 x 683: x by 683 / 427, y by 1.6.
    points = torch.tensor([[[427.0, 640.0], [0.0, 0.0]], [[100.0, 50.0], [213.5, 320.0]]])
    expected = torch.tensor([[[683.0, 1024.0], [0.0, 0.0]], [[159.953161593, 80.0], [341.5, 512.0]]])
    found = points_to_frame(points, (640, 427), 1024)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    boxes = points.flatten(-2)
    torch.testing.assert_close(boxes_to_frame(boxes, (640, 427), 1024), expected.flatten(-2))


def test_integer_coordinates_are_not_truncated() -> None:
    torch.testing.assert_close(
        boxes_to_frame(torch.tensor([[1, 1, 3, 3]]), (3, 4), 6), torch.tensor([[1.5, 5 / 3, 4.5, 5.0]])
    )


@given(SIDES, SIDES, FRAMES)
def test_the_corner_of_the_image_becomes_the_corner_of_the_resized_one(height: int, width: int, frame: int) -> None:
    new_h, new_w = resized_size((height, width), frame)
    corner = points_to_frame(torch.tensor([[float(width), float(height)]]), (height, width), frame)
    torch.testing.assert_close(corner, torch.tensor([[float(new_w), float(new_h)]]))


def test_normalise_and_pad() -> None:
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8)[:, None, None].expand(3, 2, 3)
    framed = normalise(pixels, 4)
    assert (framed.shape, framed.dtype) == ((3, 4, 4), torch.float32)
    for channel, value in enumerate((0, 128, 255)):
        needed = torch.full((2, 3), (value - PIXEL_MEAN[channel]) / PIXEL_STD[channel])
        torch.testing.assert_close(framed[channel, :2, :3], needed)
    # Padding is zero after normalisation, as in SAM, not the grey that would become zero.
    assert not framed[:, 2:].any()
    assert not framed[:, :, 3:].any()


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [
        ((100, 100), 4, 4),
        ((75, 100), 3, 4),  # 48 of 64 rows: centres 8, 24, 40, 56
        ((100, 75), 4, 3),
        ((62, 100), 2, 4),  # 39.68, rounded to 40: the centre at 40 is not inside
        ((63, 100), 2, 4),  # 40.32, also 40
        ((64, 100), 3, 4),  # 40.96, rounded to 41
        ((1000, 10), 4, 1),  # one column of pixels still has cells
        ((1, 4000), 1, 4),
    ],
)
def test_valid_cells(size: tuple[int, int], rows: int, columns: int) -> None:
    valid = valid_cells(size, 64, 4)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[:rows, :columns] = True
    assert torch.equal(valid, expected)


@given(SIDES, SIDES)
def test_every_image_has_a_valid_cell(height: int, width: int) -> None:
    valid = valid_cells((height, width), 128, 16)
    assert valid[0, 0]
    assert valid.any(0).all() or valid.any(1).all()


def bilinear(size: int, new: int) -> NDArray[np.float64]:
    """The matrix ``[new, size]`` of linear interpolation between pixel centres, edges repeated."""
    matrix = np.zeros((new, size))
    for i in range(new):
        at = max((i + 0.5) * size / new - 0.5, 0)
        low = int(at)
        high = min(low + 1, size - 1)
        matrix[i, low] += 1 - (at - low)
        matrix[i, high] += at - low
    return matrix


@pytest.mark.parametrize("size", [(48, 64), (50, 37), (23, 90), (64, 64), (1, 70), (100, 100)])
def test_upscaled_logits_take_the_two_documented_steps(size: tuple[int, int]) -> None:
    low = torch.randn(2, 3, 16, 16)
    new_h, new_w = resized_size(size, 64)
    to_frame = bilinear(16, 64)
    framed = to_frame @ low.double().numpy() @ to_frame.T
    cropped = framed[..., :new_h, :new_w]
    expected = bilinear(new_h, size[0]) @ cropped @ bilinear(new_w, size[1]).T
    found = upscale_logits(low, size, 64)
    assert found.shape == (2, 3, *size)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_upscaled_logits_are_float32() -> None:
    assert upscale_logits(torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16), (10, 16), 16).dtype == torch.float32


STRETCHED = Stretched(128)
"""A frame that images of any proportions fill."""


def test_a_stretched_frame_is_filled_on_both_sides() -> None:
    assert resized_size((480, 640), STRETCHED) == resized_size((10, 7), STRETCHED) == (128, 128)
    assert bool(valid_cells((480, 640), STRETCHED, 8).all())
    points = points_to_frame(torch.tensor([[320.0, 120.0]]), (480, 640), STRETCHED)
    assert points.tolist() == [[64.0, 32.0]]
    assert boxes_to_frame(torch.tensor([[0.0, 48.0, 640.0, 480.0]]), (480, 640), STRETCHED).tolist() == [
        [0.0, pytest.approx(12.8), 128.0, 128.0]
    ]


def test_logits_of_a_stretched_frame_come_back_in_one_step() -> None:
    logits = torch.randn(2, 3, 32, 32)
    expected = F.interpolate(logits, (40, 90), mode="bilinear", align_corners=False)
    assert torch.equal(upscale_logits(logits, (40, 90), STRETCHED), expected)
