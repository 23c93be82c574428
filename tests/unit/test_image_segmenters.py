"""Models that are given images instead of frames: what a pass hands them, and what it refuses."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.errors import InputError
from core.protocols import ImageMasks, ImageSegmenter, Masks, Prompt, Segmenter, device_of
from data.detections import Detections
from data.images import to_frame
from evaluation import preprocess
from evaluation.adapters import PredictorSegmenter, TransformersSegmenter
from evaluation.predictor import SamPredictor
from evaluation.protocols import PROTOCOLS, ScoringProtocol, protocol_named
from evaluation.scorer import Scored, Scorer
from teachers.sam import Sam
from tests.unit.tiny import LabelledImages, tiny_sam

REQUESTED = [
    PROTOCOLS[f"{name}@1"]
    for name in ("box_single", "box_oracle", "box_jittered", "point_best_of_3", "clicks_3", "detector_box_single")
] + [PROTOCOLS["mobilesam@1"], ScoringProtocol(name="of_4", choice="best_of_4")]


class Images(LabelledImages):
    """Seven images with ids; one has no instances."""

    def __init__(self) -> None:
        super().__init__(7)

    def image_id(self, index: int) -> int:
        return index


DATA = Images()


@dataclass
class Taking:
    """A frame's model that is given images, and answers in its frame."""

    inner: Sam
    name: str = "taking"
    seen: list[tuple[int, ...]] = field(default_factory=list)

    def encode_image(self, image: NDArray[np.uint8]) -> dict[str, Any]:
        assert image.dtype == np.uint8
        self.seen.append(image.shape)
        return {"embedding": self.inner.encode(to_frame(image, self.inner.input_size)[None])}

    def decode(self, embedding: Any, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        return self.inner.decode(embedding["embedding"], prompt, size_hw, multimask)


@pytest.fixture
def detections(tmp_path: Path) -> Detections:
    boxes = [[3.0, 4.0, 30.0, 30.0], [0.0, 10.0, 15.0, 20.0], [5.0, 5.0, 9.0, 50.0]]
    found = [
        {"image_id": index, "category_id": 1, "bbox": box, "score": 0.1 * place}
        for index in range(len(DATA))
        for place, box in enumerate(boxes)
    ]
    (tmp_path / "found.json").write_text(json.dumps(found))
    sizes = {index: DATA.image(index).shape[:2] for index in range(len(DATA))}
    return Detections(tmp_path / "found.json", sizes)


def scored(model: Any, detections: Detections, **options: Any) -> Scored:
    reference = options.pop("reference", tiny_sam(1))
    return Scorer(model, REQUESTED, detections, reference, **options).score(DATA)


@pytest.mark.parametrize(
    "options",
    [
        {"image_batch_size": 3, "prompt_batch_size": 2},
        *(pytest.param(o, marks=pytest.mark.slow) for o in ({}, {"workers": 1})),
    ],
    ids=str,
)
def test_images_score_as_frames_do(detections: Detections, options: dict[str, Any]) -> None:
    model = Taking(tiny_sam())
    assert isinstance(model, ImageSegmenter) and not isinstance(model, Segmenter)
    # Frames that are encoded together differ by rounding; images are encoded one by one.
    alone = {**options, "image_batch_size": 1}
    expected = scored(tiny_sam(), detections, **alone)
    assert scored(model, detections, **options).records == expected.records
    assert scored(model, detections, **options, reference=Taking(tiny_sam(1))).records == expected.records
    assert scored(tiny_sam(), detections, **alone, reference=Taking(tiny_sam(1))).records == expected.records
    assert len(expected.detected("detector_box_single@1")) >= 18 and len(expected.instances("box_single@1")) == 12


def test_each_image_is_encoded_once_and_only_where_there_is_something_to_score() -> None:
    model = Taking(tiny_sam())
    protocols = [PROTOCOLS["box_single@1"], PROTOCOLS["point_best_of_3@1"]]
    Scorer(model, protocols, image_batch_size=2).score(DATA)
    with_instances = [index for index in range(len(DATA)) if len(DATA.sample(index).masks)]
    assert model.seen == [DATA.image(index).shape for index in with_instances]
    assert len(with_instances) == 6


def test_boxes_of_a_detector_alone_need_no_annotations(detections: Detections) -> None:
    model, protocols = Taking(tiny_sam()), [protocol_named("detector_box_single")]
    found = Scorer(model, protocols, detections).score(DATA)
    assert len(found.detected("detector_box_single@1")) == 3 * len(model.seen) == 3 * len(DATA)


def test_in_this_process_without_files(detections: Detections) -> None:
    protocols = [protocol for protocol in REQUESTED if not protocol.is_detected and protocol.truth == "original"]
    assert (
        Scorer(Taking(tiny_sam()), protocols).score(DATA).records == Scorer(tiny_sam(), protocols).score(DATA).records
    )


OWN_FRAMES = [
    PROTOCOLS["edgesam@2"],
    PROTOCOLS["nanosam@2"],
    ScoringProtocol(name="direct", upscaling="direct"),
    ScoringProtocol(name="framed", truth="frame"),
    ScoringProtocol(name="found", prompt="detector_box", resize="tensor"),
]


@pytest.mark.parametrize("protocol", OWN_FRAMES, ids=lambda protocol: protocol.name)
def test_protocols_that_prescribe_the_frame_are_refused(protocol: ScoringProtocol, detections: Detections) -> None:
    asks: list[Callable[[], object]] = [
        lambda: Scorer(Taking(tiny_sam()), [PROTOCOLS["box_single@1"], protocol], detections)
    ]
    if not protocol.is_detected:
        asks.append(lambda: Scorer(Taking(tiny_sam()), [protocol]).score(DATA).records)
    for ask in asks:
        with pytest.raises(InputError, match=rf"{protocol.name}: \w+=\w+ needs a model that is given frames, .*taking"):
            ask()
    Scorer(tiny_sam(), [protocol], detections)


@dataclass
class Predictor:
    """Predicts boxes and squares around points; what it answers can be bent."""

    size_hw: tuple[int, int] = (0, 0)
    set_times: int = 0
    requested: list[dict[str, Any]] = field(default_factory=list)
    bend: Callable[[NDArray[Any], NDArray[Any]], tuple[Any, Any]] = lambda masks, iou: (masks, iou)

    def set_image(self, image: NDArray[np.uint8]) -> None:
        self.size_hw = image.shape[:2]
        self.set_times += 1

    def predict(
        self,
        point_coords: NDArray[Any] | None = None,
        point_labels: NDArray[Any] | None = None,
        box: NDArray[Any] | None = None,
        multimask_output: bool = True,
    ) -> tuple[Any, Any, None]:
        self.requested.append({"point_coords": point_coords, "point_labels": point_labels, "box": box})
        if box is None:
            assert point_coords is not None and point_labels is not None
            assert point_coords.shape == (len(point_labels), 2)
            box = np.concatenate([point_coords[0] - 5, point_coords[0] + 6])
        x, y = np.arange(self.size_hw[1])[None], np.arange(self.size_hw[0])[:, None]
        mask = (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
        masks = np.stack([mask, ~mask, mask & (x % 2 == 0)])[: 3 if multimask_output else 1]
        return *self.bend(masks, np.array([0.9, 0.1, 0.5])[: len(masks)]), None


class Logits(Predictor):
    """The same as logits, to be cut at 0.5."""

    mask_threshold = 0.5

    def predict(self, *given: Any, return_logits: bool = False, **named: Any) -> tuple[Any, Any, None]:
        masks, iou, _ = super().predict(*given, **named)
        return (masks * 4.0 - 1.5) if return_logits else masks, iou, None


def test_a_predictor_that_fills_boxes_is_right_about_rectangles() -> None:
    predictor = Predictor()
    model = PredictorSegmenter(predictor, "boxes")
    protocols = [PROTOCOLS[name] for name in ("box_single@1", "box_best_of_3@1", "clicks_3@1")]
    records = Scorer(model, protocols, image_batch_size=4).score(DATA).records
    assert {record.iou for name in ("box_single@1", "box_best_of_3@1") for record in records[name]} == {1.0}
    assert {record.mask_index for record in records["box_best_of_3@1"]} == {0}
    assert [record.iou_pred for record in records["box_single@1"]] == pytest.approx([0.9] * 12)
    # No logits, no stability.
    assert all(np.isnan(record.stability) for part in records.values() for record in part)
    assert predictor.set_times == 6, "an image is set once however many are kept"
    count = len(records["box_single@1"])
    # Every box once for one and once for three candidates, each click once.
    assert len(predictor.requested) == 5 * count
    assert {len(requested["point_labels"]) for requested in predictor.requested if requested["box"] is None} == {
        1,
        2,
        3,
    }


def test_logits_are_cut_at_the_predictors_threshold() -> None:
    both = [PredictorSegmenter(kind()) for kind in (Predictor, Logits)]
    protocols = [PROTOCOLS["point_best_of_3@1"]]
    plain, cut = (Scorer(model, protocols).score(DATA).records["point_best_of_3@1"] for model in both)
    assert [record.iou for record in plain] == [record.iou for record in cut]
    assert {record.stability for record in cut} == {1.0}
    prompt = Prompt(boxes_xyxy=torch.tensor([[1.0, 2.0, 9.0, 9.0]]))
    answer = both[1].decode(both[1].encode_image(DATA.image(0)), prompt, (64, 64))
    assert answer.logits.unique().tolist() == [-2.0, 2.0]


def test_tensors_will_do_as_well_as_arrays() -> None:
    found = PredictorSegmenter(Predictor(bend=lambda masks, iou: (torch.from_numpy(masks), torch.from_numpy(iou))))
    assert Scorer(found, [PROTOCOLS["box_oracle@1"]]).score(DATA).records["box_oracle@1"][0].iou == 1.0


BENT = {
    r"masks \[1, 63, 64\] on an image of \[64, 64\]; give": lambda masks, iou: (masks[:, 1:], iou),
    r"masks \[64, 64\] on an image": lambda masks, iou: (masks[0], iou),
    r"masks \[2, 64, 64\] for multimask_output=False": lambda masks, iou: (masks.repeat(2, 0), iou.repeat(2)),
    r"masks \[1, 64, 64\] with predicted IoUs \[2\]": lambda masks, iou: (masks, iou.repeat(2)),
    r"values other than 0 and 1; give bool masks": lambda masks, iou: (masks * 0.5, iou),
}


@pytest.mark.parametrize("said", BENT)
def test_an_answer_of_another_form_is_refused(said: str) -> None:
    model = PredictorSegmenter(Predictor(bend=BENT[said]), "bent")
    with pytest.raises(InputError, match=f"bent: predict gave .*{said}") as caught:
        Scorer(model, [PROTOCOLS["box_single@1"]]).score(DATA)
    assert "\n" not in str(caught.value)


def test_masks_of_zeros_and_ones_in_any_type() -> None:
    for dtype in (np.uint8, np.float32, np.int64):
        model = PredictorSegmenter(Predictor(bend=lambda masks, iou, dtype=dtype: (masks.astype(dtype), iou)))
        records = Scorer(model, [PROTOCOLS["box_single@1"]]).score(DATA).records["box_single@1"]
        assert {record.iou for record in records} == {1.0} and np.isnan(records[0].stability)


def test_objects_that_cannot_be_wrapped() -> None:
    with pytest.raises(InputError, match="mine: object has no set_image; give an object that has it"):
        PredictorSegmenter(object(), "mine")
    with pytest.raises(InputError, match="Predictor has no predict_torch; leave batched out"):
        PredictorSegmenter(Predictor(), batched=True)
    with pytest.raises(InputError, match=r"Sam is not like transformers\.SamModel; give such a model"):
        TransformersSegmenter(tiny_sam())


def test_the_device_is_the_models() -> None:
    assert device_of(PredictorSegmenter(Predictor())) == torch.device("cpu")
    assert device_of(PredictorSegmenter(SamPredictor(tiny_sam().to("meta")))) == torch.device("meta")


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_answers_of_the_original_size_are_few_at_a_time(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "PIXELS_AT_ONCE", {"cpu": 2 * 4 * 64 * 64})
    assert preprocess.most_prompts(tiny_sam(), (64, 64)) is None
    stored = []

    class Counting(PredictorSegmenter):
        def decode(self, embedding: Any, prompt: Prompt, *requested: Any) -> ImageMasks:
            height, width = embedding.image.shape[:2]
            stored.append(len(prompt) * height * width)
            return super().decode(embedding, prompt, *requested)

    records = (
        Scorer(Counting(Predictor()), [PROTOCOLS["box_single@1"]], prompt_batch_size=batch)
        .score(DATA)
        .records["box_single@1"]
    )
    assert max(stored) <= 2 * 64 * 64 and {record.iou for record in records} == {1.0}


def test_a_mask_as_a_prompt() -> None:
    sam = tiny_sam()
    model, image = PredictorSegmenter(SamPredictor(sam)), DATA.image(0)
    earlier = torch.randn(2, 1, 16, 16)
    prompt = Prompt(boxes_xyxy=torch.tensor([[3.0, 4.0, 40.0, 50.0], [0.0, 0.0, 20.0, 20.0]]), mask_logits=earlier)
    found = model.decode(model.encode_image(image), prompt, (64, 64), True)
    needed = sam.decode(sam.encode(to_frame(image, 64)[None]), prompt, (64, 64), True)
    torch.testing.assert_close(found.iou_pred, needed.iou_pred)
    torch.testing.assert_close(
        found.logits, preprocess.upscale_logits(needed.logits, (64, 64), 64), rtol=1e-3, atol=1e-3
    )
