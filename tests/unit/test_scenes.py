"""Scenes composed of annotated images: exact coverage, prompts that mean their masks, and nothing but the seed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InputError
from data.scenes import MaskedImage, SceneRecipe, compose, coverage_of_edges, load_masked_images
from data.shapes import Shapes

FRAME, LOW_RES = 64, 16


@pytest.fixture(scope="module")
def images() -> list[MaskedImage]:
    return load_masked_images(Shapes("train", 6, seed=3, size=48), FRAME)


def test_a_mask_stays_within_its_box(images: list[MaskedImage]) -> None:
    data = Shapes("train", 6, seed=3, size=48)
    for index, image in enumerate(images):
        sample = data.sample(index)
        assert torch.equal(image.pixels, torch.from_numpy(sample.image).permute(2, 0, 1))
        assert len(image.masks) == len(sample.masks)
        for mask, (x, y), truth in zip(image.masks, image.corners, sample.masks, strict=True):
            whole = np.zeros(truth.shape, bool)
            whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask.numpy()
            assert (whole == truth).all()


def test_data_whose_objects_are_all_too_small_are_refused(images: list[MaskedImage]) -> None:
    recipe = SceneRecipe(least_area=FRAME * FRAME * 2)
    with pytest.raises(InputError, match=r"of 100 scenes none shows an instance of 8192 pixels; give data with larger"):
        compose(images, recipe, FRAME, LOW_RES, 4, 2, np.random.default_rng(0))


def test_larger_images_are_reduced() -> None:
    (image,) = load_masked_images(Shapes("train", 1, seed=0, size=128), 64)
    assert max(image.pixels.shape[1:]) == 64
    assert all(
        x + m.shape[1] <= 64 and y + m.shape[0] <= 64 for m, (x, y) in zip(image.masks, image.corners, strict=True)
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_coverage_is_exact(seed: int) -> None:
    """Against the sum over pixels of the overlap of rectangles, one by one."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 6, 2)
    mask = rng.random((height, width)) < 0.6
    x = np.sort(rng.uniform(0, 20, width + 1))
    y = np.sort(rng.uniform(0, 20, height + 1))
    found = coverage_of_edges(torch.from_numpy(mask.astype(np.uint8)), x, y, 4.0, 5).numpy()
    expected = np.zeros((5, 5))
    for row, column in np.argwhere(mask):
        for i in range(5):
            for j in range(5):
                down = min(y[row + 1], 4.0 * i + 4) - max(y[row], 4.0 * i)
                across = min(x[column + 1], 4.0 * j + 4) - max(x[column], 4.0 * j)
                expected[i, j] += max(down, 0) * max(across, 0) / 16
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("cells", [1, 3])
def test_prompts_mean_their_masks(images: list[MaskedImage], cells: int) -> None:
    recipe = SceneRecipe(cells=(cells,), cell_shares=(1.0,), least_area=8.0)
    for seed in range(12):
        scene = compose(images, recipe, FRAME, LOW_RES, 5, 3, np.random.default_rng(seed))
        assert scene.image.shape == (3, FRAME, FRAME) and max(scene.size_hw) == FRAME
        assert len(scene.names) == (1 if cells == 1 else len(scene.names)) and len(scene.names) >= cells
        height, width = scene.size_hw
        assert not scene.image[:, height:].any() and not scene.image[:, :, width:].any()
        assert scene.coverage.shape == (5, LOW_RES, LOW_RES)
        assert (scene.coverage >= 0).all() and (scene.coverage <= 1 + 1e-5).all()
        assert (scene.coverage.sum((1, 2)) * (FRAME / LOW_RES) ** 2 >= 8.0).all()
        for coverage, box, points in zip(scene.coverage, scene.boxes_xyxy, scene.points_xy, strict=True):
            rows, columns = torch.nonzero(coverage.sum(1) > 0).flatten(), torch.nonzero(coverage.sum(0) > 0).flatten()
            around = [columns[0] * 4, rows[0] * 4, columns[-1] * 4 + 4, rows[-1] * 4 + 4]
            assert np.abs(box - np.array([float(v) for v in around])).max() <= 4 + 1e-6
            assert ((points >= box[:2] - 1e-9) & (points <= box[2:] + 1e-9)).all()
            assert all(coverage[int(y // 4), int(x // 4)] > 0 for x, y in points)


def test_the_pixels_under_a_mask_are_its_own() -> None:
    """An image whose object alone is bright: wherever a scene is covered whole, it is bright."""
    pixels = torch.zeros(3, 40, 60, dtype=torch.uint8)
    pixels[:, 10:30, 20:45] = 200
    mask = torch.ones(20, 25, dtype=torch.uint8)
    image = MaskedImage("one", pixels, np.array([[20, 10]]), (mask,))
    recipe = SceneRecipe(cells=(1, 2), cell_shares=(0.5, 0.5), colour=0.0)
    for seed in range(10):
        scene = compose([image], recipe, FRAME, LOW_RES, 1, 1, np.random.default_rng(seed))
        bright = torch.nn.functional.avg_pool2d(scene.image.mean(0)[None], 4)[0] / 200
        # The other instances of a mosaic are bright too, so only this direction holds.
        assert (bright[scene.coverage[0] > 0.99] > 0.9).all()


def test_a_scene_is_a_function_of_its_seed(images: list[MaskedImage]) -> None:
    first, again, other = (
        compose(images, SceneRecipe(), FRAME, LOW_RES, 4, 2, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.image, again.image) and torch.equal(first.coverage, again.coverage)
    assert (first.points_xy == again.points_xy).all() and not torch.equal(first.image, other.image)
