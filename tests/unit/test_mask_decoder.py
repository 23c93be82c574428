"""Prompts that share an image are answered as if each had come alone, however attention is computed."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.protocols import Prompt
from teachers import two_way_transformer
from teachers.sam import Sam
from teachers.two_way_transformer import CrossAttention, attend_by_products
from tests.unit.tiny import tiny_sam

IMAGES, PROMPTS = 3, 4


@pytest.fixture(scope="module")
def model() -> Sam:
    torch.manual_seed(0)
    return tiny_sam().eval()


def points(model: Sam, count: int) -> Prompt:
    return Prompt(points_xy=torch.rand(count, 2, 2) * model.input_size, labels=torch.ones(count, 2, dtype=torch.int64))


def masks(model: Sam, count: int) -> Prompt:
    side = 4 * model.config.encoder.grid
    return Prompt(boxes_xyxy=torch.rand(count, 4) * model.input_size, mask_logits=torch.randn(count, 1, side, side))


@pytest.mark.parametrize("make", [points, masks])
def test_several_images_with_several_prompts_each(model: Sam, make: Callable[[Sam, int], Prompt]) -> None:
    shape = model.config.encoder
    embeddings = torch.randn(IMAGES, shape.out_channels, shape.grid, shape.grid)
    prompt = make(model, IMAGES * PROMPTS)
    together = model.decode_frame(embeddings, prompt)
    alone = [model.decode_frame(embeddings[i // PROMPTS, None], prompt[i : i + 1]) for i in range(len(prompt))]
    for found, expected in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_gradients_of_a_shared_image_add_up(model: Sam) -> None:
    shape = model.config.encoder
    embedding = torch.randn(1, shape.out_channels, shape.grid, shape.grid)
    prompt = points(model, PROMPTS)

    def gradient(image: Tensor) -> Tensor:
        given = image.clone().requires_grad_()
        model.decode_frame(given, prompt).logits.square().sum().backward()
        assert given.grad is not None
        return given.grad

    repeated = gradient(embedding.expand(PROMPTS, -1, -1, -1))
    torch.testing.assert_close(gradient(embedding), repeated.sum(0, keepdim=True), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("queries", "keys"), [(5, 60), (60, 5), (6, 6)])
def test_products_attend_as_the_kernel_does(queries: int, keys: int) -> None:
    torch.manual_seed(1)
    given = [torch.randn(2, 3, tokens, 8, dtype=torch.float64, requires_grad=True) for tokens in (queries, keys, keys)]
    found, expected = attend_by_products(*given), F.scaled_dot_product_attention(*given)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for mine, theirs in zip(*(torch.autograd.grad((x * weights).sum(), given) for x in (found, expected)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_bfloat16_decoders_train_by_products_and_answer_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = CrossAttention(16, 2)
    called = []
    monkeypatch.setattr(
        two_way_transformer, "attend_by_products", lambda q, k, v: called.append(q.dtype) or v[:, :, :1]
    )
    image, tokens = torch.randn(1, 30, 16), torch.randn(1, 1, 16)
    attention(tokens, image, image)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        attention(tokens, image, image)
    assert not called
    with torch.autocast("cpu", torch.bfloat16):
        attention(tokens, image, image)
    assert called == [torch.bfloat16]
