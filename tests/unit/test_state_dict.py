"""One model is found in whatever training programs save around it, and what was left out is said."""

import argparse
import io
import json
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.errors import InputError
from experiments.runs.checkpoints import find_model
from students.initial_weights import load_imagenet
from students.student import Student
from teachers.convert import to_hugging_face
from teachers.weights import load_sam, read_stored
from tests.unit.tiny import CONFIG, tiny_sam

State = dict[str, Tensor]
HEADS = CONFIG.decoder_heads


@pytest.fixture(scope="module")
def state() -> State:
    return dict(tiny_sam().state_dict())


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def within(state: State, part: str, wrapper: str) -> State:
    """With a part of the model wrapped, as SlimSAM's code wraps the image encoder."""
    return {
        f"{part}.{wrapper}.{name.removeprefix(part + '.')}" if name.startswith(f"{part}.") else name: tensor
        for name, tensor in state.items()
    }


def split(state: State) -> dict[str, State]:
    parts: dict[str, State] = {}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return parts


def optimizer(state: State) -> dict[str, Any]:
    """Of Adam, by number and by name."""
    moments = {key: {"step": torch.tensor(3.0), "exp_avg": value + 1} for key, value in state.items()}
    numbered: dict[Any, Any] = dict(enumerate(moments.values()))
    groups = [{"lr": 1e-4, "betas": (0.9, 0.999), "params": list(numbered)}]
    by_name = {"exp_avg": {key: value + 1 for key, value in state.items()}}
    return {"state": numbered, "param_groups": groups, "named": moments, **by_name}


def lightning(state: State) -> dict[str, Any]:
    return {
        "epoch": 3,
        "global_step": 700,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": prefixed("model.")(state),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val.loss'}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [optimizer(state)],
        "lr_schedulers": [{"_step_count": 5, "base_lrs": [1e-4]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-4, "args": argparse.Namespace(data=Path("/data"), wd=np.float64(0.1))},
    }


CONTAINERS: dict[str, tuple[Callable[[State], Any], str]] = {
    "nothing": (lambda s: s, ""),
    **{f"prefix {p}": (prefixed(p), f"names without {p}") for p in ("module.", "model.", "sam.", "_orig_mod.", "net.")},
    **{
        f"prefix {p}": (prefixed(p), f"names without {p}")
        for p in ("model.module.", "_orig_mod.module.", "student.", "a.long.way.down.")
    },
    **{
        key: (lambda s, k=key: {k: s, "epoch": 3}, f"read from its entry {key}")  # type: ignore[misc]
        for key in (
            "model",
            "state_dict",
            "model_state_dict",
            "net",
            "params",
            "ema",
            "model_ema",
            "weights",
            "teacher",
        )
    },
    "twice the same": (lambda s: {"model": s, "state_dict": s}, "entry model"),
    "twice equal": (lambda s: {"model": s, "state_dict": {k: v.clone() for k, v in s.items()}}, "entry model"),
    "nested": (lambda s: {"model": {"state_dict": s}}, "entry model.state_dict"),
    "nested, with a prefix": (
        lambda s: {"checkpoint": {"model": prefixed("module.sam.")(s)}},
        "entry checkpoint.model; names without module.sam.",
    ),
    "an optimizer beside": (lambda s: {"model": s, "optimizer": optimizer(s), "scaler": {"scale": 2.0}}, "entry model"),
    "an optimizer beside bare tensors": (lambda s: {**s, "optimizer": optimizer(s), "step": 4}, ""),
    "settings beside": (
        lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, out=Path("x")), "best": np.float64(0.5)},
        "entry model",
    ),
    "an exponential average without names": (
        lambda s: {"model": s, "ema": {"decay": 0.99, "shadow_params": list(s.values())}},
        "entry model",
    ),
    "an exponential average of a part": (
        lambda s: {"model": s, "ema": {k: v + 1 for k, v in s.items() if k.startswith("image_encoder")}},
        "entry model",
    ),
    "lightning": (lightning, "entry state_dict; names without model."),
    "a part a container": (split, ""),
    "parts in a container": (lambda s: {"model": split(s), "epoch": 1}, "read from its entry model"),
    "the encoder wrapped": (lambda s: within(s, "image_encoder", "module"), "names without module."),
    "the encoder compiled": (
        lambda s: prefixed("model.")(within(s, "image_encoder", "_orig_mod")),
        "names without model., _orig_mod.",
    ),
    "names of transformers": (lambda s: to_hugging_face(CONFIG, s), ""),
    "names of transformers, with a prefix": (
        lambda s: {"state_dict": prefixed("sam.")(to_hugging_face(CONFIG, s))},
        "names without sam.",
    ),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_one_model_is_found_and_what_was_left_out_is_said(kind: str, state: State, tmp_path: Path) -> None:
    make, words = CONTAINERS[kind]
    path = tmp_path / "epoch=3-step=5.ckpt"
    torch.save(make(state), path)
    found = read_stored(path)
    assert found.tensors.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.tensors.items())
    assert words in found.note and bool(found.note) == bool(words)


NAMES = ("a.PTH", "a.Pt", "a.ckpt", "a.pth.tar", "a.th", "a.bin", "a.pkl", "a", "ü.pth")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, "zip") for name in NAMES),
        *((name, "old") for name in ("a.tar", "a.ckpt", "a")),
        *((name, "safetensors") for name in ("a.SafeTensors", "a.pt", "a")),
    ],
)
def test_files_are_known_by_their_content_and_not_by_their_ending(
    name: str, how: str, state: State, tmp_path: Path
) -> None:
    path = tmp_path / name
    if how == "safetensors":
        save_file(prefixed("module.")(state), path)
    else:
        torch.save({"model": prefixed("module.")(state)}, path, _use_new_zipfile_serialization=how == "zip")
    assert all(torch.equal(tensor, state[key]) for key, tensor in read_stored(path).tensors.items())


def other(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


AMBIGUOUS: dict[str, tuple[Callable[[State], Any], tuple[str, str]]] = {
    "model and its average": (lambda s: {"model": s, "model_ema": other(s)}, ("model", "model_ema")),
    "nested": (lambda s: {"a": {"net": s}, "b": {"net": other(s)}}, ("a.net", "b.net")),
    "student and teacher": (
        lambda s: {"state_dict": prefixed("student.")(s) | prefixed("teacher.")(other(s))},
        ("state_dict.student", "state_dict.teacher"),
    ),
    "bare and nested": (lambda s: {**s, "ema": other(s)}, (".", "ema")),
    "other precision": (lambda s: {"model": s, "half": {k: v.half() for k, v in s.items()}}, ("model", "half")),
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_of_several_models_one_is_to_be_named(kind: str, state: State, tmp_path: Path) -> None:
    make, (first, second) = AMBIGUOUS[kind]
    path, stored = tmp_path / "a.pth", make(state)
    torch.save(stored, path)
    with pytest.raises(InputError, match=rf"a\.pth: holds 2 models \({first}, {second}\); .*checkpoint\.entry={first}"):
        read_stored(path)
    with pytest.raises(InputError, match=rf"has no entry c; it has {first}, {second}"):
        read_stored(path, "c")
    key = "image_encoder.pos_embed"
    for entry, expected in ((first, state[key]), (second, other(state)[key])):
        found = read_stored(path, entry).tensors[key]
        assert torch.equal(found, state[key].half() if entry == "half" else expected)


REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "one too many": (lambda s: s | {"head.weight": torch.zeros(2)}, "unexpected head.weight"),
    "one too many beside a prefix": (
        lambda s: prefixed("model.")(s) | {"criterion.weight": torch.zeros(2)},
        "unexpected criterion.weight",
    ),
    "no mask decoder": (
        lambda s: {k: v for k, v in s.items() if not k.startswith("mask_decoder")},
        "as this is image_encoder and prompt_encoder alone; give the whole model",
    ),
    "an image encoder": (
        lambda s: {k.removeprefix("image_encoder."): v for k, v in s.items() if k.startswith("image_encoder.")},
        "as this is an image encoder alone; give the whole model",
    ),
    "another kind of SAM": (
        lambda s: {k: v for k, v in s.items() if "rel_pos" not in k},
        "incomplete, or laid out otherwise",
    ),
    "no SAM": (lambda s: {"fc.weight": torch.zeros(2, 2)}, "so this is not a SAM in Meta's layout"),
    "SAM 2": (
        lambda s: {"model": {"image_encoder.trunk.pos_embed": torch.zeros(1), "sam_mask_decoder.x": torch.zeros(1)}},
        "so this is not a SAM in Meta's layout",
    ),
    "no weights": (lambda s: {"optimizer": optimizer(s), "epoch": 3}, "not a dict of tensors by name"),
    "a name twice": (lambda s: {"model": {"module.x": torch.zeros(1), "x": torch.ones(1), **s}}, "two tensors for x"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_whole_model_is_refused_by_what_it_is(kind: str, state: State, tmp_path: Path) -> None:
    make, words = REFUSED[kind]
    torch.save(make(state), tmp_path / "a.pth")
    with pytest.raises(InputError, match=words) as refused:
        find_model(str(tmp_path / "a.pth"), HEADS)
    assert ("not a SAM" in str(refused.value)) == (kind in ("no SAM", "SAM 2"))


def test_wrappers_are_left_out_wherever_they_are(state: State, tmp_path: Path) -> None:
    """A model of which only some modules are wrapped has no one prefix, and yet no two names for a tensor."""
    wrapped = {(name if "pos_embed" in name else f"module.{name}"): tensor for name, tensor in state.items()}
    torch.save(wrapped, tmp_path / "a.pth")
    assert read_stored(tmp_path / "a.pth").tensors.keys() == state.keys()


def test_what_images_are_normalised_by_is_no_weight(state: State, tmp_path: Path) -> None:
    path, mean = tmp_path / "a.pth", torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    pixels = {"pixel_mean": mean, "pixel_std": torch.tensor([58.395, 57.12, 57.375]).half()}
    torch.save(prefixed("sam.")(state | pixels), path)
    assert read_stored(path).tensors.keys() == state.keys()
    for wrong in (mean / 255, mean[:2], mean + 1):
        torch.save(state | pixels | {"pixel_mean": wrong}, path)
        with pytest.raises(InputError, match=r"a\.pth: pixel_mean is not SAM's"):
            read_stored(path)


class Trap:
    """Unpickling this calls a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("sprung",)


@pytest.mark.parametrize("value", [Trap(), nn.Linear(1, 1), print], ids=["call", "module", "function"])
def test_what_else_stands_beside_the_weights_is_not_run(
    value: object, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": state, "hyper_parameters": {"deep": [value]}}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"asks for .*, which is refused"):
        find_model(str(tmp_path / "a.ckpt"), HEADS)
    assert "sprung" not in capsys.readouterr().out


def test_a_command_says_what_was_left_out_in_one_line(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": {"state_dict": prefixed("_orig_mod.")(state)}}, tmp_path / "[a].pth")
    find_model(str(tmp_path / "[a].pth"), HEADS)
    line = f"{tmp_path / '[a].pth'}: read from its entry model.state_dict; names without _orig_mod.\n"
    assert capsys.readouterr().err == line


def test_a_teachers_weights_say_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_sam("sam_pocket").state_dict()
    torch.save({"net": prefixed("module.")(dict(weights))}, tmp_path / "a.ckpt")
    lines: list[str] = []
    found = load_sam("sam_pocket", tmp_path / "a.ckpt", lines.append)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in found.state_dict().items())
    assert lines == [f"{tmp_path / 'a.ckpt'}: read from its entry net; names without module."]
    # In the shape of a catalogue's model nothing is missing, whatever stands around it.
    assert find_model(str(tmp_path / "a.ckpt")).about == {"method": "teacher", "teacher": "sam_pocket"}


def test_the_weights_of_a_backbone_are_found_too(tmp_path: Path) -> None:
    encoder: Any = Student("tiny_vit", "tiny_vit_pocket").make(load_sam("sam_pocket").config, 0)
    weights = {
        name: torch.randn_like(t) if t.is_floating_point() else t for name, t in encoder.backbone.state_dict().items()
    }
    stored = {"state_dict": prefixed("module.")(weights), "optimizer": optimizer(weights), "epoch": 3}
    torch.save(stored, tmp_path / "a.pth.tar")
    load_imagenet(encoder, str(tmp_path / "a.pth.tar"))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in encoder.backbone.state_dict().items())
    torch.save({"model": weights, "model_ema": {k: v + 1 for k, v in weights.items()}}, tmp_path / "b.pth")
    with pytest.raises(InputError, match=r"b\.pth: holds 2 models \(model, model_ema\)"):
        load_imagenet(encoder, str(tmp_path / "b.pth"))


def test_a_note_is_kept_by_torch_and_read_without_it(state: State, tmp_path: Path) -> None:
    """``_metadata`` is an attribute that ``state_dict()`` makes; what is not this project's text is dropped."""
    from core.checkpoint import note_of, write_torch
    from core.untrusted import read_torch

    write_torch(tmp_path / "a.pth", state, json.dumps({"a": 1}))
    write_torch(tmp_path / "b.pth", state, json.dumps({"a": 1}))
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    for weights_only in (True, False):
        loaded = torch.load(tmp_path / "a.pth", weights_only=weights_only)
        assert isinstance(loaded, OrderedDict)
        tiny_sam(1).load_state_dict(loaded)
    again = io.BytesIO()
    torch.save(loaded, again)
    (tmp_path / "again.pth").write_bytes(again.getvalue())
    assert note_of(read_torch(tmp_path / "a.pth")) == note_of(read_torch(tmp_path / "again.pth")) == '{"a": 1}'
    torch.save(dict(loaded), tmp_path / "plain.pth")
    torch.save(tiny_sam().state_dict(), tmp_path / "meta.pth")
    assert note_of(read_torch(tmp_path / "plain.pth")) is note_of(read_torch(tmp_path / "meta.pth")) is None
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert str(tmp_path) not in str(archive.namelist())
