"""Folders of ``SamModel`` as people have them: values of ``config.json`` honoured or refused, weights in any form."""

import pytest

pytest.importorskip("transformers", reason="transformers is not installed (sampress[test])")

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import SamConfig as HubConfig
from transformers import SamModel
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig

from core.errors import InputError
from core.protocols import Prompt
from experiments.runs.checkpoints import find_model
from teachers import hugging_face_config as ours
from teachers.catalog import MODELS, NamedModel
from teachers.weights import load_sam, weight_files
from tests.parity.test_transformers import CONFIG, FRAME, close, hub_model, randomised

WINDOWED = dataclasses.replace(CONFIG, encoder=dataclasses.replace(CONFIG.vit, window_size=8))
"""Windows as large as the grid of 8."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "sam.tiny-r0.5"
    torch.manual_seed(0)
    randomised(hub_model()).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / saved.name))


def edit(folder: Path, section: str, **values: Any) -> None:
    """Change values of a section; None takes them out."""
    path = folder / "config.json"
    stored = json.loads(path.read_text())
    part = {**stored[section], **values}
    stored[section] = {key: value for key, value in part.items() if value is not None}
    path.write_text(json.dumps(stored))


def assert_as_transformers(folder: Path) -> None:
    theirs, mine = SamModel.from_pretrained(folder).eval(), find_model(str(folder)).model
    images = torch.randn(1, 3, FRAME, FRAME, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[10.0, 20.0, 90.0, 100.0]])
    with torch.inference_mode():
        answer = theirs(images, input_boxes=boxes[None], multimask_output=True)
        masks = mine.decode(mine.encode(images), Prompt(boxes_xyxy=boxes), (FRAME, FRAME), multimask=True)
    close(masks.logits, answer.pred_masks[0])
    close(masks.iou_pred, answer.iou_scores[0])


def test_as_it_is(folder: Path) -> None:
    assert_as_transformers(folder)
    assert find_model(str(folder)).about == {}


@pytest.mark.parametrize("eps", [0.05, 1e-5, 1e-6])
def test_the_decoders_layer_norms_are_honoured(folder: Path, eps: float) -> None:
    edit(folder, "mask_decoder_config", layer_norm_eps=eps)
    assert_as_transformers(folder)
    assert find_model(str(folder)).model.config.decoder_norm_eps == eps


def test_what_is_left_out_is_as_in_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {name: {key: None for key in values} for name, values in ours._FIXED.items()}
    for name, values in keys.items():
        edit(folder, name, **values)
    edit(folder, "mask_decoder_config", layer_norm_eps=None)
    assert_as_transformers(folder)
    assert find_model(str(folder)).model.config.decoder_norm_eps == 1e-6
    monkeypatch.setitem(MODELS, "sam_tiny", NamedModel(CONFIG))
    assert load_sam("sam_tiny", folder).config.decoder_norm_eps == 1e-6


def test_defaults_are_those_of_transformers() -> None:
    classes = {
        "vision_config": SamVisionConfig,
        "prompt_encoder_config": SamPromptEncoderConfig,
        "mask_decoder_config": SamMaskDecoderConfig,
    }
    for name, kind in classes.items():
        defaults = {field.name: field.default for field in dataclasses.fields(kind)}
        for key, value in {**ours._FIXED[name], **ours._FREE[name]}.items():
            found = defaults[key]
            assert (list(found) if isinstance(found, tuple) else found) == value, f"{name}.{key}"
        # What is not looked at changes no answer.
        known = {*ours._FIXED[name], *ours._FREE[name]}
        own = {key for key in defaults if key in kind.__annotations__}
        assert own - known <= {"attention_dropout", "initializer_range", "base_config_key", "model_type"}


EDITED: dict[str, tuple[str, str, Any]] = {
    "activation": ("vision_config", "hidden_act", "gelu_new"),
    "relu": ("vision_config", "hidden_act", "relu"),
    "no relative positions": ("vision_config", "use_rel_pos", False),
    "no absolute positions": ("vision_config", "use_abs_pos", False),
    "no biases": ("vision_config", "qkv_bias", False),
    "eps of the encoder": ("vision_config", "layer_norm_eps", 1e-5),
    "channels of images": ("vision_config", "num_channels", 1),
    "windows": ("vision_config", "window_size", 4),
    "global blocks": ("vision_config", "global_attn_indexes", [0, 2]),
    "no global blocks": ("vision_config", "global_attn_indexes", []),
    "heads of the encoder": ("vision_config", "num_attention_heads", 2),
    "frame": ("vision_config", "image_size", 256),
    "width": ("vision_config", "hidden_size", 96),
    "text for a number": ("vision_config", "window_size", "3"),
    "frame of prompts": ("prompt_encoder_config", "image_size", 256),
    "activation of masks": ("prompt_encoder_config", "hidden_act", "relu"),
    "eps of masks": ("prompt_encoder_config", "layer_norm_eps", 1e-3),
    "activation of the decoder": ("mask_decoder_config", "hidden_act", "gelu"),
    "width of the decoder": ("mask_decoder_config", "mlp_dim", 64),
    "masks": ("mask_decoder_config", "num_multimask_outputs", 4),
    "layers": ("mask_decoder_config", "num_hidden_layers", 3),
    "downsampling": ("mask_decoder_config", "attention_downsample_rate", 1),
    "depth of the IoU head": ("mask_decoder_config", "iou_head_depth", 2),
    "no eps": ("mask_decoder_config", "layer_norm_eps", 0),
    "eps of text": ("mask_decoder_config", "layer_norm_eps", "1e-6"),
}


@pytest.mark.parametrize("kind", EDITED)
def test_what_the_model_cannot_hold_is_refused_by_key_and_value(folder: Path, kind: str) -> None:
    section, key, value = EDITED[kind]
    edit(folder, section, **{key: value})
    with pytest.raises(InputError, match=r"config\.json: ") as refused:
        find_model(str(folder))
    assert f"{section}.{key} is " in str(refused.value)
    assert json.dumps(value) in str(refused.value) or repr(value) in str(refused.value)


def test_another_kind_of_model_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    stored = json.loads(path.read_text())
    for key, value, words in (
        ("model_type", "sam_hq", "model_type is 'sam_hq'"),
        ("quantization_config", {"load_in_8bit": True}, "quantization_config is given"),
    ):
        path.write_text(json.dumps({**stored, key: value}))
        with pytest.raises(InputError, match=rf"config\.json: {words}"):
            find_model(str(folder))


def test_windows_as_large_as_the_grid_are_the_grid(tmp_path: Path) -> None:
    randomised(SamModel(HubConfig(**ours.hugging_face_config(WINDOWED))).eval()).save_pretrained(tmp_path / "a")
    assert_as_transformers(tmp_path / "a")


def test_sizes_of_both_axes_and_a_ratio_of_widths_are_read(folder: Path) -> None:
    edit(folder, "vision_config", image_size=[FRAME, FRAME], patch_size=[16, 16], mlp_dim=None, mlp_ratio=100 / 48)
    assert_as_transformers_alone(folder)


def assert_as_transformers_alone(folder: Path) -> None:
    """Of a config that this version of transformers has no model for, but that others write."""
    assert find_model(str(folder)).model.config == dataclasses.replace(CONFIG, decoder_norm_eps=1e-5)


PREPARED: dict[str, Any] = {
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_normalize": False,
    "rescale_factor": 1 / 127.5,
    "size": {"longest_edge": 512},
}


@pytest.mark.parametrize("key", PREPARED)
def test_images_prepared_otherwise_are_refused(folder: Path, key: str) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(ours.preprocessing(CONFIG)))
    assert_as_transformers(folder)
    path.write_text(json.dumps({**ours.preprocessing(CONFIG), key: PREPARED[key]}))
    with pytest.raises(InputError, match=rf"preprocessor_config\.json: {key} is "):
        find_model(str(folder))


def sharded(folder: Path, form: str) -> None:
    """The weights in three files with an index, or in one of PyTorch."""
    tensors = SamModel.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    if form == "pytorch_model.bin":
        torch.save(tensors, folder / form)
        return
    names, ending = sorted(tensors), "safetensors" if form == "safetensors" else "bin"
    stem = "model" if form == "safetensors" else "pytorch_model"
    index = {name: f"{stem}-0000{number % 3 + 1}-of-00003.{ending}" for number, name in enumerate(names)}
    for file in set(index.values()):
        part = {name: tensors[name].clone() for name in names if index[name] == file}
        if form == "safetensors":
            from safetensors.torch import save_file

            save_file(part, folder / file, {"format": "pt"})
        else:
            torch.save(part, folder / file)
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    (folder / f"{stem}.{ending}.index.json").write_text(text)


@pytest.mark.parametrize("form", ["safetensors", "bin", "pytorch_model.bin"])
def test_weights_in_shards_and_in_pytorchs_files(folder: Path, form: str) -> None:
    before = find_model(str(folder)).model.state_dict()
    sharded(folder, form)
    assert len(weight_files(folder)) == (1 if form == "pytorch_model.bin" else 3)
    found = find_model(str(folder)).model
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.state_dict().items())
    assert found.name == folder.name


def test_shards_as_transformers_writes_them(saved: Path, tmp_path: Path) -> None:
    SamModel.from_pretrained(saved).save_pretrained(tmp_path / "a", max_shard_size="40KB")
    assert len(weight_files(tmp_path / "a")) > 2
    before = find_model(str(saved)).model.state_dict()
    found = find_model(str(tmp_path / "a")).model
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.state_dict().items())


def test_a_shard_that_lacks_what_the_index_says_is_named(folder: Path) -> None:
    sharded(folder, "safetensors")
    path = folder / "model.safetensors.index.json"
    stored = json.loads(path.read_text())
    name, file = next(iter(stored["weight_map"].items()))
    other = next(shard for shard in stored["weight_map"].values() if shard != file)
    stored["weight_map"][name] = other
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=rf"{other}: has no {name}, though the index says so"):
        find_model(str(folder))


def test_a_file_of_a_folder_is_read_with_its_config(folder: Path, tmp_path: Path) -> None:
    edit(folder, "mask_decoder_config", layer_norm_eps=0.05)
    found = find_model(str(folder / "model.safetensors"))
    assert found.model.config == find_model(str(folder)).model.config
    # Alone it does not say how many heads the decoder has.
    alone = Path(shutil.copy(folder / "model.safetensors", tmp_path / "alone.safetensors"))
    with pytest.raises(InputError, match=r"alone\.safetensors: its tensors do not say how many heads"):
        find_model(str(alone))
    # Names of transformers, nothing else said: its eps.
    assert find_model(str(alone), 4).model.config == dataclasses.replace(CONFIG, decoder_norm_eps=1e-6)
