"""SAM 2 in the hands of what takes any segmenter: stretched images, several maps, prompts, everything, evaluation."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core.errors import InputError
from core.feature_layout import EMBEDDING
from core.feature_maps import FeatureMaps, joined
from core.geometry import Stretched
from core.protocols import Prompt, Segmenter
from data.images import to_frame
from evaluation.everything.filters import axes
from evaluation.latency import measure_latency
from evaluation.predictor import SamPredictor
from evaluation.preprocess import preprocess, resized_in_frame
from experiments.cli.command_line import main
from experiments.result_file import read_rows
from students.self_check import encoder_problem
from teachers.hiera import HieraConfig, hiera_config
from teachers.sam2 import Sam2, Sam2Config
from teachers.sam2_layouts import to_meta
from tests.unit.truthful import drawn_labels, write_coco

CONFIG = Sam2Config(
    hiera_config(64, 8, (1, 1, 2, 1), 1, (4, 4, 4, 2), (3,), 5, 16),
    decoder_heads=2,
    decoder_mlp_width=20,
    iou_width=12,
)


@pytest.fixture(scope="module")
def model() -> Sam2:
    made = CONFIG.make("tiny2").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for tensor in made.state_dict().values():
        tensor.normal_(std=0.3, generator=generator)
    return made


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.Generator(np.random.PCG64(0)).integers(0, 256, (30, 50, 3), dtype=np.uint8)


def test_maps_have_their_shapes_and_are_a_segmenters(model: Sam2) -> None:
    assert isinstance(model, Segmenter)
    maps = model.encode(torch.randn(2, 3, 64, 64)).maps
    assert {name: tuple(tensor.shape) for name, tensor in maps.items()} == {
        "image_embed": (2, 16, 4, 4),
        "high_res_feats_0": (2, 2, 16, 16),
        "high_res_feats_1": (2, 4, 8, 8),
    }


def test_each_image_has_its_own_high_resolution_features(model: Sam2) -> None:
    maps = model.encode(torch.randn(2, 3, 64, 64))
    boxes = torch.rand(4, 4) * 30 + torch.tensor([0.0, 0.0, 30.0, 30.0])
    together = model.decode_frame(maps, Prompt(boxes_xyxy=boxes))
    for i, of_one in enumerate(maps.split(1)):
        alone = model.decode_frame(of_one, Prompt(boxes_xyxy=boxes[2 * i : 2 * i + 2]))
        for all_found, found in zip(together, alone, strict=True):
            torch.testing.assert_close(all_found[2 * i : 2 * i + 2], found)


def test_images_are_stretched_and_prompts_with_them(model: Sam2, image: np.ndarray) -> None:
    assert isinstance(model.input_size, Stretched)
    frame = to_frame(image, model.input_size)
    assert frame.shape == (3, 64, 64)
    assert bool((frame[:, -1] != 0).any()), "no padding"
    assert torch.equal(preprocess(image, model.input_size, ("pillow", "floor")), frame)
    assert resized_in_frame((30, 50), model.input_size, "floor") == (64, 64)
    embedding = model.encode(frame[None])
    boxes = torch.tensor([[5.0, 3.0, 40.0, 27.0]])
    answer = model.decode(embedding, Prompt(boxes_xyxy=boxes), (30, 50), multimask=True)
    in_frame = boxes * torch.tensor([64 / 50, 64 / 30]).repeat(2)
    expected = model.decode_frame(embedding, Prompt(boxes_xyxy=in_frame)).logits[:, 1:]
    torch.testing.assert_close(answer.logits, expected)
    at_image = F.interpolate(expected, (30, 50), mode="bilinear", align_corners=False) > 0
    assert torch.equal(answer.binary((30, 50)), at_image)


def test_the_predictor(model: Sam2, image: np.ndarray) -> None:
    predictor = SamPredictor(model)
    predictor.set_images([image, image[:20]])
    first, second = predictor.predict_batch(
        [Prompt.foreground(torch.tensor([[[9.0, 8.0]]])), Prompt(boxes_xyxy=torch.zeros(0, 4))]
    )
    assert first.binary((30, 50)).shape == (1, 3, 30, 50)
    assert second.logits.shape == (0, 3, 16, 16)
    predictor.set_image(image)
    assert predictor.input_size == (64, 64)
    masks, iou, low = predictor.predict(np.array([[9, 8]]), np.array([1]))
    torch.testing.assert_close(torch.from_numpy(low), first.logits[0])
    again, _, _ = predictor.predict(np.array([[9, 8]]), np.array([1]), mask_input=low[:1], multimask_output=False)
    assert masks.shape == (3, 30, 50) and again.shape == (1, 30, 50) and (iou >= 0).all() and (iou <= 1).all()


def test_everything_upscales_as_the_predictor_does() -> None:
    vertical, horizontal = axes((30, 50), 16, Stretched(64), torch.device("cpu"))
    logits = torch.randn(16, 16)
    expected = F.interpolate(logits[None, None], (30, 50), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(vertical.weights @ logits @ horizontal.weights.T, expected)


def test_an_encoder_with_one_dead_map_is_found(model: Sam2) -> None:
    assert encoder_problem(model) is None
    dead = CONFIG.make("dead").eval().requires_grad_(False)
    dead.load_state_dict(model.state_dict())
    dead.image_encoder.conv_s0.weight.zero_()
    problem = encoder_problem(dead)
    assert problem is not None and "one and the same embedding" in problem


def test_latency_is_measured(model: Sam2) -> None:
    assert measure_latency(model, runs=1, warmup=0).peak_memory_bytes > 0


def test_feature_maps_behave_as_one_tensor_does() -> None:
    maps = FeatureMaps({EMBEDDING: torch.zeros(3, 4, 2, 2), "fine": torch.arange(3.0)[:, None, None, None]})
    assert (len(maps), tuple(maps.shape), maps.dtype, maps.device.type) == (3, (3, 4, 2, 2), torch.float32, "cpu")
    assert [float(part.maps["fine"]) for part in maps.split(1)] == [0.0, 1.0, 2.0]
    assert torch.equal(joined(maps.split(2)).maps["fine"], maps.maps["fine"])
    assert torch.equal(joined([maps[0], maps[2]], torch.stack).maps["fine"], maps.maps["fine"][[0, 2]])
    assert maps.half().maps["fine"].dtype == torch.float16
    with pytest.raises(ValueError, match="the first of feature maps must be image_embed"):
        FeatureMaps({"fine": torch.zeros(1)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 80}, "must be a multiple of 32"),
        ({"window_sizes": (4, 3, 4, 2)}, "must be even"),
        ({"depths": (1, 1, 3, 1)}, "one entry a block"),
        ({"num_heads": (1, 2, 4)}, "four stages"),
    ],
)
def test_shapes_that_compute_nothing_are_refused(changes: dict[str, object], message: str) -> None:
    fields = {**vars(CONFIG.hiera), **changes}
    with pytest.raises(ValueError, match=message):
        HieraConfig(**fields)


def test_evaluate_scores_a_file_of_the_released_layout(
    model: Sam2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the released names and containers, at a small size that stands for tiny's."""
    from experiments.runs import checkpoints
    from teachers.catalog import MODELS, NamedModel

    monkeypatch.setitem(MODELS, "sam2_1_tiny", NamedModel(CONFIG))
    monkeypatch.setitem(checkpoints._SHAPES, "sam2_1_tiny", CONFIG)
    file = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": to_meta(model.state_dict()) | {"no_obj_embed_spatial": torch.ones(1, 64)}}, file)
    root = write_coco(tmp_path / "coco", drawn_labels(3))
    words = [f"checkpoint={file}", "evaluation=coco_box", f"data.root={root}", "evaluation.latency_runs=1"]
    assert main(["evaluate", *words, f"out={tmp_path / 'out'}"]) == 0
    row = read_rows(tmp_path / "out" / "result.json")[0]
    assert (row.method, row.teacher, row.protocol) == ("teacher", "sam2_1_tiny", "box_single@1")
    assert row.miou is not None and 0 <= row.miou <= 1 and row.images == 3
    assert row.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_reference_with_other_frames_is_refused(
    model: Sam2, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from students.files import save_model

    save_model(tmp_path / "sam2.safetensors", model)
    root = write_coco(tmp_path / "coco", drawn_labels(2))
    words = [f"checkpoint={tmp_path / 'sam2.safetensors'}", f"data.root={root}", "evaluation=coco"]
    words += ["evaluation.protocols=[mobilesam]", "evaluation.reference=sam_pocket"]
    assert main(["evaluate", *words, f"out={tmp_path / 'out'}"]) == 2
    assert "stretched to a square, the other padded ones" in capsys.readouterr().err


def test_a_vit_is_asked_for_by_what_needs_one() -> None:
    with pytest.raises(InputError, match="needs a model with SAM's own ViT as its image encoder, not Hiera"):
        _ = CONFIG.vit
