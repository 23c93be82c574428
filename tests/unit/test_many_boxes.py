"""However many boxes an image has, memory stays bounded."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import numpy as np, torch
from core.protocols import Masks, Prompt
from core.memory import peak_resident_bytes
from data.detections import ImageDetections
from evaluation.protocols import PROTOCOLS
from evaluation.scorer import Scorer

class Discs:
    name, input_size = "discs", 1024
    def encode(self, images): return images
    def decode(self, embedding, prompt, size_hw, multimask=False):
        count = 3 if multimask else 1
        at = torch.arange(256.0)
        x = prompt.boxes_xyxy.mean(1)[:, None, None] / 4
        near = 20 - (at[:, None] - x).abs() - (at[None] - x).abs()
        return Masks(near[:, None].repeat(1, count, 1, 1), torch.rand(len(prompt), count), 1024)

boxes = np.random.default_rng(0).uniform(0, 900, (int(sys.argv[1]), 4))
boxes[:, 2:] = boxes[:, :2] + 50
count = len(boxes)
found = ImageDetections(boxes, np.ones(count), np.ones(count, np.int64), np.arange(count))
protocol = PROTOCOLS["detector_box_best_of_3@1"]
size = tuple(map(int, sys.argv[2:4]))
with torch.inference_mode():
    embeddings = {protocol.preprocessing: torch.zeros(1, 1, 1, 1)}
    records = Scorer(Discs(), [protocol], detections=found).score_boxes(1, size, found, embeddings)
assert len(records[protocol.name]) == count
print(peak_resident_bytes() >> 20)
"""


def peak_megabytes(boxes: int, size_hw: tuple[int, int]) -> int:
    root = Path(__file__).parents[2]
    arguments = [sys.executable, "-c", PROGRAM, str(boxes), *map(str, size_hw)]
    done = subprocess.run(arguments, cwd=root, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_boxes() -> None:
    few, many = (peak_megabytes(count, (480, 640)) for count in (64, 256))
    assert many < 1.1 * few + 50


@pytest.mark.slow
def test_two_thousand_boxes_fit_two_gigabytes() -> None:
    assert peak_megabytes(2000, (1500, 2000)) < 2000
