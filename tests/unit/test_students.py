"""Students of any architecture: their shapes, their files, and biases that are never stale."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from core.cost import measure_cost
from core.errors import InputError
from students.encoder_shapes import SIZES, TimmConfig, TinyVitConfig
from students.files import load_model, save_model
from students.initial_weights import load_imagenet
from students.kinds import build_model
from students.student import Student
from students.timm_encoder import feature_maps
from teachers.catalog import MODELS
from teachers.sam import Sam

POCKET = MODELS["sam_pocket"].config
FAMILIES = {"a plain CNN": "resnet10t", "EfficientViT": "efficientvit_b0", "a ViT": "vit_tiny_patch16_224"}


def pocket_student(seed: int = 0, **changes: object) -> Sam:
    """A TinyViT beside the pocket decoder, every weight and statistic random."""
    settings = {"kind": "tiny_vit", "name": "tiny_vit_pocket"} | changes
    model = build_model(Student(**settings).shape(POCKET), "student")  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(std=0.2, generator=generator)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return model.eval().requires_grad_(False)


def image(seed: int = 0) -> Tensor:
    return torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(seed))


def test_counts_of_mobile_sam() -> None:
    config = Student("tiny_vit", "tiny_vit_5m").shape(MODELS["sam_vit_h"].config)
    with torch.device("meta"):
        cost = measure_cost(build_model(config))
    assert (cost.encoder_parameters, cost.parameters) == (5_743_892, 9_808_452)
    assert cost.encoder_macs_full == pytest.approx(38.77e9, rel=1e-3)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("teacher", ["sam_pocket", "sam_vit_b"])
def test_every_size_fits_every_teacher(name: str, teacher: str) -> None:
    shape = Student("tiny_vit", name).shape(MODELS[teacher].config).encoder
    with torch.device("meta"):
        model = build_model(replace(MODELS[teacher].config, encoder=shape))
        out = model.encode(torch.empty(1, 3, shape.image_size, shape.image_size))
    assert out.shape == (1, shape.out_channels, shape.grid, shape.grid)


def test_a_grid_that_cannot_be_reached_is_refused() -> None:
    with pytest.raises(InputError, match="cannot bring 128 pixels to a grid of 20: the ratio must be 4, 8, 16, 32"):
        TinyVitConfig(128, 20, (8,) * 4, (1,) * 4, (1,) * 4, (4,) * 4)


@pytest.mark.parametrize(
    "family",
    ["EfficientViT", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name != "EfficientViT")],
)
def test_any_backbone_of_timm_gives_the_teachers_grid(family: str, tmp_path: Path) -> None:
    student = Student("timm", FAMILIES[family])
    model = build_model(student.shape(POCKET), "student").eval().requires_grad_(False)
    embedding = model.encode(image())
    assert embedding.shape == (1, 128, 16, 16)
    save_model(tmp_path / "student.safetensors", model)
    again = load_model(tmp_path / "student.safetensors")
    assert again.config == model.config and torch.equal(again.encode(image()), embedding)


def test_stages_can_be_chosen_and_wrong_names_are_reported() -> None:
    model = build_model(Student("timm", "resnet10t", stages=(1,)).shape(POCKET))
    assert model.config.encoder == TimmConfig("resnet10t", 128, 16, (1,), 128)
    assert len(model.image_encoder.projections) == 1
    for student, words in (
        (Student("timm", "resnt18"), "timm has no such model; did you mean resnet18"),
        (Student("timm", "resnet10t", stages=(9,)), r"student.stages=\[9\]: timm cannot give these feature maps"),
    ):
        with pytest.raises(InputError, match=words):
            build_model(student.shape(POCKET))
    with pytest.raises(InputError, match=r"student\.kind=mlp is not one of tiny_vit, timm"):
        Student("mlp")
    with pytest.raises(InputError, match=r"student\.name=tiny_vit_6m is no size of TinyViT; choose one of tiny_vit_5m"):
        Student("tiny_vit", "tiny_vit_6m")


def test_channels_that_a_backbone_keeps_last() -> None:
    encoder = Student("timm", "swin_tiny_patch4_window7_224").make(POCKET, 0).eval()
    maps = feature_maps(encoder.backbone, image())
    assert encoder.backbone.output_fmt == "NHWC"
    assert [tuple(x.shape) for x in maps] == [(1, 192, 16, 16), (1, 384, 8, 8), (1, 768, 4, 4)]
    assert torch.equal(maps[0].permute(0, 2, 3, 1), encoder.backbone(image())[0])
    with torch.no_grad():
        assert encoder(image()).shape == (1, 128, 16, 16)


def test_what_a_backbone_cannot_take_is_refused_before_training() -> None:
    with pytest.raises(InputError, match=r"student\.name=efficientformer_l1: does not take the .* 128 x 128 pixels"):
        Student("timm", "efficientformer_l1").make(POCKET, 0)
    assert Student("timm", "resnet10t").make(POCKET, 0).training
    for stages, rising in (((3, 1), r"\[1, 3\]"), ((1, 1), r"\[1\]"), ((-1, 2), r"\[2, -1\]")):
        with pytest.raises(InputError, match=f"give each stage once, in rising order: {rising}"):
            Student("timm", "resnet10t", stages=stages)


class TestBiasesAreNeverStale:
    """The trap of the released loader: biases gathered in eval mode before the weights were loaded."""

    def test_loading_in_eval_mode(self) -> None:
        model, other = pocket_student(0), pocket_student(1)
        model.encode(image())
        model.load_state_dict(other.state_dict())
        assert torch.equal(model.encode(image()), other.encode(image()))

    def test_changing_a_weight_in_place(self) -> None:
        model = pocket_student()
        before = model.encode(image())
        for name, parameter in model.named_parameters():
            if name.endswith("attention_biases"):
                parameter.copy_(torch.linspace(-20, 20, parameter.numel()).view_as(parameter))
        assert not torch.allclose(model.encode(image()), before)

    def test_moving_to_another_dtype_and_back(self) -> None:
        model = pocket_student()
        before = model.encode(image())
        wide = model.double().encode(image().double())
        torch.testing.assert_close(wide.float(), before, rtol=1e-4, atol=1e-4)
        assert torch.equal(model.float().encode(image()), before)

    def test_copying_and_training_the_copy(self) -> None:
        model = pocket_student()
        before = model.encode(image())
        copy = deepcopy(model)
        for parameter in copy.parameters():
            parameter.add_(0.1)
        assert torch.equal(model.encode(image()), before)
        assert not torch.equal(copy.encode(image()), before)

    def test_after_a_step_of_training(self) -> None:
        model = pocket_student().requires_grad_(True)
        model.eval().encode(image())
        model.train().encode(torch.cat([image(0), image(1)])).square().mean().backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
        fresh = pocket_student()
        fresh.load_state_dict(model.state_dict())
        with torch.no_grad():
            assert torch.equal(model.eval().encode(image()), fresh.encode(image()))


def test_files_carry_what_they_are(tmp_path: Path) -> None:
    model = pocket_student()
    save_model(tmp_path / "student.safetensors", model, {"method": "mobilesam"})
    again = load_model(tmp_path / "student.safetensors")
    assert again.config == model.config and isinstance(again.config.encoder, TinyVitConfig)
    assert torch.equal(again.encode(image()), model.encode(image()))


def test_what_needs_a_vit_says_so() -> None:
    with pytest.raises(InputError, match="needs a model with SAM's own ViT as its image encoder, not TinyVit"):
        _ = pocket_student().config.vit


def test_stages_of_a_tiny_vit_are_refused() -> None:
    with pytest.raises(InputError, match=r"^student\.stages=\[1\]: a TinyViT has one feature map; leave it out, or "):
        Student("tiny_vit", "tiny_vit_5m", stages=(1,))


def test_one_image_is_no_batch_to_normalise_over() -> None:
    encoder = Student("timm", "skresnet18").make(POCKET, 0).train()
    with pytest.raises(InputError, match=r"^student\.name: .* needs two images a batch; give method\.batch=2 or more"):
        encoder(torch.zeros(1, 3, 128, 128))
    assert encoder(torch.zeros(2, 3, 128, 128)).shape[0] == 2


def test_stochastic_depth_is_off() -> None:
    def depths(model: nn.Module) -> list[float]:
        return [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]

    assert max(depths(timm.create_model("focalnet_tiny_srf"))) > 0
    encoder = Student("timm", "focalnet_tiny_srf").make(POCKET, 0).train()
    assert depths(encoder) and not any(depths(encoder))
    again = deepcopy(encoder)
    assert torch.equal(encoder(image()), again(image()))


class TestImageNetWeights:
    """From files of timm's and of Microsoft's names; the classifier is left out."""

    @pytest.fixture
    def encoder(self) -> nn.Module:
        return build_model(Student("tiny_vit", "tiny_vit_5m").shape(MODELS["sam_vit_b"].config)).image_encoder

    @pytest.mark.parametrize("names", ["timm", "microsoft"])
    def test_all_of_the_backbone_is_filled(self, encoder: nn.Module, names: str, tmp_path: Path) -> None:
        state = timm.create_model("tiny_vit_5m_224").state_dict()
        path = tmp_path / "tiny_vit.pth"
        torch.save(state if names == "timm" else {"model": {_microsoft(k): v for k, v in state.items()}}, path)
        load_imagenet(encoder, str(path))
        for name, tensor in encoder.backbone.state_dict().items():  # type: ignore[union-attr,operator]
            assert torch.equal(tensor, state[name])

    @pytest.mark.parametrize(
        "name", ["resnet10t", "convnext_atto", "efficientvit_b0", "repvit_m0_9", "mobilenetv3_small_050", "hgnetv2_b0"]
    )
    def test_a_file_of_timms_fills_any_backbone(self, name: str, tmp_path: Path) -> None:
        whole = timm.create_model(name)
        _numbered(whole)
        torch.save({"state_dict": {f"module.{k}": v for k, v in whole.state_dict().items()}}, tmp_path / "a.pth")
        encoder: Any = Student("timm", name).make(POCKET, 0)
        load_imagenet(encoder, str(tmp_path / "a.pth"))
        # What gives feature maps keeps the modules in their order.
        left = iter(whole.parameters())
        assert all(any(torch.equal(mine, other) for other in left) for mine in encoder.backbone.parameters())

    def test_positions_of_a_vit_are_resampled(self, tmp_path: Path) -> None:
        whole: Any = timm.create_model("vit_tiny_patch16_224")
        with torch.no_grad():
            # The class token's row, and a ramp from left to right.
            whole.pos_embed[:, 0] = 7.0
            whole.pos_embed[:, 1:] = torch.linspace(0, 1, 14).repeat(14)[None, :, None]
        torch.save(whole.state_dict(), tmp_path / "vit.pth")
        encoder: Any = Student("timm", "vit_tiny_patch16_224").make(POCKET, 0)
        load_imagenet(encoder, str(tmp_path / "vit.pth"))
        model = encoder.backbone.model
        table = model.pos_embed.detach()[0, :, 0]
        assert torch.equal(model.blocks[0].attn.qkv.weight, whole.blocks[0].attn.qkv.weight)
        assert len(table) == 1 + 8 * 8 and float(table[0]) == 7
        rows = table[1:].view(8, 8)
        assert torch.allclose(rows, rows[:1].expand(8, -1), atol=1e-5) and bool((rows[0].diff() > 0.05).all())

    def test_a_prefix_that_was_left_out_is_reported(
        self, encoder: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        state = timm.create_model("tiny_vit_5m_224").state_dict()
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "a.pth")
        load_imagenet(encoder, str(tmp_path / "a.pth"))
        assert capsys.readouterr().err.splitlines() == [f"{tmp_path / 'a.pth'}: names without module."]

    def test_another_backbones_file_is_refused(self, encoder: nn.Module, tmp_path: Path) -> None:
        torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "resnet.pth")
        with pytest.raises(InputError, match=r"resnet\.pth: is not the checkpoint of this backbone: missing "):
            load_imagenet(encoder, str(tmp_path / "resnet.pth"))
        torch.save([1, 2], tmp_path / "list.pth")
        with pytest.raises(InputError, match="holds a list, not a dict of tensors"):
            load_imagenet(encoder, str(tmp_path / "list.pth"))


def _numbered(model: nn.Module) -> None:
    """Give each parameter values of its own."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.fill_(number)


def _microsoft(name: str) -> str:
    from students.convert.layouts import _from_timm

    return _from_timm(name).replace("head.fc.", "head.").replace("head.norm.", "norm_head.")
