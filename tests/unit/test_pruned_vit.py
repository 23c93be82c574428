"""Files of pruned models: read back bit for bit, and refused by name when they are something else."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from core.checkpoint import file_sha256, read_safetensors, weights_sha256, write_safetensors
from core.errors import InputError
from students.files import FORMAT, load_model, read_model_metadata, save_model
from students.pruned_vit import kept_embedding, kept_width, pruned_shape
from teachers.catalog import MODELS
from teachers.hiera import HieraConfig
from teachers.sam import Sam, SamConfig
from tests.unit.tiny import CONFIG, tiny_sam

RAGGED = replace(
    CONFIG,
    encoder=replace(
        CONFIG.encoder, embed_dim=10, attention_widths=(8, 36, 2), mlp_widths=(10, 48, 7), global_blocks=(0, 2)
    ),
)


def filled(config: SamConfig) -> Sam:
    model = Sam(config, "größe-0.5").requires_grad_(False)
    for tensor in model.state_dict().values():
        tensor.normal_()
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tmp_path / "m.safetensors", filled(RAGGED), {"method": "slimsam", "ratio": 0.5, "nested": {"a": [1]}})
    return tmp_path / "m.safetensors"


def test_ragged_widths_survive_bit_for_bit(tmp_path: Path) -> None:
    model = filled(RAGGED).train()
    save_model(tmp_path / "m", model)
    found = load_model(tmp_path / "m")
    assert found.config == model.config == RAGGED
    assert hash(found.config) == hash(RAGGED)
    assert found.name == model.name
    assert weights_sha256(found) == weights_sha256(model)
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(found.encode(image), model.eval().encode(image))


def test_the_same_model_makes_the_same_file(tmp_path: Path) -> None:
    for name in "abc":
        save_model(tmp_path / name, tiny_sam(), {"method": "slimsam", "seed": 0})
    assert len({file_sha256(tmp_path / name) for name in "abc"}) == 1


def test_facts_are_kept_beside_the_weights(saved: Path) -> None:
    assert read_model_metadata(saved) == {"method": "slimsam", "ratio": 0.5, "nested": {"a": [1]}}
    save_model(saved, tiny_sam())
    assert read_model_metadata(saved) == {}


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"about": "not JSON"}, {"about": "[1]"}])
def test_a_foreign_file_has_no_facts(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a", metadata)
    assert read_model_metadata(tmp_path / "a") == {}


def test_weights_do_not_alias_the_file(saved: Path) -> None:
    before = weights_sha256(load_model(saved))
    model = load_model(saved)
    model.image_encoder.pos_embed.zero_()
    assert weights_sha256(load_model(saved)) == before


Change = Callable[[dict[str, Any], dict[str, Tensor]], object]


def encoder(**changes: Any) -> Change:
    return lambda metadata, _: metadata["config"]["encoder"].update(changes)


BROKEN: dict[str, tuple[Change, str]] = {
    "other format": (
        lambda metadata, _: metadata.update(format="sampress-sam-2"),
        "written in format \"sampress-sam-2\", this version reads 'sampress-sam-1'",
    ),
    "no format": (lambda metadata, _: metadata.pop("format"), "metadata does not describe a model .KeyError: 'format'"),
    "no config": (lambda metadata, _: metadata.pop("config"), "metadata does not describe a model .KeyError: 'config'"),
    "no name": (lambda metadata, _: metadata.pop("name"), "metadata does not describe a model .KeyError: 'name'"),
    "config is a list": (lambda metadata, _: metadata.update(config=[1]), "metadata does not describe a model"),
    "config is a number": (lambda metadata, _: metadata.update(config=7), "metadata does not describe a model"),
    "unknown field": (encoder(depth=3), "metadata does not describe a model .TypeError: .*'depth'"),
    "no widths": (
        lambda metadata, _: metadata["config"]["encoder"].pop("mlp_widths"),
        "metadata does not describe a model .TypeError: .*'mlp_widths'",
    ),
    "widths of another depth": (encoder(mlp_widths=[4]), "metadata does not describe a model .ValueError: .*one entry"),
    "text for a width": (encoder(embed_dim="wide"), "metadata does not describe a model"),
    "negative width": (encoder(embed_dim=-8), "metadata does not describe a model"),
    "no patches": (encoder(patch_size=0), "metadata does not describe a model .ZeroDivisionError"),
    "no heads": (encoder(num_heads=0), "a model of num_heads 0 computes nothing; its shape is damaged"),
    "other width": (encoder(embed_dim=12), r"does not fit this model: .*has shape .*, expected .* and \d+ more"),
    "missing weight": (
        lambda _, tensors: tensors.pop("image_encoder.pos_embed"),
        "does not fit this model: missing image_encoder.pos_embed$",
    ),
    "foreign weight": (
        lambda _, tensors: tensors.update(extra=torch.zeros(1)),
        "does not fit this model: unexpected extra$",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_does_not_describe_its_weights_is_refused_by_name(saved: Path, kind: str) -> None:
    tensors, reported = read_safetensors(saved)
    metadata = {key: json.loads(value) for key, value in reported.items()}
    change, words = BROKEN[kind]
    change(metadata, tensors)
    write_safetensors(saved, tensors, metadata)
    with pytest.raises(InputError, match=rf"m\.safetensors: (its )?{words}"):
        load_model(saved)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": '"pt"'}])
def test_a_safetensors_file_of_others_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file(dict(tiny_sam().state_dict()), tmp_path / "hub.safetensors", metadata)
    with pytest.raises(InputError, match=r"hub\.safetensors: (its metadata does not describe|written in format)"):
        load_model(tmp_path / "hub.safetensors")


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"a\.pth: truncated or not a safetensors file"):
        load_model(tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"absent: no such checkpoint file"):
        load_model(tmp_path / "absent")


def test_what_is_written_is_plain(saved: Path) -> None:
    metadata = read_safetensors(saved)[1]
    assert set(metadata) == {"format", "name", "encoder", "config", "about"}
    assert json.loads(metadata["format"]) == FORMAT
    config = asdict(RAGGED)
    # Said only where it is not Meta's.
    assert config.pop("decoder_norm_eps") == 1e-5
    assert json.loads(metadata["config"]) == json.loads(json.dumps(config))
    save_model(saved, Sam(replace(CONFIG, decoder_norm_eps=1e-6)))
    assert load_model(saved).config.decoder_norm_eps == 1e-6


@pytest.mark.parametrize(
    ("width", "ratio", "multiple", "kept"),
    [(768, 0.5, 12, 384), (768, 0.77, 12, 168), (3072, 0.77, 12, 696), (24, 0.5, 5, 10), (24, 0.9, 2, 2)],
)
def test_kept_widths_are_rounded_down_to_a_multiple(width: int, ratio: float, multiple: int, kept: int) -> None:
    assert kept_width(width, ratio, multiple) == kept


@pytest.mark.parametrize("ratio", [0.93, 0.999])
def test_an_embedding_keeps_two_channels(ratio: float) -> None:
    # Of 24 channels and one head: layer normalisation would make a constant of one.
    config = MODELS["sam2_pocket"].config
    assert isinstance(config.encoder, HieraConfig) and config.encoder.num_heads[0] == 1
    kept = pruned_shape(config, ratio).encoder
    assert isinstance(kept, HieraConfig) and kept.embed_dims[0] == 2
    assert kept_embedding(768, 0.5, 12) == 384 and kept_embedding(768, 0.9999, 12) == 12


def test_pruned_shapes_keep_what_is_not_pruned() -> None:
    config = MODELS["sam_pocket"].config
    shape = pruned_shape(config, 0.5)
    same = replace(
        shape,
        encoder=replace(
            shape.encoder,
            embed_dim=config.encoder.embed_dim,
            attention_widths=config.encoder.attention_widths,
            mlp_widths=config.encoder.mlp_widths,
        ),
    )
    assert same == config
    assert shape.encoder.depth == config.encoder.depth
