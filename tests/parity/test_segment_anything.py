"""Meta's own ``segment-anything`` against this project's SAM, at a small size with random weights."""

import pytest

pytest.importorskip("segment_anything", reason="segment_anything is not installed (sampress[test])")

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling import Sam as MetaSam
from torch import Tensor, nn
from torch.testing import assert_close

from core.geometry import resized_size, upscale_logits
from core.protocols import Masks, Prompt
from data.images import to_frame
from teachers.image_encoder import EncoderConfig
from teachers.inferred_shape import infer_config
from teachers.sam import Sam, SamConfig

FRAME, PATCH, DIM, HEADS, WINDOW, GLOBAL, CHANNELS, DECODER_HEADS = 128, 16, 48, 4, 3, (1, 3), 32, 4
GRID = FRAME // PATCH  # not a multiple of the window, so windows are padded
CONFIG = SamConfig(
    EncoderConfig(FRAME, PATCH, DIM, HEADS, (DIM,) * 4, (4 * DIM,) * 4, WINDOW, GLOBAL, CHANNELS),
    decoder_heads=DECODER_HEADS,
    decoder_mlp_width=40,
    iou_width=24,
)
# Fused kernels add in another order; outputs are of order one.
close = partial(assert_close, rtol=1e-4, atol=2e-5)


def meta_sam() -> MetaSam:
    encoder = ImageEncoderViT(
        img_size=FRAME,
        patch_size=PATCH,
        embed_dim=DIM,
        depth=4,
        num_heads=HEADS,
        out_chans=CHANNELS,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=WINDOW,
        global_attn_indexes=GLOBAL,
    )
    prompts = PromptEncoder(CHANNELS, (GRID, GRID), (FRAME, FRAME), mask_in_chans=16)
    decoder = MaskDecoder(
        transformer_dim=CHANNELS,
        transformer=TwoWayTransformer(depth=2, embedding_dim=CHANNELS, num_heads=DECODER_HEADS, mlp_dim=40),
        iou_head_hidden_dim=24,
    )
    return MetaSam(encoder, prompts, decoder).eval().requires_grad_(False)


def randomise(model: nn.Module) -> None:
    """Weights far from any initial value: norms not one, relative positions and position embeddings not zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.5 / max(1, parameter[0].numel()) ** 0.5))
        if parameter.ndim == 1:
            parameter.add_(0.5)
    for name, parameter in model.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope="module")
def pair() -> tuple[MetaSam, Sam]:
    """Meta's model and ours with its weights."""
    theirs, ours = meta_sam(), Sam(CONFIG).eval().requires_grad_(False)
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.fixture(scope="module")
def embedding(pair: tuple[MetaSam, Sam]) -> Tensor:
    return pair[0].image_encoder(torch.randn(1, 3, FRAME, FRAME, generator=torch.Generator().manual_seed(2)))


def test_the_encoder(pair: tuple[MetaSam, Sam]) -> None:
    images = torch.randn(2, 3, FRAME, FRAME)
    expected = pair[0].image_encoder(images)
    assert expected.std() > 0.1
    close(pair[1].encode(images), expected)


def test_weights_go_the_other_way_too() -> None:
    theirs, ours = meta_sam(), Sam(CONFIG).eval().requires_grad_(False)
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, FRAME, FRAME)
    close(ours.encode(images), theirs.image_encoder(images))
    assert infer_config(theirs.state_dict(), DECODER_HEADS) == CONFIG


@pytest.mark.parametrize("place", ["image_encoder.pos_embed", "image_encoder.blocks.1.attn.rel_pos_w"])
def test_the_comparison_can_fail(pair: tuple[MetaSam, Sam], place: str) -> None:
    mutated = Sam(CONFIG).eval().requires_grad_(False)
    mutated.load_state_dict({key: value.clone() for key, value in pair[1].state_dict().items()})
    mutated.state_dict()[place].mul_(1.1)
    images = torch.randn(1, 3, FRAME, FRAME)
    with pytest.raises(AssertionError, match="not close"):
        close(mutated.encode(images), pair[0].image_encoder(images))


def boxes(count: int) -> Tensor:
    corners = torch.rand(count, 2, 2) * (FRAME - 1)
    return torch.cat([corners.amin(1), corners.amax(1)], 1)


def points(count: int) -> dict[str, Tensor]:
    labels = torch.tensor([[1, 0, -1], [1, 1, 0], [0, -1, -1]]).repeat(count, 1)[:count]
    return {"points_xy": torch.rand(count, 3, 2) * (FRAME - 1), "labels": labels}


def mask_logits(count: int) -> Tensor:
    return torch.randn(count, 1, 4 * GRID, 4 * GRID)


PROMPTS: dict[str, Callable[[], Prompt]] = {
    "boxes": lambda: Prompt(boxes_xyxy=boxes(5)),
    "points": lambda: Prompt(**points(5)),
    "boxes and points": lambda: Prompt(boxes_xyxy=boxes(3), **points(3)),
    "masks": lambda: Prompt(mask_logits=mask_logits(2)),
    "boxes and masks": lambda: Prompt(boxes_xyxy=boxes(2), mask_logits=mask_logits(2)),
    "everything": lambda: Prompt(boxes_xyxy=boxes(2), mask_logits=mask_logits(2), **points(2)),
}


@pytest.mark.parametrize("multimask", [True, False], ids=["multi", "single"])
@pytest.mark.parametrize("kind", PROMPTS)
def test_prompts_and_decoding(pair: tuple[MetaSam, Sam], embedding: Tensor, kind: str, multimask: bool) -> None:
    theirs, ours = pair
    prompt = PROMPTS[kind]()
    given = None if prompt.points_xy is None else (prompt.points_xy, prompt.labels)
    sparse, dense = theirs.prompt_encoder(given, prompt.boxes_xyxy, prompt.mask_logits)
    found = ours.prompt_encoder(given, prompt.boxes_xyxy, prompt.mask_logits)
    close(found[0], sparse)
    close(found[1].expand_as(dense), dense)
    position = theirs.prompt_encoder.get_dense_pe()
    close(ours.prompt_encoder.dense_position(), position)

    logits, iou = theirs.mask_decoder(embedding, position, sparse, dense, multimask)
    # In a square image as large as the frame, original pixels are the frame's.
    masks = ours.decode(embedding, prompt, (FRAME, FRAME), multimask)
    assert masks.logits.shape == (len(prompt), 3 if multimask else 1, 4 * GRID, 4 * GRID)
    close(masks.logits, logits)
    close(masks.iou_pred, iou)


@pytest.mark.parametrize("kind", ["boxes", "everything"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision(pair: tuple[MetaSam, Sam], embedding: Tensor, dtype: torch.dtype, kind: str) -> None:
    half, prompt = deepcopy(pair[1]).to(dtype), PROMPTS[kind]()
    found = half.decode(embedding.to(dtype), prompt, (FRAME, FRAME), multimask=True)
    expected = pair[1].decode(embedding, prompt, (FRAME, FRAME), multimask=True)
    assert found.logits.dtype == found.iou_pred.dtype == dtype
    assert (found.logits - expected.logits).std() < 0.1 * expected.logits.std()


SIZES = [(90, 128), (128, 77), (300, 200), (61, 100), (128, 128), (1, 400)]


@pytest.mark.parametrize("size_hw", SIZES)
def test_masks_at_the_original_size(pair: tuple[MetaSam, Sam], size_hw: tuple[int, int]) -> None:
    logits = torch.randn(2, 3, 4 * GRID, 4 * GRID)
    expected = pair[0].postprocess_masks(logits, resized_size(size_hw, FRAME), size_hw)
    close(upscale_logits(logits, size_hw, FRAME), expected)
    binary = Masks(logits, torch.zeros(2, 3), FRAME).binary(size_hw)
    assert binary.dtype == torch.bool
    # A logit within rounding of the threshold may fall on either side.
    assert bool((binary == (expected > 0))[expected.abs() > 1e-5].all())


def resized_image(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size_hw", [(90, 128), (300, 200), (61, 100)])
def test_from_image_to_masks(pair: tuple[MetaSam, Sam], size_hw: tuple[int, int]) -> None:
    theirs, ours = pair
    image = resized_image(*size_hw)
    predictor = SamPredictor(theirs)
    predictor.set_image(image)
    embedding = ours.encode(to_frame(image, FRAME)[None])
    close(embedding, predictor.get_image_embedding())

    box = np.array([0.1 * size_hw[1], 0.2 * size_hw[0], 0.8 * size_hw[1], 0.7 * size_hw[0]])
    xy, labels = np.array([[0.5 * size_hw[1], 0.4 * size_hw[0]], [3.0, 5.0]]), np.array([1, 0])
    prompt = Prompt(torch.tensor(box[None]), torch.tensor(xy[None]), torch.tensor(labels[None]))
    for multimask in (True, False):
        logits, iou, low_res = predictor.predict(xy, labels, box, multimask_output=multimask, return_logits=True)
        masks = ours.decode(embedding, prompt, size_hw, multimask)
        close(masks.logits[0], torch.from_numpy(low_res))
        close(masks.iou_pred[0], torch.from_numpy(iou))
        close(upscale_logits(masks.logits, size_hw, FRAME)[0], torch.from_numpy(logits))

    again = Prompt(boxes_xyxy=prompt.boxes_xyxy, mask_logits=masks.logits)
    low_res = predictor.predict(box=box, mask_input=masks.logits[0].numpy(), multimask_output=False)[2]
    close(ours.decode(embedding, again, size_hw).logits[0], torch.from_numpy(low_res))
