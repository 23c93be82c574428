"""Drawn images as a COCO folder, and segmenters whose answers are known: the truth, and the filled box."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_api
from torch import Tensor

from core.protocols import Masks, Prompt
from data.sample import ImageSample
from evaluation.predictions import POINTS

FRAME = 64
"""The images' longer side, so that nothing is resized."""


def drawn_labels(count: int, seed: int = 0) -> list[NDArray[np.int64]]:
    """Images ``[H, W]`` of several sizes, in which instance ``k`` is the region of the number ``k``."""
    rng, images = np.random.default_rng(seed), []
    for number in range(count):
        height, width = ((64, 64), (48, 64), (64, 40))[number % 3]
        labels = np.zeros((height, width), np.int64)
        for k in range(1, 5):
            top, left = rng.integers(0, height - 16), rng.integers(0, width - 16)
            part = labels[top : top + rng.integers(6, 16), left : left + rng.integers(6, 16)]
            part[part == 0] = k
        # A ring, whose box's centre is not its own.
        hole = labels == 1
        hole[:, ::3] = False
        labels[hole & (rng.random(labels.shape) < 0.2)] = 0
        images.append(labels)
    return images


def write_coco(root: Path, labelled: Sequence[NDArray[np.int64]], order: Sequence[int] | None = None) -> Path:
    """The images as ``root/val2017`` with annotations; ``order`` permutes those in the file."""
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for number, labels in enumerate(labelled):
        name, size = f"{number:012d}.png", labels.shape
        Image.fromarray((40 * labels[..., None].repeat(3, 2)).astype(np.uint8)).save(root / "val2017" / name)
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        for k in np.unique(labels[labels > 0]).tolist():
            mask = labels == k
            rle: Any = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": 10 * number + k,
                    "image_id": number,
                    "category_id": 1 + k % 2,
                    "bbox": mask_api.toBbox(rle).tolist(),
                    "area": float(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": list(size), "counts": rle["counts"].decode()},
                }
            )
    chosen = annotations if order is None else [annotations[i % len(annotations)] for i in order]
    content = {"images": images, "annotations": chosen, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


def write_detections(path: Path, root: Path) -> Path:
    """The annotations' own boxes as a detector's, each with a score of its own."""
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    entries = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1 / (2 + a["id"])}
        for a in content["annotations"]
    ]
    path.write_text(json.dumps(entries))
    return path


@dataclass
class Truthful:
    """Answers with the mask that a prompt was made from; of three candidates, the middle one.

    Attributes:
        samples: what it knows.
        batches: how many images were encoded together, and prompts decoded together.
    """

    samples: Sequence[ImageSample]
    name: str = "truthful"
    input_size: int = FRAME
    batches: list[tuple[str, int]] = field(default_factory=list)

    def encode(self, images: Tensor) -> Tensor:
        """The image's number, found by its red channel, as an embedding ``[B, 1, 1, 1]``."""
        self.batches.append(("encode", len(images)))
        return torch.tensor([self._number(image) for image in images]).reshape(-1, 1, 1, 1).float()

    def decode(self, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        self.batches.append(("decode", len(prompt)))
        sample = self.samples[int(embedding)]
        logits = torch.full((len(prompt), 1, FRAME, FRAME), -2.0)
        logits[:, 0, : size_hw[0], : size_hw[1]][self.answer(sample, prompt)] = 2.0
        if not multimask:
            return Masks(logits, torch.full((len(prompt), 1), 0.7), FRAME)
        wrong = torch.full_like(logits, 2.0)
        predicted = torch.tensor([[0.1, 0.9, 0.2]]).repeat(len(prompt), 1)
        return Masks(torch.cat([wrong, logits, -wrong], 1), predicted, FRAME)

    def answer(self, sample: ImageSample, prompt: Prompt) -> Tensor:
        """Bool ``[N, H, W]``."""
        return torch.from_numpy(sample.masks[[self._meant(sample, prompt[i : i + 1]) for i in range(len(prompt))]])

    def _number(self, image: Tensor) -> int:
        for number, sample in enumerate(self.samples):
            height, width = sample.image.shape[:2]
            shown = (image[0, :height, :width] * 58.395 + 123.675).round()
            padded = image[0, height:].any() or image[0, :, width:].any()
            if not padded and torch.equal(shown, torch.from_numpy(sample.image[..., 0]).float()):
                return number
        raise AssertionError("an unknown image")

    @staticmethod
    def _meant(sample: ImageSample, prompt: Prompt) -> int:
        if prompt.boxes_xyxy is not None:
            return int(np.abs(sample.boxes_xyxy - prompt.boxes_xyxy.numpy()).sum(1).argmin())
        assert prompt.points_xy is not None
        first = prompt.points_xy[0, 0].numpy()
        rules = [rule(sample) for name, rule in POINTS.items() if name != "annotated_point"]
        return int(np.min([np.abs(points - first).sum(1) for points in rules], 0).argmin())


class FilledBox(Truthful):
    """Answers with all pixels whose centre is in the box."""

    def answer(self, sample: ImageSample, prompt: Prompt) -> Tensor:
        assert prompt.boxes_xyxy is not None
        height, width = sample.image.shape[:2]
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        x0, y0, x1, y1 = prompt.boxes_xyxy[:, :, None, None].unbind(1)
        return (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
