"""What the predictor refuses: images, prompts as arrays and as tensors, each in one line that says what is right."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import InputError
from core.protocols import Masks, Prompt
from evaluation.predictor import SamPredictor

SIZE, FRAME, SIDE = (90, 140), 128, 32
XY, LABELS, BOX = np.array([[70, 40], [12, 80], [3, 5]]), np.array([1, 0, 1]), np.array([10, 20, 110, 75])
EARLIER = np.zeros((1, SIDE, SIDE), np.float32)


class Undecoded:
    """A segmenter whose decoder is never reached."""

    name, input_size = "undecoded", FRAME

    def encode(self, images: Tensor) -> Tensor:
        return images[:, :1, ::16, ::16]

    def decode(self, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        raise AssertionError(f"{prompt} was taken")


@pytest.fixture
def kept() -> SamPredictor:
    """With an image set."""
    predictor = SamPredictor(Undecoded())
    predictor.set_image(np.full((*SIZE, 3), 7, np.uint8))
    return predictor


def blank(*shape: int, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.zeros(shape, dtype)


POINTS = torch.from_numpy(XY)[None], torch.from_numpy(LABELS)[None]
WRONG: list[tuple[Callable[[SamPredictor], object], str]] = [
    (lambda p: p.set_image(blank(8, 8, 3, dtype=np.float32)), r"uint8 \[H, W, 3\].*got float32 \[8, 8, 3\]"),
    (lambda p: p.set_image(blank(8, 8)), r"uint8 \[H, W, 3\].*got uint8 \[8, 8\]"),
    (lambda p: p.set_image(blank(8, 8, 4)), r"got uint8 \[8, 8, 4\]"),
    (lambda p: p.set_image(blank(0, 8, 3)), r"got uint8 \[0, 8, 3\]"),
    (lambda p: p.set_image(cast(Any, torch.zeros(3, 8, 8))), "numpy array uint8 .*got Tensor"),
    (lambda p: p.set_image(blank(8, 8, 3), "rgb"), "image_format must be RGB or BGR, got rgb"),
    (lambda p: p.set_images([]), "no image is given"),
    (lambda p: p.set_images([blank(8, 8, 3), blank(8, 8)]), r"got uint8 \[8, 8\]"),
    (lambda p: p.predict(), "no prompt is given; give point_coords"),
    (lambda p: p.predict(point_labels=LABELS), "point_labels are given without point_coords"),
    (lambda p: p.predict(point_coords=XY), "point_coords are given without point_labels"),
    (lambda p: p.predict(XY, LABELS[:2]), r"one label a point, got \[2\] for points \[3, 2\]; give \[3\]"),
    (lambda p: p.predict(XY[0], LABELS[:1]), r"point_coords must be \[P, 2\] or \[N, P, 2\], got \[2\]"),
    (lambda p: p.predict(np.zeros((3, 3)), LABELS), r"point_coords must be .* got \[3, 3\]"),
    (lambda p: p.predict(XY, [1, 0, 2]), r"1 \(foreground\), 0 \(background\) or -1 \(padding\), got 2"),
    (lambda p: p.predict(XY, ["a", "b", "c"]), "point_labels must be a numpy array of numbers"),
    (lambda p: p.predict(box=[1, 2, 3]), r"box must be 4 numbers.*got \[3\]"),
    (lambda p: p.predict(box=5), r"box must be 4 numbers.*got \[\]"),
    (lambda p: p.predict(box=[[1, 2], [3, 4]]), r"box must be 4 numbers.*got \[2, 2\]"),
    (lambda p: p.predict(box=[[1, 2], [3]]), "box must be a numpy array of numbers, all rows equally long"),
    (lambda p: p.predict(box=[1, 2, np.nan, 4]), "box holds a number that is not finite"),
    (lambda p: p.predict(box=np.zeros((0, 4))), "box holds no prompt"),
    (lambda p: p.predict(XY, LABELS, box=np.stack([BOX, BOX])), "one number of prompts, got point_coords 1, box 2"),
    (lambda p: p.predict(mask_input=np.zeros((1, 256, 256))), rf"\[1, {SIDE}, {SIDE}\].*got \[1, 256, 256\]"),
    (lambda p: p.predict(mask_input=EARLIER[0]), rf"mask_input must be .*got \[{SIDE}, {SIDE}\]"),
    (lambda p: p.predict(np.zeros((0, 2)), np.zeros(0)), "point_coords holds no prompt"),
    (lambda p: p.predict_batch([]), "0 prompts for 1 images"),
    (lambda p: p.predict_torch(None, None), "no prompt is given; give point_coords and point_labels, boxes"),
    (lambda p: p.predict_torch(None, None, torch.zeros(0, 4)), "boxes holds no prompt; give at least one"),
    (lambda p: p.predict_torch(None, None, torch.zeros(4)), r"boxes must be \[N, 4\].*, got \[4\]"),
    (lambda p: p.predict_torch(None, None, torch.tensor([[1, 2, torch.nan, 4]])), "boxes holds .* not finite"),
    (lambda p: p.predict_torch(*POINTS, torch.zeros(2, 4)), "prompts, got point_coords 1, boxes 2"),
    (lambda p: p.predict_torch(POINTS[0], POINTS[1] + 7), r"1 \(foreground\), 0 .* got [78]"),
    (lambda p: p.predict_torch(POINTS[0][0], POINTS[1][0]), r"point_coords must be \[N, P, 2\], got \[3, 2\]"),
    (lambda p: p.predict_torch(POINTS[0] * torch.inf, POINTS[1]), "point_coords holds .* not finite"),
    (lambda p: p.predict_torch(POINTS[0], POINTS[1][:, :2]), r"one label a point, got \[1, 2\] for points \[1, 3, 2\]"),
    (lambda p: p.predict_torch(POINTS[0], None), "point_coords are given without point_labels"),
    (
        lambda p: p.predict_torch(None, None, None, torch.zeros(1, SIDE, SIDE)),
        r"mask_input must be \[N, 1, .* predict_tor",
    ),
    (lambda p: p.set_torch_image(torch.zeros(3, 82, 128), SIZE), r"must be \[1, 3, h, w\], got \[3, 82, 128\]"),
    (
        lambda p: p.set_torch_image(torch.zeros(1, 3, 128, 82), SIZE),
        r"is \[82, 128\] in a frame of 128, got \[128, 82\]",
    ),
    (lambda p: p.transform.apply_image(blank(8, 8)), r"uint8 \[H, W, 3\].*got uint8 \[8, 8\]"),
    (
        lambda p: p.transform.apply_image_torch(torch.zeros(3, 8, 8)),
        r"\[B, C, H, W\], got \[3, 8, 8\]; image\[None\] adds B",
    ),
]


@pytest.mark.parametrize(("call", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_is_wrong_is_said(kept: SamPredictor, call: Callable[[SamPredictor], object], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        call(kept)
    assert "\n" not in str(caught.value)
    assert kept.original_size == SIZE, "what was set before stays"
