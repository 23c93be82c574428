"""Encoders that go wrong silently: each defect is planted, seen and named, and a sound model passes."""

from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from PIL import Image
from timm.models.tiny_vit import Attention as CachingAttention
from torch import Tensor

from experiments.cli.command_line import main
from students.files import save_model
from students.kinds import build_model
from students.self_check import encoder_problem, stale_modules
from students.tiny_vit import FreshBiases
from teachers.sam import Sam
from tests.unit.tiny import CONFIG, TinyStudent, pocket_file, tiny_sam


def tiny_vit(seed: int = 0) -> Sam:
    """A TinyViT with random weights."""
    torch.manual_seed(seed)
    return build_model(TinyStudent().shape(CONFIG), "tiny_vit").eval().requires_grad_(False)


def collapsed(model: Sam) -> Sam:
    """One embedding for all inputs: no image gets past the first layer."""
    with torch.no_grad():
        model.image_encoder.patch_embed.proj.weight.zero_()
    return model


def too_large_for_half(model: Sam) -> Sam:
    """Sound in float32 and bfloat16; float16 overflows behind the first layer."""
    with torch.no_grad():
        model.image_encoder.patch_embed.proj.weight.mul_(1e6)
    return model


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("make", [tiny_sam, tiny_vit])
def test_sound_models_have_no_problem(make: Any, precision: torch.dtype | None) -> None:
    assert encoder_problem(make(), precision) is None


def test_one_embedding_for_all_images_is_named() -> None:
    problem = encoder_problem(collapsed(tiny_sam()))
    assert problem is not None and "two different images one and the same embedding" in problem


@pytest.mark.parametrize("seen", [None, torch.bfloat16])
def test_weights_that_are_not_finite_are_named(seen: torch.dtype | None) -> None:
    model = tiny_sam()
    with torch.no_grad():
        model.image_encoder.neck[2].weight[0, 0, 0, 0] = torch.nan
    problem = encoder_problem(model, seen)
    assert problem is not None and "not finite" in problem and "the weights are damaged" in problem


def test_an_overflow_of_half_precision_is_named_with_the_precision_and_the_fix() -> None:
    problem = encoder_problem(too_large_for_half(tiny_sam()), torch.float16, "evaluation.precision")
    assert problem is not None and problem.startswith("in float16 its image encoder gives numbers that are not finite")
    assert problem.endswith("in float32 it does not; give evaluation.precision=float32 or bfloat16")
    assert encoder_problem(too_large_for_half(tiny_sam())) is None


def test_a_collapse_in_half_precision_alone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_sam()
    encode = model.encode

    def rounded(images: Tensor) -> Tensor:
        # What a saturated layer does: nothing of the image is left after rounding.
        return encode(images) if not torch.is_autocast_enabled("cpu") else torch.ones(len(images), 16, 4, 4)

    monkeypatch.setattr(model, "encode", rounded)
    problem = encoder_problem(model, torch.bfloat16, "engine.precision")
    assert problem is not None and "in bfloat16" in problem and "one and the same embedding" in problem
    assert problem.endswith("give engine.precision=float32")


def with_cache(model: Sam) -> Sam:
    """timm's own attention in the place of ours: it keeps its biases in evaluation mode."""
    for module in model.modules():
        if isinstance(module, FreshBiases):
            module.__class__ = CachingAttention
    return model


def change_biases(model: Sam) -> None:
    """New weights, as loading them into a model that has answered already."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("attention_biases"):
                parameter.add_(torch.linspace(0, 3, parameter.numel()).reshape(parameter.shape))


def test_biases_kept_from_earlier_weights_are_named() -> None:
    model = with_cache(tiny_vit())
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = model.encode(image)
    assert encoder_problem(model) is None, "a cache of the present weights is no defect"
    change_biases(model)
    assert torch.equal(model.encode(image), before), "the defect is there: new weights, the old answer"
    problem = encoder_problem(model)
    assert problem is not None and "attn answers with values kept from earlier weights" in problem
    # Looking made them forget.
    assert stale_modules(model) == [] and not torch.equal(model.encode(image), before)


def test_our_own_attention_keeps_no_biases() -> None:
    model = tiny_vit()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = model.encode(image)
    change_biases(model)
    assert not torch.equal(model.encode(image), before) and encoder_problem(model) is None


def test_biases_kept_as_a_tensor_are_named_too() -> None:
    """As LeViT and the released MobileSAM keep them: made where evaluation mode begins."""
    model = tiny_vit()
    first = next(module for module in model.modules() if isinstance(module, FreshBiases))

    def train(self: Any, mode: bool = True) -> Any:
        type(self).train(self, mode)
        self.ab = None if mode else self.attention_biases[:, self.attention_bias_idxs]
        return self

    first.train = MethodType(train, first)  # type: ignore[method-assign]
    model.train()
    model.eval()
    assert encoder_problem(model) is None
    change_biases(model)
    problem = encoder_problem(model)
    assert problem is not None and "values kept from earlier weights" in problem


WORDS = {
    "evaluate": ("evaluation=shapes",),
    "export": ("to=torch",),
    "convert": ("to=meta",),
    "predict": ("image=image.png", "box=[1,1,9,9]"),
}


@pytest.mark.parametrize("command", WORDS)
def test_a_broken_checkpoint_is_refused_by_its_name(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20)).save("image.png")
    file = tmp_path / "broken.safetensors"
    save_model(file, collapsed(tiny_sam()))
    out = "out.pth" if command == "convert" else "out"
    assert main([command, f"checkpoint={file}", *WORDS[command], f"out={out}"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {file}: its image encoder gives two different images one and the same embedding")
    assert not Path(out).exists()


def test_a_run_refuses_a_teacher_that_is_broken(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = pocket_file(tmp_path / "pocket.pth")
    state = torch.load(file, weights_only=True)
    state["image_encoder.patch_embed.proj.weight"].zero_()
    torch.save(state, file)
    words = ("method=scratch", "ratio=0.5", f"teacher.checkpoint={file}", "engine.cache=off")
    assert main([*words, f"runs={tmp_path / 'runs'}", "evaluation.images=2"]) == 2
    assert "one and the same embedding" in capfd.readouterr().err
    assert not list((tmp_path / "runs").glob("*/"))
