"""Slimming a Hiera: which channels go together, the cut against the masked original, and SlimSAM's two steps on it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.prune.groups import find_groups
from compressors.prune.hiera import masked_hiera
from compressors.prune.selection import keep_locally
from compressors.prune.surgery import check_cut, prune
from compressors.scratch import Scratch
from compressors.slimsam import SlimSam
from core.errors import InputError, RunFailed
from core.feature_maps import maps_of
from students.files import load_model, save_model
from students.pruned_vit import pruned_shape
from teachers.catalog import MODELS
from teachers.sam2 import Sam2, Sam2Config
from tests.unit.test_sam2 import CONFIG
from tests.unit.test_sam2_students import tiny_sam2
from tests.unit.tiny import Images, LabelledImages

HIERA = CONFIG.hiera


def kept_of(*parts: str, ratio: float = 0.5) -> dict[str, Tensor]:
    groups = {n: g for n, g in find_groups(HIERA).items() if n.partition(".")[0] in parts}
    generator = torch.Generator().manual_seed(1)
    scores = {name: torch.rand(group.width, generator=generator) for name, group in groups.items()}
    return keep_locally(scores, groups, ratio, 1)


def test_a_stages_width_is_one_group_and_the_next_stage_reads_it() -> None:
    groups = find_groups(HIERA)
    assert [groups[f"embedding.{stage}"].width for stage in range(4)] == [8, 16, 32, 64]
    members = {(m.name, m.axis) for m in groups["embedding.1"].members}
    # Block 1 begins stage 1, block 2 stage 2.
    assert members == {
        ("trunk.blocks.1.proj.weight", 0),
        ("trunk.blocks.1.attn.proj.weight", 0),
        ("trunk.blocks.1.mlp.fc1.weight", 1),
        ("trunk.blocks.1.mlp.fc2.weight", 0),
        *((f"trunk.blocks.2.{layer}.weight", 1) for layer in ("proj", "attn.q", "attn.k", "attn.v")),
        ("neck.convs.2.weight", 1),
    }
    attention = groups["attention.3"]
    assert (attention.width, attention.slices, attention.multiple) == (32, 4, 4)
    assert {(m.name, m.axis) for m in attention.members} == {
        *((f"trunk.blocks.3.attn.{part}.weight", 0) for part in "qkv"),
        ("trunk.blocks.3.attn.proj.weight", 1),
    }


@pytest.mark.parametrize("parts", [("embedding",), ("attention", "mlp"), ("embedding", "attention", "mlp")])
@pytest.mark.parametrize("fold", [True, False])
def test_the_cut_is_the_masked_original(parts: tuple[str, ...], fold: bool) -> None:
    encoder = tiny_sam2().image_encoder
    kept = kept_of(*parts)
    cut = prune(encoder, kept, fold=fold).eval()
    check_cut(encoder, cut, kept, fold=fold)
    images = torch.randn(2, 3, 64, 64)
    expected = maps_of(masked_hiera(encoder, kept, fold)(images))
    for name, found in maps_of(cut(images)).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-3, atol=1e-3 * float(expected[name].abs().max()))
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in encoder.parameters())


def test_a_wrong_cut_is_found() -> None:
    encoder, kept = tiny_sam2().image_encoder, kept_of("mlp")
    cut = prune(encoder, kept)
    cut.trunk.blocks[0].mlp.fc1.weight.data[0] += 1.0
    with pytest.raises(RunFailed, match="pruning: image_embed of the cut encoder answers otherwise"):
        check_cut(encoder, cut, kept)


def test_a_stage_may_become_as_wide_as_the_one_before(tmp_path: Path) -> None:
    model = tiny_sam2()
    encoder, kept = model.image_encoder, {"embedding.1": torch.arange(0, 16, 2)}
    cut = prune(encoder, kept)
    assert cut.config.embed_dims == (8, 8, 32, 64)
    check_cut(encoder, cut, kept)
    save_model(tmp_path / "cut.safetensors", model.with_encoder(cut, "cut"))
    loaded = load_model(tmp_path / "cut.safetensors")
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded.encode(images).embedding, cut.eval()(images).embedding)


def test_widths_of_the_published_sizes() -> None:
    config = MODELS["sam2_1_tiny"].config
    shape = pruned_shape(config, 0.77)
    assert isinstance(shape, Sam2Config)
    assert shape.hiera.embed_dims == (22, 44, 88, 176)
    assert shape.hiera.attention_widths == (22, 44, 44, *[88] * 7, 176, 176)
    assert shape.hiera.mlp_widths[0] == 88
    with torch.device("meta"):
        slimmed = shape.make()
    assert sum(p.numel() for p in slimmed.parameters()) < 8_000_000


@pytest.mark.parametrize("alternate", [True, False])
def test_slimsam_on_a_hiera(tmp_path: Path, alternate: bool) -> None:
    teacher = tiny_sam2()
    method = SlimSam(ratio=0.5, steps=2, batch=2, importance_images=2, alternate=alternate)
    found = method.compress(teacher, Images(4), RunContext(0, tmp_path, Engine(tmp_path)))
    student = found.student
    assert isinstance(student, Sam2) and student.config == method.shape(teacher.config)
    assert student.config.hiera.embed_dims == (4, 8, 16, 32)
    assert all(bool(tensor.isfinite().all()) for tensor in student.state_dict().values())
    assert len(found.stages) == (2 if alternate else 1)


def test_relative_positions_of_a_hiera_are_refused(tmp_path: Path) -> None:
    method = SlimSam(0.5, steps=1, batch=1, importance_images=1, rel_pos="reset")
    with pytest.raises(InputError, match=r"^method\.rel_pos=reset: .* has no relative positions; leave it out$"):
        method.compress(tiny_sam2(), Images(), RunContext(0, tmp_path, Engine(tmp_path)))


def test_a_high_ratio_leaves_every_stage_two_channels() -> None:
    for ratio in (0.93, 0.999):
        kept = kept_of("embedding", ratio=ratio)
        assert min(len(indices) for indices in kept.values()) == 2
        shape = pruned_shape(CONFIG, ratio).encoder
        assert [len(kept[f"embedding.{stage}"]) for stage in range(4)] == list(shape.embed_dims)  # type: ignore[union-attr]


def test_slimsam_by_labels_and_over_all_blocks(tmp_path: Path) -> None:
    method = SlimSam(ratio=0.5, steps=1, batch=2, importance_images=2, importance="taylor", scope="global")
    student = method.compress(tiny_sam2(), LabelledImages(4), RunContext(0, tmp_path, Engine(tmp_path))).student
    for width, stage in zip(student.config.hiera.attention_widths, HIERA.stages, strict=True):
        assert width % HIERA.num_heads[stage] == 0


def test_the_control_has_the_same_shape(tmp_path: Path) -> None:
    method = Scratch(ratio=0.5, steps=1, batch=2)
    student = method.compress(tiny_sam2(), Images(2), RunContext(0, tmp_path, Engine(tmp_path))).student
    assert student.config == replace(CONFIG, encoder=pruned_shape(CONFIG, 0.5).encoder)
