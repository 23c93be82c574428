"""Whole models with quantised layers: planned, packed, saved, loaded and counted."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.models.hieradet_sam2 import MultiScaleAttention
from torch import Tensor, nn

from core.cost import measure_cost
from core.errors import InputError
from core.protocols import Prompt
from students.files import load_model, save_model
from students.quantized.attention import qkv_parts
from students.quantized.bit_operations import count_bit_operations
from students.quantized.layers import QuantizedLayer, QuantizedLinear, QuantizedProduct
from students.quantized.plan import Plan, make_plan, pack, plan_of, planned_copy, set_quantizing
from students.quantized.scheme import Scheme
from students.student import Student
from teachers.sam import Sam
from tests.unit.tiny import CONFIG, TinyStudent, tiny_sam


def tiny_vit(seed: int = 0) -> Sam:
    teacher = tiny_sam()
    model = teacher.with_encoder(TinyStudent().make(CONFIG, seed), "tiny-student").eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Statistics of images it has never seen would hide a mistake.
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.2)
    return model


MODELS = {"vit": tiny_sam, "tiny_vit": tiny_vit}


def answer(model: Sam) -> tuple[Tensor, ...]:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        embeddings = model.encode(images)
        points = Prompt(points_xy=torch.full((4, 1, 2), 20.0), labels=torch.ones(4, 1, dtype=torch.int64))
        return embeddings, *model.decode_frame(embeddings, points)


@pytest.mark.parametrize("name", MODELS)
def test_without_quantising_a_planned_model_is_the_float_one(name: str) -> None:
    model = MODELS[name]()
    planned = planned_copy(model, Scheme())
    set_quantizing(planned, False)
    for found, expected in zip(answer(planned), answer(model), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert plan_of(model) is None and plan_of(planned) is not None


@pytest.mark.parametrize("name", MODELS)
def test_fused_queries_keys_and_values_have_a_scale_each(name: str) -> None:
    planned = planned_copy(MODELS[name](), Scheme(linear_weights="qkv"))
    linear = {path: m for path, m in planned.named_modules() if isinstance(m, QuantizedLinear)}
    fused = {path: m for path, m in linear.items() if path.endswith(".qkv")}
    assert fused and all(m.weight_quantizer.shape == () for path, m in linear.items() if path not in fused)
    for path, layer in fused.items():
        attention = planned.get_submodule(path.rpartition(".")[0])
        rows = torch.arange(layer.shape[0])
        # As the two attentions read them: [3, heads, d] and [heads, 3, d].
        read = rows.reshape(3, -1) if name == "vit" else rows.reshape(attention.num_heads, 3, -1).transpose(0, 1)
        assert torch.equal(layer.weight_quantizer.by_part(rows[:, None])[..., 0], read.reshape(3, -1))
        assert torch.equal(
            layer.weight_quantizer.of_parts(torch.arange(3))[read[1].flatten(), 0].unique(), torch.ones(1)
        )
    hiera = MultiScaleAttention(8, 8, num_heads=2)
    assert (qkv_parts(hiera), qkv_parts(nn.Linear(2, 2))) == ({"parts": 3, "repeats": 1}, None)


@pytest.mark.parametrize("name", MODELS)
def test_every_linear_layer_convolution_and_product_of_attention_is_planned(name: str) -> None:
    model = MODELS[name]()
    planned = planned_copy(model, Scheme())
    left = [path for path, m in planned.named_modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    assert {path.partition(".")[0] for path in left} == {"prompt_encoder"}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in planned.modules())
    kinds = ("Attention", "FreshBiases", "CrossAttention")
    attentions = sum(type(m).__name__ in kinds for m in model.modules())
    assert sum(isinstance(m, QuantizedProduct) for m in planned.modules()) == 2 * attentions > 0


QUICK = {("vit", "w8a8"), ("vit", "float products and decoder"), ("vit", "twin, by head"), ("tiny_vit", "w4a4")}
SCHEMES = {
    "w8a8": Scheme(),
    "w4a4": Scheme(4, 4),
    "weights alone": Scheme(4, 32),
    "symmetric, by tensor": Scheme(weights="tensor", activations="symmetric"),
    "twin, by head": Scheme(products="head", twin=True),
    "float products and decoder": Scheme(products="float", decoder="float"),
    "some float": Scheme(float_layers=("image_encoder.neck", "mask_decoder.iou")),
}


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        pytest.param(name, scheme, marks=() if (name, scheme) in QUICK else pytest.mark.slow)
        for name in MODELS
        for scheme in SCHEMES
    ],
)
def test_saved_and_loaded_it_answers_identically(tmp_path: Path, name: str, scheme: str) -> None:
    model = planned_copy(MODELS[name](), SCHEMES[scheme])
    for part in model.modules():
        if isinstance(part, QuantizedLayer) and part.weight is not None:
            part.weight_quantizer.set_range(*(torch.full_like(part.weight_quantizer.scale, s) for s in (-0.7, 0.7)))
    pack(model)
    save_model(tmp_path / "model.safetensors", model)
    loaded = load_model(tmp_path / "model.safetensors")
    assert plan_of(loaded) == plan_of(model)
    for found, expected in zip(answer(loaded), answer(model), strict=True):
        assert torch.equal(found, expected)


def test_a_file_of_codes_is_small(tmp_path: Path) -> None:
    sizes = {}
    for bits in (32, 8, 4):
        model = Sam(replace(CONFIG, decoder_mlp_width=2000), "wide").eval()
        if bits < 32:
            model = planned_copy(model, Scheme(bits, bits))
            pack(model)
        save_model(tmp_path / "model.safetensors", model)
        sizes[bits] = sum(
            t.numel() * t.element_size() for t in load_model(tmp_path / "model.safetensors").state_dict().values()
        )
    assert sizes[8] < 0.35 * sizes[32] and sizes[4] < 0.7 * sizes[8]


def test_a_quantised_model_is_not_quantised_again() -> None:
    with pytest.raises(InputError, match="is quantised already"):
        planned_copy(planned_copy(tiny_sam(), Scheme()), Scheme())


def test_a_plan_is_plain_data() -> None:
    import json

    plan = make_plan(tiny_vit(), SCHEMES["some float"])
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "tiny_vit"])
def test_bit_operations_by_hand(name: str) -> None:
    model = MODELS[name]()
    full = measure_cost(model).macs_full
    counted = count_bit_operations(model.config, make_plan(model, Scheme(4, 4)))
    rest = sum(counted.float_macs.values())
    # What no layer holds: relative positions, and the decoder's masks: four tokens of two channels on 16 x 16 cells.
    assert set(counted.float_macs) == {"products"} and rest >= 4 * 2 * 256
    assert counted.total == (full - rest) * 4 * 4 + rest * 32 * 32
    weights_alone = count_bit_operations(model.config, make_plan(model, Scheme(4, 32)))
    assert weights_alone.float_macs["products"] > rest
    assert (
        weights_alone.total
        == sum(weights_alone.float_macs.values()) * 1024 + (full - sum(weights_alone.float_macs.values())) * 4 * 32
    )
    assert count_bit_operations(model.config, Plan(Scheme())).total == full * 1024


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [pytest.param("resnet10t", marks=pytest.mark.slow), "vit_tiny_patch16_224"])
def test_other_backbones_are_quantised_too(backbone: str) -> None:
    teacher = tiny_sam()
    model = teacher.with_encoder(Student("timm", backbone).make(CONFIG, 0), backbone).eval()
    planned = planned_copy(model, Scheme(decoder="float"))
    plan = plan_of(planned)
    assert plan is not None and len(plan.layers) > 5
    # The attention of timm's ViT stays float, and the count says so.
    assert "products" in count_bit_operations(model.config, plan).float_macs


def test_named_layers_have_eight_bits_and_count_so() -> None:
    few = Scheme(4, 4)
    mixed = replace(few, eight_bit_layers=("mask_decoder.*.mixing", "image_encoder.patch_embed.proj"))
    model, plan = tiny_sam(), make_plan(tiny_sam(), mixed)
    assert Plan.from_dict(plan.to_dict()) == plan

    def bits(path: str) -> set[int]:
        parent, _, name = path.rpartition(".")
        grids = plan.layers[path] if path in plan.layers else plan.products[parent][name]
        return {grid["bits"] for grid in grids.values() if isinstance(grid, dict)}

    assert bits("image_encoder.patch_embed.proj") == bits("mask_decoder.transformer.layers.0.self_attn.mixing") == {8}
    assert bits("image_encoder.blocks.0.attn.mixing") == {4}
    assert bits("mask_decoder.transformer.layers.0.self_attn.scores") == {4}
    # 16 patches of 16 x 16 pixels in three channels to 24, and what is left in four bits: 8 * 8 - 4 * 4 more each.
    alone = make_plan(model, replace(few, eight_bit_layers=("image_encoder.patch_embed.proj",)))
    more = count_bit_operations(CONFIG, alone).total - count_bit_operations(CONFIG, make_plan(model, few)).total
    assert more == 16 * 16 * 16 * 3 * 24 * (64 - 16)
    with pytest.raises(InputError, match=r"eight_bit_layers: mask_decoder\.mix is the path of no quantised layer"):
        make_plan(model, replace(few, eight_bit_layers=("mask_decoder.mix",)))


def test_files_from_before_there_were_eight_bit_layers_are_read_and_written_alike() -> None:
    plan = make_plan(tiny_sam(), Scheme(4, 4))
    assert "eight_bit_layers" not in plan.to_dict()["scheme"] and Plan.from_dict(plan.to_dict()) == plan
