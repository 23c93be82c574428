"""Run lengths and polygons at random: what is accepted is what pycocotools makes of it, and nothing else ends in C."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from core.errors import InputError
from data.annotations import LONGEST_OUTLINE, decode_rle, expand_counts, rle_area, to_rle

FAST = settings(max_examples=300, deadline=None, derandomize=True)
LONG = settings(FAST, max_examples=20_000)
WHERE = "instances.json: annotation 1"
sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))
letters = st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=24)
strings = letters | st.text(max_size=8) | st.binary(max_size=12)
whole = st.integers(-3, 160) | st.sampled_from([2**31, 2**32, 2**63, 10**30, -(2**63)])
lists = st.lists(whole | st.sampled_from([0.5, True, None, "1", [1]]), max_size=8)


@st.composite
def compressed(draw: st.DrawFn) -> tuple[tuple[int, int], Any]:
    """A size, and a valid string of it that may have been changed in one place."""
    size_hw = draw(sizes)
    bits = draw(st.lists(st.booleans(), min_size=size_hw[0] * size_hw[1], max_size=size_hw[0] * size_hw[1]))
    mask = np.asfortranarray(np.array(bits, np.uint8).reshape(size_hw))
    text: str = mask_api.encode(mask)["counts"].decode()
    place = draw(st.integers(0, len(text)))
    change = draw(st.sampled_from(["none", "insert", "remove", "write"]))
    letter = draw(st.characters(min_codepoint=48, max_codepoint=111))
    if change == "none":
        return size_hw, text
    return size_hw, text[:place] + (letter if change != "remove" else "") + text[place + (change != "insert") :]


def decoded(segmentation: object, size_hw: tuple[int, int]) -> np.ndarray | None:
    """The mask, or None where it was refused in one line."""
    try:
        rle = to_rle(segmentation, size_hw, WHERE)
    except InputError as error:
        assert str(error).startswith(WHERE) and "\n" not in str(error) and len(str(error)) < 300
        return None
    mask = decode_rle(rle)
    assert mask.shape == size_hw and rle_area(rle) == mask.sum()
    return mask


def strings_mean_what_they_say(size_hw: tuple[int, int], counts: Any) -> None:
    mask = decoded({"size": list(size_hw), "counts": counts}, size_hw)
    if mask is not None:
        runs = expand_counts(counts.encode() if isinstance(counts, str) else counts)
        assert runs is not None and (runs >= 0).all()
        plain = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        assert np.array_equal(mask, plain.reshape(size_hw[::-1]).T)


def lists_mean_what_they_say(size_hw: tuple[int, int], counts: list[Any]) -> None:
    mask = decoded({"size": list(size_hw), "counts": counts}, size_hw)
    whole_runs = all(type(count) is int and count >= 0 for count in counts)
    assert (mask is not None) == (whole_runs and sum(counts) == size_hw[0] * size_hw[1])


def polygons_are_drawn(size_hw: tuple[int, int], polygons: list[list[float]]) -> None:
    mask = decoded(polygons, size_hw)
    if mask is not None:
        judge = mask_api.decode(mask_api.merge(mask_api.frPyObjects(polygons, *size_hw)))
        assert np.array_equal(mask, judge.astype(bool))


coordinates = st.floats(-20, 30) | st.integers(-5, 15) | st.sampled_from([1e6, -1e6, 1e6 + 1, float("nan"), 1e308])
polygons = st.lists(st.lists(coordinates, max_size=12), max_size=3)


@FAST
@given(size_hw=sizes, counts=strings)
@example(size_hw=(3, 4), counts="\u00e9")
@example(size_hw=(3, 4), counts=b"oooooooo0")
@example(size_hw=(1, 1), counts="0100")
def test_any_string(size_hw: tuple[int, int], counts: Any) -> None:
    strings_mean_what_they_say(size_hw, counts)


@FAST
@given(case=compressed())
def test_changed_strings(case: tuple[tuple[int, int], Any]) -> None:
    strings_mean_what_they_say(*case)


@FAST
@given(size_hw=sizes, counts=lists)
@example(size_hw=(1, 1), counts=[True])
def test_any_list(size_hw: tuple[int, int], counts: list[Any]) -> None:
    lists_mean_what_they_say(size_hw, counts)


@FAST
@given(size_hw=sizes, polygons=polygons)
@example(size_hw=(4, 4), polygons=[[2**53, 0, 0, 1, 1, 1]])
def test_any_polygon(size_hw: tuple[int, int], polygons: list[list[float]]) -> None:
    polygons_are_drawn(size_hw, polygons)


@pytest.mark.slow
@LONG
@given(case=st.tuples(sizes, strings) | compressed())
def test_many_strings(case: tuple[tuple[int, int], Any]) -> None:
    strings_mean_what_they_say(*case)


@pytest.mark.slow
@LONG
@given(size_hw=sizes, counts=lists, polygons=polygons)
def test_many_lists_and_polygons(size_hw: tuple[int, int], counts: list[Any], polygons: list[list[float]]) -> None:
    lists_mean_what_they_say(size_hw, counts)
    polygons_are_drawn(size_hw, polygons)


def test_outlines_are_bounded_however_many_points() -> None:
    circle = np.linspace(0, 2 * np.pi, 1_000_000)
    fine = np.stack([50 + 30 * np.cos(circle), 50 + 30 * np.sin(circle)], 1).ravel().tolist()
    mask = decoded([fine], (100, 100))
    assert mask is not None and abs(mask.sum() - np.pi * 30**2) < 100
    assert decoded([[0, 0, 99, 99] * 200_000], (100, 100)) is None
    assert LONGEST_OUTLINE > 20 * 9_459, "twenty times across the largest image that is read"
