"""Folders, links, pipes and devices in the place of checkpoints: of Hugging Face, and of exported models."""

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from core.checkpoint import write_torch
from students.files import describe
from teachers.convert import to_hugging_face
from teachers.hugging_face_config import hugging_face_config
from tests.unit.hostile_files import CANARY, Case
from tests.unit.hostile_pickles import TRAPS
from tests.unit.tiny import CONFIG, tiny_sam
from tests.unit.torch_files import torch_zip


def hugging_face(folder: Path, state: dict[str, Tensor] | None = None, config: object = None) -> Path:
    """A folder of SamModel; ``config`` replaces what its config.json says."""
    # A complex tensor cannot be renamed by a model that has none, only by name.
    tensors = to_hugging_face(CONFIG, tiny_sam().state_dict() if state is None else state)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    reported = hugging_face_config(CONFIG) if config is None else config
    text = reported if isinstance(reported, str) else json.dumps(reported)
    (folder / "config.json").write_text(text)
    return folder


def _heads(value: object) -> dict[str, Any]:
    reported = hugging_face_config(CONFIG)
    reported["mask_decoder_config"]["num_attention_heads"] = value
    return reported


def _vision(**values: object) -> dict[str, Any]:
    reported = hugging_face_config(CONFIG)
    reported["vision_config"] |= values
    return reported


CONFIGS: dict[str, tuple[object, str]] = {
    "list": ([1], "is not the config.json"),
    "text": ("import os", "cannot be read"),
    "empty": ("", "cannot be read"),
    "deep": ("[" * 100_000, "nested too deep"),
    "long": (" " * (9 << 20), "is longer than"),
    "digits": ('{"a": ' + "9" * 100_000 + "}", "cannot be read"),
    "key_twice": ('{"mask_decoder_config": {}, "mask_decoder_config": {}}', "twice"),
    "section_of_a_list": ({"mask_decoder_config": [1]}, "is not the config.json"),
    "no_heads": (_heads(0), "not a count"),
    "heads_of_text": (_heads("2"), "not a count"),
    "heads_of_a_list": (_heads([2]), "not a count"),
    "odd_heads": (_heads(3), "does not divide"),
    "endless_blocks": (_vision(num_hidden_layers=1 << 40), "num_hidden_layers is 1099511627776, expected 3"),
    "infinite_ratio": (_vision(mlp_dim=None, mlp_ratio=float("inf")), "mlp_dim is null, expected 48"),
    "huge_eps": (_vision(layer_norm_eps=10**400), "layer_norm_eps is 1000"),
    "endless_heads": (_heads(1 << 60), "does not divide"),
}


OUTSIDE, NO_MAP = "no weight file of its folder", "has no weight_map"
INDICES: dict[str, tuple[object, str]] = {
    "elsewhere": ({"weight_map": {"a": "../../../../etc/passwd"}}, OUTSIDE),
    "absolute": ({"weight_map": {"a": "/etc/passwd.bin"}}, OUTSIDE),
    "of_itself": ({"weight_map": {"a": "model.safetensors.index.json"}}, OUTSIDE),
    "of_the_folder": ({"weight_map": {"a": ".."}}, OUTSIDE),
    "of_nothing": ({"weight_map": {"a": ""}}, OUTSIDE),
    "of_a_pipe": ({"weight_map": {"a": "a.safetensors", "b": "pipe.bin"}}, r"pipe\.bin: is a pipe"),
    "absent": ({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}, r"b\.safetensors: no such checkpoint"),
    "of_a_list": ([1], NO_MAP),
    "without_a_map": ({}, NO_MAP),
    "of_numbers": ({"weight_map": {"a": 1}}, NO_MAP),
    "empty": ({"weight_map": {}}, NO_MAP),
    "deep": ("[" * 100_000, "nested too deep"),
    "key_twice": ('{"weight_map": {"a": "a.bin", "a": "b.bin"}}', "twice"),
}


def cases() -> Iterator[Case]:
    """All of them."""
    for name, (config, words) in CONFIGS.items():
        yield Case(f"hf_config_{name}", "model", lambda f, c=config: hugging_face(f, config=c), words)  # type: ignore[misc]
    yield Case("hf_remote_code", "model", _remote_code, read=True)
    yield Case("hf_pickle_instead", "model", _pickle_instead, "asks for posix.system, which is refused")
    for name, (index, words) in INDICES.items():
        yield Case(f"hf_index_{name}", "model", lambda f, i=index: _index(f, i), words)  # type: ignore[misc]
    for name, config, words in (
        ("config.json", "pipe", "no such file"),
        ("config.json", "/dev/zero", "no such file"),
        ("config.json", "loop", "no such file"),
        ("model.safetensors", "pipe", "is a pipe"),
        ("model.safetensors", "/dev/zero", "is a pipe"),
        ("model.safetensors", "/etc/passwd", "not a safetensors file"),
        ("model.safetensors", "loop", "look at the links"),
        ("model.safetensors", "folder", "no such checkpoint file"),
    ):
        yield Case(f"hf_{name}_is_{config.strip('/').replace('/', '_')}", "model", _placed(name, config), words)
    for ending in (".pth", ".pt", ".safetensors"):
        yield Case(f"pipe{ending}", "model", _special(f"model{ending}", "pipe"), "is a pipe")
        yield Case(f"device{ending}", "model", _special(f"model{ending}", "/dev/zero"), "is a pipe")
        yield Case(f"passwords{ending}", "model", _special(f"model{ending}", "/etc/passwd"), "truncated or not a")
        yield Case(f"loop{ending}", "model", _special(f"model{ending}", "loop"), "neither a file nor a model|no such")
        yield Case(f"folder{ending}", "model", _special(f"model{ending}", "folder"), "no such checkpoint file")
    yield Case("dangling.pth", "model", _special("model.pth", "nowhere"), "neither a file nor a model")
    yield Case("ending.exe", "model", _special("model.exe", "/etc/passwd"), "not a checkpoint by its name")
    yield Case("ending.onnx", "model", _special("model.onnx", "/etc/passwd"), "not a checkpoint by its name")
    yield Case("link_to_a_checkpoint", "model", _linked, read=True)


def special(path: Path, kind: str) -> None:
    """A pipe, a folder, a link in a circle, or a link to somewhere."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.name if kind == "loop" else kind)


def _special(name: str, kind: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        special(folder / name, kind)
        return folder / name

    return make


def _placed(name: str, kind: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        hugging_face(folder)
        (folder / name).unlink()
        special(folder / name, kind)
        return folder

    return make


def _remote_code(folder: Path) -> Path:
    config = hugging_face_config(CONFIG) | {"trust_remote_code": True, "auto_map": {"AutoModel": f"{CANARY}.Model"}}
    (folder / f"{CANARY}.py").write_text("raise SystemExit")
    return hugging_face(folder, config=config | {"architectures": ["os.system"], "torch_dtype": "__import__('os')"})


def _pickle_instead(folder: Path) -> Path:
    hugging_face(folder)
    (folder / "model.safetensors").unlink()
    torch_zip(folder / "pytorch_model.bin", pickle.dumps(TRAPS["os.system"], 2))
    return folder


def _index(folder: Path, index: object) -> Path:
    hugging_face(folder)
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    os.mkfifo(folder / "pipe.bin")
    (folder / "model.safetensors.index.json").write_text(index if isinstance(index, str) else json.dumps(index))
    return folder


def _linked(folder: Path) -> Path:
    model = tiny_sam()
    write_torch(folder / "elsewhere.pth", model.state_dict(), json.dumps(describe(model)))
    (folder / "model.pth").symlink_to("elsewhere.pth")
    return folder / "model.pth"
