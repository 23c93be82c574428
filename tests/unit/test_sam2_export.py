"""A SAM 2's exported files: three maps under the names that browser programs read, checked against PyTorch."""

import pytest

pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")

import json
from pathlib import Path

import onnx
import onnxruntime
import torch
import torch.nn.functional as F

from core.errors import InputError
from core.feature_maps import maps_of
from core.geometry import Stretched
from core.protocols import Prompt
from students.export.folder import export_model
from students.export.manifest import MANIFEST, read_manifest
from students.export.segmenter import ExportedSam
from tests.unit.test_sam2_students import tiny_sam2

pytestmark = pytest.mark.slow
"""An export by torch.onnx takes a quarter of a minute; tests/unit/test_export.py makes one in the fast tests."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "sam2"
    export_model(tiny_sam2(), path, "onnx")
    return path


def assert_answers_as(exported: ExportedSam) -> None:
    model, size_hw = tiny_sam2(), (30, 50)
    assert isinstance(exported.input_size, Stretched)
    images = torch.randn(2, 3, 64, 64)
    expected = maps_of(model.encode(images))
    found = maps_of(exported.encode(images))
    assert list(found) == list(expected)
    for name, part in expected.items():
        torch.testing.assert_close(found[name], part, rtol=1e-3, atol=1e-3)
    embedding = model.encode(images[:1])
    boxes = torch.tensor([[5.0, 3.0, 40.0, 27.0], [0.0, 0.0, 20.0, 20.0]])
    points, labels = torch.rand(2, 3, 2) * 30, torch.tensor([[1, 0, 1], [1, 1, -1]])
    masks = torch.randn(2, 1, 16, 16) * 5
    for prompt in (
        Prompt(boxes),
        Prompt(None, points, labels),
        Prompt(boxes, points, labels, masks),
        Prompt(mask_logits=masks),
    ):
        for multimask in (False, True):
            theirs = model.decode(embedding, prompt, size_hw, multimask)
            answer = exported.decode(embedding, prompt, size_hw, multimask)
            torch.testing.assert_close(answer.logits, theirs.logits, rtol=1e-3, atol=2e-3)
            torch.testing.assert_close(answer.iou_pred, theirs.iou_pred, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(answer.binary(size_hw).float(), theirs.binary(size_hw).float())


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_answers_are_the_models(folder: Path, runtime: str) -> None:
    pytest.importorskip(runtime)
    assert_answers_as(ExportedSam(folder, runtime))


@pytest.mark.parametrize(("kind", "package"), [("torch", "torch"), ("openvino", "openvino")])
def test_files_of_other_kinds(tmp_path: Path, kind: str, package: str) -> None:
    pytest.importorskip(package)
    export_model(tiny_sam2(), tmp_path / kind, kind)
    assert_answers_as(ExportedSam(tmp_path / kind))


def test_names_and_shapes_are_those_of_others(folder: Path) -> None:
    encoder = onnxruntime.InferenceSession(folder / "encoder.onnx", providers=["CPUExecutionProvider"])
    assert {value.name: value.shape[1:] for value in encoder.get_outputs()} == {
        "image_embed": [16, 4, 4],
        "high_res_feats_0": [2, 16, 16],
        "high_res_feats_1": [4, 8, 8],
    }
    decoder = onnxruntime.InferenceSession(folder / "decoder.onnx", providers=["CPUExecutionProvider"])
    assert {value.name: value.shape for value in decoder.get_inputs()} == {
        "image_embed": [1, 16, 4, 4],
        "high_res_feats_0": [1, 2, 16, 16],
        "high_res_feats_1": [1, 4, 8, 8],
        "point_coords": ["prompts", "points", 2],
        "point_labels": ["prompts", "points"],
        "mask_input": ["masks", 1, 16, 16],
        "has_mask_input": ["masks"],
        "orig_im_size": [2],
    }


def test_every_constant_is_read(folder: Path) -> None:
    """ONNX Runtime warns of others, in a browser's console too."""
    graph = onnx.load(folder / "decoder.onnx").graph
    read = {name for node in graph.node for name in node.input}
    assert read >= {constant.name for constant in graph.initializer}


def test_masks_of_the_images_size_come_in_one_step(folder: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "decoder.onnx", providers=["CPUExecutionProvider"])
    maps = maps_of(tiny_sam2().encode(torch.randn(1, 3, 64, 64)))
    given = {name: part.numpy() for name, part in maps.items()} | {
        "point_coords": torch.tensor([[[9.0, 9.0], [0.0, 0.0]]]).numpy(),
        "point_labels": torch.tensor([[1.0, -1.0]]).numpy(),
        "mask_input": torch.zeros(1, 1, 16, 16).numpy(),
        "has_mask_input": torch.zeros(1).numpy(),
        "orig_im_size": torch.tensor([30.0, 50.0]).numpy(),
    }
    masks, low = (torch.from_numpy(part) for part in session.run(["masks", "low_res_masks"], given))
    expected = F.interpolate(low, (30, 50), mode="bilinear", align_corners=False)
    torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-4)


def test_the_manifest_says_the_family(folder: Path, tmp_path: Path) -> None:
    assert read_manifest(folder).family == "sam2"
    content = json.loads((folder / MANIFEST).read_text()) | {"family": "sam9"}
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(InputError, match="family is 'sam9'"):
        read_manifest(tmp_path)
