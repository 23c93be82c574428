"""A larger SAM begins near the small one it is filled from."""

from dataclasses import replace

import pytest
import torch

from core.protocols import Prompt
from teachers.image_encoder import EncoderConfig
from teachers.initial_weights import initialise_sam
from teachers.resample import start_from
from teachers.sam import Sam, SamConfig

SMALL = EncoderConfig(32, 8, 16, 2, (16, 16), (32, 32), 2, (1,), 16)


def made(shape: EncoderConfig) -> Sam:
    torch.manual_seed(0)
    model = Sam(SamConfig(shape, 2, 20, 12))
    initialise_sam(model)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def test_added_blocks_change_nothing() -> None:
    source = made(SMALL)
    deeper = made(replace(SMALL, attention_widths=(16,) * 4, mlp_widths=(32,) * 4, global_blocks=(1, 3)))
    start_from(deeper, source, {0: 0, 1: 1})
    images, prompt = torch.randn(1, 3, 32, 32), Prompt(boxes_xyxy=torch.tensor([[3.0, 4.0, 20.0, 25.0]]))
    with torch.no_grad():
        expected, found = (m.decode_frame(m.encode(images), prompt).logits for m in (source, deeper))
    assert torch.allclose(expected, found, atol=1e-5)


def test_a_wider_model_begins_near_the_small_one() -> None:
    source = made(SMALL)
    shape = replace(SMALL, embed_dim=24, num_heads=3, attention_widths=(24,) * 2, mlp_widths=(48,) * 2)
    wider, fresh = made(shape), made(shape)
    start_from(wider, source, {0: 0, 1: 1})
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected, found, other = (m.encode(images) for m in (source, wider, fresh))
    assert (found - expected).norm() < 0.3 * (other - expected).norm()


def test_larger_patches_see_the_same_grey() -> None:
    source, larger = made(SMALL), made(replace(SMALL, image_size=64, patch_size=16))
    start_from(larger, source, {0: 0, 1: 1})
    with torch.no_grad():
        small = source.image_encoder.patch_embed(torch.full((1, 3, 32, 32), 0.7))
        large = larger.image_encoder.patch_embed(torch.full((1, 3, 64, 64), 0.7))
    assert torch.allclose(small, large, atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="heads must be 8 wide"):
        start_from(made(replace(SMALL, num_heads=4)), made(SMALL), {0: 0})
