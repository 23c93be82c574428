"""Post-training quantisation as a method: accuracy, resuming, orders, and clear refusals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compressors.distill.engine import Engine
from compressors.method import Compressed, RunContext
from compressors.ptq import ERRORS, Ptq
from compressors.quantize.calibration import GridCheckpoint
from core.checkpoint import weights_sha256
from core.errors import InputError
from data.coco import Coco
from data.sample import ImageData
from students.files import load_model, save_model
from students.quantized.plan import plan_of
from teachers.sam import Sam
from tests.unit.tiny import CONFIG, Images, tiny_sam

METHOD = Ptq(images=2, prompts=2, candidates=10, lowest=0.3, rounds=1)


def compress(method: Ptq, folder: Path, data: ImageData | None = None) -> Compressed:
    return method.compress(tiny_sam(), data or Images(), RunContext(0, folder, Engine(folder)))


def error(student: Sam) -> float:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        expected, found = tiny_sam().encode(images), student.encode(images)
        return float((found - expected).square().mean() / expected.square().mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    "metric", ["hessian", *(pytest.param(name, marks=pytest.mark.slow) for name in ("minmax", "mse", "cosine"))]
)
def test_more_bits_are_nearer_to_the_float_model(tmp_path: Path, metric: str) -> None:
    errors = []
    for bits in (8, 6, 4):
        method = replace(METHOD, metric=metric, weight_bits=bits, activation_bits=bits)
        errors.append(error(compress(method, tmp_path / str(bits)).student))
    assert errors[0] < 5e-3 and errors[0] < errors[1] < errors[2]


def test_the_model_is_packed_named_and_whole(tmp_path: Path) -> None:
    compressed = compress(METHOD, tmp_path)
    student = compressed.student
    assert student.name == "tiny-w8a8" and student.config == CONFIG == METHOD.shape(CONFIG)
    assert compressed.images_seen == 0 and compressed.stages == ()
    assert plan_of(student) is not None
    save_model(tmp_path / "student.safetensors", student)
    assert error(load_model(tmp_path / "student.safetensors")) == error(student)


VARIANTS: dict[str, dict[str, object]] = {
    "default": {},
    "symmetric": {"activations": "symmetric"},
    "tensor": {"weights": "tensor"},
    "weights alone": {"activation_bits": 32},
    "q, k and v": {"linear_weights": "qkv"},
    "biases": {"bias_correction": True},
    "perturbed": {"gradient": "perturbed"},
    "mse": {"metric": "mse"},
    "sequential": {"order": "sequential"},
    "weights on their grids": {"weights_in_search": "quantized"},
    "head": {"products": "head"},
    "float products": {"products": "float"},
    "twin": {"twin": True},
    "float decoder": {"decoder": "float"},
    "float neck": {"float_layers": ("image_encoder.neck",)},
    "convolutions open behind": {"convolution_outputs": "float"},
    "one scale a linear layer": {"linear_weights": "tensor"},
    "symmetric linear layers": {"linear_activations": "symmetric"},
    "symmetric products": {"product_activations": "symmetric"},
    "published": {"gradient": "published", "force_gradient": True},
}
FEW = 2
"""So many of them in the fast tests."""


@pytest.mark.parametrize("count", [FEW, pytest.param(len(VARIANTS), marks=pytest.mark.slow)])
def test_settings_change_the_model_and_are_repeatable(tmp_path: Path, count: int) -> None:
    variants, found = dict(list(VARIANTS.items())[:count]), set()
    for name, changes in variants.items():
        method = replace(METHOD, **({"candidates": 4} | changes if count == FEW else changes))  # type: ignore[arg-type]
        first = weights_sha256(compress(method, tmp_path / name).student)
        if name in ("default", "perturbed", "sequential"):
            # What draws anything, and the other order of layers.
            assert weights_sha256(compress(method, tmp_path / f"{name} again").student) == first
        found.add(first)
    assert len(found) == len(variants)


@pytest.mark.slow
@pytest.mark.parametrize(("order", "bias_correction"), [("parallel", True), ("sequential", True)])
def test_a_calibration_that_was_stopped_ends_with_the_same_grids(
    tmp_path: Path, order: str, bias_correction: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = replace(METHOD, order=order, bias_correction=bias_correction)
    undisturbed = compress(method, tmp_path / "a").student
    monkeypatch.setattr("compressors.quantize.calibration.SAVE_EVERY_S", -1.0)
    add, added = GridCheckpoint.add, list[str]()

    def stopping(self: GridCheckpoint, layer: str, error: dict[str, Any]) -> None:
        add(self, layer, error)
        added.append(layer)
        if len(added) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(GridCheckpoint, "add", stopping)
    with pytest.raises(KeyboardInterrupt):
        compress(method, tmp_path / "b")
    resumed = compress(method, tmp_path / "b").student
    assert len(set(added)) == len(added)
    assert weights_sha256(resumed) == weights_sha256(undisturbed)
    first, second = ((tmp_path / name / ERRORS).read_bytes() for name in "ab")
    assert first == second and len(json.loads(first)["layers"]) == len(added)


def test_projections_are_calibrated_after_the_products_that_feed_them(tmp_path: Path) -> None:
    compress(replace(METHOD, order="sequential", metric="minmax", images=1, prompts=1), tmp_path)
    order = [line["layer"] for line in json.loads((tmp_path / ERRORS).read_text())["layers"]]
    for block in range(3):
        within = [name for name in order if name.startswith(f"image_encoder.blocks.{block}.")]
        parts = ("attn.qkv", "attn.scores", "attn.mixing", "attn.proj", "mlp.lin1", "mlp.lin2")
        assert within == [f"image_encoder.blocks.{block}.{part}" for part in parts]
    assert order[0] == "image_encoder.patch_embed.proj" and len(set(order)) == len(order)
    of_decoder = [name for name in order if name.startswith("mask_decoder.transformer.layers.0.self_attn.")]
    assert [name.rpartition(".")[2] for name in of_decoder][-3:] == ["scores", "mixing", "out_proj"]
    # Encoder before decoder, and within it the neck last.
    encoder = [name.startswith("image_encoder.") for name in order]
    assert encoder == sorted(encoder, reverse=True) and order[sum(encoder) - 1].startswith("image_encoder.neck.")


@pytest.mark.slow
def test_grids_of_other_settings_are_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressors.quantize.calibration.SAVE_EVERY_S", -1.0)
    few = replace(METHOD, metric="mse", candidates=2, decoder="float")
    compress(few, tmp_path)
    other = replace(few, weight_bits=5)
    assert weights_sha256(compress(other, tmp_path).student) == weights_sha256(
        compress(other, tmp_path / "fresh").student
    )


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "train2017"
    folder.mkdir()
    for number in (1, 2):
        Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(folder / f"{number:012d}.jpg")
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "height": 40, "width": 50} for n in (1, 2)]
    (tmp_path / "annotations").mkdir()
    content = {"images": images, "annotations": [], "categories": []}
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    data = Coco(tmp_path, "train", labels=False)
    broken = folder / "000000000002.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(InputError, match=r"000000000002\.jpg"):
        compress(METHOD, tmp_path / "run", data)


def test_refused_settings(tmp_path: Path) -> None:
    for changes, words in (
        ({"metric": "kl"}, "method.metric=kl is not one of hessian, mse, cosine, minmax"),
        (
            {"gradient": "published"},
            "method.gradient=published differentiates .* which is zero there: .* method.force_gradient=true",
        ),
        ({"weight_bits": 1}, "method.weight_bits=1 must be 2 to 8"),
        ({"activation_bits": 16}, "method.activation_bits=16 must be 2 to 8, or 32 for none"),
        ({"lowest": 0.0}, "method.lowest=0.0 must be above 0"),
        ({"highest": float("inf")}, "method.highest=inf is a share of the range; give a finite one"),
        ({"highest": float("nan")}, "method.highest=nan is a share of the range; give a finite one"),
        ({"twin": True, "activation_bits": 32}, "method.twin=true is for activations, which activation_bits=32"),
        ({"products": "head", "activation_bits": 32}, "method.products=head is for activations, which activation_bits"),
        ({"highest": 0.005}, r"method.lowest=0.3 must be above 0 and at most method.highest=0\.005"),
        ({"candidates": 0}, "method.candidates=0 must be at least 1"),
        ({"pcc": True, "activation_bits": 32}, "method.pcc=true is for grids of activations, which activation_bits=32"),
        ({"mac": True, "activation_bits": 32}, "method.mac=true is for grids of activations, which activation_bits=32"),
        ({"pcc": True, "products": "head"}, "method.pcc=true clips one range of all heads, .* method.products=tensor"),
    ):
        with pytest.raises(InputError, match=words):
            replace(METHOD, **changes)  # type: ignore[arg-type]
    for changes, words in (
        (
            {"float_layers": ("image_encoder.blokcs",)},
            "method.float_layers: no layer's path begins with image_encoder.blokcs",
        ),
        ({"float_layers": ("image_encoder",), "decoder": "float"}, "leave every layer float"),
    ):
        with pytest.raises(InputError, match=words):
            compress(replace(METHOD, **changes), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"method\.images=9: images has only 5 training images"):
        compress(replace(METHOD, images=9), tmp_path)
