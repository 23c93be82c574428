"""Widths of models of every kind: what was cut shows, and parts sum to the whole."""

import pytest
import torch

from experiments.widths import widths_of
from students.encoder_shapes import TimmConfig
from students.kinds import build_model
from students.quantized.plan import pack, planned_copy
from students.quantized.scheme import Scheme
from students.student import Student
from teachers.catalog import MODELS
from teachers.sam import Sam, SamConfig
from tests.unit.tiny import CONFIG, tiny_sam

POCKET = MODELS["sam_pocket"].config


def built(config: SamConfig) -> Sam:
    with torch.device("meta"):
        return build_model(config)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        POCKET,
        Student(name="tiny_vit_pocket").shape(POCKET),
        Student(kind="timm", name="resnet18").shape(POCKET),
        Student(kind="timm", name="vit_tiny_patch16_224").shape(POCKET),
        Student(kind="timm", name="efficientvit_b0").shape(POCKET),
    ],
    ids=lambda config: getattr(config.encoder, "name", type(config.encoder).__name__),
)
def test_parts_sum_to_the_whole_model(config: SamConfig) -> None:
    model = built(config)
    widths = widths_of(model)
    assert sum(widths["parts"].values()) == sum(parameter.numel() for parameter in model.parameters())
    assert min(widths["parts"].values()) > 0 and len(widths["parts"]) >= 5
    assert list(widths["parts"])[-2:] == ["prompt encoder", "mask decoder"]


def test_each_kind_says_what_it_has() -> None:
    pocket = widths_of(built(POCKET))
    assert (pocket["kind"], pocket["embedding"], pocket["heads"]) == ("vit", 160, 5)
    assert pocket["attention"] == [160] * 6 and pocket["mlp"] == [640] * 6
    tiny = widths_of(built(Student(name="tiny_vit_pocket").shape(POCKET)))
    assert (tiny["kind"], tiny["channels"], tiny["depths"]) == ("tiny_vit", [16, 32, 64, 96], [1, 1, 3, 1])
    shape = Student(kind="timm", name="resnet18").shape(POCKET)
    assert isinstance(shape.encoder, TimmConfig)
    assert widths_of(built(shape)) | {"parts": None} == {"kind": "timm", "channels": [128, 256, 512], "parts": None}


def test_a_quantised_model_has_the_widths_of_the_float_one() -> None:
    quantised = planned_copy(tiny_sam(), Scheme())
    pack(quantised)
    assert widths_of(quantised) == widths_of(tiny_sam())
