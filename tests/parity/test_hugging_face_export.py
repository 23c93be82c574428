"""Exported students, loaded by ``transformers`` itself: equal masks, from the image on."""

import pytest

pytest.importorskip("transformers", reason="transformers is not installed (sampress[test])")

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import SamImageProcessor, SamModel

from compressors.distill.engine import Engine
from compressors.distill.optimizer import OptimizerConfig
from compressors.method import RunContext
from compressors.slimsam import SlimSam
from core.checkpoint import weights_sha256
from core.errors import InputError
from core.protocols import Prompt
from data.images import to_frame
from data.shapes import Shapes
from experiments.cli.command_line import main
from experiments.runs.checkpoints import find_model
from students.convert.layouts import save_hugging_face
from students.files import save_model
from students.pruned_vit import pruned_shape
from teachers.catalog import MODELS
from teachers.initial_weights import initialise_sam
from teachers.sam import Sam
from teachers.weights import load_sam


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Sam:
    """sam_pocket, pruned by 77 % and trained for a few steps."""
    folder = tmp_path_factory.mktemp("trained")
    method = SlimSam(0.77, importance="magnitude", steps=3, batch=2, optimisation=OptimizerConfig(lr=1e-3))
    return method.compress(load_sam("sam_pocket"), Shapes("train", 8), RunContext(0, folder, Engine(folder))).student


def large() -> Sam:
    """SAM-B pruned by 77 % as SlimSAM does, filled at random."""
    torch.manual_seed(0)
    model = Sam(pruned_shape(MODELS["sam_vit_b"].config, 0.77), "sam_vit_b-slimsam-0.77")
    initialise_sam(model)
    return model.eval().requires_grad_(False)


def assert_same_masks(ours: Sam, folder: Path, size_hw: tuple[int, int]) -> None:
    theirs = SamModel.from_pretrained(folder).eval()
    # SamModel counts the frequencies of positions as a parameter; here they are a buffer.
    tensors = {name: parameter for name, parameter in theirs.named_parameters() if "positional" not in name}
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in tensors.values())
    processor = SamImageProcessor.from_pretrained(folder)
    # Smooth, so that the two libraries' resizing of uint8 images differs by rounding alone.
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]] / max(size_hw)
    image = (255 * np.stack([rows, columns, rows * columns], -1)).astype(np.uint8)
    prepared = processor(image, return_tensors="pt")["pixel_values"]
    frame = to_frame(image, ours.input_size)[None]
    torch.testing.assert_close(frame, prepared, rtol=0, atol=0.02)

    boxes = torch.tensor([[0.2, 0.1, 0.7, 0.6], [0.5, 0.3, 0.9, 0.9]]) * min(size_hw)
    with torch.inference_mode():
        masks = ours.decode(ours.encode(frame), Prompt(boxes_xyxy=boxes), size_hw)
        scale = ours.input_size / max(size_hw)
        answer = theirs(frame, input_boxes=(boxes * scale)[None], multimask_output=False)
    spread = masks.logits.max() - masks.logits.min()
    assert spread > 0.1
    torch.testing.assert_close(answer.pred_masks[0], masks.logits, rtol=1e-3, atol=1e-4 * spread.item())
    torch.testing.assert_close(answer.iou_scores[0], masks.iou_pred, rtol=1e-3, atol=1e-4)
    near_zero = masks.logits.abs() < 1e-3 * spread
    assert torch.equal((answer.pred_masks[0] > 0) | near_zero, (masks.logits > 0) | near_zero)


@pytest.mark.slow
def test_a_trained_pocket_student(trained: Sam, tmp_path: Path) -> None:
    save_hugging_face(tmp_path / "hf", trained)
    assert_same_masks(trained, tmp_path / "hf", (96, 128))


@pytest.mark.slow
def test_a_student_of_sam_vit_b(tmp_path: Path) -> None:
    model = large()
    save_hugging_face(tmp_path / "hf", model)
    assert_same_masks(model, tmp_path / "hf", (768, 1024))


@pytest.mark.slow
def test_there_and_back_by_the_command(trained: Sam, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "student.safetensors", trained)
    hf, meta, own = tmp_path / "hf", tmp_path / "meta.pth", tmp_path / "own.safetensors"
    source = tmp_path / "student.safetensors"
    for to, out in (("hf", hf), ("meta", meta), ("sampress", own)):
        assert main(["convert", f"checkpoint={source}", f"to={to}", f"out={out}"]) == 0
        assert f"written to {out}" in capsys.readouterr().err
        source = out
    image = torch.randn(1, 3, 128, 128)
    for path in (hf, meta, own):
        model = find_model(str(path)).model
        assert weights_sha256(model) == weights_sha256(trained)
        assert torch.equal(model.encode(image), trained.encode(image))


def test_what_the_layout_cannot_hold_is_refused_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = MODELS["sam_pocket"].config
    widths = (config.encoder.attention_widths[0] - config.encoder.num_heads, *config.encoder.attention_widths[1:])
    model = Sam(replace(config, encoder=replace(config.encoder, attention_widths=widths)), "ragged")
    initialise_sam(model)
    save_model(tmp_path / "ragged.safetensors", model)
    with pytest.raises(InputError, match="blocks of different widths"):
        save_hugging_face(tmp_path / "hf", model)
    assert main(["convert", f"checkpoint={tmp_path / 'ragged.safetensors'}", "to=hf", f"out={tmp_path / 'hf'}"]) == 2
    assert "blocks of different widths" in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()
    for to, out, words in (
        ("hf", "x.pth", "is a folder"),
        ("meta", "x", "ends in .pth"),
        ("sampress", "x.pth", "ends in .safetensors"),
        ("onnyx", "x", "to=onnyx is unknown"),
    ):
        assert main(["convert", "checkpoint=sam_pocket", f"to={to}", f"out={tmp_path / out}"]) == 2
        assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["ragged.safetensors"]
