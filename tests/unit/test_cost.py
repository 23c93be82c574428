"""Parameters and multiply-accumulates: against published figures, another counter, and what algebra says."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.cost import Cost, checkpoint_bytes, count_macs, measure_cost
from core.protocols import Prompt
from evaluation.latency import peak_memory
from teachers.attention import Attention, attend_by_definition
from teachers.catalog import MODELS, vit
from teachers.image_encoder import EncoderConfig
from teachers.sam import Sam, SamConfig

BASE = vit(12, 768, 12, (2, 5, 8, 11))


def pruned(embed_dim: int, attention: int, mlp: int) -> EncoderConfig:
    return replace(BASE, embed_dim=embed_dim, attention_widths=(attention,) * 12, mlp_widths=(mlp,) * 12)


ENCODERS = {
    "sam_vit_b": MODELS["sam_vit_b"].config.encoder,
    "sam_vit_l": MODELS["sam_vit_l"].config.encoder,
    "sam_vit_h": MODELS["sam_vit_h"].config.encoder,
    "slimsam_50_step_1": pruned(384, 768, 3072),
    "slimsam_50": pruned(384, 384, 1536),
    "slimsam_77_step_1": pruned(168, 768, 3072),
    "slimsam_77": pruned(168, 168, 696),
}

SMALL = EncoderConfig(
    image_size=72,
    patch_size=8,
    embed_dim=24,
    num_heads=2,
    attention_widths=(16, 24, 20),
    mlp_widths=(40, 96, 64),
    window_size=4,
    global_blocks=(1,),
    out_channels=32,
)
"""Ragged, and its grid of 9 is no multiple of its windows of 4."""


def small(encoder: EncoderConfig = SMALL) -> Sam:
    return Sam(SamConfig(encoder, decoder_heads=4, decoder_mlp_width=48, iou_width=16))


@cache
def cost_of(name: str) -> Cost:
    with torch.device("meta"):
        return measure_cost(Sam(SamConfig(ENCODERS[name])))


@pytest.mark.parametrize(
    ("name", "encoder", "whole"),
    [
        ("sam_vit_b", 89_670_912, 93_735_472),
        ("sam_vit_l", 308_278_272, 312_342_832),
        ("sam_vit_h", 637_026_048, 641_090_608),
        ("slimsam_50_step_1", 45_209_472, 49_274_032),
        ("slimsam_50", 23_897_216, 27_961_776),
        ("slimsam_77_step_1", 20_199_912, 24_264_472),
        ("slimsam_77", 5_658_968, 9_723_528),
    ],
)
def test_parameters_are_the_published_ones(name: str, encoder: int, whole: int) -> None:
    assert (cost_of(name).encoder_parameters, cost_of(name).parameters) == (encoder, whole)


@pytest.mark.parametrize(
    ("name", "modules", "full"),
    [
        ("sam_vit_b", 368.859e9, 486.19e9),
        ("sam_vit_l", 1311.513e9, 1493.25e9),
        ("sam_vit_h", 2732.976e9, 2981.22e9),
        ("slimsam_50_step_1", 185.713e9, 303.05e9),
        ("slimsam_50", 94.870e9, 153.54e9),
        ("slimsam_77_step_1", 82.693e9, 200.03e9),
        ("slimsam_77", 20.925e9, 46.59e9),
    ],
)
def test_macs_of_the_encoder(name: str, modules: float, full: float) -> None:
    """The figures of ``full`` are those of ``modules`` plus attention; they also hold activations and biases."""
    assert cost_of(name).encoder_macs_modules == pytest.approx(modules, abs=0.0005e9)
    assert cost_of(name).encoder_macs_full == pytest.approx(full, rel=1e-3)


@pytest.mark.parametrize(("name", "full"), [("sam_vit_b", 486.0e9), ("sam_vit_l", 1492.8e9), ("sam_vit_h", 2980.5e9)])
def test_full_macs_are_those_of_other_implementations_under_the_same_counter(name: str, full: float) -> None:
    assert cost_of(name).encoder_macs_full == pytest.approx(full, abs=0.05e9)


@pytest.mark.parametrize(
    ("name", "published"),
    [("sam_vit_b", 372e9), ("sam_vit_l", 1315e9), ("sam_vit_h", 2736e9), ("slimsam_50", 98e9)],
)
def test_macs_of_the_whole_model_are_those_of_slimsams_table(name: str, published: float) -> None:
    assert cost_of(name).macs_modules == pytest.approx(published, rel=0.005)


def test_the_table_prints_slimsam_77_rounded_down() -> None:
    assert cost_of("slimsam_77").macs_modules // 10**9 == 23


@pytest.mark.parametrize("name", ENCODERS)
def test_the_decoder_costs_the_same_behind_every_encoder(name: str) -> None:
    cost = cost_of(name)
    assert cost.parameters - cost.encoder_parameters == 4_064_560
    assert cost.macs_modules - cost.encoder_macs_modules == pytest.approx(2.98e9, rel=0.005)
    assert (
        cost.macs_full - cost.encoder_macs_full
        == cost_of("sam_vit_b").macs_full - cost_of("sam_vit_b").encoder_macs_full
    )


class EncodeAndDecode(nn.Module):
    """One image to the masks of one box, in one call."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, images: Tensor) -> Tensor:
        return self.sam.decode_frame(
            self.sam.encode(images), Prompt(boxes_xyxy=torch.tensor([[8.0, 8, 40, 40]]))
        ).logits


class EveryRule(nn.Module):
    """One module of each rule, with and without what changes its price."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=4),
            nn.GroupNorm(2, 8),
            nn.PReLU(),
            nn.ConvTranspose2d(8, 4, 2, 2),
            nn.InstanceNorm2d(4),
            nn.ELU(),
            nn.MaxPool2d(2),
            nn.Upsample(scale_factor=2),
            nn.AdaptiveAvgPool2d(3),
        )
        self.line = nn.Sequential(nn.Conv1d(4, 6, 3), nn.GELU(), nn.Linear(7, 5, bias=False), nn.Linear(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.line(self.maps(x).flatten(2))


@pytest.mark.parametrize("kind", ["encoder", "whole", "rules"])
def test_the_counter_modules_equals_torch_pruning_but_for_layer_norms(kind: str) -> None:
    from torch_pruning.utils import count_ops_and_params

    sam = small().eval()
    model: nn.Module = {"encoder": sam.image_encoder, "whole": EncodeAndDecode(sam), "rules": EveryRule().eval()}[kind]
    model.requires_grad_(False)
    image = torch.zeros(1, 3, 72, 72)
    theirs, parameters, layers, _ = count_ops_and_params(model, image, layer_wise=True)
    norms = sum(layers[module] for module in model.modules() if type(module) is nn.LayerNorm)
    with torch.no_grad(), count_macs(model) as macs:
        model(image)
    assert macs.modules == theirs - norms
    assert norms < 0.02 * theirs
    if kind != "rules":
        cost = measure_cost(sam)
        assert (cost.parameters if kind == "whole" else cost.encoder_parameters) == parameters
        assert (cost.macs_modules if kind == "whole" else cost.encoder_macs_modules) == macs.modules


def test_one_attention_channel_a_head_costs_what_algebra_says() -> None:
    """Blocks 0 and 2 attend in 9 windows of 16 tokens, block 1 over all 81; two heads get one channel more each."""
    before = measure_cost(small())
    for block, (tokens, keys, side) in enumerate([(9 * 16, 16, 4), (81, 81, 9), (9 * 16, 16, 4)]):
        widths = list(SMALL.attention_widths)
        widths[block] += 2
        after = measure_cost(small(replace(SMALL, attention_widths=tuple(widths))))
        linears = 2 * tokens * 4 * SMALL.embed_dim
        attention = 2 * tokens * (2 * keys + 2 * side)
        assert after.encoder_macs_full - before.encoder_macs_full == linears + attention
        assert after.encoder_macs_modules - before.encoder_macs_modules == linears + 2 * 3
        assert after.encoder_parameters - before.encoder_parameters == 2 * (4 * SMALL.embed_dim + 3) + 2 * (
            2 * side - 1
        )
        assert after.macs_full - after.encoder_macs_full == before.macs_full - before.encoder_macs_full


def test_one_mlp_channel_costs_what_algebra_says() -> None:
    before = measure_cost(small())
    for block in range(SMALL.depth):
        widths = list(SMALL.mlp_widths)
        widths[block] += 1
        after = measure_cost(small(replace(SMALL, mlp_widths=tuple(widths))))
        assert after.encoder_macs_full - before.encoder_macs_full == 2 * 81 * SMALL.embed_dim
        # One more column of GELU and one more bias.
        assert after.encoder_macs_modules - before.encoder_macs_modules == 81 * (2 * SMALL.embed_dim + 1) + 1
        assert after.encoder_parameters - before.encoder_parameters == 2 * SMALL.embed_dim + 1


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (18, 18)])
def test_the_counted_form_of_attention_is_the_executed_one(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    height, width = size
    module = Attention(24, 12, 3, 8)
    for table in (module.rel_pos_h, module.rel_pos_w):
        nn.init.normal_(table)
    tokens = torch.randn(2, height, width, 24)
    executed = module(tokens)
    monkeypatch.setattr(Attention, "_kernel", lambda *_: attend_by_definition)
    torch.testing.assert_close(module(tokens), executed)


def test_measuring_takes_no_memory_and_leaves_the_model_alone() -> None:
    model = small().to(torch.bfloat16).train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    costs: list[Cost] = []
    stored = [*model.parameters(), *model.buffers()]
    growth = peak_memory(lambda: costs.append(measure_cost(model)), stored, torch.device("cpu")) - checkpoint_bytes(
        model
    )
    assert growth < 1000
    with torch.device("meta"):
        assert costs == [measure_cost(small())]
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    torch.testing.assert_close(dict(model.state_dict()), weights, rtol=0, atol=0)


def test_hooks_are_removed_when_the_counted_block_fails() -> None:
    model = small()
    with pytest.raises(KeyError), count_macs(model):
        raise KeyError
    assert not any(module._forward_hooks for module in model.modules())


def test_only_modules_can_be_measured() -> None:
    not_a_module: Any = object()
    with pytest.raises(TypeError, match="got object"):
        measure_cost(not_a_module)


def test_checkpoint_bytes_follow_each_tensors_precision() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    # Weights 15 + 5 + 5 + 5, running mean and variance 5 + 5, all of four bytes, and one counter of eight.
    assert checkpoint_bytes(model) == 4 * 40 + 8
    assert checkpoint_bytes(model.to(torch.float16)) == 2 * 40 + 8
    with torch.device("meta"):
        assert checkpoint_bytes(Sam(MODELS["sam_vit_b"].config)) == 4 * (93_735_472 + 256)
