"""SAM ViT-B against outputs of its authors' own code, through this project's loader, frames and decoder."""

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.geometry import upscale_logits
from core.protocols import Prompt
from data.images import to_frame
from teachers.catalog import MODELS
from teachers.inferred_shape import infer_config
from teachers.sam import Sam
from teachers.weights import load_sam

SIZE = (600, 800)
PROMPTS = {
    "box": Prompt(boxes_xyxy=torch.tensor([[120.0, 90.0, 560.0, 470.0]])),
    "points": Prompt(points_xy=torch.tensor([[[300.0, 250.0], [500.0, 100.0]]]), labels=torch.tensor([[1, 0]])),
    "box_point": Prompt(
        boxes_xyxy=torch.tensor([[120.0, 90.0, 560.0, 470.0]]),
        points_xy=torch.tensor([[[300.0, 250.0]]]),
        labels=torch.tensor([[1]]),
    ),
}


def rule(key: str, shape: tuple[int, ...]) -> Tensor:
    """The weights that the golden outputs were made with."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    z = generator.standard_normal(math.prod(shape)).astype(np.float32).reshape(shape)
    if len(shape) > 1:
        return torch.from_numpy((z / np.sqrt(np.prod(shape[1:]))).astype(np.float32))
    return torch.from_numpy(1 + np.float32(0.02) * z if key.endswith("weight") else np.float32(0.02) * z)


@pytest.fixture(scope="module")
def layout(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "golden" / "sam_vit_b.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def expected(shared: Path) -> Mapping[str, NDArray]:
    with np.load(shared / "golden" / "sam_vit_b.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def sam(layout: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sam]:
    path = tmp_path_factory.mktemp("golden") / "sam_vit_b.pth"
    torch.save({key: rule(key, tuple(entry["shape"])) for key, entry in layout["keys"].items()}, path)
    yield load_sam("sam_vit_b", checkpoint=path)
    path.unlink()


@pytest.fixture(scope="module")
def embedding(sam: Sam) -> Tensor:
    image = np.random.Generator(np.random.PCG64(2026)).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    with torch.inference_mode():
        return sam.encode(to_frame(image, sam.input_size)[None])


def assert_near(found: Tensor, expected: NDArray, share: float) -> None:
    """Within a share of the expected values' range."""
    assert tuple(found.shape) == expected.shape
    assert np.abs(found.numpy() - expected).max() <= share * (expected.max() - expected.min())


def test_the_models_names_and_shapes_are_those_of_the_file(layout: dict[str, Any]) -> None:
    keys = {key: tuple(entry["shape"]) for key, entry in layout["keys"].items()}
    with torch.device("meta"):
        model = Sam(MODELS["sam_vit_b"].config)
        stored = {key: torch.empty(shape) for key, shape in keys.items()}
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == keys
    assert sum(p.numel() for p in model.parameters()) == layout["parameters"]
    assert sum(p.numel() for p in model.image_encoder.parameters()) == layout["image_encoder_parameters"]
    assert infer_config(stored) == MODELS["sam_vit_b"].config


@pytest.mark.slow
def test_the_embedding(embedding: Tensor, expected: Mapping[str, NDArray]) -> None:
    assert embedding.shape == (1, 256, 64, 64)
    assert_near(embedding[:, ::8, ::4, ::4], expected["embedding"], 1e-3)


# Of this size, MobileSAM's outputs are compared by the fast tests too.
@pytest.mark.slow
@pytest.mark.parametrize("multimask", [True, False], ids=["multi", "single"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_masks(sam: Sam, embedding: Tensor, expected: Mapping[str, NDArray], prompt: str, multimask: bool) -> None:
    kind = f"{prompt}.{'multi' if multimask else 'single'}"
    with torch.inference_mode():
        masks = sam.decode(embedding, PROMPTS[prompt], SIZE, multimask)
    assert_near(masks.logits[0, :, ::8, ::8], expected[f"{kind}.low_res_logits"], 1e-3)
    assert np.abs(masks.iou_pred[0].numpy() - expected[f"{kind}.iou_predictions"]).max() <= 1e-4
    if multimask:
        full = upscale_logits(masks.logits, SIZE, masks.frame)
        assert full.shape == (1, 3, *SIZE)
        assert_near(full[0, :, ::40, ::40], expected[f"{kind}.logits_full"], 1e-3)
        assert torch.equal(masks.binary(SIZE), full > 0)
