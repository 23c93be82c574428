"""The image encoder: attention against its definition, ragged widths, parameter counts, memory of a global block."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import teachers.attention
from teachers.attention import Attention, merge_windows, partition_windows
from teachers.catalog import MODELS, vit
from teachers.image_encoder import Block, EncoderConfig, ImageEncoder


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.requires_grad_(False).parameters():
        parameter.copy_(torch.randn(parameter.shape) * (parameter[0].numel() ** -0.5))
    return module.eval()


def by_definition(attention: Attention, x: Tensor) -> Tensor:
    """softmax(q k^T * scale + rel_h + rel_w) v, pair by pair of rows and columns."""
    batch, height, width, _ = x.shape
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(3, 0, 4, 1, 2, 5)
    logits = torch.einsum("bnhwd,bnyxd->bnhwyx", q, k) * attention.scale
    for a in range(height):
        for b in range(height):
            # [B, heads, W]: the queries of row a to any key of row b
            logits[:, :, a, :, b] += (q[:, :, a] @ attention.rel_pos_h[a - b + height - 1])[..., None]
    for a in range(width):
        for b in range(width):
            logits[:, :, :, a, :, b] += (q[:, :, :, a] @ attention.rel_pos_w[a - b + width - 1])[..., None]
    weights = logits.flatten(-2).softmax(-1).unflatten(-1, (height, width))
    out = torch.einsum("bnhwyx,bnyxd->bhwnd", weights, v)
    return attention.proj(out.reshape(batch, height, width, -1))


@pytest.fixture(params=[0, 10_000], ids=["parts", "products"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which attention is computed on a CPU."""
    monkeypatch.setattr(teachers.attention, "SMALL_MAP", request.param)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("width", [24, 12, 40])
def test_attention_is_what_it_is_defined_to_be(width: int) -> None:
    attention = randomised(Attention(24, width, 4, window=6))
    x = torch.randn(2, 6, 6, 24)
    assert_close(attention(x), by_definition(attention, x), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("window", [0, 3], ids=["global", "windows"])
def test_blocks_are_what_they_are_defined_to_be(window: int) -> None:
    block = randomised(Block(24, 4, attention=20, mlp=30, window=window, grid=7))
    x = torch.randn(2, 7, 7, 24)
    attended = torch.zeros_like(x)
    normed = block.norm1(x)
    side = window or 7
    # Windows that hang over the edge are filled up with zeros, which take part.
    padded = torch.zeros(2, 9 if window else 7, 9 if window else 7, 24)
    padded[:, :7, :7] = normed
    for top in range(0, 7, side):
        for left in range(0, 7, side):
            out = by_definition(block.attn, padded[:, top : top + side, left : left + side])
            attended[:, top : top + side, left : left + side] = out[:, : 7 - top, : 7 - left]
    expected = x + attended
    expected = expected + block.mlp(block.norm2(expected))
    assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("matrix_units", [False, True])
def test_the_size_of_the_map_and_the_device_decide_the_way(monkeypatch: pytest.MonkeyPatch, matrix_units: bool) -> None:
    monkeypatch.setattr(teachers.attention, "SMALL_MAP", 16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: matrix_units)

    def kernel(device: str, tokens: int, dtype: torch.dtype = torch.float32) -> object:
        return Attention._kernel(torch.device(device), dtype, tokens)

    assert kernel("cpu", 16) is kernel("cpu", 16, torch.bfloat16) is teachers.attention.attend_at_once
    assert kernel("cpu", 17) is kernel("cpu", 17, torch.float16) is teachers.attention.attend_in_parts
    large = teachers.attention.attend_folded if matrix_units else teachers.attention.attend_in_parts
    assert kernel("cpu", 17, torch.bfloat16) is large
    assert kernel("cuda", 16) is kernel("cuda", 17) is teachers.attention.attend_folded
    assert kernel("meta", 16) is teachers.attention.attend_by_definition


@pytest.mark.usefixtures("way")
def test_gradients_are_those_of_the_definition() -> None:
    attention = randomised(Attention(16, 8, 2, window=4)).requires_grad_(True)
    x, direction = torch.randn(2, 4, 4, 16), torch.randn(2, 4, 4, 16)
    parameters = list(attention.parameters())
    found = torch.autograd.grad((attention(x) * direction).sum(), parameters)
    expected = torch.autograd.grad((by_definition(attention, x) * direction).sum(), parameters)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(9, 9), (7, 10), (3, 2)])
def test_windows_are_cut_and_put_together_again(size: tuple[int, int]) -> None:
    x = torch.randn(2, *size, 5)
    windows, padded = partition_windows(x, 3)
    assert windows.shape == (2 * (padded[0] // 3) * (padded[1] // 3), 3, 3, 5)
    assert padded[0] % 3 == padded[1] % 3 == 0
    assert torch.equal(merge_windows(windows, 3, padded, size), x)
    assert_close(windows.sum(), x.sum())


RAGGED = EncoderConfig(128, 16, 48, 4, (32, 24, 40, 16), (100, 64, 36, 180), 7, (1, 3), 32)


def parameters(config: EncoderConfig) -> int:
    """Number of parameters of an encoder at 1024 pixels with patches of 16 and 256 output channels."""
    dim, total = config.embed_dim, 769 * config.embed_dim + 4096 * config.embed_dim + 256 * config.embed_dim + 590_848
    for i, (width, mlp) in enumerate(zip(config.attention_widths, config.mlp_widths, strict=True)):
        side = 64 if i in config.global_blocks else 14
        total += 4 * dim + 3 * (dim + 1) * width + (width + 1) * dim + (dim + 1) * mlp + (mlp + 1) * dim
        total += 2 * (2 * side - 1) * width // config.num_heads
    return total


def built(config: EncoderConfig) -> int:
    with torch.device("meta"):
        encoder = ImageEncoder(config)
    return sum(parameter.numel() for parameter in encoder.parameters())


@pytest.mark.usefixtures("way")
def test_ragged_widths_run_and_learn() -> None:
    encoder = randomised(ImageEncoder(RAGGED)).requires_grad_(True)
    embedding = encoder(torch.randn(2, 3, 128, 128))
    assert embedding.shape == (2, 32, 8, 8)
    assert embedding.isfinite().all()
    (embedding**2).mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in encoder.parameters())
    widths = [(block.attn.proj.in_features, block.mlp.lin1.out_features) for block in encoder.blocks]
    assert widths == list(zip(RAGGED.attention_widths, RAGGED.mlp_widths, strict=True))


@pytest.mark.parametrize(
    "config",
    [
        EncoderConfig(1024, 16, 384, 12, (384, 192, 768, 12), (1536, 12, 3072, 100), 14, (1, 3)),
        EncoderConfig(1024, 16, 168, 12, (168, 24, 36), (696, 7, 1), 14, (2,)),
    ],
)
def test_the_number_of_parameters_of_ragged_encoders(config: EncoderConfig) -> None:
    assert built(config) == parameters(config)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (MODELS["sam_vit_b"].config.encoder, 89_670_912),
        (MODELS["sam_vit_l"].config.encoder, 308_278_272),
        (MODELS["sam_vit_h"].config.encoder, 637_026_048),
        (pruned := EncoderConfig(1024, 16, 384, 12, (384,) * 12, (1536,) * 12, 14, (2, 5, 8, 11)), 23_897_216),
        (EncoderConfig(1024, 16, 168, 12, (168,) * 12, (696,) * 12, 14, pruned.global_blocks), 5_658_968),
        (EncoderConfig(1024, 16, 384, 12, (768,) * 12, (3072,) * 12, 14, pruned.global_blocks), 45_209_472),
    ],
    ids=["B", "L", "H", "SlimSAM-50", "SlimSAM-77", "SlimSAM-50 step 1"],
)
def test_the_number_of_parameters_of_known_encoders(config: EncoderConfig, count: int) -> None:
    assert built(config) == parameters(config) == count


def test_shapes_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="one entry a block"):
        EncoderConfig(64, 16, 24, 2, (24, 24), (48,), 3, ())
    with pytest.raises(ValueError, match="image_size 60 is not a multiple of patch_size 16"):
        EncoderConfig(60, 16, 24, 2, (24,), (48,), 3, ())
    with pytest.raises(ValueError, match="attention width 25 is not a multiple of 2 heads"):
        ImageEncoder(EncoderConfig(64, 16, 24, 2, (25,), (48,), 3, ()))
    assert vit(2, 24, 2, [1]).uniform
    assert not RAGGED.uniform


class LargestOutput(TorchDispatchMode):
    """Records the most elements that any operation returned in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.untyped_storage().nbytes() // leaf.itemsize for leaf in tree_leaves(out) if torch.is_tensor(leaf)]
        self.elements = max([self.elements, *sizes])
        return out


@pytest.mark.parametrize(("small_map", "whole"), [(0, False), (10_000, True)], ids=["parts", "products"])
def test_memory_of_a_global_block(monkeypatch: pytest.MonkeyPatch, small_map: int, whole: bool) -> None:
    monkeypatch.setattr(teachers.attention, "SMALL_MAP", small_map)
    monkeypatch.setattr(teachers.attention, "PART", 50)
    heads, grid, dim = 4, 20, 32
    block = randomised(Block(dim, heads, dim, dim, window=0, grid=grid)).requires_grad_(True)
    with LargestOutput() as largest:
        block(torch.randn(1, grid, grid, dim)).sum().backward()
    # Forwards and backwards: queries and keys with their positions, never the map of all pairs.
    positions = heads * grid**2 * (dim // heads + 2 * grid)
    assert (largest.elements >= heads * grid**4) == whole
    assert whole or largest.elements <= positions < heads * grid**4 / 8


def test_memory_of_the_fused_way() -> None:
    heads, grid, dim = 4, 20, 8
    q, k, v = torch.randn(3, 1, heads, grid**2, dim).unbind(0)
    rel_h, rel_w = torch.randn(2, 1, heads, grid, grid, grid).unbind(0)
    with LargestOutput() as largest:
        teachers.attention.attend_folded(q, k, v, rel_h, rel_w)
    assert largest.elements == heads * grid**2 * (dim + 2 * grid)
