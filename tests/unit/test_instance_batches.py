"""Batches with masks: coverage, boxes in the frame, the order, and images without instances."""

import numpy as np
import pytest
import torch

from core.geometry import Stretched
from data.batches import ImageBatches, InstanceBatches, coverage_of
from data.shapes import Shapes
from tests.unit.tiny import LabelledImages

FRAME, GRID = 64, 4


def batches(count: int = 3, jitter: float = 0.0, seed: int = 0, images: int = 8) -> InstanceBatches:
    return InstanceBatches(LabelledImages(images), FRAME, GRID, seed, count, jitter)


def test_coverage_is_the_share_of_each_cell() -> None:
    mask = np.zeros((1, 4, 8), np.bool_)
    mask[0, 0, 0] = mask[0, 2:4, 4:8] = True
    found = coverage_of(mask, [0], 4)[0]
    # Cells of 2 x 2 pixels; the lower half of the square is padding.
    assert found.tolist() == [[0.25, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_coverage_of_an_image_that_does_not_divide() -> None:
    mask = np.ones((2, 30, 47), np.bool_)
    mask[1] = False
    found = coverage_of(mask, [0, 1, 0], 16)
    rows = 16 * 30 / 47
    assert torch.equal(found[0], found[2]) and not bool(found[1].any())
    assert bool((found[0, : int(rows)] == 1).all()) and not bool(found[0, int(rows) + 1 :].any())


def test_coverage_fills_a_frame_that_images_are_stretched_to() -> None:
    mask = np.zeros((1, 4, 8), np.bool_)
    mask[0, 0, 0] = mask[0, 2:4, 4:8] = True
    # Cells of 1 x 2 pixels.
    expected = [[0.5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert coverage_of(mask, [0], 4, stretched=True)[0].tolist() == expected


def test_the_images_are_those_of_image_batches() -> None:
    data = LabelledImages(8)
    expected = ImageBatches(data, FRAME, GRID, 3)(range(5, 12))
    data.read.clear()
    found = InstanceBatches(data, FRAME, GRID, 3, 2)(range(5, 12))
    assert len(data.read) == 7, "each image is decoded once"
    assert found.names == expected.names and found.places == tuple(range(5, 12))
    assert torch.equal(found.images.images, expected.images)
    assert found.coverage.shape == (7, 2, 16, 16) and found.boxes_xyxy.shape == (7, 2, 4)


def test_a_place_alone_decides_what_is_drawn() -> None:
    whole, part = batches(jitter=0.1)(range(6)), batches(jitter=0.1)(range(4, 6))
    assert torch.equal(whole.coverage[4:], part.coverage) and torch.equal(whole.boxes_xyxy[4:], part.boxes_xyxy)
    # The same image in the next epoch gives other boxes.
    later = batches(jitter=0.1, images=1)(range(2))
    assert not torch.equal(later.boxes_xyxy[0], later.boxes_xyxy[1])


@pytest.mark.parametrize("frame", [FRAME, Stretched(FRAME)])
def test_boxes_are_in_the_frame_and_belong_to_their_masks(frame: int) -> None:
    data = LabelledImages(8)
    found = InstanceBatches(data, frame, GRID, 0, 3)(range(8))
    for i, name in enumerate(found.names):
        sample = data.sample(int(name.removeprefix("image-")))
        if not len(sample.masks):
            assert not bool(found.labelled[i]) and not bool(found.coverage[i].any())
            continue
        height, width = sample.image.shape[:2]
        scale = np.array(
            [FRAME / width, FRAME / height] * 2 if isinstance(frame, Stretched) else FRAME / max(height, width)
        )
        for k in range(3):
            box = found.boxes_xyxy[i, k]
            rows, columns = np.nonzero(found.coverage[i, k].numpy())
            cell = FRAME / 16
            # The mask is a rectangle: its cells are those that the box touches.
            assert columns.min() == int(box[0] / cell) and rows.min() == int(box[1] / cell)
            assert columns.max() == int(np.ceil(float(box[2]) / cell)) - 1
            assert any(torch.allclose(box, torch.from_numpy(b * scale).float()) for b in sample.boxes_xyxy)


def test_few_instances_come_several_times_and_many_not() -> None:
    data = Shapes(count=4)
    for i, count in enumerate((2, 40)):
        found = InstanceBatches(data, 128, 16, 0, count)(range(1))
        distinct = len({tuple(box) for box in found.boxes_xyxy[0].tolist()})
        present = len(data.sample(int(found.names[0][-6:])).masks)
        assert distinct == (min(2, present), present)[i]


def test_moving() -> None:
    batch = batches()(range(2))
    moved = batch.to(torch.device("meta"))
    assert moved.places == batch.places and moved.names == batch.names
    assert all(part.is_meta for part in (moved.coverage, moved.boxes_xyxy, moved.labelled, moved.images.images))
