"""Groups, scores and surgery: what goes together, which channels stay, and what the cut leaves unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from compressors.prune import importance
from compressors.prune.groups import find_groups, from_traceable, split_qkv, to_traceable
from compressors.prune.importance import (
    disturbed_gradients,
    group_fisher_scores,
    hessian_scores,
    joint_gradient,
    label_gradients,
    magnitude_scores,
    score,
    taylor_scores,
)
from compressors.prune.selection import keep, keep_globally, keep_locally
from compressors.prune.surgery import prune
from compressors.settings import NORMALISATIONS
from core.errors import InputError
from data.batches import ImageBatch
from data.sample import ImageSample
from students.pruned_vit import kept_width, pruned_shape
from teachers.catalog import MODELS
from teachers.image_encoder import EncoderConfig, ImageEncoder
from teachers.weights import load_sam
from tests.unit.tiny import tiny_sam

# A grid of 5 does not divide into windows of 3: padding takes part.
CONFIG = EncoderConfig(40, 8, 24, 3, (24, 24, 24), (48, 48, 48), 3, (1,), 16)


@pytest.fixture
def encoder() -> ImageEncoder:
    torch.manual_seed(0)
    model = ImageEncoder(CONFIG).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.2)
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))


def test_the_embedding_group_has_the_published_members() -> None:
    groups = find_groups(MODELS["sam_vit_b"].config.encoder)
    assert len(groups["embedding"].members) == 74
    assert sum(member.axis == 0 for member in groups["embedding"].members) == 25
    names = {(m.name.removeprefix("blocks.3.attn."), m.axis) for m in groups["attention.3"].members}
    assert names == {("q.weight", 0), ("k.weight", 0), ("v.weight", 0), ("proj.weight", 1)}
    assert {(m.name.removeprefix("blocks.3.mlp."), m.axis) for m in groups["mlp.3"].members} == {
        ("lin1.weight", 0),
        ("lin2.weight", 1),
    }
    assert [groups[name].slices for name in ("embedding", "attention.3", "mlp.3")] == [1, 12, 1]


def test_the_traceable_form_holds_the_same_weights(encoder: ImageEncoder, images: Tensor) -> None:
    tables = {k: v for k, v in encoder.state_dict().items() if "rel_pos" in k}
    again = from_traceable(to_traceable(encoder), encoder, tables)
    assert torch.equal(again(images), encoder(images))


def test_removing_nothing_changes_nothing(encoder: ImageEncoder, images: Tensor) -> None:
    everything = {name: torch.arange(group.width) for name, group in find_groups(CONFIG).items()}
    assert torch.equal(prune(encoder, everything)(images), encoder(images))


def test_removing_dead_channels_changes_nothing(encoder: ImageEncoder, images: Tensor) -> None:
    """Scale and relative positions are carried over: only channels that do nothing are cut, and nothing is lost."""
    kept = {
        "attention.0": keep(torch.rand(24, generator=torch.Generator().manual_seed(2)), 15, 3),
        "attention.1": keep(torch.rand(24, generator=torch.Generator().manual_seed(3)), 6, 3),
        "mlp.2": keep(torch.rand(48, generator=torch.Generator().manual_seed(4)), 9, 1),
    }
    for name, indices in kept.items():
        kind, block = name.split(".")
        width = len(set(range(48 if kind == "mlp" else 24)))
        gone = sorted(set(range(width)) - set(indices.tolist()))
        if kind == "mlp":
            encoder.blocks[int(block)].mlp.lin2.weight[:, gone] = 0
        else:
            attention = encoder.blocks[int(block)].attn
            attention.qkv.weight[gone], attention.qkv.bias[gone] = 0, 0
            attention.proj.weight[:, gone] = 0
    smaller = prune(encoder, kept)
    assert smaller.config.attention_widths == (15, 6, 24)
    assert smaller.config.mlp_widths == (48, 48, 9)
    torch.testing.assert_close(smaller(images), encoder(images), rtol=1e-4, atol=1e-4)


def test_kept_weights_are_the_original_ones(encoder: ImageEncoder) -> None:
    kept = keep(torch.rand(24, generator=torch.Generator().manual_seed(5)), 12, 1)
    smaller = prune(encoder, {"embedding": kept})
    assert torch.equal(smaller.patch_embed.proj.weight, encoder.patch_embed.proj.weight[kept])
    assert torch.equal(smaller.pos_embed, encoder.pos_embed[..., kept])
    assert torch.equal(smaller.blocks[1].attn.qkv.weight, encoder.blocks[1].attn.qkv.weight[:, kept])
    assert torch.equal(smaller.blocks[1].norm2.bias, encoder.blocks[1].norm2.bias[kept])
    assert torch.equal(smaller.blocks[2].mlp.lin2.bias, encoder.blocks[2].mlp.lin2.bias[kept])
    assert torch.equal(smaller.neck[0].weight, encoder.neck[0].weight[:, kept])
    assert torch.equal(smaller.blocks[0].attn.rel_pos_h, encoder.blocks[0].attn.rel_pos_h)


@pytest.mark.parametrize("width", [12, 35, 80, 147])
def test_layer_norms_keep_their_channels_in_order(width: int) -> None:
    # Of 160 channels, as Python's sets of few numbers are ordered otherwise than those of many.
    encoder = load_sam("sam_pocket").image_encoder
    stream = torch.randperm(160, generator=torch.Generator().manual_seed(width))[:width].sort().values
    cut = prune(encoder, {"embedding": stream}).state_dict()
    for name, whole in encoder.state_dict().items():
        if ".norm" in name:
            assert torch.equal(cut[name], whole[stream]), name


def test_relative_positions_can_be_reset(encoder: ImageEncoder) -> None:
    smaller = prune(encoder, {"embedding": torch.arange(12)}, rel_pos="reset")
    assert not any(block.attn.rel_pos_h.any() for block in smaller.blocks)


@pytest.mark.parametrize(
    ("model", "ratio", "widths"),
    [
        ("sam_vit_b", 0.5, (384, 384, 1536)),
        ("sam_vit_b", 0.77, (168, 168, 696)),
        ("sam_vit_l", 0.5, (512, 512, 2048)),
        ("sam_vit_l", 0.77, (224, 224, 928)),
        ("sam_vit_h", 0.5, (640, 640, 2560)),
        ("sam_vit_h", 0.77, (288, 288, 1168)),
    ],
)
def test_published_widths(model: str, ratio: float, widths: tuple[int, int, int]) -> None:
    shape = pruned_shape(MODELS[model].config, ratio).encoder
    assert (shape.embed_dim, *set(shape.attention_widths), *set(shape.mlp_widths)) == widths


def test_every_head_keeps_a_channel() -> None:
    assert kept_width(24, 0.99, 3) == 3
    assert kept_width(24, 0.001, 3) == 21


def test_keep_ties_slices_and_prefers_low_indices() -> None:
    # Slices of four; summed scores 0, 5, 5, 1: the pattern {1, 2} in both.
    scores = torch.tensor([0.0, 5, 0, 1, 0, 0, 5, 0])
    assert keep(scores, 4, 2).tolist() == [1, 2, 5, 6]
    assert keep(torch.ones(6), 3, 1).tolist() == [0, 1, 2]


def test_local_pruning_cuts_every_group_alike() -> None:
    groups = find_groups(CONFIG)
    scores = {name: torch.rand(g.width, generator=torch.Generator().manual_seed(1)) for name, g in groups.items()}
    kept = keep_locally(scores, groups, 0.5, 3)
    assert {name: len(indices) for name, indices in kept.items()} == {
        name: 12 if name == "embedding" or "attention" in name else 24 for name in groups
    }


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.77])
def test_global_pruning_keeps_the_budget_of_all_blocks_together(normalisation: str, ratio: float) -> None:
    groups = {name: group for name, group in find_groups(CONFIG).items() if name != "embedding"}
    generator = torch.Generator().manual_seed(2)
    # Blocks of very different levels: what normalisation is for.
    scores = {n: 10.0**i * torch.rand(g.width, generator=generator) for i, (n, g) in enumerate(groups.items())}
    kept = keep_globally(scores, groups, ratio, normalisation, 3)
    attention = [len(kept[f"attention.{i}"]) for i in range(3)]
    mlp = [len(kept[f"mlp.{i}"]) for i in range(3)]
    # Three heads of eight channels a block, 24 patterns in all; 144 channels of MLPs, rounded up by block.
    assert sum(attention) == 3 * int(24 * (1 - ratio) + 1e-9)
    assert int(144 * (1 - ratio)) <= sum(mlp) <= int(144 * (1 - ratio)) + 6
    assert all(width % 3 == 0 and width >= 3 for width in attention + mlp)
    for name, indices in kept.items():
        pattern = indices[indices < groups[name].width // groups[name].slices]
        assert len(indices) == len(pattern) * groups[name].slices
    smaller = prune(ImageEncoder(CONFIG), kept)
    assert smaller.config.attention_widths == tuple(attention)
    assert smaller.config.mlp_widths == tuple(mlp)


def test_global_pruning_keeps_the_best_of_each_block_and_drops_the_lowest_of_all() -> None:
    groups = {name: group for name, group in find_groups(CONFIG).items() if name.startswith("attention")}
    level = torch.arange(8.0).repeat(3)
    scores = {"attention.0": level, "attention.1": level + 100, "attention.2": level + 50}
    kept = keep_globally(scores, groups, 0.5, "mean", 3)
    # By the mean, the block of the lowest scores varies most: its low channels go, its high ones stay.
    first = kept["attention.0"]
    assert first[first < 8].tolist()[-1] == 7
    assert sum(map(len, kept.values())) == 36
    raw = keep_globally({k: v + 1 for k, v in scores.items()}, groups, 0.9, "sum", 3)
    assert all(len(part) >= 3 for part in raw.values())


def test_the_temperature_of_attention_is_kept_or_left_to_change(encoder: ImageEncoder) -> None:
    kept = {"attention.0": keep(torch.rand(24, generator=torch.Generator().manual_seed(2)), 6, 3)}
    folded, rescaled = prune(encoder, kept), prune(encoder, kept, fold=False)
    rows = kept["attention.0"]
    weight = encoder.blocks[0].attn.qkv.weight[:24][rows]
    assert torch.equal(rescaled.blocks[0].attn.qkv.weight[:6], weight)
    torch.testing.assert_close(folded.blocks[0].attn.qkv.weight[:6], weight * (2 / 8) ** 0.5)


def test_taylor_scores_by_hand() -> None:
    group = find_groups(CONFIG)["mlp.0"]
    weights = {"blocks.0.mlp.lin1.weight": torch.ones(48, 24), "blocks.0.mlp.lin2.weight": 2 * torch.ones(24, 48)}
    gradients = {name: torch.full_like(weight, -3.0) for name, weight in weights.items()}
    # lin1: 24 entries a row of |1 * -3|; lin2: 24 entries a column of |2 * -3|; their mean.
    assert torch.equal(taylor_scores(group, weights, gradients), torch.full((48,), (72.0 + 144.0) / 2))
    assert torch.equal(magnitude_scores(group, weights), torch.full((48,), (24.0 + 96.0) / 2))
    # 24 entries of 1 * 9 / 2 and 24 of 4 * 9 / 2.
    squares = {name: gradient.square() for name, gradient in gradients.items()}
    assert torch.equal(hessian_scores(group, weights, squares), torch.full((48,), (108.0 + 432.0) / 2))


def test_group_fisher_scores_by_hand() -> None:
    group = replace(find_groups(CONFIG)["mlp.0"], width=2)
    weights = {
        "blocks.0.mlp.lin1.weight": torch.tensor([[1.0, 2.0], [3.0, -1.0]]),
        "blocks.0.mlp.lin2.weight": torch.tensor([[1.0, 1.0], [2.0, -2.0]]),
    }
    first = {
        "blocks.0.mlp.lin1.weight": torch.tensor([[1.0, -1.0], [2.0, 1.0]]),
        "blocks.0.mlp.lin2.weight": torch.tensor([[3.0, 0.5], [1.0, 1.0]]),
    }
    second = {name: -2 * gradient for name, gradient in first.items()}
    # Channel 0 is column 0 of lin2 (3 + 2), channel 1 column 1 (0.5 - 2).
    # Rows of lin1 make the channels, and have no part.
    assert torch.equal(joint_gradient(group, weights, first), torch.tensor([5.0, -1.5]))
    joint = sum(joint_gradient(group, weights, one).square() for one in (first, second))
    assert torch.equal(group_fisher_scores(joint), torch.tensor([(25 + 100) / 2, (2.25 + 9) / 2]))
    # Weight by weight: (25 + 65) / 4 and (185 + 21.25) / 4, what compensates within a channel counts too.
    squares = {name: first[name].square() + second[name].square() for name in first}
    assert torch.equal(hessian_scores(group, weights, squares), torch.tensor([22.5, 51.5625]))
    # Two slices keep one pattern: their channels are one, of 5 - 1.5.
    tied = joint_gradient(replace(group, slices=2), weights, first).square()
    torch.testing.assert_close(tied, torch.full((2,), 3.5**2 / 2))
    assert keep(group_fisher_scores(tied), 2, 2).tolist() == [0, 1]


@pytest.mark.parametrize("name", ["embedding", "attention.0", "attention.1", "mlp.1"])
def test_the_joint_gradient_is_that_of_a_mask_on_what_the_layers_behind_a_channel_take_in(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sam, samples = tiny_sam(), [_sample(0), _sample(1)]
    encoder = sam.image_encoder
    group = find_groups(encoder.config)[name]
    found = label_gradients(sam, encoder, samples, groups=[group])
    tied = torch.zeros(group.width // group.slices)
    for sample in samples:
        mask = torch.ones(group.width // group.slices, requires_grad=True)
        with monkeypatch.context() as patch:
            patch.setattr(importance, "_summed", lambda _, losses, *__: list(losses))
            with _masked(encoder, name, mask.repeat(group.slices)):
                (loss,) = label_gradients(sam, encoder, [sample])  # type: ignore[misc]
        (gradient,) = torch.autograd.grad(loss, [mask])
        tied += gradient.square()
    shares = found.joint[name].reshape(group.slices, -1)
    torch.testing.assert_close(shares.sum(0), tied, rtol=1e-3, atol=1e-4 * float(tied.max()))
    scores = score("group_fisher", group, encoder, found, 0)
    assert torch.equal(scores, found.joint[name] / 2) and scores.min() > 0


@contextmanager
def _masked(encoder: ImageEncoder, name: str, mask: Tensor) -> Iterator[None]:
    """Multiplies what consumes the channels of a group by a mask: inputs of layers, or the queries."""
    kind, _, number = name.partition(".")
    blocks = list(encoder.blocks) if kind == "embedding" else [encoder.blocks[int(number)]]
    layers: list[torch.nn.Module] = []
    for block in blocks:
        layers += {
            "embedding": [block.attn.qkv, block.mlp.lin1],
            "attention": [block.attn.proj],
            "mlp": [block.mlp.lin2],
        }[kind]
    handles = [layer.register_forward_pre_hook(lambda _, inputs: (inputs[0] * mask,)) for layer in layers]
    if kind == "embedding":
        conv = encoder.neck[0]
        handles.append(conv.register_forward_pre_hook(lambda _, inputs: (inputs[0] * mask[:, None, None],)))
    if kind == "attention":
        whole = torch.cat([mask, torch.ones(2 * len(mask))])
        handles.append(blocks[0].attn.qkv.register_forward_hook(lambda _, __, output: output * whole))
    yield
    for handle in handles:
        handle.remove()


def _batches() -> list[ImageBatch]:
    generator = torch.Generator().manual_seed(6)
    valid = torch.ones(2, 5, 5, dtype=torch.bool)
    return [ImageBatch(("a", "b"), torch.randn(2, 3, 40, 40, generator=generator), valid) for _ in range(2)]


def test_the_disturbance_gives_gradients_whose_ranking_does_not_depend_on_its_size(encoder: ImageEncoder) -> None:
    small = disturbed_gradients(encoder, _batches(), 0.01, 0)
    large = disturbed_gradients(encoder, _batches(), 0.1, 0)
    assert all(not parameter.requires_grad for parameter in encoder.parameters())
    for name, group in find_groups(CONFIG).items():
        few, many = (score("disturbed_taylor", group, encoder, g, 0) for g in (small, large))
        assert few.min() > 0
        torch.testing.assert_close(many / many.sum(), few / few.sum(), rtol=1e-3, atol=1e-6)
        assert name in ("embedding", *(f"{kind}.{i}" for kind in ("attention", "mlp") for i in range(3)))


def test_noise_that_is_lost_beside_the_embedding_is_refused(encoder: ImageEncoder) -> None:
    with pytest.raises(
        InputError, match=r"method\.noise=1e-09 is lost in the rounding of \d\d% .* a larger one, such as 0\.0"
    ):
        disturbed_gradients(encoder, _batches(), 1e-9, 0)


def test_images_of_a_smaller_last_batch_count_no_more_than_others(encoder: ImageEncoder) -> None:
    full, other = _batches()
    last = ImageBatch(("c",), other.images[:1], other.valid[:1])
    both, alone, before = (disturbed_gradients(encoder, some, 0.01, 0) for some in ([full, last], [last], [full]))
    name = "blocks.0.mlp.lin1.weight"
    # The second batch's noise is another one than that of a first: what it adds is compared in size.
    added = (both.sums[name] - before.sums[name]).norm()
    assert 0.3 < float(added / alone.sums[name].norm()) < 0.8


def test_gradients_add_up_over_batches(encoder: ImageEncoder) -> None:
    first, second = _batches()
    both = disturbed_gradients(encoder, [first, second], 0.01, 0)
    alone = disturbed_gradients(encoder, [first], 0.01, 0)
    name = "blocks.0.mlp.lin1.weight"
    assert not torch.allclose(both.sums[name], alone.sums[name])
    torch.testing.assert_close(alone.squares[name], alone.sums[name].square())
    assert (both.squares[name] >= alone.squares[name]).all()


def test_gradients_of_the_task_are_summed_image_by_image() -> None:
    sam = tiny_sam()
    samples = [_sample(seed) for seed in range(3)]
    empty = replace(samples[0], masks=samples[0].masks[:0], boxes_xyxy=samples[0].boxes_xyxy[:0])
    single = [label_gradients(sam, sam.image_encoder, [sample]) for sample in samples]
    seen: list[None] = []
    together = label_gradients(sam, sam.image_encoder, [empty, *samples], lambda: seen.append(None))
    assert len(seen) == 3
    assert not any(parameter.requires_grad for parameter in sam.parameters())
    for name in ("blocks.0.attn.qkv.weight", "neck.0.weight", "pos_embed"):
        assert single[0].sums[name].any()
        torch.testing.assert_close(together.sums[name], sum(one.sums[name] for one in single))
        torch.testing.assert_close(together.squares[name], sum(one.squares[name] for one in single))
    groups = find_groups(sam.image_encoder.config)
    for criterion in ("taylor", "hessian"):
        scores = {name: score(criterion, group, sam.image_encoder, together, 0) for name, group in groups.items()}
        assert all(of_group.min() > 0 for of_group in scores.values())


def test_labels_without_an_instance_score_nothing() -> None:
    sam, sample = tiny_sam(), _sample(0)
    empty = replace(sample, masks=sample.masks[:0], boxes_xyxy=sample.boxes_xyxy[:0])
    with pytest.raises(InputError, match="none of the 2 images that are looked at has an annotated instance"):
        label_gradients(sam, sam.image_encoder, [empty, empty])


def _sample(seed: int) -> ImageSample:
    rng = np.random.Generator(np.random.PCG64(seed))
    masks = np.zeros((2, 40, 64), dtype=np.bool_)
    masks[0, 5:20, 10:30] = masks[1, 22:37, 33:60] = True
    boxes = np.array([[10, 5, 30, 20], [33, 22, 60, 37]], dtype=np.float64)
    image = rng.integers(0, 256, (40, 64, 3), dtype=np.uint8)
    return ImageSample(seed, f"{seed}", image, masks, boxes, masks.sum((1, 2)).astype(np.float64), (1, 2))


def test_qkv_is_split_by_rows(encoder: ImageEncoder) -> None:
    state = encoder.state_dict()
    split = split_qkv(state)
    assert torch.equal(split["blocks.0.attn.k.bias"], state["blocks.0.attn.qkv.bias"][24:48])
    assert not any("rel_pos" in name or "qkv" in name for name in split)
