"""sam2_pocket before it is trained: its size, what it takes from sam_pocket, and batches in a stretched frame."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.checkpoint import weights_sha256
from core.cost import checkpoint_bytes
from core.geometry import Stretched
from experiments.pretrain import _initial
from experiments.pretrain_shapes import Pool, ShapesBatches, ShapesTraining, prompted_loss
from teachers.sam2 import Sam2
from teachers.weights import load_sam


@pytest.fixture(scope="module")
def model() -> Sam2:
    made = _initial("sam2_pocket", 0)
    assert isinstance(made, Sam2)
    return made


def test_it_is_small_and_the_same_each_time(model: Sam2) -> None:
    assert checkpoint_bytes(model) <= 12_000_000
    assert (model.input_size, model.config.encoder.grid) == (256, 16)
    assert weights_sha256(_initial("sam2_pocket", 0)) == weights_sha256(model)
    assert weights_sha256(_initial("sam2_pocket", 1)) != weights_sha256(model)


def test_its_decoder_begins_as_sam_pockets(model: Sam2) -> None:
    ours, theirs = model.state_dict(), load_sam("sam_pocket").state_dict()
    same = {name for name, tensor in theirs.items() if name in ours and torch.equal(ours[name], tensor)}
    parts = {name for name in theirs if name.startswith(("prompt_encoder.", "mask_decoder."))}
    last = {f"mask_decoder.iou_prediction_head.layers.2.{part}" for part in ("weight", "bias")}
    assert same == parts - last
    assert {name for name in ours if name.startswith("mask_decoder.") and name not in theirs} == {
        "mask_decoder.obj_score_token.weight",
        *(f"mask_decoder.pred_obj_score_head.layers.{i}.{part}" for i in range(3) for part in ("weight", "bias")),
    }


def test_images_and_masks_are_stretched_alike(model: Sam2) -> None:
    labels = np.zeros((1, 32, 32), np.uint8)
    labels[0, 4:12, 8:24], labels[0, 16:22, 2:30] = 1, 2
    # An image of 24 x 32, above padding.
    pool = Pool((100 * labels)[..., None].repeat(3, 3) + 20, labels, np.array([[24, 32]]), "painted")
    recipe = replace(ShapesTraining(), batch=2, masks=2, box_jitter=0.0, box_share=1.0, steps=4)
    batch = ShapesBatches(recipe, pool, pool, Stretched(64), 16).of_step(0)
    assert batch.images.shape == (2, 3, 64, 64) and not bool((batch.images == 0).all(1).any()), "no padding"
    assert batch.prompt.boxes_xyxy is not None
    for box, coverage in zip(batch.prompt.boxes_xyxy.tolist(), batch.targets, strict=True):
        rows, columns = (coverage.amax(axis).nonzero()[:, 0] for axis in (1, 0))
        cells = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        assert all(abs(4 * cell - side) < 4 for cell, side in zip(cells, box, strict=True))


def test_the_loss_reaches_the_encoder_and_its_projections(model: Sam2) -> None:
    pool = Pool(
        np.full((1, 256, 256, 3), 90, np.uint8), np.full((1, 256, 256), 1, np.uint8), np.array([[256, 256]]), "plain"
    )
    recipe = replace(ShapesTraining(), batch=1, masks=1, steps=4)
    terms = prompted_loss(model, ShapesBatches(recipe, pool, pool, model.input_size, 64).of_step(0))
    torch.stack(list(terms.values())).sum().backward()
    encoder = model.image_encoder
    for parameter in (encoder.trunk.pos_embed, encoder.conv_s0.weight, encoder.conv_s1.weight, encoder.no_mem_embed):
        assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0
    model.zero_grad()
