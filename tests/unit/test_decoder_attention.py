"""Keys of one sign and clipped queries: exact where they must be, and better in few bits where outliers are planted."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.ptq import Ptq
from compressors.quantize.calibration import Calibration
from compressors.quantize.decoder_attention import clip_by_focus, focus, fold_signs, is_bimodal
from compressors.quantize.recording import LayerTrace, TracedCall
from compressors.quantize.search import Search
from core.checkpoint import weights_sha256
from core.errors import InputError
from core.protocols import Prompt
from data.batches import ImageBatches
from data.shapes import Shapes
from students.quantized.layers import QuantizedProduct
from students.quantized.plan import planned_copy
from students.quantized.quantizers import UniformQuantizer
from students.quantized.scheme import Scheme
from teachers.catalog import MODELS
from teachers.initial_weights import initialise_sam
from teachers.sam import Sam
from tests.unit.tiny import Images, tiny_sam

BOX = Prompt(boxes_xyxy=torch.tensor([[5.0, 8.0, 40.0, 50.0]]))
TO_IMAGE = [
    *(f"mask_decoder.transformer.layers.{i}.cross_attn_token_to_image" for i in range(2)),
    "mask_decoder.transformer.final_attn_token_to_image",
]


def planted(centre: float = 8.0) -> Sam:
    """A model whose keys from the image lie around two values, half of the channels at each (published: at +-8)."""
    model = tiny_sam()
    for path in TO_IMAGE:
        attention = model.get_submodule(path)
        sides = torch.where(torch.arange(len(attention.k_proj.bias)) % 2 == 0, 1.0, -1.0)
        attention.k_proj.bias.copy_(centre * sides)
        # What all keys share changes no attention: large queries make the rest of them matter.
        attention.q_proj.weight.mul_(8), attention.out_proj.weight.mul_(8)
    return model


def answer(model: Sam) -> torch.Tensor:
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.decode_frame(model.encode(images), BOX).logits


def test_two_modes_are_two_peaks_far_apart() -> None:
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    both = torch.cat([values - 8, values + 8])
    assert is_bimodal(both) and not is_bimodal(values)
    assert not is_bimodal(torch.cat([values - 8, values, values + 8])), "three"
    assert not is_bimodal(torch.cat([values, values[:2] + 30])), "outliers are no mode"
    assert not is_bimodal(torch.ones(50))
    # Sixteen of the 128 points are between these peaks.
    near = torch.cat([0.3 * values - 1, 0.3 * values + 1])
    assert is_bimodal(near) and not is_bimodal(torch.cat([near, torch.tensor([-8.0, 8.0])]))


def test_modes_are_found_whatever_the_numbers_of_tokens_and_channels() -> None:
    # Of SAM-B's 4,096 tokens and 128 channels, every 128th value is of one channel: of one mode.
    sides = torch.where(torch.arange(128) % 2 == 0, 8.0, -8.0)
    keys = torch.randn(4096, 128, generator=torch.Generator().manual_seed(0)) + sides
    assert is_bimodal(keys.flatten())


@pytest.mark.slow
def test_what_saves_the_decoder_of_sam_b_from_published_outliers(tmp_path: Path) -> None:
    """SAM-B's decoder at 1,024 pixels: keys at +-8, queries at +-170 (of keys that are all alike), 4 bits."""
    whole = MODELS["sam_vit_b"].config
    # The encoder stays float: one block of it will do.
    widths = {name: getattr(whole.encoder, name)[:1] for name in ("attention_widths", "mlp_widths")}
    torch.manual_seed(0)
    teacher = (
        Sam(replace(whole, encoder=replace(whole.encoder, **widths, global_blocks=()))).eval().requires_grad_(False)
    )
    initialise_sam(teacher)
    for path in TO_IMAGE:
        attention = teacher.get_submodule(path)
        sides = torch.where(torch.arange(len(attention.k_proj.bias)) % 2 == 0, 1.0, -1.0)
        attention.k_proj.bias.copy_(8 * sides)
        attention.q_proj.weight.mul_(4), attention.out_proj.weight.mul_(4)
        attention.k_proj.weight[::16] = 0
        attention.q_proj.bias[::16] = 170 * sides[: len(sides) // 16]
    images = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(1))

    def answer_of(model: Sam) -> torch.Tensor:
        with torch.inference_mode():
            return model.decode_frame(
                model.encode(images), Prompt(boxes_xyxy=torch.tensor([[50.0, 80, 400, 500]]))
            ).logits

    expected, found = answer_of(teacher), {}
    folded = copy.deepcopy(teacher)
    assert fold_signs(folded, lambda: answer_of(folded)) == TO_IMAGE
    method = Ptq(4, 4, metric="minmax", images=1, prompts=2, float_layers=("image_encoder",))
    for name, changes in (("none", {}), ("pcc", {"pcc": True}), ("both", {"big": True, "pcc": True})):
        context = RunContext(0, tmp_path / name, Engine(tmp_path / name))
        student = replace(method, **changes).compress(teacher, Shapes("train", 4, size=256), context).student  # type: ignore[arg-type]
        found[name] = float((answer_of(student) - expected).square().mean() / expected.var())
    # Queries are what breaks it: clipped they are half as bad, and signs add a little.
    assert found["pcc"] < 0.6 * found["none"] and found["both"] <= found["pcc"]


def test_folding_signs_is_exact_and_leaves_keys_one_sign() -> None:
    model, before = planted(), answer(planted())
    assert fold_signs(model, lambda: answer(model)) == TO_IMAGE

    def is_the_same() -> bool:
        return torch.allclose(answer(model), before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))

    assert is_the_same()
    for path in TO_IMAGE:
        assert (model.get_submodule(path).k_proj.bias > 0).all()
        # Folded into the keys alone it is no longer the same model.
        model.get_submodule(path).q_proj.weight[1::2].neg_()
    assert not is_the_same()


def test_a_key_has_the_sign_of_its_mean() -> None:
    model = planted()
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(1, 200, 16, generator=generator)
    given[..., 0], given[0, 0, 0] = 0.0, 1.0
    projections = [model.get_submodule(path).k_proj for path in TO_IMAGE]
    for projection in projections:
        # The first key, and no other, has the opposite signs.
        projection.weight[:, 0] = -2 * projection.bias
    assert fold_signs(model, lambda: [projection(given) for projection in projections]) == TO_IMAGE
    assert all((projection.bias == 8).all() for projection in projections)


def test_keys_of_one_mode_and_other_attentions_stay() -> None:
    model = tiny_sam()
    for name in ("self_attn", "cross_attn_image_to_token"):
        projection = model.get_submodule(f"mask_decoder.transformer.layers.0.{name}").k_proj
        projection.bias.copy_(8.0 * (-1) ** torch.arange(len(projection.bias)))
    before = weights_sha256(model)
    assert fold_signs(model, lambda: answer(model)) == [] and weights_sha256(model) == before


def clipped(queries: torch.Tensor, keys: torch.Tensor) -> QuantizedProduct:
    """4-bit grids that cover the operands ``[1, 1, n, d]`` and ``[1, 1, d, n]``, and then clip them."""
    product = QuantizedProduct(UniformQuantizer(4, False), UniformQuantizer(4, False))
    for grid, operand in ((product.left, queries), (product.right, keys)):
        assert isinstance(grid, UniformQuantizer)
        grid.set_range(operand.amin(), operand.amax())
    clip_by_focus(product, LayerTrace({(0, 0): TracedCall((queries, keys), queries @ keys)}))
    return product


def test_attention_looks_where_it_is_above_half_of_its_largest() -> None:
    logits = torch.tensor([[0.0, -0.6, -0.8, -9.0]])
    # exp: 1, 0.55, 0.45, 0
    assert focus(logits).tolist() == [[True, True, False, False]]


def test_an_outlier_is_clipped_where_attention_looks_elsewhere_and_kept_where_it_looks_there() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(1, 1, 64, 8, generator=generator) for _ in range(2))
    # Keys are the same in this channel: no softmax depends on it.
    queries[0, 0, 0, 0], keys[..., 0] = 170.0, 1.0
    product = clipped(queries, keys.transpose(-1, -2))
    logits = queries @ keys.transpose(-1, -2)
    assert float(product.left.scale) * 15 < 10, "the outlier of 170 is cut"
    assert float((focus(product(queries, keys.transpose(-1, -2))) == focus(logits)).float().mean()) > 0.9
    # One that decides its row stays: a narrower grid looks no better.
    few = torch.tensor([[[[15.0, 0.0], [0.0, 15.0]]]])
    assert float(clipped(few, few).left.scale) == pytest.approx(1.0)


def test_a_second_turn_clips_queries_once_keys_are_clipped() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(1, 1, 64, 8, generator=generator) for _ in range(2))
    # Outliers in two channels that no softmax depends on. With keys of which all others are zero, attention looks
    # everywhere, whatever the queries; with theirs clipped, the queries' outlier matters.
    keys[0, 0, 0, 0], queries[..., 0] = 1000.0, 0.0
    queries[0, 0, 0, 1], keys[..., 1] = 20.0, 1.0
    product = clipped(queries, keys.transpose(-1, -2))
    assert float(product.right.scale) * 15 < 10 and float(product.left.scale) * 15 < 10


def test_of_ranges_that_overlap_equally_the_wider_one_stays_as_it_was() -> None:
    # Whatever is cut of the large queries: each looks at the key of its sign. Cutting the few negative ones is worse.
    queries = torch.cat([torch.tensor([-4.0, -3.9, -3.8]), torch.linspace(3, 10, 61)]).reshape(1, 1, 64, 1)
    product = clipped(queries, torch.tensor([[[[5.0, -5.0]]]]))
    assert float(product.left.scale) == pytest.approx(14 / 15) and int(product.left.zero_point) == 4


def test_only_queries_and_keys_of_the_decoder_are_clipped(tmp_path: Path) -> None:
    teacher, grids = planted(), []
    for block in teacher.image_encoder.blocks:
        # Clipping would serve here too: queries have an outlier in a channel in which all keys are alike.
        block.attn.qkv.weight[:48].mul_(8)
        block.attn.qkv.bias[0], block.attn.qkv.weight[24] = 100.0, 0.0
    for pcc in (False, True):
        model = planned_copy(teacher, Scheme(4, 4))
        images = [ImageBatches(Images(), 64, 4, 0)(range(1))]
        Calibration(Search("minmax"), prompts=1, pcc=pcc).run(model, images, tmp_path / str(pcc), "key")
        grids.append({name: buffer for name, buffer in model.named_buffers() if name.endswith(".scale")})
    differing = {name for name, scale in grids[0].items() if not torch.equal(scale, grids[1][name])}
    assert differing and all(name.startswith("mask_decoder.") and ".scores." in name for name in differing)


def test_settings_reach_the_model_and_keep_outliers_from_spoiling_it(tmp_path: Path) -> None:
    teacher, found = planted(), {}
    method = Ptq(4, 4, metric="minmax", images=1, prompts=2)
    for name, changes in (("none", {}), ("big", {"big": True}), ("pcc", {"pcc": True})):
        folder = tmp_path / name
        made = replace(method, **changes).compress(teacher, Images(), RunContext(0, folder, Engine(folder)))  # type: ignore[arg-type]
        found[name] = float((answer(made.student) - answer(teacher)).square().mean())
    assert found["big"] < 0.9 * found["none"] and found["pcc"] < 0.9 * found["none"]


@pytest.mark.parametrize("name", ["big", "pcc"])
def test_a_float_decoder_has_neither(name: str) -> None:
    with pytest.raises(InputError, match=f"method.{name}=true is for products of .* give method.decoder=quantized"):
        Ptq(decoder="float", **{name: True})  # type: ignore[arg-type]
