"""Label-free batches: each step's batch depends on the seed and the step, on nothing that was requested before."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.geometry import valid_cells
from data.batches import ImageBatch, ImageBatches, ImageCache
from data.images import to_frame
from tests.unit.tiny import Images


@dataclass
class Steps:
    """Batches of one size, by the number of the step."""

    order: ImageBatches
    batch: int

    def __call__(self, step: int) -> ImageBatch:
        return self.order(range(step * self.batch, (step + 1) * self.batch))


def batches(count: int = 7, batch: int = 3, seed: int = 0) -> Steps:
    return Steps(ImageBatches(Images(count), 64, 4, seed), batch)


def names(of: Steps, steps: range) -> list[str]:
    return [name for step in steps for name in of(step).names]


def same(a: ImageBatch, b: ImageBatch) -> bool:
    return (
        a.names == b.names
        and a.digests == b.digests
        and torch.equal(a.images, b.images)
        and torch.equal(a.valid, b.valid)
    )


@pytest.mark.parametrize(("count", "batch"), [(7, 3), (6, 3), (5, 8), (1, 2), (4, 4)])
def test_every_image_comes_once_an_epoch(count: int, batch: int) -> None:
    drawn = names(batches(count, batch), range(3 * count))
    everything = sorted(f"image-{i}" for i in range(count))
    epochs = [drawn[start : start + count] for start in range(0, len(drawn), count)]
    assert len(epochs) == 3 * batch
    assert all(sorted(epoch) == everything for epoch in epochs)


def test_epochs_have_orders_of_their_own() -> None:
    drawn = names(batches(), range(7))
    epochs = [tuple(drawn[start : start + 7]) for start in range(0, 21, 7)]
    assert len(set(epochs)) == 3


def test_a_batch_does_not_depend_on_what_was_requested_before() -> None:
    forwards, backwards = batches(), batches()
    in_order = [forwards(step) for step in range(12)]
    for step in reversed(range(12)):
        assert same(backwards(step), in_order[step])
    # Nor on another data set that is read in turns with it.
    other = batches(5, seed=1)
    for step in (2, 9, 2):
        other(step)
        assert same(forwards(step), in_order[step])
    assert same(batches()(11), in_order[11])


def test_a_batch_runs_on_across_the_end_of_an_epoch() -> None:
    """Step 2 of batches of three holds places 6, 7 and 8: the last of the first epoch and two of the second."""
    single = names(batches(batch=1), range(14))
    assert list(batches()(2).names) == single[6:9]


def test_the_seed_changes_the_order() -> None:
    assert names(batches(seed=0), range(3)) != names(batches(seed=1), range(3))


def test_images_and_valid_cells_match_the_names() -> None:
    data = Images(7)
    for step in range(5):
        batch = batches()(step)
        assert batch.images.shape == (3, 3, 64, 64)
        assert batch.valid.shape == (3, 4, 4)
        for name, image, valid in zip(batch.names, batch.images, batch.valid, strict=True):
            stored = data.image(int(name.removeprefix("image-")))
            assert torch.equal(image, to_frame(stored, 64))
            assert torch.equal(valid, valid_cells(stored.shape[:2], 64, 4))


def test_only_the_requested_images_are_read() -> None:
    data = Images(7)
    made = ImageBatches(data, 64, 4, 0, images=ImageCache(0))
    made.of([4, 2])
    assert data.read == [4, 2]
    made(range(300, 303))
    assert len(data.read) == 5


def test_images_are_kept_up_to_a_size() -> None:
    read: list[int] = []

    def image(index: int) -> NDArray[np.uint8]:
        read.append(index)
        return np.full((2, 2, 3), index, np.uint8)

    cache = ImageCache(24)
    for index in (0, 1, 2, 0, 1, 2):
        assert (cache.get(index, image) == index).all()
    assert read == [0, 1, 2, 2]
