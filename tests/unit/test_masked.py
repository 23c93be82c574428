"""A cut encoder against the masked original: equal in every way of cutting, and planted defects are named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compressors import slimsam
from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.prune.groups import find_groups
from compressors.prune.selection import keep_locally
from compressors.prune.surgery import check_cut, prune
from compressors.slimsam import SlimSam
from core.errors import RunFailed
from teachers.image_encoder import ImageEncoder
from tests.unit.tiny import Images, tiny_encoder, tiny_sam


def chosen(encoder: ImageEncoder, *kinds: str) -> dict[str, Tensor]:
    """Half of the channels of some kinds of groups, drawn at random."""
    generator = torch.Generator().manual_seed(3)
    groups = {name: g for name, g in find_groups(encoder.config).items() if name.partition(".")[0] in kinds}
    scores = {name: torch.rand(group.width, generator=generator) for name, group in groups.items()}
    return keep_locally(scores, groups, 0.5, encoder.config.num_heads)


@pytest.mark.parametrize("kinds", [("embedding",), ("attention", "mlp"), ("embedding", "attention", "mlp")])
@pytest.mark.parametrize("rel_pos", ["keep", "reset"])
@pytest.mark.parametrize("fold", [True, False])
def test_a_cut_answers_as_the_masked_original(kinds: tuple[str, ...], rel_pos: str, fold: bool) -> None:
    encoder = tiny_encoder()
    kept = chosen(encoder, *kinds)
    cut = prune(encoder, kept, rel_pos, fold)
    assert cut.config != encoder.config
    check_cut(encoder, cut, kept, rel_pos, fold)


def _swapped(tensor: Tensor, axis: int) -> None:
    with torch.no_grad():
        tensor.copy_(tensor.flip(axis))


DEFECTS: dict[str, tuple[Callable[[ImageEncoder], None], str]] = {
    "first patch embedding": (lambda cut: _swapped(cut.patch_embed.proj.weight, 0), "patch_embed"),
    "positions": (lambda cut: _swapped(cut.pos_embed, 3), "blocks.0.attn"),
    "norm of attention": (lambda cut: _swapped(cut.blocks[1].norm1.weight, 0), "blocks.1.attn"),
    "values": (lambda cut: _swapped(cut.blocks[1].attn.qkv.weight, 1), "blocks.1.attn"),
    "relative positions": (lambda cut: _swapped(cut.blocks[0].attn.rel_pos_h, 1), "blocks.0.attn"),
    "columns of the MLP": (lambda cut: _swapped(cut.blocks[1].mlp.lin2.weight, 1), "blocks.1.mlp"),
    "norm of the MLP": (lambda cut: _swapped(cut.blocks[0].norm2.bias, 0), "blocks.0.mlp"),
    "neck": (lambda cut: _swapped(cut.neck[0].weight, 1), "neck"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_named(defect: str) -> None:
    plant, part = DEFECTS[defect]
    encoder = tiny_encoder()
    kept = chosen(encoder, "embedding", "attention", "mlp")
    cut = prune(encoder, kept)
    plant(cut)
    with pytest.raises(RunFailed, match=f"pruning: {part} of the cut encoder answers otherwise"):
        check_cut(encoder, cut, kept)


def test_a_temperature_that_was_not_folded_in_is_named() -> None:
    encoder = tiny_encoder()
    kept = chosen(encoder, "attention")
    with pytest.raises(RunFailed, match=r"pruning: blocks\.0\.attn"):
        check_cut(encoder, prune(encoder, kept, fold=False), kept, fold=True)


def test_weights_that_are_no_numbers_are_no_equal_answer() -> None:
    encoder = tiny_encoder()
    kept = chosen(encoder, "mlp")
    cut = prune(encoder, kept)
    with torch.no_grad():
        cut.blocks[0].mlp.lin1.weight[0] = torch.nan
    with pytest.raises(RunFailed, match=r"pruning: blocks\.0\.mlp .*difference nan"):
        check_cut(encoder, cut, kept)


def test_slimsam_ends_where_its_cut_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(encoder: ImageEncoder, kept: dict[str, Tensor], rel_pos: str, fold: bool) -> ImageEncoder:
        cut = prune(encoder, kept, rel_pos, fold)
        _swapped(cut.neck[0].weight, 1)
        return cut

    monkeypatch.setattr(slimsam, "prune", wrong)
    method = SlimSam(0.5, importance="magnitude", steps=1, batch=2)
    with pytest.raises(RunFailed, match="pruning: neck"):
        method.compress(tiny_sam(), Images(), RunContext(0, tmp_path, Engine(tmp_path)))
    assert not list(tmp_path.glob("*.safetensors")), "a wrong cut was kept"
