"""``transformers.Sam2Model`` against this project's SAM 2, through the converters: at a small size, and at tiny's."""

import pytest

pytest.importorskip("transformers", reason="transformers is not installed (sampress[test])")

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import Sam2Config as HubConfig
from transformers import Sam2Model

from core.cost import measure_cost
from core.errors import InputError
from core.feature_maps import maps_of
from core.protocols import Prompt
from teachers.catalog import MODELS
from teachers.hiera import hiera_config
from teachers.sam2 import Sam2, Sam2Config, stability
from teachers.sam2_hub_config import hub_config_of
from teachers.sam2_layouts import from_sam2_layout, sam2_layout, to_hub, to_meta

FRAME = 128
# Windows of 6 do not divide their maps of 16 and 8.
CONFIG = Sam2Config(
    hiera_config(FRAME, 16, (1, 2, 3, 1), 1, (4, 6, 6, 3), (4, 5), 5, 32),
    decoder_heads=4,
    decoder_mlp_width=40,
    iou_width=24,
)
NAMES = [name for name in MODELS if name.startswith("sam2_1")]


def close(found: Tensor, expected: Tensor) -> None:
    """Within a ten-thousandth, of small values one of a hundred-thousandth of the largest."""
    assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def hub_model(config: Sam2Config = CONFIG, seed: int = 0) -> Sam2Model:
    torch.manual_seed(seed)
    model = Sam2Model(HubConfig(**hub_config_of(config)))
    for name, parameter in model.requires_grad_(False).named_parameters():
        # Loud enough that prompts matter: tokens and tables of 1, layers that keep the scale of what they are given.
        is_table = "embed" in name or "token.weight" in name or "tokens" in name
        spread = 1.0 if is_table else 1.3 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.2
        parameter.normal_(std=spread)
        parameter.add_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    # One matrix in the released folders; a new model draws two.
    shared = model.shared_image_embedding.positional_embedding
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)
    return model.eval()


def ours_from(model: Sam2Model, config: Sam2Config = CONFIG) -> Sam2:
    ours = config.make().eval().requires_grad_(False)
    ours.load_state_dict(from_sam2_layout(model.state_dict(), "hub"))
    return ours


def prompts(size: int) -> Iterator[Prompt]:
    boxes = torch.tensor([[10.0, 20.0, 90.0, 100.0], [0.0, 0.0, 50.0, 127.0]])
    xy, labels = torch.rand(2, 2, 2) * FRAME, torch.tensor([[1, 0], [1, -1]])
    yield Prompt(boxes_xyxy=boxes)
    yield Prompt(points_xy=xy, labels=labels)
    yield Prompt(boxes_xyxy=boxes, points_xy=xy, labels=labels)
    yield Prompt(boxes_xyxy=boxes[:1], mask_logits=torch.randn(1, 1, size // 4, size // 4))


def hub_answer(model: Sam2Model, maps: list[Tensor], prompt: Prompt, multimask: bool) -> Any:
    # It changes the labels and boxes it is given.
    return model(
        image_embeddings=[part.clone() for part in maps],
        input_points=None if prompt.points_xy is None else prompt.points_xy[None].clone(),
        input_labels=None if prompt.labels is None else prompt.labels[None].clone(),
        input_boxes=None if prompt.boxes_xyxy is None else prompt.boxes_xyxy[None].clone(),
        input_masks=prompt.mask_logits,
        multimask_output=multimask,
    )


def assert_same(ours: Sam2, theirs: Sam2Model, size: int = FRAME) -> None:
    images = torch.randn(1, 3, size, size)
    found = ours.encode(images)
    fine, middle, coarse = maps = theirs.get_image_embeddings(images)
    assert list(found.maps) == ["image_embed", "high_res_feats_0", "high_res_feats_1"]
    for mine, other in zip(found.maps.values(), (coarse, fine, middle), strict=True):
        close(mine, other)
    for prompt in prompts(size):
        decoded = ours.decode_frame(found, prompt)
        for multimask in (True, False):
            masks = ours.decode(found, prompt, (size, size), multimask)
            answer = hub_answer(theirs, maps, prompt, multimask)
            close(masks.logits, answer.pred_masks[0])
            close(masks.iou_pred, answer.iou_scores[0])
            close(decoded.object_score, answer.object_score_logits[0])


def test_from_hugging_face() -> None:
    theirs = hub_model()
    assert_same(ours_from(theirs), theirs)


@pytest.mark.parametrize(
    "key",
    [
        "image_encoder.trunk.blocks.3.proj.weight",
        "image_encoder.trunk.pos_embed_window",
        "image_encoder.neck.convs.0.weight",
        "image_encoder.no_mem_embed",
        "image_encoder.conv_s1.weight",
        "mask_decoder.obj_score_token.weight",
        "mask_decoder.iou_prediction_head.layers.2.weight",
        "prompt_encoder.point_embeddings.3.weight",
    ],
)
def test_the_comparison_can_fail(key: str) -> None:
    theirs = hub_model()
    ours = ours_from(theirs)
    ours.state_dict()[key].mul_(1.5)
    with pytest.raises(AssertionError, match="not close"):
        assert_same(ours, theirs)


@pytest.mark.slow
def test_tiny_at_its_own_size() -> None:
    config = MODELS["sam2_1_tiny"].config
    assert isinstance(config, Sam2Config)
    theirs = hub_model(config)
    assert_same(ours_from(theirs, config), theirs, 1024)


def test_the_stability_rule() -> None:
    theirs = hub_model()
    ours = ours_from(theirs)
    images = torch.randn(1, 3, FRAME, FRAME)
    found, maps = ours.encode(images), theirs.get_image_embeddings(images)
    prompt = Prompt(points_xy=torch.rand(24, 4, 2) * FRAME, labels=torch.randint(0, 2, (24, 4)))
    decoded = ours.decode_frame(found, prompt)
    stable = stability(decoded.logits[:, 0]) >= 0.98
    assert 4 < int(stable.sum()) < 20, "both cases must occur"
    single, answer = ours.decode(found, prompt, (FRAME, FRAME)), hub_answer(theirs, maps, prompt, False)
    close(single.logits, answer.pred_masks[0])
    close(single.iou_pred, answer.iou_scores[0])
    best = torch.where(stable, 0, decoded.iou_pred[:, 1:].argmax(1) + 1)
    for i, candidate in enumerate(best.tolist()):
        assert torch.equal(single.logits[i, 0], decoded.logits[i, candidate])
        assert single.iou_pred[i, 0] == decoded.iou_pred[i, candidate]
    # While a decoder is trained it answers with its own single mask.
    assert torch.equal(ours.train().decode(found, prompt, (FRAME, FRAME)).logits, decoded.logits[:, :1])


def test_stability_is_the_iou_of_two_cuts() -> None:
    logits = torch.tensor([[[0.06, 0.04, -0.04, -0.06]], [[-1.0, -1.0, -1.0, -0.05]]])
    assert stability(logits).tolist() == [pytest.approx(1 / 3), 1.0]


def test_there_and_back() -> None:
    state = CONFIG.make().state_dict()
    there = to_hub(CONFIG, state)
    assert there.keys() == hub_model().state_dict().keys()
    assert sam2_layout(there) == "hub"
    meta = to_meta(state)
    assert sam2_layout(meta) == "meta"
    for back in (from_sam2_layout(there, "hub"), from_sam2_layout(meta, "meta")):
        assert back.keys() == state.keys()
        assert all(torch.equal(back[key], state[key]) for key in state)


def test_metas_names() -> None:
    """Of the released files, as their own code makes them."""
    names = set(to_meta(CONFIG.make().state_dict()))
    assert {
        "no_mem_embed",
        "image_encoder.trunk.pos_embed",
        "image_encoder.trunk.pos_embed_window",
        "image_encoder.trunk.patch_embed.proj.weight",
        "image_encoder.trunk.blocks.0.norm1.weight",
        "image_encoder.trunk.blocks.0.attn.qkv.bias",
        "image_encoder.trunk.blocks.0.mlp.layers.1.weight",
        "image_encoder.trunk.blocks.1.proj.weight",
        "image_encoder.neck.convs.3.conv.weight",
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "sam_prompt_encoder.point_embeddings.3.weight",
        "sam_prompt_encoder.mask_downscaling.6.bias",
        "sam_prompt_encoder.no_mask_embed.weight",
        "sam_mask_decoder.transformer.layers.1.self_attn.out_proj.weight",
        "sam_mask_decoder.transformer.layers.0.mlp.layers.0.weight",
        "sam_mask_decoder.transformer.norm_final_attn.weight",
        "sam_mask_decoder.obj_score_token.weight",
        "sam_mask_decoder.conv_s0.weight",
        "sam_mask_decoder.conv_s1.bias",
        "sam_mask_decoder.output_upscaling.3.weight",
        "sam_mask_decoder.pred_obj_score_head.layers.2.bias",
        "sam_mask_decoder.iou_prediction_head.layers.0.weight",
    } <= names


def test_ragged_widths_are_refused() -> None:
    widths = (*CONFIG.hiera.attention_widths[:-1], 64)
    ragged = replace(CONFIG, encoder=replace(CONFIG.hiera, attention_widths=widths))
    with pytest.raises(InputError, match="attention widths other than the embedding width"):
        hub_config_of(ragged)


@pytest.mark.parametrize(
    ("name", "trunk", "whole"),
    [
        ("sam2_1_tiny", 26_849_472, 31_440_721),
        ("sam2_1_small", 33_947_328, 38_538_577),
        ("sam2_1_base_plus", 68_675_712, 73_328_401),
        ("sam2_1_large", 212_149_296, 216_924_865),
    ],
)
def test_parameters_of_the_published_sizes(name: str, trunk: int, whole: int) -> None:
    config = MODELS[name].config
    assert isinstance(config, Sam2Config)
    with torch.device("meta"):
        ours, theirs = config.make(name), Sam2Model(HubConfig(**hub_config_of(config)))
    assert _parameters(ours.image_encoder.trunk) == _parameters(theirs.vision_encoder.backbone) == trunk
    assert _parameters(ours) == _parameters(theirs) == whole


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n != "sam2_1_tiny" else ()) for n in NAMES],
)
def test_macs_are_those_of_transformers_modules(name: str) -> None:
    """Counted by hand from the shapes that go through transformers' own modules."""
    config = MODELS[name].config
    assert isinstance(config, Sam2Config)
    with torch.device("meta"):
        cost = measure_cost(config.make(name))
        theirs = Sam2Model(HubConfig(**hub_config_of(config), attn_implementation="eager")).eval()
    full, modules = counted(theirs)
    assert cost.encoder_macs_full == full
    assert cost.encoder_macs_modules == modules


def counted(model: Sam2Model) -> tuple[int, int]:
    """MACs of the encoder and of the two projections, by both counters' definitions."""
    full = modules = 0

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal full, modules
        if isinstance(module, nn.Linear):
            products = inputs[0].numel() * module.out_features
            full, modules = full + products, modules + products + module.out_features
        elif isinstance(module, nn.Conv2d):
            products = output.numel() * module.in_channels * module.kernel_size[0] * module.kernel_size[1]
            full, modules = full + products, modules + products + output.numel()

    def pooled(module: Any, inputs: Any, output: Tensor) -> None:
        """A block's attention: queries with keys, weights with values; and what its MLP and pooling are charged."""
        nonlocal full, modules
        attention, tokens_in, tokens_out = module.attn, *tokens[module]
        if attention.query_stride:
            # Queries (with their windows' padding) and the shortcut are pooled, and charged what goes in.
            modules += attention.dim_out * (tokens_in[0] * tokens_in[1] + shortcut[module])
        full += 2 * tokens_in[0] * tokens_in[1] * tokens_out * attention.dim_out
        # GELU, where this project has PyTorch's module and transformers one of its own.
        modules += output.numel() // attention.dim_out * module.mlp.proj_in.out_features

    tokens: dict[Any, Any] = {}
    shortcut: dict[Any, int] = {}

    def before(module: Any, args: Any, kwargs: Any) -> None:
        windows, height, width, _ = kwargs["hidden_states"].shape
        stride = 2 if module.query_stride else 1
        owner = next(block for block in model.vision_encoder.backbone.blocks if block.attn is module)
        tokens[owner] = (windows, height * width), (height // stride) * (width // stride)

    for module in model.modules():
        module.register_forward_hook(hook)
    for block in model.vision_encoder.backbone.blocks:
        block.attn.register_forward_pre_hook(before, with_kwargs=True)
        block.register_forward_pre_hook(
            lambda module, args: shortcut.update({module: args[0].shape[1] * args[0].shape[2]})
        )
        block.register_forward_hook(pooled)
    size = model.prompt_encoder.input_image_size
    with torch.no_grad():
        found = model.vision_encoder(torch.empty(1, 3, size, size, device="meta")).fpn_hidden_states
        model.mask_decoder.conv_s0(found[0])
        model.mask_decoder.conv_s1(found[1])
    return full, modules


def test_features_of_one_map_are_the_embedding() -> None:
    x = torch.zeros(1, 2, 3, 3)
    assert maps_of(x) == {"image_embed": x}
