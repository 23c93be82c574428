"""SlimSAM's two losses: zero for a perfect student, their weights over the steps, and what they compare."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from compressors.aligning import Aligned, Loss, Taps, bottleneck_aligning, embedding_aligning, feature_weight
from compressors.distill.losses import embedding_mse
from data.batches import ImageBatch
from teachers.catalog import MODELS
from teachers.image_encoder import ImageEncoder
from tests.unit.tiny import ENCODER, tiny_encoder


@pytest.fixture
def batch() -> ImageBatch:
    valid = torch.ones(2, 4, 4, dtype=torch.bool)
    valid[1, 2:] = False
    return ImageBatch(("a", "b"), torch.randn(2, 3, 64, 64), valid)


def needed(v0: ImageEncoder) -> Callable[[ImageBatch], Tensor]:
    """The teacher's embeddings, made anew each time."""

    def embeddings(batch: ImageBatch) -> Tensor:
        with torch.no_grad():
            return v0(batch.images)

    return embeddings


def features(encoder: ImageEncoder, batch: ImageBatch, paths: list[str]) -> list[Tensor]:
    with torch.no_grad(), Taps(encoder, paths) as seen:
        encoder(batch.images)
    return [seen[path] for path in paths]


def mse(a: list[Tensor], b: list[Tensor]) -> float:
    """As one MSE over the maps laid side by side, which is what the paper writes."""
    return torch.nn.functional.mse_loss(torch.stack(a), torch.stack(b)).item()


@pytest.fixture(params=["bottleneck", "embedding"])
def copied(request: pytest.FixtureRequest) -> tuple[Loss, ImageEncoder, list[ImageEncoder]]:
    """A loss, its student, and the frozen encoders it looks at, all equal."""
    v0 = tiny_encoder()
    student = deepcopy(v0).requires_grad_(True)
    if request.param == "bottleneck":
        return bottleneck_aligning(student, v0, needed(v0), aligned=Aligned(10)), student, [v0]
    v1 = deepcopy(v0)
    return embedding_aligning(student, v1, needed(v0), aligned=Aligned(10)), student, [v0, v1]


def test_a_copy_of_the_teacher_has_nothing_to_learn(copied: tuple, batch: ImageBatch) -> None:
    loss, _, _ = copied
    for step in (0, 5, 15):
        terms = loss(batch, step)
        assert all(term.item() == 0 for term in terms.values())
    assert len(loss(batch, 0)) > 1


def test_gradients_reach_the_student_only(copied: tuple, batch: ImageBatch) -> None:
    loss, student, teachers = copied
    for teacher in teachers:
        teacher.requires_grad_(True)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.stack(list(loss(batch, 0).values())).sum().backward()
    missing = [name for name, parameter in student.named_parameters() if parameter.grad is None]
    assert not missing
    assert all(parameter.grad.any() for parameter in student.parameters())
    assert all(parameter.grad is None for teacher in teachers for parameter in teacher.parameters())


def test_no_hook_is_left(copied: tuple, batch: ImageBatch) -> None:
    loss, student, teachers = copied
    loss(batch, 0)
    for encoder in (student, *teachers):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in encoder.modules())


def test_bottleneck_terms_by_hand(batch: ImageBatch) -> None:
    v0, student = tiny_encoder(0), tiny_encoder(1)
    loss = bottleneck_aligning(student, v0, needed(v0), aligned=Aligned(10), padding="embedding")
    qkv, mlp = ([f"blocks.{i}.{part}" for i in range(3)] for part in ("attn.qkv", "mlp.act"))
    final, found = v0(batch.images), student(batch.images)
    distance = embedding_mse(found, final, batch.valid).item()
    expected = {
        "embedding": 0.5 * distance,
        "window_qkv": 0.5 * mse(*(features(m, batch, [qkv[0], qkv[2]]) for m in (student, v0))),
        "global_qkv": 0.5 * mse(*(features(m, batch, [qkv[1]]) for m in (student, v0))),
        "mlp": 0.5 * mse(*(features(m, batch, mlp) for m in (student, v0))),
    }
    for step in (0, 1, 9):
        assert {k: v.item() for k, v in loss(batch, step).items()} == pytest.approx(expected, rel=1e-5)
    for step in (10, 11, 19):
        assert {k: v.item() for k, v in loss(batch, step).items()} == pytest.approx({"embedding": distance}, rel=1e-5)


def test_padding_is_left_out_of_all_distances_or_of_none(batch: ImageBatch) -> None:
    v0, student = tiny_encoder(0), tiny_encoder(1)
    assert not batch.valid.all() and batch.valid.any()
    path, grid, window = "blocks.0.attn.qkv", ENCODER.grid, ENCODER.window_size
    found, expected = (features(m, batch, [path])[0] for m in (student, v0))
    side = -(-grid // window)
    # Windows lie row by row; their cells are put back into the grid one by one.
    errors = torch.zeros(len(batch.valid), side * window, side * window)
    for number, of_window in enumerate((found - expected).square().mean(-1)):
        image, place = divmod(number, side * side)
        top, left = (place // side) * window, (place % side) * window
        errors[image, top : top + window, left : left + window] = of_window
    by_hand = torch.stack([e[:grid, :grid][v].mean() for e, v in zip(errors, batch.valid, strict=True)]).mean()
    only = replace(ENCODER, attention_widths=ENCODER.attention_widths[:1], mlp_widths=ENCODER.mlp_widths[:1])
    small = [ImageEncoder(replace(only, global_blocks=())) for _ in range(2)]
    for one, whole in zip(small, (student, v0), strict=True):
        one.load_state_dict({k: v for k, v in whole.state_dict().items() if k in one.state_dict()})
    terms = {
        padding: bottleneck_aligning(*small, needed(small[1]), aligned=Aligned(10), padding=padding)(batch, 0)
        for padding in ("ignore", "count", "embedding")
    }
    assert terms["ignore"]["window_qkv"].item() == pytest.approx(0.5 * by_hand.item(), rel=1e-5)
    assert terms["count"]["window_qkv"].item() == pytest.approx(
        0.5 * (found - expected).square().mean().item(), rel=1e-5
    )
    final = [m(batch.images) for m in small]
    assert terms["ignore"]["embedding"].item() == pytest.approx(0.5 * embedding_mse(*final, batch.valid).item())
    assert terms["count"]["embedding"].item() == pytest.approx(0.5 * embedding_mse(*final).item())
    mixed = terms["ignore"] | {name: terms["count"][name] for name in ("window_qkv", "mlp")}
    assert {k: v.item() for k, v in terms["embedding"].items()} == {k: v.item() for k, v in mixed.items()}


def test_a_window_may_be_larger_than_the_grid(batch: ImageBatch) -> None:
    config = replace(ENCODER, window_size=ENCODER.grid + 3, global_blocks=())
    v0, student = ImageEncoder(config).requires_grad_(False), ImageEncoder(config)
    loss = bottleneck_aligning(student, v0, needed(v0), aligned=Aligned(10))
    found, expected = (features(m, batch, ["blocks.0.attn.qkv"])[0] for m in (student, v0))
    errors = (found - expected).square().mean(-1)[:, : ENCODER.grid, : ENCODER.grid]
    first = torch.stack([e[v].mean() for e, v in zip(errors, batch.valid, strict=True)]).mean()
    assert first > 0 and loss(batch, 0)["window_qkv"].isfinite()


@pytest.mark.parametrize(
    ("steps", "weights"),
    [
        (20, {0: 0.9, 1: 0.8, 4: 0.5, 8: 0.1, 9: 0.0, 10: 0.0, 19: 0.0}),
        (40, {0: 0.9, 1: 0.9, 2: 0.8, 3: 0.8, 17: 0.1, 18: 0.0, 39: 0.0}),
        (250, {0: 0.9, 12: 0.9, 13: 0.8, 24: 0.8, 25: 0.7, 112: 0.1, 113: 0.0, 249: 0.0}),
        (2, {0: 0.9, 1: 0.0}),
    ],
)
def test_embedding_terms_by_hand(batch: ImageBatch, steps: int, weights: dict[int, float]) -> None:
    v0, v1, student = (tiny_encoder(seed) for seed in range(3))
    loss = embedding_aligning(student, v1, needed(v0), aligned=Aligned(steps / 2), padding="embedding")
    # What enters each attention, each MLP and the neck: 25 maps in SAM-B.
    stream = [f"blocks.{i}.{norm}:in" for i in range(3) for norm in ("norm1", "norm2")]
    maps = [
        [*features(m, batch, stream), features(m, batch, ["neck.0:in"])[0].permute(0, 2, 3, 1)] for m in (student, v1)
    ]
    final = [m(batch.images) for m in (v0, v1, student)]
    to_v0, to_v1 = (embedding_mse(final[2], other, batch.valid).item() for other in final[:2])
    for step, weight in weights.items():
        expected = {"embedding": (1 - weight) * to_v0}
        if weight:
            expected |= {"stream": weight * mse(*maps), "earlier": weight * to_v1}
        assert {k: v.item() for k, v in loss(batch, step).items()} == pytest.approx(expected, rel=1e-5)


def test_weights_of_ten_stairs_fall_by_a_tenth(batch: ImageBatch) -> None:
    v0, student = tiny_encoder(0), tiny_encoder(1)
    distance = embedding_mse(student(batch.images), v0(batch.images), batch.valid).item()
    loss = embedding_aligning(student, student, needed(v0), aligned=Aligned(10))
    weights = [1 - loss(batch, step)["embedding"].item() / distance for step in range(20)]
    assert weights == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0] + [0.0] * 10, abs=1e-5)


def test_global_attention_is_aligned_too(batch: ImageBatch) -> None:
    """The released code compares the student's global q/k/v with themselves, which is always 0."""
    v0 = tiny_encoder()
    student = deepcopy(v0)
    weight = student.get_parameter("blocks.1.attn.qkv.weight")
    weight += 0.1
    student.requires_grad_(True)
    terms = bottleneck_aligning(student, v0, needed(v0), aligned=Aligned(10))(batch, 0)
    assert terms["global_qkv"].item() > 0
    terms["global_qkv"].backward()
    assert weight.grad is not None
    assert weight.grad.any()


def test_as_the_released_code_has_it_global_attention_is_not_aligned(batch: ImageBatch) -> None:
    v0, student = tiny_encoder(0), tiny_encoder(1)
    terms = bottleneck_aligning(student, v0, needed(v0), aligned=Aligned(10), global_qkv=False)(batch, 0)
    assert set(terms) == {"embedding", "window_qkv", "mlp"}


def test_weights_of_features() -> None:
    """Twenty epochs of the paper and of the released code, one step each."""
    weights = {
        kind: [feature_weight(kind, step, Aligned(10)) for step in range(20)]
        for kind in ("constant", "dynamic", "released")
    }
    assert weights["constant"] == [0.5] * 10 + [0.0] * 10
    assert weights["dynamic"] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0] + [0.0] * 10)
    assert weights["released"] == pytest.approx([(10 - n) / 11 for n in range(10)] + [0.0] * 10)
    assert not any(feature_weight("none", step, Aligned(10)) for step in range(20))


def test_features_are_aligned_for_ten_epochs_however_long_is_trained() -> None:
    # 8 images in batches of 2, two of them a step: an epoch of 2 steps.
    published = Aligned.during(60, 10, 8 / (2 * 2))
    assert published == Aligned(20, 10)
    dynamic = [feature_weight("dynamic", step, published) for step in range(60)]
    assert dynamic == pytest.approx([(10 - n - 1) / 10 for n in range(10) for _ in range(2)] + [0.0] * 40)
    assert [feature_weight("constant", step, published) for step in range(60)] == [0.5] * 20 + [0.0] * 40
    # Twice the training aligns for as many steps; half of the steps, the other rule, for twice as many.
    assert Aligned.during(120, 10, 2) == published
    assert (Aligned.during(60, 0, 2).steps, Aligned.during(120, 0, 2).steps) == (30, 60)
    # Four epochs fall in four stairs, and a training that is shorter ends while features are aligned.
    short = Aligned.during(5, 4, 2)
    assert [feature_weight("dynamic", step, short) for step in range(5)] == [0.75, 0.75, 0.5, 0.5, 0.25]
    assert feature_weight("released", 7, short) == pytest.approx(1 / 5)


@pytest.mark.parametrize(("images", "batch"), [(7, 3), (800, 12), (1600, 3), (10_000, 48)])
def test_a_stair_begins_with_the_step_that_begins_its_epoch(images: int, batch: int) -> None:
    # Epoch n begins with the first step at which n * images have been seen, by whole numbers.
    expected = [min(step * batch // images, 10) for step in range(-(-12 * images // batch))]
    for per_epoch in (Fraction(images, batch), images / batch):
        aligned = Aligned.during(10**6, 10, per_epoch)
        found = [feature_weight("dynamic", step, aligned) for step in range(len(expected))]
        assert found == [(10 - n - 1) / 10 if n < 10 else 0 for n in expected]


def test_an_encoder_without_global_blocks_has_no_such_term(batch: ImageBatch) -> None:
    encoder = ImageEncoder(replace(ENCODER, global_blocks=()))
    assert set(bottleneck_aligning(encoder, encoder, needed(encoder), aligned=Aligned(1))(batch, 0)) == {
        "embedding",
        "window_qkv",
        "mlp",
    }


def test_without_features_only_the_embedding_is_compared(batch: ImageBatch) -> None:
    v0, v1, student = (tiny_encoder(seed) for seed in range(3))
    distance = embedding_mse(student(batch.images), v0(batch.images), batch.valid).item()
    for loss in (
        bottleneck_aligning(student, v0, needed(v0), aligned=Aligned(10), weights="none"),
        embedding_aligning(student, v1, needed(v0), aligned=Aligned(10), weights="none"),
    ):
        for step in (0, 19):
            assert {k: v.item() for k, v in loss(batch, step).items()} == pytest.approx({"embedding": distance})


def test_feature_shapes_include_padded_windows(batch: ImageBatch) -> None:
    """A grid of 4 in windows of 3 is padded to 6: four windows an image."""
    windowed, whole, mlp = features(
        tiny_encoder(), batch, ["blocks.0.attn.qkv", "blocks.1.attn.qkv", "blocks.0.mlp.act"]
    )
    assert windowed.numel() == 2 * 4 * 9 * 72
    assert whole.numel() == 2 * 16 * 72
    assert mlp.shape == (2, 4, 4, 48)


def test_feature_sizes_of_sam_vit_b_are_the_published_ones() -> None:
    """At 1024 pixels: 25 windows of 14 x 14 and q, k and v of 768; the whole grid of 64 x 64; MLPs of 3072."""
    with torch.device("meta"):
        encoder = ImageEncoder(MODELS["sam_vit_b"].config.encoder)
        image = torch.zeros(1, 3, 1024, 1024)
    paths = ["blocks.0.attn.qkv", "blocks.2.attn.qkv", "blocks.0.mlp.act", "blocks.0.norm2:in", "neck.0:in"]
    with torch.no_grad(), Taps(encoder, paths) as seen:
        assert encoder(image).shape == (1, 256, 64, 64)
    windowed, whole, mlp, inside, last = (seen[path] for path in paths)
    assert windowed.numel() == 75 * 14 * 14 * 768
    assert whole.numel() == 3 * 64 * 64 * 768
    assert mlp.shape == (1, 64, 64, 3072)
    assert inside.shape == (1, 64, 64, 768)
    assert last.shape == (1, 768, 64, 64)
