"""Segmentations in every form, and every way they can be wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as mask_api

from core.errors import InputError
from data.annotations import check_segmentation, decode_rle, decode_segmentation, expand_counts, rle_area, to_rle

WHERE = "instances.json: annotation 17"
SQUARE = [1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0]
masks = arrays.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))


def runs_of(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, beginning with zeros: the definition, written plainly."""
    runs, current = [0], False
    for pixel in mask.flatten(order="F").tolist():
        if pixel != current:
            runs.append(0)
            current = pixel
        runs[-1] += 1
    return runs


@settings(max_examples=60, deadline=None)
@given(mask=masks)
def test_every_rle_form_round_trips(mask: np.ndarray) -> None:
    size_hw = (mask.shape[0], mask.shape[1])
    compressed = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    counts = expand_counts(compressed)
    assert counts is not None and counts.tolist() == runs_of(mask)
    for form in (compressed, compressed.decode(), runs_of(mask)):
        segmentation = {"size": list(size_hw), "counts": form}
        assert np.array_equal(decode_segmentation(segmentation, size_hw, WHERE), mask)
        assert rle_area(to_rle(segmentation, size_hw, WHERE)) == mask.sum()


@settings(max_examples=200, deadline=None)
@given(text=st.binary(max_size=12))
def test_any_bytes_are_decoded_or_refused(text: bytes) -> None:
    try:
        mask = decode_segmentation({"size": [3, 4], "counts": text}, (3, 4), WHERE)
    except InputError:
        return
    assert mask.shape == (3, 4)


def test_counts_that_are_no_text_are_malformed() -> None:
    with pytest.raises(InputError, match="malformed counts string"):
        check_segmentation({"size": [2, 2], "counts": "\ud800"}, (2, 2), WHERE)


def test_long_runs_and_differences_below_zero() -> None:
    mask = np.zeros((700, 900), dtype=bool)
    mask[:, 100:700] = True
    mask[5, 800] = True
    compressed = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    counts = expand_counts(compressed)
    assert counts is not None and counts.tolist() == runs_of(mask)


def test_polygon_equals_its_rle() -> None:
    mask = decode_segmentation([SQUARE], (6, 8), WHERE)
    expected = np.zeros((6, 8), dtype=bool)
    expected[1:4, 1:5] = True
    assert mask.dtype == np.bool_ and np.array_equal(mask, expected)
    assert np.array_equal(decode_rle(to_rle([SQUARE], (6, 8), WHERE)), expected)


def test_polygons_of_one_object_are_united() -> None:
    other = [4.0, 2.0, 7.0, 2.0, 7.0, 6.0]
    both = decode_segmentation([SQUARE, other], (6, 8), WHERE)
    parts = [decode_segmentation([polygon], (6, 8), WHERE) for polygon in (SQUARE, other)]
    assert np.array_equal(both, parts[0] | parts[1])


REFUSED = {
    "polygon with 2 points": [[1, 1, 2, 2]],
    "polygon with 0 points": [[]],
    "without polygons": [],
    "odd number of coordinates (7)": [[1, 1, 2, 2, 3, 3, 4]],
    "not a number": [[1, 1, 2, 2, 3, float("nan")]],
    "infinite": [[1, 1, 2, 2, 3, float("inf")]],
    "beyond any image": [[1, 1, 2, 2, 3, 1e9]],
    "not numbers": [["1", "1", "2", "2", "3", "3"]],
    "no flat list": [[[1, 1], [2, 2], [3, 3]]],
    "no flat list x, y": [[1, [1], 2, 2, 3, 3]],
    "no flat list x, y, x": [{"x": 1}],
    "type NoneType": None,
    "type str": "1 1 2 2 3 3",
    'RLE without "size"': {"counts": [12]},
    'RLE without "counts"': {"size": [3, 4]},
    "of size [4, 3] on an image of size [3, 4]": {"size": [4, 3], "counts": [12]},
    "of size 12 on": {"size": 12, "counts": [12]},
    "add up to 11 of 12": {"size": [3, 4], "counts": [5, 6]},
    "add up to 0 of 12": {"size": [3, 4], "counts": []},
    "not whole numbers of at least 0": {"size": [3, 4], "counts": [-1, 13]},
    "not whole numbers of at": {"size": [3, 4], "counts": [6.0, 6.0]},
    "not whole numbers": {"size": [3, 4], "counts": [10**30]},
    "malformed counts string": {"size": [3, 4], "counts": "\u00e9"},
    "malformed counts": {"size": [3, 4], "counts": ""},
    "malformed": {"size": [3, 4], "counts": b"\x6f"},
    "malformed counts s": {"size": [3, 4], "counts": b"oooooooo0"},
    "add up to 1 of": {"size": [3, 4], "counts": "1"},
    "counts of type NoneType": {"size": [3, 4], "counts": None},
}


@pytest.mark.parametrize("problem", REFUSED)
def test_malformed_segmentations_are_refused(problem: str) -> None:
    for function in (check_segmentation, decode_segmentation):
        with pytest.raises(InputError) as caught:
            function(REFUSED[problem], (3, 4), WHERE)
        message = str(caught.value)
        assert message.startswith(f"{WHERE}: ") and problem in message
        assert message.endswith("; correct the annotation or remove it") and "\n" not in message
