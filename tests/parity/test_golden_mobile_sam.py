"""MobileSAM against outputs of its authors' own code, through this project's reader of its file."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.geometry import upscale_logits
from data.images import to_frame
from experiments.cli.command_line import main
from experiments.commands.convert import LAYOUTS
from experiments.runs.checkpoints import LoadedModel, find_model
from students.convert.layouts import CONFIG
from students.student import Student
from teachers.catalog import MODELS
from tests.parity.test_golden_sam import PROMPTS, SIZE, assert_near, rule


@pytest.fixture(scope="module")
def layout(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "golden" / "mobile_sam.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def expected(shared: Path) -> Mapping[str, NDArray]:
    with np.load(shared / "golden" / "mobile_sam.npz") as arrays:
        return dict(arrays)


def filled(key: str, shape: tuple[int, ...]) -> Tensor:
    """The weight rule, with what it says of batch normalisation."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith("running_var"):
        return 1 + 0.1 * (rule(key, shape) / 0.02).abs()
    return rule(key, shape)


@pytest.fixture(scope="module")
def file(layout: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("golden") / "mobile_sam.pt"
    torch.save({key: filled(key, tuple(entry["shape"])) for key, entry in layout["keys"].items()}, path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def found(file: Path) -> LoadedModel:
    return find_model(str(file))


@pytest.fixture(scope="module")
def embedding(found: LoadedModel) -> Tensor:
    image = np.random.Generator(np.random.PCG64(2026)).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    with torch.inference_mode():
        return found.model.encode(to_frame(image, found.model.input_size)[None])


def test_the_layout_is_recognised_and_the_shape_is_the_papers(found: LoadedModel) -> None:
    assert found.layout == "MobileSAM's state dict"
    assert found.model.config == CONFIG == Student("tiny_vit", "tiny_vit_5m").shape(MODELS["sam_vit_h"].config)
    assert sum(p.numel() for p in found.model.image_encoder.parameters()) == 5_743_892
    assert sum(p.numel() for p in found.model.parameters()) == 9_808_452


def test_the_embedding(embedding: Tensor, expected: Mapping[str, NDArray]) -> None:
    assert embedding.shape == (1, 256, 64, 64)
    assert_near(embedding[:, ::8, ::4, ::4], expected["embedding"], 1e-3)


@pytest.mark.parametrize("multimask", [True, False], ids=["multi", "single"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_masks(
    found: LoadedModel, embedding: Tensor, expected: Mapping[str, NDArray], prompt: str, multimask: bool
) -> None:
    kind = f"{prompt}.{'multi' if multimask else 'single'}"
    with torch.inference_mode():
        masks = found.model.decode(embedding, PROMPTS[prompt], SIZE, multimask)
    assert_near(masks.logits[0, :, ::8, ::8], expected[f"{kind}.low_res_logits"], 1e-3)
    assert np.abs(masks.iou_pred[0].numpy() - expected[f"{kind}.iou_predictions"]).max() <= 1e-4
    if multimask:
        full = upscale_logits(masks.logits, SIZE, masks.frame)
        assert_near(full[0, :, ::40, ::40], expected[f"{kind}.logits_full"], 1e-3)


@pytest.mark.slow
def test_there_and_back_bit_by_bit(file: Path, found: LoadedModel, tmp_path: Path) -> None:
    """To this project's file and back to the released layout, the classifier that nothing reads included."""
    again = tmp_path / "again.pt"
    assert main(["convert", f"checkpoint={file}", "to=mobile_sam", f"out={again}"]) == 0
    first, second = torch.load(file, weights_only=True), torch.load(again, weights_only=True)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    own = tmp_path / "own.safetensors"
    # Without the command, which lets a model of this size encode an image each time.
    LAYOUTS["sampress"](own, found)
    LAYOUTS["mobile_sam"](again, find_model(str(own)))
    second = torch.load(again, weights_only=True)
    dead = {key for key in first if key.startswith(("image_encoder.head.", "image_encoder.norm_head."))}
    assert all(torch.equal(first[key], second[key]) for key in first.keys() - dead) and len(dead) == 4
