"""``transformers.SamModel`` against this project's SAM, through the converters, at a small size."""

import pytest

pytest.importorskip("transformers", reason="transformers is not installed (sampress[test])")

import json
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import SamConfig as HubConfig
from transformers import SamModel

from core.errors import InputError
from core.protocols import Prompt
from teachers.catalog import MODELS, NamedModel, vit
from teachers.convert import POSITIONS, from_hugging_face, hugging_face_config, to_hugging_face
from teachers.image_encoder import EncoderConfig
from teachers.inferred_shape import infer_config
from teachers.sam import Sam, SamConfig
from teachers.weights import load_sam

Model = TypeVar("Model", bound=nn.Module)
FRAME, GRID = 128, 8
CONFIG = SamConfig(
    EncoderConfig(FRAME, 16, 48, 4, (48,) * 4, (100,) * 4, 3, (1, 3), 32),
    decoder_heads=4,
    decoder_mlp_width=40,
    iou_width=24,
)
close = partial(assert_close, rtol=1e-4, atol=2e-5)


def randomised(model: Model) -> Model:
    for parameter in model.requires_grad_(False).parameters():
        parameter.copy_(torch.randn(parameter.shape) * (0.5 / max(1, parameter[0].numel()) ** 0.5))
        parameter.add_(0.5 if parameter.ndim == 1 else 0.0)
    return model.eval()


def hub_model() -> SamModel:
    return SamModel(HubConfig(**hugging_face_config(CONFIG))).eval()


def ours_from(model: SamModel) -> Sam:
    ours = Sam(CONFIG).eval().requires_grad_(False)
    ours.load_state_dict(from_hugging_face(model.state_dict()))
    return ours


def hub_answer(model: SamModel, images: Tensor, prompt: Prompt, multimask: bool) -> tuple[Tensor, Tensor]:
    answer = model(
        images,
        input_points=None if prompt.points_xy is None else prompt.points_xy[None],
        input_labels=None if prompt.labels is None else prompt.labels[None],
        input_boxes=None if prompt.boxes_xyxy is None else prompt.boxes_xyxy[None],
        input_masks=prompt.mask_logits,
        multimask_output=multimask,
    )
    return answer.pred_masks[0], answer.iou_scores[0]


def assert_same(ours: Sam, theirs: SamModel) -> None:
    images = torch.randn(1, 3, FRAME, FRAME)
    embedding = ours.encode(images)
    close(embedding, theirs.get_image_embeddings(images))
    boxes = torch.tensor([[10.0, 20.0, 90.0, 100.0], [0.0, 0.0, 50.0, 127.0]])
    xy, labels = torch.rand(2, 2, 2) * FRAME, torch.tensor([[1, 0], [1, -1]])
    prompts = [
        Prompt(boxes_xyxy=boxes),
        Prompt(points_xy=xy, labels=labels),
        Prompt(boxes_xyxy=boxes, points_xy=xy, labels=labels),
        Prompt(boxes_xyxy=boxes[:1], mask_logits=torch.randn(1, 1, 4 * GRID, 4 * GRID)),
    ]
    for prompt in prompts:
        for multimask in (True, False):
            masks = ours.decode(embedding, prompt, (FRAME, FRAME), multimask)
            logits, iou = hub_answer(theirs, images, prompt, multimask)
            close(masks.logits, logits)
            close(masks.iou_pred, iou)


def test_from_hugging_face() -> None:
    theirs = randomised(hub_model())
    assert_same(ours_from(theirs), theirs)


def test_to_hugging_face() -> None:
    ours, theirs = randomised(Sam(CONFIG)), hub_model()
    theirs.load_state_dict(to_hugging_face(CONFIG, ours.state_dict()))
    assert_same(ours, theirs)


@pytest.mark.parametrize(
    "key",
    [
        "image_encoder.blocks.1.attn.rel_pos_h",
        "prompt_encoder.mask_downscaling.3.weight",
        "mask_decoder.output_hypernetworks_mlps.2.layers.1.weight",
        "mask_decoder.iou_prediction_head.layers.0.weight",
    ],
)
def test_the_comparison_can_fail(key: str) -> None:
    theirs = randomised(hub_model())
    ours = ours_from(theirs)
    ours.state_dict()[key].mul_(1.5)
    with pytest.raises(AssertionError, match="not close"):
        assert_same(ours, theirs)


def test_there_and_back() -> None:
    state = randomised(Sam(CONFIG)).state_dict()
    state[POSITIONS].normal_()
    there = to_hugging_face(CONFIG, state)
    assert there.keys() == hub_model().state_dict().keys()
    back = from_hugging_face(there)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    assert infer_config(back, CONFIG.decoder_heads) == CONFIG


def test_one_copy_of_the_positions_is_enough_and_two_must_agree() -> None:
    state = randomised(Sam(CONFIG)).state_dict()
    there = to_hugging_face(CONFIG, state)
    second = there.pop("prompt_encoder.shared_embedding.positional_embedding")
    assert torch.equal(from_hugging_face(there)[POSITIONS], state[POSITIONS])
    there["prompt_encoder.shared_embedding.positional_embedding"] = second + 1
    with pytest.raises(InputError, match="shared_image_embedding"):
        from_hugging_face(there)


def test_the_named_models_have_the_shape_of_the_published_configurations() -> None:
    defaults = HubConfig().to_dict()
    expected = hugging_face_config(MODELS["sam_vit_b"].config)
    for section in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        for key, value in expected[section].items():
            if key != "layer_norm_eps":
                found = defaults[section][key]
                assert (list(found) if isinstance(found, tuple) else found) == value


@pytest.mark.parametrize(
    ("attention", "mlp", "message"),
    [
        ((48, 24), (100, 100), "blocks of different widths"),
        ((48, 48), (100, 64), "blocks of different widths"),
        ((24, 24), (100, 100), "attention width .24. other than the embedding width .48."),
    ],
)
def test_shapes_that_sam_model_cannot_hold(attention: tuple[int, ...], mlp: tuple[int, ...], message: str) -> None:
    config = SamConfig(EncoderConfig(FRAME, 16, 48, 4, attention, mlp, 3, (1,), 32), 4)
    with pytest.raises(InputError, match=message):
        hugging_face_config(config)
    with pytest.raises(InputError, match=message):
        to_hugging_face(config, {})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model saved by transformers, whose shape has a name."""
    monkeypatch.setitem(MODELS, "sam_tiny", NamedModel(CONFIG))
    randomised(hub_model()).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_saved_by_transformers_is_loaded(folder: Path) -> None:
    theirs = SamModel.from_pretrained(folder).eval()
    ours = load_sam("sam_tiny", folder)
    assert not ours.training and not any(p.requires_grad for p in ours.parameters())
    assert_same(ours, theirs)
    alone = load_sam("sam_tiny", folder / "model.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), ours.parameters(), strict=True))


def test_a_folder_of_another_shape_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="does not fit this model"):
        load_sam("sam_vit_b", folder)
    stored = json.loads((folder / "config.json").read_text())
    stored["mask_decoder_config"]["num_attention_heads"] = 8
    (folder / "config.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"mask_decoder_config\.num_attention_heads is 8, expected 4"):
        load_sam("sam_tiny", folder)
    # Left out, it means 8 to transformers too.
    del stored["mask_decoder_config"]["num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match="num_attention_heads is 8"):
        load_sam("sam_tiny", folder)
    for text in ("{", "[]", '{"vision_config": 3}'):
        (folder / "config.json").write_text(text)
        problem = "cannot be read" if text == "{" else r"is not the config\.json of a SamModel"
        with pytest.raises(InputError, match=problem):
            load_sam("sam_tiny", folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        load_sam("sam_tiny", folder)


@pytest.mark.parametrize(("ratio", "width", "mlp"), [("50", 384, 1536), ("77", 168, 696)])
def test_the_released_slimsam_shapes_fit_sam_model(ratio: str, width: int, mlp: int) -> None:
    base = vit(12, width, 12, (2, 5, 8, 11))
    config = SamConfig(
        EncoderConfig(1024, 16, width, 12, base.attention_widths, (mlp,) * 12, 14, base.global_blocks, 256)
    )
    with torch.device("meta"):
        model = SamModel(HubConfig(**hugging_face_config(config)))
        shapes = {key: value.shape for key, value in to_hugging_face(config, Sam(config).state_dict()).items()}
    assert shapes == {key: value.shape for key, value in model.state_dict().items()}
