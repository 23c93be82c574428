"""The exported decoder against ``segment_anything``'s own ``SamOnnxModel``: same weights, same inputs, same outputs."""

import pytest

pytest.importorskip("onnxruntime", reason="the extra export is not installed")
pytest.importorskip("segment_anything", reason="segment_anything is not installed (sampress[test])")

from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling import Sam as MetaSam
from segment_anything.utils.onnx import SamOnnxModel
from torch import nn

from students.export.onnx_files import write_decoder
from students.export.parts import prepared
from tests.unit.tiny import CONFIG, ENCODER, tiny_sam


def meta_sam() -> MetaSam:
    """Meta's own classes with the weights of the tiny model."""
    channels, grid, frame = ENCODER.out_channels, ENCODER.grid, ENCODER.image_size
    encoder = ImageEncoderViT(
        img_size=frame,
        patch_size=ENCODER.patch_size,
        embed_dim=ENCODER.embed_dim,
        depth=ENCODER.depth,
        num_heads=ENCODER.num_heads,
        mlp_ratio=ENCODER.mlp_widths[0] / ENCODER.embed_dim,
        out_chans=channels,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=ENCODER.window_size,
        global_attn_indexes=ENCODER.global_blocks,
    )
    decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(
            depth=2, embedding_dim=channels, mlp_dim=CONFIG.decoder_mlp_width, num_heads=CONFIG.decoder_heads
        ),
        transformer_dim=channels,
        iou_head_depth=3,
        iou_head_hidden_dim=CONFIG.iou_width,
    )
    prompts = PromptEncoder(channels, (grid, grid), (frame, frame), mask_in_chans=16)
    model = MetaSam(encoder, prompts, decoder).eval()
    model.load_state_dict(tiny_sam().state_dict(), strict=False)
    return model


pytestmark = pytest.mark.slow
"""An export by torch.onnx takes a quarter of a minute; tests/unit/test_export.py makes one in the fast tests."""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> onnxruntime.InferenceSession:
    path: Path = tmp_path_factory.mktemp("decoder") / "decoder.onnx"
    write_decoder(path, prepared(tiny_sam()), {"model": "tiny"})
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("points", [1, 2, 5])
def test_all_candidates(session: onnxruntime.InferenceSession, with_mask: bool, points: int) -> None:
    theirs = SamOnnxModel(meta_sam(), return_single_mask=False)
    generator = torch.Generator().manual_seed(points)
    inputs = {
        "image_embeddings": torch.randn(1, ENCODER.out_channels, ENCODER.grid, ENCODER.grid, generator=generator),
        "point_coords": torch.rand(1, points, 2, generator=generator) * ENCODER.image_size,
        "point_labels": torch.randint(-1, 4, (1, points), generator=generator).float(),
        "mask_input": torch.randn(1, 1, 4 * ENCODER.grid, 4 * ENCODER.grid, generator=generator),
        "has_mask_input": torch.tensor([float(with_mask)]),
        "orig_im_size": torch.tensor([70.0, 101.0]),
    }
    expected = theirs(*inputs.values())
    given = {name: part.numpy() for name, part in inputs.items()}
    for name, reference in zip(("masks", "iou_predictions", "low_res_masks"), expected, strict=True):
        (found,) = session.run([name], given)
        limit = 1e-5 * float(reference.abs().max())
        assert found.shape == tuple(reference.shape) and np.abs(found - reference.numpy()).max() <= limit


def test_the_single_mask_is_the_first_candidate(session: onnxruntime.InferenceSession) -> None:
    # With two points or more, SamOnnxModel's single mask is its first candidate.
    theirs = SamOnnxModel(meta_sam(), return_single_mask=True)
    given = (
        torch.randn(1, ENCODER.out_channels, ENCODER.grid, ENCODER.grid),
        torch.tensor([[[5.0, 7.0], [40.0, 50.0], [9.0, 9.0]]]),
        torch.tensor([[2.0, 3.0, 1.0]]),
        torch.zeros(1, 1, 16, 16),
        torch.zeros(1),
        torch.tensor([64.0, 64.0]),
    )
    names = [value.name for value in session.get_inputs()]
    masks, ious = session.run(
        ["masks", "iou_predictions"], {name: part.numpy() for name, part in zip(names, given, strict=True)}
    )
    expected = theirs(*given)
    assert np.allclose(masks[:, :1], expected[0].numpy(), atol=1e-4)
    assert np.allclose(ious[:, :1], expected[1].numpy(), atol=1e-5)
