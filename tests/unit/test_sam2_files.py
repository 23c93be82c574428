"""SAM 2's files: Meta's with a video model's memory, folders of transformers, this project's own; in and out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.checkpoint import file_sha256, weights_sha256
from core.errors import InputError
from experiments.runs.checkpoints import _SHAPES, find_model
from students.convert.layouts import save_hugging_face
from students.files import load_model, save_model
from teachers.catalog import MODELS, NamedModel, Release
from teachers.hiera import hiera_config
from teachers.sam2 import Sam2, Sam2Config
from teachers.sam2_layouts import to_hub, to_meta
from teachers.weights import load_sam

CONFIG = Sam2Config(
    hiera_config(64, 8, (1, 1, 2, 1), 1, (4, 4, 4, 2), (3,), 5, 16),
    decoder_heads=2,
    decoder_mlp_width=20,
    iou_width=12,
)
MEMORY = {
    "memory_attention.layers.0.self_attn.q_proj.weight": torch.ones(4, 4),
    "memory_encoder.out_proj.bias": torch.ones(3),
    "maskmem_tpos_enc": torch.ones(7, 1, 1, 2),
    "no_mem_pos_enc": torch.ones(1, 1, 16),
    "no_obj_ptr": torch.ones(1, 16),
    "no_obj_embed_spatial": torch.ones(1, 2),
    "obj_ptr_proj.layers.0.weight": torch.ones(2, 2),
    "obj_ptr_tpos_proj.bias": torch.ones(2),
    "mask_downsample.weight": torch.ones(1, 1, 4, 4),
}
"""By Meta's names."""


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "sam2_tiny", NamedModel(CONFIG, Release("https://example.org/sam2_tiny.pt", "0" * 64)))
    monkeypatch.setitem(_SHAPES, "sam2_tiny", CONFIG)


@pytest.fixture
def model() -> Sam2:
    made = CONFIG.make("sam2_tiny").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for tensor in made.state_dict().values():
        tensor.normal_(std=0.2, generator=generator)
    return made


@pytest.fixture
def released(tmp_path: Path, model: Sam2) -> Path:
    return write(tmp_path / "sam2_tiny.pt", to_meta(model.state_dict()) | MEMORY)


def write(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save({"model": state}, path)
    return path


def test_metas_file_is_read_and_its_memory_is_left_out(
    released: Path, model: Sam2, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_model(str(released))
    assert isinstance(found.model, Sam2)
    assert found.model.config == CONFIG
    assert weights_sha256(found.model) == weights_sha256(model)
    assert (found.layout, found.model.name) == ("a state dict in Meta's layout", "sam2_tiny")
    assert found.about == {"method": "teacher", "teacher": "sam2_tiny"}
    line = capsys.readouterr().err
    assert "without the memory of the video model (9 tensors, 89 parameters)" in line
    assert "before 2.1" not in line
    # Its hash is none that was published.
    assert f"{released}: called sam2_tiny by its shape; nothing shows that its weights are the published ones" in line
    published = NamedModel(CONFIG, Release("https://example.org/sam2_tiny.pt", file_sha256(released)))
    monkeypatch.setitem(MODELS, "sam2_tiny", published)
    assert find_model(str(released)).model.name == "sam2_tiny"
    assert "called" not in capsys.readouterr().err
    lines: list[str] = []
    assert weights_sha256(load_sam("sam2_tiny", released, lines.append)) == weights_sha256(model)
    assert len(lines) == 1 and "9 tensors" in lines[0]


def test_weights_of_sam_2_before_2_1_are_not_called_2_1(
    tmp_path: Path, model: Sam2, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = {name: tensor for name, tensor in MEMORY.items() if name != "no_obj_embed_spatial"}
    found = find_model(str(write(tmp_path / "older.pt", to_meta(model.state_dict()) | memory)))
    assert (found.model.name, found.about) == ("older", {})
    assert "these are weights of SAM 2, before 2.1" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["hf", "meta", "sampress"])
def test_nor_are_they_after_a_conversion(tmp_path: Path, model: Sam2, to: str) -> None:
    from experiments.commands.convert import LAYOUTS

    memory = {name: tensor for name, tensor in MEMORY.items() if name != "no_obj_embed_spatial"}
    found = find_model(str(write(tmp_path / "older.pt", to_meta(model.state_dict()) | memory)))
    out = tmp_path / {"hf": "folder", "meta": "out.pt", "sampress": "out.safetensors"}[to]
    LAYOUTS[to](out, found)
    back = find_model(str(out))
    assert (back.model.name, back.about) == ("older", {})
    assert weights_sha256(back.model) == weights_sha256(model)


@pytest.mark.parametrize("name", ["memory_attention_extra", "sam_mask_decoder.conv_s2.weight", "no_obj_ptr.weight"])
def test_what_is_not_known_is_refused(tmp_path: Path, model: Sam2, name: str) -> None:
    path = write(tmp_path / "more.pt", to_meta(model.state_dict()) | MEMORY | {name: torch.ones(1)})
    with pytest.raises(InputError, match=r"more\.pt: does not fit this model: unexpected"):
        find_model(str(path))


def test_what_is_missing_is_refused(tmp_path: Path, model: Sam2) -> None:
    state = to_meta(model.state_dict())
    del state["sam_mask_decoder.conv_s1.bias"]
    with pytest.raises(InputError, match=r"missing image_encoder\.conv_s1\.bias"):
        find_model(str(write(tmp_path / "less.pt", state)))


def test_a_shape_that_is_not_published_needs_its_config(tmp_path: Path) -> None:
    other = replace(CONFIG, encoder=hiera_config(64, 8, (1, 1, 1, 1), 1, (4, 4, 4, 2), (2,), 5, 16))
    path = write(tmp_path / "other.pt", to_meta(other.make().state_dict()))
    with pytest.raises(InputError, match=r"a SAM 2 of 4 blocks of widths \[8, 16, 32, 64\], which is no published one"):
        find_model(str(path))
    save_hugging_face(tmp_path / "folder", other.make("other"))
    assert find_model(str(tmp_path / "folder")).model.config == other


def test_a_file_of_this_project(tmp_path: Path, model: Sam2) -> None:
    save_model(tmp_path / "own.safetensors", model, {"method": "teacher"})
    loaded = load_model(tmp_path / "own.safetensors")
    assert isinstance(loaded, Sam2)
    assert loaded.config == CONFIG
    assert weights_sha256(loaded) == weights_sha256(model)
    assert load_sam("sam2_tiny", tmp_path / "own.safetensors").config == CONFIG


@pytest.mark.parametrize("to", ["hf", "meta", "sampress"])
def test_there_and_back_by_convert(tmp_path: Path, released: Path, model: Sam2, to: str) -> None:
    from experiments.commands.convert import LAYOUTS

    out = tmp_path / {"hf": "folder", "meta": "out.pt", "sampress": "out.safetensors"}[to]
    found = find_model(str(released))
    LAYOUTS[to](out, found)
    back = find_model(str(out))
    assert back.model.config == CONFIG
    assert back.about == found.about
    assert weights_sha256(back.model) == weights_sha256(model)
    if to == "meta":
        assert list(torch.load(out, weights_only=True)) == ["model"]


def test_a_folder_of_transformers(tmp_path: Path, model: Sam2) -> None:
    transformers = pytest.importorskip("transformers")
    save_hugging_face(tmp_path / "folder", model)
    theirs, reported = transformers.Sam2Model.from_pretrained(tmp_path / "folder", output_loading_info=True)
    assert not any(reported.values())
    ours = to_hub(CONFIG, model.state_dict())
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.state_dict().items())
    theirs.save_pretrained(tmp_path / "theirs")
    assert weights_sha256(find_model(str(tmp_path / "theirs")).model) == weights_sha256(model)
    processor = transformers.Sam2ImageProcessor.from_pretrained(tmp_path / "folder")
    assert processor.size == {"height": 64, "width": 64}


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("mask_decoder_config", "dynamic_multimask_stability_thresh", 0.9, "is 0.9, expected 0.98"),
        ("mask_decoder_config", "dynamic_multimask_via_stability", False, "is false, expected true"),
        ("vision_config", "fpn_top_down_levels", [3], r"fpn_top_down_levels is \[3\], expected \[2, 3\]"),
        ("prompt_encoder_config", "image_size", 100, "describes no SAM 2"),
        ("vision_config.backbone_config", "patch_stride", [8, 8], "patch_stride is .8, 8., expected 4"),
        ("vision_config.backbone_config", "num_attention_heads_per_stage", [1, 2, 4, 7], "does not divide the width"),
        ("vision_config.backbone_config", "embed_dim_per_stage", [8, 16, 32, 72], "has shape"),
        ("vision_config.backbone_config", "hidden_size", 16, "hidden_size is 16, expected 8"),
        (
            "vision_config.backbone_config",
            "blocks_per_stage",
            [20_000_000, 1, 2, 1],
            "is 20000000, expected a number from 1 to 4,096",
        ),
        ("vision_config.backbone_config", "blocks_per_stage", [4096, 1, 2, 1], r"more blocks than the \d+ tensors"),
        ("vision_config.backbone_config", "mlp_ratio", float("inf"), "mlp_ratio is inf, no factor"),
        ("vision_config.backbone_config", "mlp_ratio", float("nan"), "mlp_ratio is nan, no factor"),
        ("vision_config.backbone_config", "global_attention_blocks", ["a"], r"blocks is \['a'\], no list of blocks"),
        ("vision_config.backbone_config", "global_attention_blocks", [5], r"blocks is \[5\], no list of blocks"),
        ("vision_config.backbone_config", "window_size_per_stage", "4444", "expected a number of each of 4 stages"),
        (
            "vision_config.backbone_config",
            "window_positional_embedding_background_size",
            [5, 6],
            r"size is \[5, 6\], exp",
        ),
        ("vision_config", "fpn_hidden_size", [16], r"fpn_hidden_size is \[16\], expected a number"),
        ("prompt_encoder_config", "image_size", 1 << 20, r"image_size is 1048576, expected a number"),
    ],
)
def test_values_of_a_config_are_honoured_or_refused(
    tmp_path: Path, model: Sam2, section: str, key: str, value: object, message: str
) -> None:
    save_hugging_face(tmp_path / "folder", model)
    path = tmp_path / "folder" / "config.json"
    stored = part = json.loads(path.read_text())
    for name in section.split("."):
        part = part[name]
    part[key] = value
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=message):
        find_model(str(tmp_path / "folder"))


def test_a_padding_processor_is_refused(tmp_path: Path, model: Sam2) -> None:
    save_hugging_face(tmp_path / "folder", model)
    path = tmp_path / "folder" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": {"longest_edge": 64}}))
    with pytest.raises(InputError, match="size is"):
        find_model(str(tmp_path / "folder"))
