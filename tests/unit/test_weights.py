"""Loading weights: what is accepted, what is refused and in which words, and shapes read from a state dict."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.checkpoint import write_safetensors
from core.errors import InputError
from teachers.catalog import MODELS, NamedModel, Release, vit
from teachers.image_encoder import EncoderConfig
from teachers.inferred_shape import infer_config
from teachers.sam import Sam, SamConfig
from teachers.weights import load_sam, read_state, sam_from_state

URL = "https://example.org/models/sam_tiny_012345.pth"
CONFIG = SamConfig(
    EncoderConfig(64, 16, 24, 2, (24, 24), (48, 48), 3, (1,), 16), decoder_heads=2, decoder_mlp_width=20, iou_width=12
)
RAGGED = SamConfig(
    EncoderConfig(64, 16, 24, 2, (8, 36, 24), (10, 48, 7), 3, (0, 2), 16),
    decoder_heads=2,
    decoder_mlp_width=20,
    iou_width=12,
)


@pytest.fixture
def state() -> dict[str, Tensor]:
    state = Sam(CONFIG).state_dict()
    return {key: torch.randn(value.shape) for key, value in state.items()}


@pytest.fixture
def saved(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    """The file of a model named sam_tiny."""
    path = tmp_path / "sam_tiny.pth"
    torch.save(state, path)
    return path


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A small model with a name, and an empty cache of downloads."""
    monkeypatch.setitem(MODELS, "sam_tiny", NamedModel(CONFIG, Release(URL, "0" * 64)))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def assert_holds(model: Sam, state: dict[str, Tensor]) -> None:
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.name == "sam_tiny"
    assert model.state_dict().keys() == state.keys()
    for key, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[key].float())


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s}])
def test_torch_files(tmp_path: Path, state: dict[str, Tensor], suffix: str, wrap: Callable[[Any], Any]) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(wrap(state), path)
    assert_holds(load_sam("sam_tiny", path), state)
    assert_holds(load_sam("sam_tiny", str(path)), state)


def test_safetensors_files(tmp_path: Path, state: dict[str, Tensor]) -> None:
    write_safetensors(tmp_path / "weights.safetensors", state, {"origin": "a test"})
    assert_holds(load_sam("sam_tiny", tmp_path / "weights.safetensors"), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, state: dict[str, Tensor], dtype: torch.dtype) -> None:
    stored = {key: value.to(dtype) for key, value in state.items()}
    torch.save(stored, tmp_path / "weights.pth")
    assert_holds(load_sam("sam_tiny", tmp_path / "weights.pth"), stored)


def test_loading_draws_no_random_numbers(saved: Path) -> None:
    before = torch.get_rng_state()
    load_sam("sam_tiny", saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_packaged_file_comes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    packaged = tmp_path / "packaged.safetensors"
    monkeypatch.setitem(MODELS, "sam_tiny", NamedModel(CONFIG, packaged=packaged))
    with pytest.raises(InputError, match=r"sam_tiny: its weights .*packaged\.safetensors .* teacher\.checkpoint=FILE"):
        load_sam("sam_tiny")
    write_safetensors(packaged, state, {})
    assert_holds(load_sam("sam_tiny"), state)


def test_the_cache_of_torch_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saved: Path, state: dict[str, Tensor]
) -> None:
    cached = tmp_path / "hub" / "checkpoints" / "sam_tiny_012345.pth"
    cached.parent.mkdir(parents=True)
    saved.rename(cached)
    found = hashlib.sha256(cached.read_bytes()).hexdigest()
    with pytest.raises(InputError) as refused:
        load_sam("sam_tiny")
    assert str(refused.value).startswith(f"{cached}: sha256 is {found}, expected {'0' * 64}; remove it")
    assert f"curl -L -o sam_tiny_012345.pth {URL}" in str(refused.value)
    monkeypatch.setitem(MODELS, "sam_tiny", NamedModel(CONFIG, Release(URL, found)))
    assert_holds(load_sam("sam_tiny"), state)


def test_without_weights_the_command_that_fetches_them_is_reported() -> None:
    release = MODELS["sam_vit_b"].release
    assert release is not None
    with pytest.raises(InputError) as refused:
        load_sam("sam_vit_b")
    message = str(refused.value)
    assert f"`curl -L -o sam_vit_b_01ec64.pth {release.url}`" in message
    assert f"sha256 {release.sha256}" in message
    assert message.endswith("teacher.checkpoint=sam_vit_b_01ec64.pth")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sam_vit_bb", "teacher 'sam_vit_bb' is unknown; did you mean sam_vit_b or"),
        ("vit_h", "did you mean sam_vit_h"),
        ("zzz", "teacher 'zzz' is unknown; known are sam_vit_b, sam_vit_l, sam_vit_h, sam_pocket"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_sam(name)


class Opens:
    """Unpickling an instance would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_code_in_a_file_is_not_run(tmp_path: Path, state: dict[str, Tensor]) -> None:
    made, path = tmp_path / "made", tmp_path / "weights.pth"
    torch.save({**state, "extra": Opens(made)}, path)
    with pytest.raises(InputError, match=r"weights\.pth: asks for (posix|nt)\.system, which is refused"):
        load_sam("sam_tiny", path)
    assert not made.exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"asks for torch\.nn\.modules\.linear\.Linear, which is refused"):
        load_sam("sam_tiny", tmp_path / "weights.pth")


@pytest.mark.parametrize("length", [0, 100, 5_000, -1])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_files(tmp_path: Path, state: dict[str, Tensor], length: int, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        write_safetensors(path, state, {})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=rf"weights\{suffix}: .*truncated or not a "):
        load_sam("sam_tiny", path)


def test_missing_and_misnamed_files(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.pth: no such checkpoint file"):
        load_sam("sam_tiny", tmp_path / "absent.pth")
    with pytest.raises(InputError, match=r"model\.safetensors: no such checkpoint file"):
        load_sam("sam_tiny", tmp_path)
    with pytest.raises(InputError, match=r"weights\.onnx: not a checkpoint by its name; give a \.pth"):
        load_sam("sam_tiny", saved.rename(tmp_path / "weights.onnx"))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (torch.zeros(3), "holds a Tensor, not a dict of tensors by name"),
        ([torch.zeros(3)], "holds a list, not a dict"),
        ({}, "holds a dict that is empty, not a dict"),
        ({"epoch": 3, "model": 4}, "holds a dict with keys epoch, model, not a dict of tensors"),
        ({0: torch.zeros(3)}, "holds a dict with keys 0, not a dict"),
        (
            {"model": {"w": torch.zeros(3)}, "state_dict": {"w": torch.zeros(3)}},
            "holds a dict with keys model, state_dict",
        ),
        ({"model": {"model": {"w": torch.zeros(3)}}}, "holds a dict with keys model, not"),
    ],
)
def test_files_of_something_else(tmp_path: Path, stored: object, message: str) -> None:
    torch.save(stored, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=rf"weights\.pth: {message}"):
        load_sam("sam_tiny", tmp_path / "weights.pth")


HEAD = "mask_decoder.iou_prediction_head.layers.2.bias"
LAST = "image_encoder.blocks.1.mlp.lin2.weight"


def without(key: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.__delitem__(key)


def having(key: str, make: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.update({key: make(state.get(key, torch.zeros(2)))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(HEAD), f"does not fit this model: missing {HEAD}"),
        (having("head.weight", lambda t: t), "does not fit this model: unexpected head.weight"),
        (having("head.count", lambda t: t.long()), "does not fit this model: unexpected head.count"),
        (having(LAST, lambda t: t[:, 1:]), rf"{LAST} has shape \(24, 47\), expected \(24, 48\)"),
        (having(LAST, lambda t: t / 0), f"{LAST} holds NaN or infinite values"),
        (having(HEAD, lambda t: t * float("nan")), f"{HEAD} holds NaN or infinite values"),
        (having(HEAD, lambda t: t.long()), f"{HEAD} holds torch.int64, weights must be dense floating-point tensors"),
        (having(HEAD, lambda t: t.to("meta")), "holds a tensor of a kind that is refused"),
        (having(HEAD, lambda t: t.to(torch.complex64)), f"{HEAD} holds torch.complex64, weights must be dense"),
    ],
)
def test_tensors_that_do_not_fit(
    saved: Path, state: dict[str, Tensor], change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    change(state)
    torch.save(state, saved)
    with pytest.raises(InputError, match=rf"sam_tiny\.pth: .*{message}") as refused:
        load_sam("sam_tiny", saved)
    assert "\n" not in str(refused.value)


def test_sparse_tensors_are_refused(state: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match=rf"here: {HEAD} holds torch\.float32, weights must be dense"):
        sam_from_state(CONFIG, {**state, HEAD: state[HEAD].to_sparse()}, "here")


def test_the_first_bad_key_is_named(saved: Path, state: dict[str, Tensor]) -> None:
    state = {key: value / 0 for key, value in state.items()}
    torch.save(dict(reversed(state.items())), saved)
    with pytest.raises(InputError, match=r"image_encoder\.pos_embed holds NaN"):
        load_sam("sam_tiny", saved)


def test_another_models_file_is_refused(tmp_path: Path) -> None:
    torch.save(Sam(RAGGED).state_dict(), tmp_path / "ragged.pth")
    with pytest.raises(
        InputError, match=r"does not fit this model: unexpected image_encoder\.blocks\.2.* and \d+ more"
    ):
        load_sam("sam_tiny", tmp_path / "ragged.pth")


PRUNED = {"vit_p50": (384, 1536), "vit_p77": (168, 696)}


def pruned(width: int, mlp: int) -> SamConfig:
    base = vit(12, width, 12, (2, 5, 8, 11))
    return SamConfig(replace(base, mlp_widths=(mlp,) * 12))


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        RAGGED,
        # Windows larger than the grid, as Meta's models have on small images.
        replace(CONFIG, encoder=replace(CONFIG.encoder, image_size=32, window_size=14)),
        replace(CONFIG, encoder=replace(CONFIG.encoder, global_blocks=())),
        *(MODELS[name].config for name in ("sam_vit_b", "sam_vit_l", "sam_vit_h")),
        *(pruned(*widths) for widths in PRUNED.values()),
    ],
)
def test_shapes_are_read_from_a_state_dict(config: SamConfig) -> None:
    with torch.device("meta"):
        state = Sam(config).state_dict()
    assert infer_config(state, config.decoder_heads) == config


def test_a_shape_without_windows() -> None:
    config = replace(CONFIG, encoder=replace(CONFIG.encoder, global_blocks=(0, 1)))
    found = infer_config(Sam(config).state_dict(), 2)
    assert found == replace(config, encoder=replace(config.encoder, window_size=config.encoder.grid))


def test_pockets_windows_follow_from_its_grid() -> None:
    config = MODELS["sam_pocket"].config
    assert infer_config(Sam(config).state_dict(), config.decoder_heads) == config


def test_shapes_that_cannot_be_read(state: dict[str, Tensor]) -> None:
    def refused(message: str, **changes: Tensor | None) -> None:
        changed = {key.replace("__", "."): value for key, value in changes.items()}
        kept = {key: value for key, value in {**state, **changed}.items() if value is not None}
        with pytest.raises(InputError, match=message):
            infer_config(kept, origin="here")

    refused("here: there is no image_encoder.pos_embed", image_encoder__pos_embed=None)
    refused(r"here: image_encoder.pos_embed has shape \(3,\)", image_encoder__pos_embed=torch.zeros(3))
    refused(r"there is no .*blocks.1.attn.rel_pos_h", image_encoder__blocks__1__attn__rel_pos_h=None)
    refused(
        r"attention widths \(24, 24\) and head widths \[12, 8\] give no one head count",
        image_encoder__blocks__1__attn__rel_pos_h=torch.zeros(7, 8),
    )
    refused(
        r"relative positions for windows of \[3, 5\] tokens",
        image_encoder__blocks__1__attn__rel_pos_h=torch.zeros(9, 12),
    )
    with pytest.raises(InputError, match=r"there is no image_encoder\.pos_embed"):
        infer_config({})


def test_a_state_is_read_as_it_is_stored(saved: Path, state: dict[str, Tensor]) -> None:
    torch.save({"model": {key: value.half() for key, value in state.items()}}, saved)
    found = read_state(saved)
    assert found.keys() == state.keys()
    assert all(value.dtype == torch.float16 for value in found.values())
