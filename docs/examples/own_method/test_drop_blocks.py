"""The method of one's own: which blocks stay, what they compute, and that distilling helps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from halving.drop_blocks import DropBlocks
from torch import nn

from compressors.distill.engine import Engine
from compressors.distill.losses import embedding_mse
from compressors.distill.optimizer import OptimizerConfig
from compressors.method import Compressed, RunContext
from core.errors import InputError
from data.shapes import Shapes
from teachers.image_encoder import EncoderConfig
from teachers.sam import Sam, SamConfig

TEACHER = SamConfig(
    EncoderConfig(64, 16, 24, 2, (24,) * 4, (48,) * 4, 3, (1, 3), 16),
    decoder_heads=2,
    decoder_mlp_width=20,
    iou_width=12,
)
METHOD = DropBlocks(steps=1, batch=2, optimisation=OptimizerConfig(lr=1e-2))


def teacher() -> Sam:
    """A frozen SAM of four blocks with random weights."""
    model = Sam(TEACHER, "tiny").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        tensor.normal_(std=0.2, generator=generator)
    return model


def compress(method: DropBlocks, folder: Path) -> Compressed:
    """One whole compression on images of ``shapes``."""
    return method.compress(teacher(), Shapes(count=8, size=64), RunContext(0, folder, Engine(folder)))


def assert_same_shapes(block: nn.Module, origin: nn.Module) -> None:
    """Every parameter of a block is there, as large as in the block it was."""
    assert {n: p.shape for n, p in block.named_parameters()} == {n: p.shape for n, p in origin.named_parameters()}


def test_the_last_of_every_two_blocks_stays() -> None:
    vit = METHOD.shape(TEACHER).vit
    assert METHOD.kept(4) == [1, 3] and METHOD.kept(5) == [0, 2, 4]
    assert (vit.depth, vit.global_blocks) == (2, (0, 1))
    assert replace(METHOD, every=3).shape(TEACHER).vit.global_blocks == (1,)


def test_the_student_is_half_as_deep_and_decodes_like_its_teacher(tmp_path: Path) -> None:
    made = compress(METHOD, tmp_path)
    assert made.student.config == METHOD.shape(TEACHER) and made.images_seen == 2
    for block, origin in zip(made.student.image_encoder.blocks, (1, 3), strict=True):
        assert_same_shapes(block, teacher().image_encoder.blocks[origin])
    for name, tensor in teacher().mask_decoder.state_dict().items():
        assert torch.equal(made.student.mask_decoder.state_dict()[name], tensor), name


def test_distilling_brings_the_embedding_nearer(tmp_path: Path) -> None:
    images = torch.stack([torch.linspace(-1, 1, 3 * 64 * 64).view(3, 64, 64), torch.zeros(3, 64, 64)])
    target = teacher().encode(images)
    distances = [
        embedding_mse(compress(replace(METHOD, steps=steps), tmp_path / str(steps)).student.encode(images), target)
        for steps in (1, 60)
    ]
    assert distances[1] < 0.8 * distances[0]


def test_a_rerun_gives_the_same_weights(tmp_path: Path) -> None:
    first, again = (compress(METHOD, tmp_path / name).student.state_dict() for name in "ab")
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


def test_wrong_values_are_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"method\.every=1 must be at least 2"):
        DropBlocks(every=1)
