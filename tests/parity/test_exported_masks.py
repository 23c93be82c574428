"""Exported files on real pictures: the masks of every instance beside PyTorch's, and the figures they give."""

from pathlib import Path

import pytest
import torch

from data.coco import Coco
from data.images import to_frame
from evaluation.conventions import PROTOCOLS
from evaluation.instances import pairwise_iou, score_instances
from evaluation.metrics import mean_iou
from evaluation.prompt_rules import prompts_of
from students.export.folder import export_model
from students.export.segmenter import ExportedSam
from teachers.sam import Sam
from teachers.weights import load_sam

pytest.importorskip("onnxruntime", reason="the extra export is not installed")
IMAGES = 20


@pytest.fixture(scope="module")
def pocket() -> Sam:
    return load_sam("sam_pocket")


@pytest.fixture(scope="module")
def data(shared: Path) -> Coco:
    return Coco(shared / "data" / "coco_tiny")


@pytest.fixture(scope="module", params=["onnx", "openvino", "torch"])
def exported(request: pytest.FixtureRequest, pocket: Sam, tmp_path_factory: pytest.TempPathFactory) -> ExportedSam:
    folder = tmp_path_factory.mktemp("masks") / request.param
    export_model(pocket, folder, request.param)
    return ExportedSam(folder)


def test_every_mask_is_pytorchs(exported: ExportedSam, pocket: Sam, data: Coco) -> None:
    ious = []
    with torch.inference_mode():
        for index in range(min(IMAGES, len(data))):
            sample = data.sample(index)
            if not len(sample.masks):
                continue
            image, size_hw = to_frame(sample.image, pocket.input_size)[None], sample.image.shape[:2]
            prompt = prompts_of(sample, PROTOCOLS["box_single@1"])
            found, expected = (m.decode(m.encode(image), prompt, size_hw).binary(size_hw) for m in (exported, pocket))
            ious.append(pairwise_iou(found[:, 0], expected[:, 0]))
    every = torch.cat(ious)
    assert len(every) > IMAGES and float(every.min()) >= 0.98


def test_the_figures_are_pytorchs(exported: ExportedSam, pocket: Sam, data: Coco) -> None:
    indices = range(min(IMAGES, len(data)))
    of_file, of_model = (
        {
            name: mean_iou(records)["miou"].value
            for name, records in score_instances(m, data, list(PROTOCOLS.values())[:5], indices=indices).items()
        }
        for m in (exported, pocket)
    )
    assert of_file == pytest.approx(of_model, abs=1e-3)
