"""Grids that no runtime computes with, against values worked out by hand."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compressors.quantize.recording import Recorder
from compressors.quantize.search import GRANULARITIES, HYBRIDS, Search, search
from core.errors import InputError
from experiments.model_columns import cost_columns
from students.quantized.layers import QuantizedProduct, make_layer
from students.quantized.plan import Plan, apply_plan, make_plan, simulated
from students.quantized.quantizers import UniformQuantizer
from students.quantized.scheme import Scheme
from students.quantized.simulated_grids import (
    GELU_LOWEST,
    ChannelGroupQuantizer,
    HybridQuantizer,
    LogarithmicQuantizer,
    TwinQuantizer,
    check_grids,
    grouped,
    make_quantizer,
)
from tests.unit.tiny import tiny_sam


def test_softmax_twin_is_disjoint() -> None:
    quantizer = TwinQuantizer(8, "softmax")
    quantizer.scale.fill_(1 / 16)
    x = torch.tensor([0.0, 1e-4, 1 / 16 - 1e-6, 1 / 16, 0.5, 1.0])
    found = quantizer(x)
    # In the reference both ranges are added: zero would come out as about 1/16.
    assert found[0] == 0 and found[5] == 1
    step = 1 / 16 / 128
    assert float(found[1]) == pytest.approx(0.0) and float(found[2]) == pytest.approx(127 * step)
    assert float(found[3]) == pytest.approx(8 / 127) and float(found[4]) == pytest.approx(64 / 127)
    everywhere = torch.linspace(0, 1, 10001)
    below = everywhere < 1 / 16
    assert float((quantizer(everywhere) - everywhere)[below].abs().max()) <= step * 1.001
    assert float((quantizer(everywhere) - everywhere)[~below].abs().max()) <= 0.5 / 127 * 1.001


def test_gelu_twin_is_disjoint() -> None:
    quantizer = TwinQuantizer(8, "gelu")
    quantizer.scale.fill_(0.05)
    x = torch.tensor([-GELU_LOWEST, -0.01, 0.0, 0.12, 6.35, 100.0])
    step = GELU_LOWEST / 128
    assert quantizer(x).tolist() == pytest.approx([-128 * step, -8 * step, 0.0, 0.1, 6.35, 6.35], abs=1e-6)


def test_logarithmic_codes_are_powers_and_the_last_one_is_zero() -> None:
    quantizer = LogarithmicQuantizer(3)
    x = torch.tensor([1.0, 0.72, 0.7, 2**-2, 2**-6.4, 2**-6.6, 0.0, 1.5])
    # Codes 0 to 6 are 1 to 2^-6; the eighth is zero. Published code has 2^-7 and zero besides.
    assert quantizer(x).tolist() == pytest.approx([1, 1, 0.5, 0.25, 2**-6, 0, 0, 1])
    quantizer.granularity.fill_(2)
    quantizer.scale.fill_(0.8)
    x = torch.tensor([0.8, 0.8 * 2**-0.5, 0.8 * 2**-0.76, 0.8 * 2**-3, 0.8 * 2**-3.3])
    assert quantizer(x).tolist() == pytest.approx([0.8, 0.8 * 2**-0.5, 0.8 * 2**-1, 0.8 * 2**-3, 0])
    quantizer.granularity.fill_(4)
    quantizer.scale.fill_(1.0)
    x = torch.tensor([1.0, 0.92, 0.91, 2**-0.7, 2**-1.6, 2**-1.65])
    assert quantizer(x).tolist() == pytest.approx([1, 1, 2**-0.25, 2**-0.75, 2**-1.5, 0])


def test_hybrid_codes_of_small_and_of_large_values() -> None:
    quantizer = HybridQuantizer(3)
    quantizer.set_range(torch.tensor(-1.0), torch.tensor(9.0), ratio=0.4, share=1 / 2)
    # Range 10: 4, 2, 1 and nothing above -1 on the logarithmic grid, then four steps of 1.5 up to 10.
    assert (float(quantizer.scale), float(quantizer.step), int(quantizer.logarithmic)) == (4.0, 1.5, 4)
    above = torch.tensor([0.0, 0.5, 0.9, 1.2, 2.9, 4.0, 4.7, 4.8, 7.0, 9.4, 10.0, 12.0])
    # 0.5 is 2^-3 of 4, whose code 3 is that of nothing.
    expected = torch.tensor([0.0, 0.0, 1.0, 1.0, 4.0, 4.0, 4.0, 5.5, 7.0, 10.0, 10.0, 10.0])
    assert quantizer(above - 1).tolist() == pytest.approx((expected - 1).tolist())


def test_large_values_of_a_hybrid_grid_are_not_taken_for_small_ones() -> None:
    # The published code's test for underflow, code >= 2^b g, also meets the codes of large values: they became 0.
    quantizer = HybridQuantizer(4)
    quantizer.set_range(torch.tensor(0.0), torch.tensor(8.0), ratio=0.1, share=1 / 8)
    x = torch.linspace(1, 8, 50)
    assert float((quantizer(x) - x).abs().max()) <= float(quantizer.step) / 2 * 1.001


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize(("ratio", "share"), HYBRIDS)
def test_no_grid_has_more_values_than_codes(bits: int, ratio: float, share: float) -> None:
    hybrid, logarithmic = HybridQuantizer(bits), LogarithmicQuantizer(bits)
    hybrid.set_range(torch.tensor(-0.17), torch.tensor(5.0), ratio, share)
    assert len(hybrid(torch.linspace(-1, 6, 100000)).unique()) <= 2**bits
    for granularity in GRANULARITIES:
        logarithmic.granularity.fill_(granularity)
        values = logarithmic(torch.cat([torch.zeros(1), torch.logspace(-70, 0, 20000, 2)])).unique()
        assert len(values) == 2**bits and 0 in values


@given(st.integers(2, 8), st.lists(st.floats(-50, 50), min_size=1, max_size=20))
def test_grids_are_repeatable_and_keep_their_own_values(bits: int, values: list[float]) -> None:
    x = torch.tensor(values)
    quantizer = HybridQuantizer(bits)
    quantizer.set_range(x.amin(), x.amax(), *HYBRIDS[4])
    once = quantizer(x)
    assert torch.allclose(quantizer(once), once, atol=1e-3) and bool(once.isfinite().all())


@pytest.mark.parametrize("quantizer", [LogarithmicQuantizer(4), HybridQuantizer(4)])
def test_the_gradient_passes_where_nothing_is_clipped(quantizer: nn.Module) -> None:
    x = torch.tensor([-3.0, 0.4, 0.9, 20.0], requires_grad=True)
    if isinstance(quantizer, HybridQuantizer):
        quantizer.set_range(torch.tensor(0.0), torch.tensor(1.0), 0.3, 0.25)
    quantizer(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 0]


def test_channels_of_like_ranges_share_a_grid() -> None:
    quantizer = ChannelGroupQuantizer(8, False, channels=5, groups=2)
    lowest, highest = torch.tensor([-1.0, -20.0, -1.5, 0.0, -30.0]), torch.tensor([1.0, 10.0, 0.5, 1.0, 21.0])
    quantizer.set_range(lowest, highest)
    assert quantizer.group[0] == quantizer.group[2] == quantizer.group[3] != quantizer.group[1] == quantizer.group[4]
    small = int(quantizer.group[0])
    # Each group covers all of its channels.
    assert float(quantizer.scale[small]) == pytest.approx(2.5 / 255)
    assert float(quantizer.scale[1 - small]) == pytest.approx(51 / 255)
    x = torch.tensor([[0.3, 0.3, -1.5, 1.0, -30.0]])
    assert (quantizer(x) - x).abs()[0].tolist()[:1] < [0.006] and float(quantizer(x)[0, 4]) == pytest.approx(
        -30, abs=0.11
    )
    one = ChannelGroupQuantizer(8, False, channels=5, groups=1)
    one.set_range(lowest, highest)
    whole = UniformQuantizer(8, False)
    whole.set_range(lowest.amin(), highest.amax())
    assert torch.equal(one(x), whole(x))


def test_channels_of_equal_width_and_other_centres_are_other_groups() -> None:
    lowest, highest = torch.tensor([-1.0, -9.0, -1.5, -8.0]), torch.tensor([9.0, 1.0, 8.0, 2.0])
    group = grouped(lowest, highest, 2)
    assert group[0] == group[2] != group[1] == group[3]


def test_as_many_groups_as_channels_give_each_its_own_grid() -> None:
    lowest, highest = -torch.arange(1.0, 7.0), 2 * torch.arange(1.0, 7.0)
    assert sorted(grouped(lowest, highest, 6).tolist()) == list(range(6))
    assert grouped(torch.zeros(4), torch.ones(4), 3).unique().numel() == 1


@pytest.mark.parametrize("granularity", [2, 4])
def test_the_search_takes_the_form_that_answers_best(granularity: int) -> None:
    """Attention of powers of the second or fourth root of two is met exactly with this granularity, and no smaller."""
    torch.manual_seed(0)
    attention = 2 ** (-torch.randint(0, 7, (2, 2, 8, 8)) / granularity)
    product = QuantizedProduct(LogarithmicQuantizer(4), UniformQuantizer(8, False))
    product.quantizing = False
    recorder = Recorder({"product": product}, 0)
    with recorder.on(0):
        product(attention, torch.randn(2, 2, 8, 4))
    search(product, recorder.traces["product"], Search("mse", 20, 0.5, 1.2, 1))
    assert isinstance(product.left, LogarithmicQuantizer) and int(product.left.granularity) == granularity
    assert torch.allclose(product.left(attention), attention)


def test_a_hybrid_grid_is_searched_and_better_than_a_uniform_one_behind_gelu() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(32, 16), nn.functional.gelu(2 * torch.randn(1, 400, 32))
    errors = {}
    for kind in ("uniform", "hybrid"):
        given = {"kind": kind, "bits": 4} | ({"symmetric": False, "shape": []} if kind == "uniform" else {})
        weight = {"kind": "uniform", "bits": 8, "symmetric": True, "shape": [16, 1]}
        layer = make_layer({"kind": "linear", "shape": [16, 32], "bias": 16, "weight": weight, "input": given})
        layer.take(linear.weight, linear.bias)
        layer.quantizing = False
        recorder = Recorder({"layer": layer}, 0)
        with recorder.on(0):
            layer(x)
        search(layer, recorder.traces["layer"], Search("mse", 50, 0.2, 1.2, 2))
        layer.quantizing = True
        errors[kind] = float((layer(x) - linear(x)).detach().square().mean())
    assert 0 < errors["hybrid"] < errors["uniform"]


GROUPS = Scheme(channel_groups=4, softmax_grid="logarithmic", gelu_grid="hybrid")


@pytest.mark.parametrize("kind, scheme", [("twin", Scheme(twin=True)), ("hybrid", Scheme(gelu_grid="hybrid"))])
def test_of_what_comes_from_a_gelu_linear_layers_alone_have_such_a_grid(kind: str, scheme: Scheme) -> None:
    layers = make_plan(tiny_sam(), scheme).layers
    found = {path for path, layer in layers.items() if layer["input"]["kind"] == kind}
    assert found == {f"image_encoder.blocks.{i}.mlp.lin2" for i in range(3)}
    # The mask decoder's second transposed convolution stands behind a GELU, too.
    assert (
        layers["mask_decoder.output_upscaling.3"]
        == make_plan(tiny_sam(), Scheme()).layers["mask_decoder.output_upscaling.3"]
    )


def test_the_plan_puts_each_grid_where_its_paper_does() -> None:
    plan = make_plan(tiny_sam(), GROUPS)
    kinds = {path: layer["input"]["kind"] for path, layer in plan.layers.items()}
    assert {path for path, kind in kinds.items() if kind == "hybrid"} == {
        f"image_encoder.blocks.{i}.mlp.lin2" for i in range(3)
    }
    of_groups = {path.rpartition(".")[2] for path, kind in kinds.items() if kind == "channel_groups"}
    assert of_groups == {"qkv", "lin1", "q_proj", "k_proj", "v_proj"}
    assert {pair["mixing"]["left"]["kind"] for pair in plan.products.values()} == {"logarithmic"}
    assert simulated(plan) == ["logarithmic softmax", "hybrid grids behind GELU", "grids of channel groups"]
    assert Plan.from_dict(plan.to_dict()) == plan
    assert simulated(make_plan(tiny_sam(), Scheme())) == []
    found = simulated(make_plan(tiny_sam(), Scheme(activation_bits=4, products="head")))
    assert found == ["scales of heads", "fewer than 8 bits"]


def test_defaults_leave_files_as_they_were_before_there_were_such_grids() -> None:
    scheme = make_plan(tiny_sam(), Scheme()).to_dict()["scheme"]
    assert not {"channel_groups", "softmax_grid", "gelu_grid", "eight_bit_layers"} & set(scheme)


def test_whole_numbers_that_no_calibration_gives_are_refused() -> None:
    model = tiny_sam()
    apply_plan(model, make_plan(model, GROUPS))
    check_grids(model, "student.safetensors")
    path = "image_encoder.blocks.0.attn.qkv.input_quantizer"
    model.get_submodule(path).get_buffer("group")[0] = 4
    with pytest.raises(InputError, match=rf"student\.safetensors: {path}\.group must be from 0 to 3"):
        check_grids(model, "student.safetensors")


@pytest.mark.parametrize("change", [{"softmax_grid": "logarithmic"}, {"channel_groups": 4}, {"gelu_grid": "hybrid"}])
def test_an_export_stops_at_a_grid_that_no_runtime_knows(change: dict[str, object]) -> None:
    model = tiny_sam()
    apply_plan(model, make_plan(model, replace(Scheme(), **change)))  # type: ignore[arg-type]
    with pytest.raises(Exception, match="runtimes know no"):
        torch.export.export(model.image_encoder, (torch.zeros(1, 3, 64, 64),))


@pytest.mark.parametrize(
    "description",
    [
        {"kind": "uniform", "bits": 9, "symmetric": True, "shape": []},
        {"kind": "uniform", "bits": "8", "symmetric": True, "shape": []},
        {"kind": "twin", "bits": 8, "values": "relu"},
        {"kind": "channel_groups", "bits": 8, "symmetric": True, "channels": 3, "groups": 4},
        {"kind": "power", "bits": 8},
    ],
)
def test_what_describes_no_grid_is_refused(description: dict[str, object]) -> None:
    with pytest.raises((ValueError, KeyError)):
        make_quantizer(description)


def test_a_grid_is_made_again_from_its_description() -> None:
    for quantizer in (
        UniformQuantizer(5, False, (3, 1)),
        TwinQuantizer(4, "gelu"),
        TwinQuantizer(8, "softmax"),
        LogarithmicQuantizer(3),
        HybridQuantizer(6),
        ChannelGroupQuantizer(4, True, 6, 3),
    ):
        again = make_quantizer(quantizer.description())
        assert again.description() == quantizer.description()
        again.load_state_dict(quantizer.state_dict())


def test_rows_say_what_is_simulated() -> None:
    model = tiny_sam()
    assert "simulated" not in cost_columns(model)
    apply_plan(model, make_plan(model, replace(Scheme(), channel_groups=2)))
    assert cost_columns(model)["simulated"] == "grids of channel groups"
    model = tiny_sam()
    apply_plan(model, make_plan(model, Scheme()))
    assert cost_columns(model)["simulated"] is None
