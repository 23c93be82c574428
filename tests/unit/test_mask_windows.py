"""What is measured of a mask inside its window is what is measured of the whole image, to the bit."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.protocols import ImageMasks, Masks
from evaluation.mask_measures import iou_with, pairwise_iou, run_lengths, stability_of
from evaluation.predictions import Predictions, choose
from evaluation.preprocess import positive_windows, upscaled
from evaluation.protocols import PROTOCOLS

ROUTES = [("nearest", "frame"), ("floor", "frame"), ("nearest", "direct"), ("floor", "direct")]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31 - 1),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(ROUTES),
    st.sampled_from([0.5, 3.0, 1e4]),
)
def test_windows_hold_all_that_counts(
    seed: int, size_hw: tuple[int, int], route: tuple[str, str], scale: float
) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 1, 16, 16, generator=rng) * scale - 2 * scale
    logits[0] = -5.0  # nothing
    logits[1] = 5.0  # everything
    logits[2] = -1.0  # at the limit itself
    logits[3, 0, 3, 4] = torch.inf
    masks = Masks(logits, torch.ones(5, 1), 32)
    protocol = replace(PROTOCOLS["box_single@1"], rounding=route[0], upscaling=route[1])
    whole = upscaled(masks, size_hw, protocol)[:, 0]
    windows = positive_windows(masks, size_hw, protocol)
    assert windows is not None and windows.shape == (5, 4)
    assert (windows[0, :2] == windows[0, 2:]).all() and windows[1].tolist() == [0, 0, size_hw[1], size_hw[0]]
    truth = torch.rand(5, *size_hw, generator=rng) > 0.5
    truth[0] = False
    assert torch.equal(iou_with(truth, whole, windows), pairwise_iou(whole > 0, truth))
    assert torch.equal(stability_of(whole, windows), stability_of(whole))
    assert run_lengths(whole, windows) == run_lengths(whole)


def test_windows_are_as_small_as_the_mask_lets_them_be() -> None:
    logits = torch.full((1, 1, 16, 16), -8.0)
    logits[0, 0, 4:8, 8:10] = 8.0
    (window,) = positive_windows(Masks(logits, torch.ones(1, 1), 64), (64, 64), PROTOCOLS["box_single@1"])  # type: ignore[misc]
    # Four pixels a cell, and the reach of the interpolation: half a cell and a bit.
    assert window.tolist() == [30, 14, 42, 34]


def test_masks_that_were_never_small_are_measured_whole() -> None:
    masks = ImageMasks(torch.ones(1, 1, 4, 6), torch.ones(1, 1))
    assert positive_windows(masks, (4, 6), PROTOCOLS["box_single@1"]) is None


def test_the_choice_measures_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of several prompts take their own windows along."""
    logits = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    masks = Masks(logits, torch.rand(7, 3, generator=torch.Generator().manual_seed(1)), 32)
    protocol = PROTOCOLS["point_best_of_3@1"]
    predictions = Predictions.__new__(Predictions)
    predictions.size_hw, predictions.candidates = (20, 30), lambda choice: masks  # type: ignore[method-assign]
    truth = torch.rand(7, 20, 30, generator=torch.Generator().manual_seed(2)) > 0.5
    monkeypatch.setattr("evaluation.preprocess.pixels_at_once", lambda device: 2 * 32 * 32)
    parts = list(choose(predictions, protocol, lambda place: truth[place]))
    assert [len(part.index) for part in parts] == [2, 2, 2, 1]
    for part in parts:
        assert part.windows is not None and part.iou is not None
        assert torch.equal(part.iou, pairwise_iou(part.logits > 0, truth[part.place]))
        assert torch.equal(stability_of(part.logits, part.windows), stability_of(part.logits))
