"""Which normalisations are folded, which layers are quantised, and that neither changes what a model computes."""

import pytest
import torch
from torch import Tensor, nn

from students.quantized.bit_operations import count_bit_operations
from students.quantized.folding import fold, foldable
from students.quantized.layers import is_quantisable
from students.quantized.plan import make_plan, plan_of, planned_copy, set_quantizing
from students.quantized.scheme import Scheme
from students.student import Student
from teachers.sam import Sam
from tests.unit.tiny import CONFIG, tiny_sam

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def with_backbone(name: str) -> Sam:
    model = tiny_sam().with_encoder(Student("timm", name).make(CONFIG, 0), name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def test_folding_is_exact_on_a_chain() -> None:
    chain = nn.Sequential(
        nn.Conv2d(3, 4, 3, groups=1, bias=True), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 2, 1)
    ).eval()
    chain[1].running_mean.normal_()
    chain[1].running_var.uniform_(0.5, 2)
    x = torch.randn(1, 3, 8, 8)
    expected = chain(x)
    assert foldable(chain, x) == [("0", "1")]
    fold(chain, [("0", "1")])
    assert isinstance(chain[1], nn.Identity) and foldable(chain, x) == []
    torch.testing.assert_close(chain(x), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no convolution and its normalisation"):
        fold(chain, [("0", "1")])


def test_looking_for_what_folds_takes_no_statistics() -> None:
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: value.clone() for name, value in chain.state_dict().items()}
    assert foldable(chain, torch.ones(1, 3, 8, 8)) == [("0", "1")]
    assert chain.training and all(torch.equal(value, before[name]) for name, value in chain.state_dict().items())


class Beside(nn.Module):
    """A convolution and a normalisation that are no chain, next to each other."""

    def __init__(self, used_twice: bool) -> None:
        super().__init__()
        self.config, self.used_twice = CONFIG.encoder, used_twice
        self.conv, self.norm = nn.Conv2d(3, 16, 16, 16), nn.BatchNorm2d(16)
        self.norm.running_var *= 4

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        return x + self.norm(x if self.used_twice else x.flip(1))


def test_a_normalisation_of_something_else_is_not_folded() -> None:
    model = tiny_sam().with_encoder(Beside(False), "beside").eval()
    planned = planned_copy(model, Scheme())
    plan = plan_of(planned)
    assert plan is not None and plan.folded == []
    torch.testing.assert_close(planned.encode(IMAGES), model.encode(IMAGES))
    # What else reads a convolution is seen by what comes out alone.
    with pytest.raises(RuntimeError, match="folding batch normalisation changes"):
        planned_copy(tiny_sam().with_encoder(Beside(True), "beside").eval(), Scheme())


@pytest.mark.parametrize("name", ["repvit_m0_9", "tf_mobilenetv3_small_minimal_100", "nf_regnet_b0"])
def test_backbones_of_timm_with_branches_or_convolutions_of_their_own(name: str) -> None:
    # RepViT adds branches before a normalisation; TensorFlow's pad by the size of their input; NF nets standardise
    # weights.
    model = with_backbone(name)
    planned = planned_copy(model, Scheme(decoder="float"))
    plan = plan_of(planned)
    assert plan is not None and len(plan.layers) > 5
    with torch.inference_mode():
        set_quantizing(planned, False)
        torch.testing.assert_close(planned.encode(IMAGES), model.encode(IMAGES), rtol=1e-2, atol=1e-3)
    own = {path for path, part in model.named_modules() if isinstance(part, nn.Conv2d) and not is_quantisable(part)}
    counted = count_bit_operations(model.config, plan).float_macs
    assert own.isdisjoint(plan.layers) and own <= set(counted) and bool(own) == (name != "repvit_m0_9")


@pytest.mark.parametrize("settings", [{"dilation": 2}, {"padding_mode": "reflect"}, {"padding": "same"}])
def test_convolutions_that_quantised_ones_do_not_compute(settings: dict[str, object]) -> None:
    assert is_quantisable(nn.Conv2d(2, 2, 3)) and is_quantisable(nn.ConvTranspose2d(2, 2, 2))
    assert is_quantisable(nn.Linear(2, 2)) and not is_quantisable(nn.LayerNorm(2))
    assert not is_quantisable(nn.Conv2d(2, 2, 3, **settings))  # type: ignore[arg-type]


def test_a_layer_that_stays_float_is_that_layer_alone() -> None:
    model = with_backbone("mobilenetv3_small_100")
    block = "image_encoder.backbone.blocks.1.0."
    every, without = (set(make_plan(model, Scheme(float_layers=given)).layers) for given in ((), (f"{block}conv_pw",)))
    assert every - without == {f"{block}conv_pw"} and f"{block}conv_pwl" in without
    # What is no layer's path is a beginning.
    beginning = set(make_plan(model, Scheme(float_layers=(f"{block}conv_p",))).layers)
    assert every - beginning == {f"{block}conv_pw", f"{block}conv_pwl"}
