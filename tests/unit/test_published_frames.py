"""How NanoSAM's evaluation brings images, prompts and answers into and out of the frame, by its formulas."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from core.geometry import PIXEL_MEAN, PIXEL_STD, Stretched, resized_size
from core.protocols import Masks, Prompt
from evaluation.preprocess import placed_prompt, positive_windows, preprocess, upscaled
from evaluation.protocols import PROTOCOLS

NANOSAM = PROTOCOLS["nanosam@2"]
SIZES = [(427, 640), (640, 427), (333, 500), (64, 64), (1500, 1001)]
"""``(h, w)``; of the first, 170 rows of 256 hold the image by NanoSAM's rounding, 171 by SAM's."""


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_images_are_made_smaller_by_pillow_s_usual_kernel(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    shape = (1024, math.floor(1024 * height / width)) if width >= height else (math.floor(1024 * width / height), 1024)
    pixels = torch.from_numpy(np.array(Image.fromarray(image).resize(shape))).permute(2, 0, 1).float()
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    expected = F.pad((pixels - mean) / std, (0, 1024 - shape[0], 0, 1024 - shape[1]))
    torch.testing.assert_close(preprocess(image, 1024, NANOSAM.preprocessing), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_prompts_are_scaled_by_the_longer_side_alone(height: int, width: int) -> None:
    box, point = torch.tensor([[3.0, 5.0, 60.0, 41.0]]), torch.tensor([[[7.0, 9.0]]])
    placed = placed_prompt(Prompt(box, point, torch.ones(1, 1)), (height, width), 1024, "floor")
    # What a segmenter does with it: both sides by what they were rounded to.
    rows, columns = resized_size((height, width), 1024)
    own = torch.tensor([columns / width, rows / height])
    assert placed.boxes_xyxy is not None and placed.points_xy is not None
    scale = 1024 / max(height, width)
    torch.testing.assert_close(placed.boxes_xyxy * own.repeat(2), box * scale)
    torch.testing.assert_close(placed.points_xy * own, point * scale)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_answers_are_cut_in_their_own_cells(height: int, width: int) -> None:
    logits = torch.randn(2, 4, 256, 256, generator=torch.Generator().manual_seed(1))
    rows, columns = (min(256, int(256 * part / max(height, width))) for part in (height, width))
    expected = F.interpolate(logits[:, :, :rows, :columns], (height, width), mode="bilinear")
    masks = Masks(logits, torch.ones(2, 4), 1024)
    assert torch.equal(upscaled(masks, (height, width), NANOSAM), expected)
    assert (rows, columns) != (171, 256), "SAM's rounding"


def test_a_stretched_frame_has_no_padding_to_cut() -> None:
    masks = Masks(torch.full((1, 4, 16, 16), 5.0), torch.ones(1, 4), Stretched(64))
    assert upscaled(masks, (30, 50), NANOSAM).shape == (1, 4, 30, 50)
    windows = positive_windows(masks, (30, 50), NANOSAM)
    assert windows is not None and windows.tolist() == [[0, 0, 50, 30]] * 4
    box = Prompt(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert placed_prompt(box, (30, 50), Stretched(64), "floor") is box
