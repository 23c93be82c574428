"""Meta's ``SamPredictor`` against this project's, on the same random weights; and what ours can do beyond it."""

import pytest

pytest.importorskip("segment_anything", reason="segment_anything is not installed (sampress[test])")

from collections.abc import Callable
from typing import Any

import numpy as np
import segment_anything
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close

from core.errors import InputError
from core.protocols import Masks, Prompt
from evaluation.predictor import PROMPTS_AT_ONCE, SamPredictor
from teachers.sam import Sam
from tests.parity.test_segment_anything import CONFIG, GRID, close, meta_sam, randomise, resized_image

SIDE = 4 * GRID
SIZE = (90, 140)
XY, LABELS = np.array([[70, 40], [12, 80], [3, 5]]), np.array([1, 0, 1])
BOX = np.array([10, 20, 110, 75])
EARLIER = np.random.default_rng(5).normal(size=(1, SIDE, SIDE)).astype(np.float32)
PROMPTS: dict[str, dict[str, Any]] = {
    "a point": {"point_coords": XY[:1], "point_labels": LABELS[:1]},
    "points": {"point_coords": XY, "point_labels": LABELS},
    "a box": {"box": BOX},
    "a box with a dimension more": {"box": BOX[None]},
    "box and points": {"point_coords": XY, "point_labels": LABELS, "box": BOX},
    "mask": {"mask_input": EARLIER},
    "box, points and mask": {"point_coords": XY, "point_labels": LABELS, "box": BOX, "mask_input": EARLIER},
}


@pytest.fixture(scope="module")
def pair() -> tuple[Any, SamPredictor]:
    """Meta's predictor and ours, with one model's weights."""
    theirs, ours = meta_sam(), Sam(CONFIG).eval().requires_grad_(False)
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict())
    return segment_anything.SamPredictor(theirs), SamPredictor(ours)


@pytest.fixture
def ready(pair: tuple[Any, SamPredictor]) -> tuple[Any, SamPredictor]:
    """Both with the same image set."""
    for predictor in pair:
        predictor.set_image(resized_image(*SIZE))
    return pair


def agree(found: tuple[Any, ...], expected: tuple[Any, ...], logits: NDArray[np.float32]) -> None:
    """Equal types and shapes, and equal values but for rounding; a mask may differ where its logit is close to zero."""
    for ours, theirs in zip(found, expected, strict=True):
        assert type(ours) is type(theirs) and ours.dtype == theirs.dtype and ours.shape == theirs.shape
    close(torch.as_tensor(found[1]), torch.as_tensor(expected[1]))
    close(torch.as_tensor(found[2]), torch.as_tensor(expected[2]))
    if found[0].dtype in (np.bool_, torch.bool):
        assert (found[0] == expected[0])[np.abs(logits) > 1e-4].all()
    else:
        close(torch.as_tensor(found[0]), torch.as_tensor(expected[0]))


@pytest.mark.parametrize("multimask", [True, False], ids=["multi", "single"])
@pytest.mark.parametrize("kind", PROMPTS)
def test_a_prompt(ready: tuple[Any, SamPredictor], kind: str, multimask: bool) -> None:
    theirs, ours = ready
    logits = theirs.predict(**PROMPTS[kind], multimask_output=multimask, return_logits=True)
    masks = theirs.predict(**PROMPTS[kind], multimask_output=multimask)
    assert logits[0].std() > 0.01 and masks[0].shape == (3 if multimask else 1, *SIZE)
    agree(ours.predict(**PROMPTS[kind], multimask_output=multimask), masks, logits[0])
    agree(ours.predict(**PROMPTS[kind], multimask_output=multimask, return_logits=True), logits, logits[0])


def test_defaults_and_order_of_arguments(ready: tuple[Any, SamPredictor]) -> None:
    theirs, ours = ready
    logits = theirs.predict(XY, LABELS, BOX, EARLIER, False, True)
    agree(ours.predict(XY, LABELS, BOX, EARLIER, False, True), logits, logits[0])
    assert ours.predict(XY, LABELS)[0].shape == theirs.predict(XY, LABELS)[0].shape == (3, *SIZE)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("size_hw", [(90, 140), (300, 200), (64, 64), (128, 128), (31, 400)])
def test_images(pair: tuple[Any, SamPredictor], size_hw: tuple[int, int], image_format: str) -> None:
    theirs, ours = pair
    for predictor in pair:
        predictor.set_image(resized_image(*size_hw), image_format)
    close(ours.get_image_embedding(), theirs.get_image_embedding())
    assert (ours.original_size, ours.input_size) == (tuple(theirs.original_size), tuple(theirs.input_size))
    assert ours.is_image_set and ours.device == theirs.device
    box = np.array([0.1 * size_hw[1], 0.2 * size_hw[0], 0.8 * size_hw[1], 0.7 * size_hw[0]])
    logits = theirs.predict(box=box, return_logits=True)
    agree(ours.predict(box=box, return_logits=True), logits, logits[0])


def test_the_channels_matter(pair: tuple[Any, SamPredictor]) -> None:
    ours = pair[1]
    ours.set_image(resized_image(*SIZE), "BGR")
    swapped = ours.get_image_embedding()
    ours.set_image(resized_image(*SIZE)[..., ::-1])
    assert_close(ours.get_image_embedding(), swapped, rtol=0, atol=0)
    ours.set_image(resized_image(*SIZE))
    assert (ours.get_image_embedding() - swapped).abs().max() > 0.01


def test_an_answer_refines_the_next(ready: tuple[Any, SamPredictor]) -> None:
    theirs, ours = ready
    steps = []
    for predictor in (theirs, ours):
        low_res = predictor.predict(XY, LABELS, multimask_output=False)[2]
        steps.append(predictor.predict(XY, LABELS, mask_input=low_res, multimask_output=False, return_logits=True))
    agree(steps[1], steps[0], steps[0][0])


@pytest.mark.parametrize("kind", ["boxes", "points", "both"])
def test_tensors_in_the_frame(ready: tuple[Any, SamPredictor], kind: str) -> None:
    theirs, ours = ready
    # [2, 4], [2, 3, 2] and [2, 3]; whole numbers, as people give them
    boxes, points = torch.from_numpy(np.stack([BOX, BOX // 2])), torch.from_numpy(np.stack([XY, XY[::-1]]))
    labels = torch.tensor([[1, 0, -1], [1, 1, 0]])
    given = []
    for predictor in ready:
        corners = predictor.transform.apply_boxes_torch(boxes, SIZE)
        coords = predictor.transform.apply_coords_torch(points, SIZE)
        close(torch.as_tensor(predictor.transform.apply_boxes(boxes.numpy(), SIZE)).float(), corners)
        close(torch.as_tensor(predictor.transform.apply_coords(points.numpy(), SIZE)).float(), coords)
        with_points = kind != "boxes"
        given.append(
            (coords if with_points else None, labels if with_points else None, None if kind == "points" else corners)
        )
    assert_close(given[1], given[0])
    logits = theirs.predict_torch(*given[0], multimask_output=False, return_logits=True)
    agree(ours.predict_torch(*given[1], multimask_output=False, return_logits=True), logits, logits[0].numpy())
    logits = theirs.predict_torch(*given[0], return_logits=True)
    agree(ours.predict_torch(*given[1]), theirs.predict_torch(*given[0]), logits[0].numpy())
    assert logits[0].shape == (2, 3, *SIZE)


@pytest.mark.parametrize("size_hw", [(90, 140), (300, 200), (64, 64), (31, 400)])
def test_the_transform_is_metas(pair: tuple[Any, SamPredictor], size_hw: tuple[int, int]) -> None:
    theirs, ours = pair[0].transform, pair[1].transform
    image, boxes = resized_image(*size_hw), np.random.default_rng(3).uniform(0, 90, (5, 4))
    sizes = {type(transform).get_preprocess_shape(*size_hw, 64) for transform in (theirs, ours)}
    assert ours.target_length == theirs.target_length and len(sizes) == 1
    resized = ours.apply_image(image)
    assert resized.dtype == np.uint8 and max(resized.shape[:2]) == 128
    assert np.array_equal(resized, theirs.apply_image(image))
    places: dict[str, Any] = {
        "apply_coords": XY, "apply_boxes": boxes, "apply_coords_torch": torch.from_numpy(XY),
        "apply_boxes_torch": torch.from_numpy(boxes),
    }  # fmt: skip
    for name, given in places.items():
        before = torch.as_tensor(given).clone()
        expected, found = (getattr(transform, name)(given, size_hw) for transform in (theirs, ours))
        assert type(found) is type(expected) and found.dtype == expected.dtype
        assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=0, atol=0)
        assert torch.equal(torch.as_tensor(given), before), "what is given stays"


def test_tensors_are_resized_by_height_and_width(pair: tuple[Any, SamPredictor]) -> None:
    """segment_anything 1.0 takes the first two dimensions for height and width: equal where they are."""
    theirs, ours = pair[0].transform, pair[1].transform
    pixels = torch.rand(6, 9, 6, 9) * 255
    found = ours.apply_image_torch(pixels)
    assert_close(found, theirs.apply_image_torch(pixels), rtol=0, atol=0)
    assert found.shape == (6, 9, 85, 128)
    colours = torch.rand(2, 3, *SIZE)
    assert ours.apply_image_torch(colours).shape == (2, 3, 82, 128)
    image = resized_image(300, 200)
    smooth = ours.apply_image_torch(torch.from_numpy(image).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0)
    assert_close(smooth, torch.from_numpy(ours.apply_image(image)).float(), rtol=0, atol=1.5)


@pytest.mark.parametrize("kind", ["apply_image", "apply_image_torch"])
def test_an_image_that_is_resized_already(pair: tuple[Any, SamPredictor], kind: str) -> None:
    theirs, ours = pair
    pixels = torch.from_numpy(resized_image(*SIZE)).permute(2, 0, 1)[None]
    # uint8 [h, w, 3], as the official notebooks give it, and float32
    resized = torch.as_tensor(ours.transform.apply_image(resized_image(*SIZE))).permute(2, 0, 1)[None]
    if kind == "apply_image_torch":
        resized = ours.transform.apply_image_torch(pixels.float())
    for predictor in pair:
        predictor.set_image(resized_image(64, 64))
        predictor.set_torch_image(resized, SIZE)
    close(ours.get_image_embedding(), theirs.get_image_embedding())
    assert (ours.is_image_set, ours.original_size, ours.input_size) == (True, SIZE, tuple(theirs.input_size))
    logits = theirs.predict(box=BOX, return_logits=True)
    agree(ours.predict(box=BOX, return_logits=True), logits, logits[0])


def test_an_embedding_that_was_kept(ready: tuple[Any, SamPredictor]) -> None:
    """Programs that keep embeddings assign these four; the order differs from one to the next."""
    names = ["features", "original_size", "input_size", "is_image_set"]
    for order in (names, names[::-1]):
        answers = []
        for predictor in ready:
            predictor.set_image(resized_image(*SIZE))
            kept = {name: getattr(predictor, name) for name in order}
            predictor.set_image(resized_image(64, 64))
            predictor.is_image_set = False
            predictor.reset_image()
            for name, value in kept.items():
                setattr(predictor, name, list(value) if name.endswith("size") else value)
            answers.append(predictor.predict(box=BOX, return_logits=True))
        agree(answers[1], answers[0], answers[0][0])
    ours = ready[1]
    with pytest.raises(InputError, match=r"an image of \[90, 140\] \(h, w\) is \[82, 128\].* got \[128, 82\]"):
        ours.input_size = (128, 82)
    ours.original_sizes = []
    with pytest.raises(RuntimeError, match="features are set without original_size"):
        ours.predict(box=BOX)


def test_many_boxes_are_each_answered(ready: tuple[Any, SamPredictor]) -> None:
    theirs, ours = ready
    corners = np.random.default_rng(7).uniform(0, 90, (PROMPTS_AT_ONCE + 3, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    masks, iou, low_res = ours.predict(box=boxes, multimask_output=False)
    assert masks.shape == (len(boxes), 1, *SIZE) and masks.dtype == np.bool_
    assert iou.shape == (len(boxes), 1) and low_res.shape == (len(boxes), 1, SIDE, SIDE)
    for number in (0, PROMPTS_AT_ONCE - 1, PROMPTS_AT_ONCE, len(boxes) - 1):
        logits = theirs.predict(box=boxes[number], multimask_output=False, return_logits=True)
        expected = theirs.predict(box=boxes[number], multimask_output=False)
        agree((masks[number], iou[number], low_res[number]), expected, logits[0])
    points = ours.predict(np.stack([XY, XY + 5]), np.stack([LABELS, LABELS]), np.stack([BOX, BOX]))
    agree(
        tuple(part[0] for part in points),
        theirs.predict(XY, LABELS, BOX),
        theirs.predict(XY, LABELS, BOX, None, True, True)[0],
    )


SIZES = [(90, 140), (300, 200), (64, 64)]
REQUESTED = [
    Prompt(boxes_xyxy=torch.tensor([[5.0, 6.0, 60.0, 70.0], [20.0, 20.0, 130.0, 80.0]])),
    Prompt(points_xy=torch.tensor([[[50.0, 70.0], [10.0, 10.0]]]), labels=torch.tensor([[1, 0]])),
    Prompt(boxes_xyxy=torch.zeros(0, 4)),
]


@pytest.mark.parametrize("multimask", [True, False], ids=["multi", "single"])
def test_a_batch_equals_one_by_one(pair: tuple[Any, SamPredictor], multimask: bool) -> None:
    ours = pair[1]
    images = [resized_image(*size) for size in SIZES]
    ours.set_images(images)
    assert ours.get_image_embedding().shape[0] == 3 and ours.original_sizes == SIZES
    together = ours.predict_batch(REQUESTED, multimask_output=multimask)
    for image, prompt, answer in zip(images, REQUESTED, together, strict=True):
        ours.set_image(image)
        (alone,) = ours.predict_batch([prompt], multimask_output=multimask)
        close(answer.logits, alone.logits)
        close(answer.iou_pred, alone.iou_pred)
        candidates = 3 if multimask else 1
        assert answer.logits.shape == (len(prompt), candidates, SIDE, SIDE)
        assert answer.binary(image.shape[:2]).shape == (len(prompt), candidates, *image.shape[:2])
        if prompt.boxes_xyxy is not None and len(prompt):
            close(alone.logits, torch.from_numpy(ours.predict(box=prompt.boxes_xyxy, multimask_output=multimask)[2]))


def test_a_model_in_half_precision(pair: tuple[Any, SamPredictor]) -> None:
    half = Sam(CONFIG).eval().requires_grad_(False)
    half.load_state_dict(pair[1].model.state_dict())  # type: ignore[attr-defined]
    predictor = SamPredictor(half.to(torch.bfloat16))
    predictor.set_image(resized_image(*SIZE))
    assert predictor.get_image_embedding().dtype == torch.bfloat16
    masks, iou, low_res = predictor.predict(box=BOX)
    assert (masks.dtype, iou.dtype, low_res.dtype) == (np.bool_, np.float32, np.float32)


class Recorder:
    """A segmenter that is no module: it has neither parameters nor a decoder."""

    name, input_size = "recorder", 32

    def encode(self, images: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        return images[:, :1, ::8, ::8]

    def decode(self, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        assert torch.is_inference_mode_enabled() and embedding.shape == (1, 1, 4, 4)
        candidates = torch.ones(len(prompt), 3 if multimask else 1)
        return Masks(candidates[..., None, None].expand(-1, -1, 16, 16), candidates, 32)


def test_any_segmenter_will_do() -> None:
    predictor = SamPredictor(Recorder())
    predictor.set_image(resized_image(20, 40))
    assert predictor.device == torch.device("cpu") and predictor.input_size == (16, 32)
    assert predictor.predict(box=[1, 2, 10, 12])[0].all()


ASKING: dict[str, Callable[[SamPredictor], object]] = {
    "predict": lambda p: p.predict(box=BOX),
    "predict_torch": lambda p: p.predict_torch(None, None, torch.zeros(1, 4)),
    "predict_batch": lambda p: p.predict_batch(REQUESTED),
    "embedding": lambda p: p.get_image_embedding(),
    "size": lambda p: p.original_size,
    "input size": lambda p: p.input_size,
}


@pytest.mark.parametrize("name", ASKING)
def test_without_an_image(ready: tuple[Any, SamPredictor], name: str) -> None:
    theirs, ours = ready
    fresh = SamPredictor(ours.model)
    ours.reset_image()
    theirs.reset_image()
    for predictor in (ours, fresh):
        assert not predictor.is_image_set
        with pytest.raises(RuntimeError, match=r"no image is set; call set_image\(\.\.\.\) first"):
            ASKING[name](predictor)
    with pytest.raises(RuntimeError):
        theirs.predict(box=BOX)


def test_predict_wants_one_image(pair: tuple[Any, SamPredictor]) -> None:
    ours = pair[1]
    ours.set_images([resized_image(*SIZE), resized_image(64, 64)])
    with pytest.raises(RuntimeError, match="2 images are set; predict_batch"):
        ours.predict(box=BOX)
    with pytest.raises(InputError, match="3 prompts for 2 images"):
        ours.predict_batch(REQUESTED)
