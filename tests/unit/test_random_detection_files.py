"""Detection files at random, wrong ones among them: a clear refusal, or every entry is accounted for once."""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from core.errors import InputError
from data.detections import Detections

SIZES = {12: (8, 10), 5: (20, 30), 9: (8, 10)}

numbers = st.sampled_from([0, 1, 2.5, 9, 10, 30, 40, -1, -50]) | st.floats(-20, 50) | st.floats() | st.just(10**400)
scores = st.sampled_from([0.1, 0.5, 0.5, 1]) | st.floats()
entries = st.fixed_dictionaries(
    {
        "image_id": st.sampled_from([12, 5, 9, 9, 4, -(2**63) + 1]),
        "category_id": st.integers(1, 3),
        "bbox": st.lists(numbers, min_size=4, max_size=4) | st.just([1, 2, 3, 4]),
        "score": scores,
    },
    optional={"segmentation": st.just({"size": [8, 10], "counts": "abc"}), "id": st.integers()},
)
flaws: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(("image_id", wrong) for wrong in ("9", 9.0, 2**63)),
        *(("category_id", wrong) for wrong in (None, True, -(2**70))),
        *(("bbox", wrong) for wrong in ([1, 2, 3], [1, 2, 3, "4"], {"x": 1})),
        *(("score", wrong) for wrong in ("0.5", True, [1])),
    ]
)


def plain(raw: dict[str, Any]) -> list[Any] | None:
    """What is to be kept of an entry - ``-score``, box, category - by the written rules; None if nothing."""
    try:
        x, y, width, height, score = (float(number) for number in (*raw["bbox"], raw["score"]))
    except OverflowError:
        return None
    if raw["image_id"] not in SIZES or not all(abs(number) <= 1e15 for number in (x, y, width, height, score)):
        return None
    listed_height, listed_width = SIZES[raw["image_id"]]
    right, bottom = x + width, y + height
    if not (x < right and y < bottom and x < listed_width and y < listed_height and right > 0 and bottom > 0):
        return None
    return [-score, [x, y, right, bottom], raw["category_id"]]


def stored(found: Detections, image_id: int) -> list[list[Any]]:
    boxes = found.of(image_id)
    parts = zip((-boxes.scores).tolist(), boxes.boxes_xyxy.tolist(), boxes.category_ids.tolist(), strict=True)
    return [list(part) for part in parts]


def read(content: object, top: int | None) -> Detections:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "boxes.json"
        path.write_text(json.dumps(content))
        return Detections(path, SIZES, top)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(content=st.lists(entries, max_size=12), top=st.none() | st.integers(1, 3), data=st.data())
def test_every_entry_is_accounted_for(content: list[dict[str, Any]], top: int | None, data: st.DataObject) -> None:
    assume(not content or any(raw["image_id"] in SIZES for raw in content))
    found = read(content, top)
    assert len(found) + sum(found.skipped.values()) == len(content)
    for image_id in SIZES:
        kept = [plain(raw) for raw in content if raw["image_id"] == image_id]
        # Stable: equal scores stay in the file's order.
        expected = sorted((each for each in kept if each is not None), key=lambda each: each[0])[:top]
        assert stored(found, image_id) == expected
        places = found.of(image_id).indices.tolist()
        assert [plain(content[place]) for place in places] == expected and len(set(places)) == len(places)
    again = read(data.draw(st.permutations(content)), top)
    assert again.skipped == found.skipped
    for image_id in SIZES:
        assert again.of(image_id).scores.tolist() == found.of(image_id).scores.tolist()
        assert top is not None or sorted(stored(again, image_id)) == sorted(stored(found, image_id))
    assert all(math.isfinite(number) for image_id in SIZES for number in found.of(image_id).boxes_xyxy.flat)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(content=st.lists(entries, min_size=1, max_size=4), flaw=flaws, remove=st.booleans(), data=st.data())
def test_a_flaw_is_refused_by_place_and_key(
    content: list[dict[str, Any]], flaw: tuple[str, Any], remove: bool, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(content) - 1))
    key, wrong = flaw
    content[place] = {name: each for name, each in content[place].items() if name != key}
    if not remove:
        content[place][key] = wrong
    try:
        read(content, None)
    except InputError as error:
        message = str(error)
        assert f'boxes.json: entry {place}: "{key}"' in message or f'entry {place}: the key "{key}"' in message
        assert "\n" not in message and ";" in message
    else:
        raise AssertionError("was not refused")
