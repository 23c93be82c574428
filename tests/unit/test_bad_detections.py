"""Detection files that are wrong as a whole, or in places: refused by name, or counted while no other figure moves."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError
from data.coco import Coco
from data.detections import DETECTION_REASONS, Detections
from evaluation.average_precision.figures import average_precision
from evaluation.protocols import PROTOCOLS
from evaluation.scorer import Scorer
from tests.unit.test_detections import SIZES, entry
from tests.unit.tiny import tiny_sam
from tests.unit.truthful import drawn_labels, write_coco, write_detections

SINGLE = PROTOCOLS["detector_box_single@1"]


def refusal(path: Path, content: bytes, **arguments: Any) -> str:
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        Detections(path, SIZES, **arguments)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and ";" in message and len(message) < 1000
    return message


WRONG: dict[str, bytes] = {
    "is compressed by gzip; unpack it": gzip.compress(b"[]"),
    "the top level is not a list": b'{"annotations": []}',
    "not valid JSON": b'[{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3',
    "the key 'score' occurs twice": b'[{"image_id": 7, "category_id": 1, "bbox": [1,2,3,4], "score": 1, "score": 0}]',
    "entry 0: is a list": b"[[7, 1, 1, 2, 3, 4, 0.5]]",
    "entry 1: \"score\" is '0.5', not a number": json.dumps([entry(), entry(score="0.5")]).encode(),
    "entry 0: \"score\" is 'None'": json.dumps([entry(score=None)]).encode(),
    "entry 0: \"bbox\" is '[1, 2, 3]'": json.dumps([entry(box=[1, 2, 3])]).encode(),
    "entry 0: \"image_id\" is '7.0'": json.dumps([entry(7.0)]).encode(),  # type: ignore[arg-type]
    'entry 0: "image_id"': json.dumps([entry(2**64)]).encode(),
    "none of its 2 entries is of an image": json.dumps([entry(99), entry(98)]).encode(),
    "expecting value": b"[" * 10,
}


@pytest.mark.parametrize("problem", WRONG)
def test_wrong_files_are_refused_by_name(problem: str, tmp_path: Path) -> None:
    assert problem.lower() in refusal(tmp_path / "boxes.json", WRONG[problem]).lower()


def test_categories_numbered_otherwise_are_refused(tmp_path: Path) -> None:
    # As of a detector that counts its 80 classes from 0, while COCO's ids run to 90.
    path = tmp_path / "boxes.json"
    content = json.dumps([entry(category_id=1), entry(8, category_id=77), entry(category_id=0)]).encode()
    assert "entry 2: category 0 is not listed by the data set; give" in refusal(path, content, category_ids={1, 2})
    assert len(Detections(path, SIZES)) == 2, "without a list of categories there is nothing to compare with"
    path.write_text(json.dumps([entry(category_id=1), entry(8, category_id=77)]))
    assert len(Detections(path, SIZES, category_ids={1})) == 1, "an image that the data set lacks is counted as such"


def test_what_is_left_out_moves_no_figure(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "plain", drawn_labels(4))
    path = write_detections(tmp_path / "boxes.json", root)
    data = Coco(root)

    def figures() -> tuple[dict[str, float | None], dict[str, int], list[Any]]:
        detections = Detections(path, data.sizes_hw(), category_ids=data.category_ids)
        found = Scorer(tiny_sam(), [SINGLE], detections).score(data)
        records = found.detected(SINGLE.name)
        answers = [(r.image_id, r.category_id, r.score, r.counts, r.iou_pred) for r in records]
        return average_precision(data.truth(), [record.result() for record in records]), found.skipped, answers

    expected, skipped, answers = figures()
    assert not skipped and len(answers) == len(json.loads(path.read_text()))
    first = json.loads(path.read_text())[0]
    strange = [
        {**first, "image_id": 99},
        {**first, "score": float("nan")},
        {**first, "score": float("-inf")},
        {**first, "bbox": [1, 1, float("inf"), 3]},
        {**first, "bbox": [1, 1, 1e300, 3]},
        {**first, "bbox": [5, 5, -3, 4]},
        {**first, "bbox": [5, 5, 3, 0]},
        {**first, "bbox": [-50, 5, 3, 4]},
        {**first, "bbox": [5, 5000, 3, 4]},
    ]
    content = json.loads(path.read_text())
    # Between the others, so that their places change.
    mixed = [each for place, one in enumerate(content) for each in (*strange[place : place + 1], one)]
    assert len(mixed) == len(content) + len(strange)
    path.write_text(json.dumps(mixed))
    found, left_out, others = figures()
    assert found == expected and others == answers
    counts = (1, 4, 2, 2, 0)
    assert left_out == {reason: n for reason, n in zip(DETECTION_REASONS, counts, strict=True) if n}
