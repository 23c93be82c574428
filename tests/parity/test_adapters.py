"""Wrapped predictors of other packages score as this project's model does with the same weights.

The worked examples behind ``docs/any_predictor.md``, whose own code runs here too. Images are wide, tall and square,
smaller and larger than the frame of 128 pixels; the packaged model is trained, so its masks are masks, not noise.
"""

import importlib.util

import pytest

pytest.importorskip("segment_anything", reason="segment_anything is not installed (sampress[test])")
if not importlib.util.find_spec("transformers"):
    pytest.skip("transformers is not installed (sampress[test])", allow_module_level=True)

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import segment_anything
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from benchmarks.everything import meta_sam
from core.protocols import ImageSegmenter, Segmenter
from data.detections import Detections
from data.sample import ImageSample
from data.shapes import Shapes
from data.shapes_export import write_data_set
from evaluation.adapters import PredictorSegmenter, TransformersSegmenter
from evaluation.metrics import mean_iou
from evaluation.predictor import SamPredictor
from evaluation.protocols import protocol_named
from evaluation.scorer import Scored, Scorer
from teachers.convert import hugging_face_config, to_hugging_face
from teachers.sam import Sam
from teachers.weights import load_sam

PAGE = Path(__file__).parents[2] / "docs" / "any_predictor.md"
DETECTED = ("detector_box_single@1", "detector_box_best_of_3@1")
COMPARED = ("box_single@1", "box_best_of_3@1", "point_best_of_3@1", "box_oracle@1", "clicks_3@1")
PROTOCOLS = [protocol_named(name) for name in (*COMPARED, *DETECTED)]


class SeveralSizes(Shapes):
    """Nine images whose longer sides are 90, 128 and 200 pixels; their places are their ids."""

    def __init__(self) -> None:
        super().__init__("validation", 9)
        self.sizes = [Shapes("validation", 9, size=size) for size in (90, 128, 200)]

    def image(self, index: int) -> NDArray[np.uint8]:
        return self.sizes[index % 3].image(index)

    def sample(self, index: int) -> ImageSample:
        return self.sizes[index % 3].sample(index)

    def image_id(self, index: int) -> int:
        return index

    def sizes_hw(self) -> dict[int, tuple[int, int]]:
        return {index: self.image(index).shape[:2] for index in range(len(self))}


DATA = SeveralSizes()


@pytest.fixture(scope="module")
def detections(tmp_path_factory: pytest.TempPathFactory) -> Detections:
    """Each object's box twice, moved at random, partly out of the image."""
    path = tmp_path_factory.mktemp("detector") / "detections.json"
    write_detections(path, DATA)
    return Detections(path, DATA.sizes_hw())


def write_detections(path: Path, data: Shapes) -> None:
    rng, found = np.random.default_rng(0), []
    for index in range(len(data)):
        for x0, y0, x1, y1 in data.sample(index).boxes_xyxy.repeat(2, 0) + rng.uniform(-3, 3, 4):
            bbox = [float(side) for side in (x0, y0, max(2, x1 - x0), max(2, y1 - y0))]
            found.append({"image_id": index, "category_id": 1, "bbox": bbox, "score": float(rng.random())})
    path.write_text(json.dumps(found))


@pytest.fixture(scope="module")
def ours() -> Sam:
    return load_sam("sam_pocket")


@pytest.fixture(scope="module")
def expected(ours: Sam, detections: Detections) -> Scored:
    """The records of this project's own model."""
    return scored(ours, detections)


def scored(model: Segmenter | ImageSegmenter, detections: Detections, **options: Any) -> Scored:
    return Scorer(model, PROTOCOLS, detections, **options).score(DATA)


def hub_model(ours: Sam) -> Any:
    # Here, so that no other process of the suite imports the package.
    from transformers import SamConfig as HubConfig
    from transformers import SamModel

    theirs = SamModel(HubConfig(**hugging_face_config(ours.config))).eval()
    theirs.load_state_dict(to_hugging_face(ours.config, ours.state_dict()))
    return theirs


WRAPPED = {
    "Meta's predictor": lambda ours: PredictorSegmenter(segment_anything.SamPredictor(meta_sam(ours))),
    "Meta's predictor, batched": lambda ours: PredictorSegmenter(
        segment_anything.SamPredictor(meta_sam(ours)), batched=True
    ),
    "transformers": lambda ours: TransformersSegmenter(hub_model(ours)),
    "our predictor": lambda ours: PredictorSegmenter(SamPredictor(ours)),
    "our predictor, batched": lambda ours: PredictorSegmenter(SamPredictor(ours), batched=True),
}


def assert_alike(found: Scored, expected: Scored) -> None:
    """The same candidates and figures; on some processor a pixel whose logit is near zero may fall on the other side.

    (Where this was written not one did: all masks were equal.)
    """
    ids = ("image_id", "annotation_id", "area", "mask_index", "category_id")
    for name in COMPARED:
        records, needed = found.instances(name), expected.instances(name)
        for key, tolerance in (("iou", 0.01), ("iou_pred", 1e-5), ("stability", 0.01)):
            values = ([getattr(record, key) for record in part] for part in (records, needed))
            np.testing.assert_allclose(*values, rtol=0, atol=tolerance)
        assert [[getattr(r, key) for key in ids] for r in records] == [[getattr(r, key) for key in ids] for r in needed]
        assert mean_iou(records)["miou"].value == pytest.approx(mean_iou(needed)["miou"].value, abs=1e-4)
    for name in DETECTED:
        for mask, truth in zip(found.detected(name), expected.detected(name), strict=True):
            assert (mask.image_id, mask.index, mask.score) == (truth.image_id, truth.index, truth.score)
            assert mask.mask_index == truth.mask_index
            runs = [[{"size": record.size, "counts": record.counts}] for record in (mask, truth)]
            assert mask.counts == truth.counts or mask_api.iou(*runs, [0])[0, 0] >= 0.99


SLOW = ("Meta's predictor", "Meta's predictor, batched", "our predictor")
"""What our predictor, which is as Meta's (tests/parity), shows too."""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else ()) for kind in WRAPPED]
)
def test_the_figures_are_our_models(kind: str, ours: Sam, expected: Scored, detections: Detections) -> None:
    assert_alike(scored(WRAPPED[kind](ours), detections, image_batch_size=4), expected)


def test_what_is_compared_is_worth_it(expected: Scored) -> None:
    for name in COMPARED:
        records = expected.instances(name)
        assert 0.5 < mean_iou(records)["miou"].value < 0.98 and len(records) > 30
        assert len({record.mask_index for record in records}) == (1 if name == "box_single@1" else 3)
    for name in DETECTED:
        # Both boxes of an object may give one mask.
        assert len({record.counts for record in expected.detected(name)}) > 30


class Shifted(SamPredictor):
    """Wrong by half a pixel."""

    def predict(self, *given: Any, **named: Any) -> Any:
        named |= {key: named[key] + 0.5 for key in ("box", "point_coords") if key in named}
        return super().predict(*given, **named)


@pytest.mark.slow
def test_the_comparison_can_fail(ours: Sam, expected: Scored, detections: Detections) -> None:
    with pytest.raises(AssertionError):
        assert_alike(scored(PredictorSegmenter(Shifted(ours)), detections), expected)


@pytest.mark.parametrize("wrapped", ["model", "reference", "both"])
def test_the_masks_of_a_reference_as_the_truth(ours: Sam, wrapped: str) -> None:
    theirs = PredictorSegmenter(segment_anything.SamPredictor(meta_sam(ours)))
    model, reference = ours if wrapped == "reference" else theirs, ours if wrapped == "model" else theirs
    protocols = [protocol_named("mobilesam@1")]
    found = Scorer(model, protocols, reference=reference).score(DATA, range(3)).instances("mobilesam@1")
    assert len(found) > 5 and min(record.iou for record in found) >= 0.99


def test_a_model_of_transformers_in_half_precision(ours: Sam, expected: Scored) -> None:
    model = TransformersSegmenter(hub_model(ours).to(torch.bfloat16))
    found = Scorer(model, [protocol_named(name) for name in COMPARED[:3]]).score(DATA, range(3))
    for name in COMPARED[:3]:
        of_ours = [record for record in expected.instances(name) if record.image_id < 3]
        values = [mean_iou(records)["miou"].value for records in (found.instances(name), of_ours)]
        assert values[0] != values[1] and values[0] == pytest.approx(values[1], abs=0.02)


def test_the_page(ours: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Shapes("validation", 4)
    write_data_set(data, tmp_path)
    write_detections(tmp_path / "detections.json", data)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    of_each = []
    for predictor in (segment_anything.SamPredictor(meta_sam(ours)), SamPredictor(ours)):
        names: dict[str, Any] = {"predictor": predictor}
        exec(code, names)
        of_each.append(names["figures"])
    assert of_each[0] == pytest.approx(of_each[1], abs=1e-4)
    assert set(of_each[0]) == {"box_single@1", "point_best_of_3@1", "AP"}
    assert all(0 < value < 1 for value in of_each[0].values())


def test_every_name_on_the_page_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:core|evaluation)/\w+\.py)`", text):
        assert (PAGE.parents[1] / path).is_file()
    for name in re.findall(r"`(\w+@\d)`", text):
        assert protocol_named(name).name == name
