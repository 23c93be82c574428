"""A plan of quantised layers that is of another model is refused when its file is read, before memory is taken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from core.checkpoint import read_safetensors
from core.errors import InputError
from students.files import load_model, save_model
from students.quantized.layers import QuantizedLayer
from students.quantized.plan import pack, planned_copy
from students.quantized.scheme import Scheme
from tests.unit.tiny import tiny_sam

PATCHES, LINEAR, ATTENTION = (
    f"image_encoder.{path}" for path in ("patch_embed.proj", "blocks.0.mlp.lin1", "blocks.0.attn")
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantised model, its scales as they were made."""
    model = planned_copy(tiny_sam(), Scheme())
    assert any(isinstance(module, QuantizedLayer) for module in model.modules())
    pack(model)
    path = tmp_path_factory.mktemp("plans") / "student.safetensors"
    save_model(path, model)
    return path


def layer(path: str, **values: Any) -> Callable[[Any], object]:
    return lambda plan: plan["layers"][path].update(values)


def grid(path: str, name: str, **values: Any) -> Callable[[Any], object]:
    return lambda plan: plan["layers"][path][name].update(values)


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "no_stride": (layer(PATCHES, stride=[0, 0]), rf"{PATCHES} has stride \[16, 16\], the plan says \[0, 0\]"),
    "other_stride": (layer(PATCHES, stride=[4, 4]), "the plan says .4, 4."),
    "stride_of_text": (layer(PATCHES, stride="ab"), "the plan says ab"),
    "padding": (layer(PATCHES, padding=[5, 5]), rf"{PATCHES} has padding \[0, 0\], the plan says \[5, 5\]"),
    "negative_padding": (layer(PATCHES, padding=[-1, -1]), "has padding"),
    "no_groups": (layer(PATCHES, groups=0), f"{PATCHES} has groups 1, the plan says 0"),
    "groups": (layer(PATCHES, groups=3), "has groups"),
    "transposed": (layer(PATCHES, transposed=True), f"{PATCHES} has transposed False, the plan says True"),
    "huge_bias": (layer(PATCHES, bias=1 << 60), f"{PATCHES} has bias 24, the plan says 1152921504606846976"),
    "no_bias": (layer(LINEAR, bias=None), f"{LINEAR} has bias 48, the plan says None"),
    "linear": (layer(PATCHES, kind="linear"), f"{PATCHES} has kind convolution, the plan says linear"),
    "scales": (grid(LINEAR, "weight", shape=[1 << 40, 1]), "has a weight .48, 24., the plan gives it scales|hape"),
    "scales_of_inputs": (grid(LINEAR, "input", shape=[7]), f"{LINEAR} has 24 inputs, the plan gives it the grid"),
    "no_layer": (lambda p: p["layers"].update(image_encoder=p["layers"][LINEAR]), "image_encoder is no layer that"),
    "product": (
        lambda plan: plan["products"].update(image_encoder=plan["products"][ATTENTION]),
        "the products of a ImageEncoder cannot be quantised",
    ),
    "heads": (
        lambda plan: plan["products"][ATTENTION]["scores"]["left"].update(shape=[7, 1, 1]),
        rf"{ATTENTION} has 2 heads, the plan gives it scales \(7, 1, 1\)",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_plan_of_another_model_is_refused(name: str, saved: Path, tmp_path: Path) -> None:
    change, words = CHANGES[name]
    tensors, metadata = read_safetensors(saved)
    plan = json.loads(metadata["plan"])
    change(plan)
    path = tmp_path / "student.safetensors"
    save_file(dict(tensors), path, {**metadata, "plan": json.dumps(plan)})
    with pytest.raises(InputError, match=words) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


def test_the_plan_as_it_was_is_read(saved: Path) -> None:
    assert load_model(saved).name == "tiny"
