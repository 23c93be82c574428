"""Exported files on real images: the masks of every instance beside PyTorch's, and the figures they give."""

from pathlib import Path

import pytest
import torch

from core.protocols import Segmenter
from data.coco import Coco
from data.images import to_frame
from evaluation.mask_measures import pairwise_iou
from evaluation.metrics import mean_iou
from evaluation.predictions import prompts_of
from evaluation.protocols import PROTOCOLS
from evaluation.scorer import Scorer
from students.export.folder import export_model
from students.export.segmenter import ExportedSam
from teachers.sam import Sam
from teachers.weights import load_sam

pytest.importorskip("onnxruntime", reason="the extra export is not installed")
IMAGES = 6
NAMES = ("box_single@1", "point_best_of_3@1", "box_oracle@1")

Answers = tuple[list[torch.Tensor], dict[str, float | None]]


@pytest.fixture(scope="module")
def pocket() -> Sam:
    return load_sam("sam_pocket")


@pytest.fixture(scope="module")
def data(shared: Path) -> Coco:
    return Coco(shared / "data" / "coco_tiny")


def answers(model: Segmenter, data: Coco) -> Answers:
    """Masks bool ``[N, H, W]`` of the boxes of each image, and the mIoU by each protocol."""
    masks, box = [], PROTOCOLS["box_single@1"]
    with torch.inference_mode():
        for index in range(IMAGES):
            sample = data.sample(index)
            if len(sample.masks):
                image, size_hw = to_frame(sample.image, model.input_size)[None], sample.image.shape[:2]
                decoded = model.decode(model.encode(image), prompts_of(sample, box), size_hw)
                masks.append(decoded.binary(size_hw)[:, 0])
    scored = Scorer(model, [PROTOCOLS[name] for name in NAMES]).score(data, range(IMAGES)).records
    return masks, {name: mean_iou(records)["miou"].value for name, records in scored.items()}


@pytest.fixture(scope="module")
def expected(pocket: Sam, data: Coco) -> Answers:
    """PyTorch's."""
    return answers(pocket, data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino", "torch"])
def test_every_mask_and_the_figures_are_pytorchs(
    kind: str, pocket: Sam, data: Coco, expected: Answers, pocket_onnx: Path, tmp_path: Path
) -> None:
    folder = pocket_onnx if kind == "onnx" else tmp_path / kind
    if kind != "onnx":
        export_model(pocket, folder, kind)
    masks, figures = answers(ExportedSam(folder), data)
    every = torch.cat([pairwise_iou(*pair) for pair in zip(masks, expected[0], strict=True)])
    assert len(every) > 2 * IMAGES and float(every.min()) >= 0.98
    assert figures == pytest.approx(expected[1], abs=1e-3)
