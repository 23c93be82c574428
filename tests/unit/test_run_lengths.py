"""Masks as run lengths: what strings stand for, and the shares of cells that masks cover without being drawn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from data.annotations import rle_boxes, to_rle
from data.batches import coverage_of, coverage_of_runs
from data.run_lengths import RunLengths, expand_all


def encoded(masks: NDArray[np.bool_]) -> list[bytes]:
    return [mask_api.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"] for mask in masks]


def runs(strings: list[bytes], size_hw: tuple[int, int]) -> RunLengths:
    counts, firsts, well_formed = expand_all(strings)
    assert well_formed.all()
    return RunLengths(counts, firsts, size_hw)


@settings(max_examples=80, deadline=None)
@given(
    masks=arrays.arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(1, 60), st.integers(1, 60))),
    # To a single cell PyTorch goes another way, and rounds otherwise.
    side=st.integers(2, 70),
    stretched=st.booleans(),
)
def test_any_masks_cover_as_if_they_were_drawn(masks: NDArray[np.bool_], side: int, stretched: bool) -> None:
    found = runs(encoded(masks), (masks.shape[1], masks.shape[2]))
    assert np.array_equal(found.masks(), masks) and found.areas().tolist() == masks.sum((1, 2)).tolist()
    rles = [{"size": masks.shape[1:], "counts": counts} for counts in encoded(masks)]
    assert found.boxes().tolist() == rle_boxes(rles).tolist()
    chosen = [len(masks) - 1, 0, len(masks) - 1]
    covered = coverage_of_runs(found, chosen, side, stretched)
    # The same bits, not only the same within 1e-6.
    assert torch.equal(covered, coverage_of(masks, chosen, side, stretched))


@pytest.mark.parametrize("size_hw", [(300, 450), (450, 300), (257, 1024), (512, 512), (40, 31)])
@pytest.mark.parametrize("side", [32, 256])
def test_polygons_crowds_and_large_runs_cover_as_if_they_were_drawn(size_hw: tuple[int, int], side: int) -> None:
    rng = np.random.default_rng(sum(size_hw) + side)
    height, width = size_hw
    corners = rng.uniform(-20, 1.1 * max(size_hw), (4, 14)).tolist()
    crowd = {"size": [height, width], "counts": [7, height, height * width - height - 7]}
    whole = {"size": [height, width], "counts": [0, height * width]}
    nothing = {"size": [height, width], "counts": [height * width]}
    rles = [to_rle(s, size_hw, "") for s in ([corners[0]], corners[1:3], [corners[3]], crowd, whole, nothing)]
    found = runs([rle["counts"] for rle in rles], size_hw)
    masks = np.stack([mask_api.decode(rle).astype(bool) for rle in rles])
    for stretched in (False, True):
        covered = coverage_of_runs(found, list(range(6)), side, stretched)
        assert torch.equal(covered, coverage_of(masks, list(range(6)), side, stretched))


def test_strings_are_read_together_as_they_are_alone() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 700, 900), dtype=bool)
    for mask in masks[:5]:
        top, left = rng.integers(0, 600, 2)
        mask[top : top + rng.integers(1, 600), left : left + rng.integers(1, 600)] = True
    masks[5, 5, 800] = True
    strings = encoded(masks)
    counts, firsts, well_formed = expand_all(strings)
    assert well_formed.all() and firsts[0] == 0 and firsts[-1] == len(counts)
    for place, string in enumerate(strings):
        alone, _, _ = expand_all([string])
        assert counts[firsts[place] : firsts[place + 1]].tolist() == alone.tolist()
    assert np.array_equal(RunLengths(counts, firsts, (700, 900)).only(np.array([5, 2])).masks(), masks[[5, 2]])


@pytest.mark.parametrize("bad", [b"", b"\xc3", b"o", b"oooooooo0", b"1 1", b"00o"])
def test_a_malformed_string_spoils_no_other(bad: bytes) -> None:
    counts, firsts, well_formed = expand_all([b"52", bad, b"07", bad])
    assert well_formed.tolist() == [True, False, True, False]
    assert counts.tolist() == [5, 2, 0, 0, 7, 0] and firsts.tolist() == [0, 2, 3, 5, 6]


def test_no_masks() -> None:
    found = runs([], (30, 40))
    assert len(found) == 0 and found.areas().tolist() == [] and found.masks().shape == (0, 30, 40)
    assert coverage_of_runs(found, [], 8).shape == (0, 8, 8)
