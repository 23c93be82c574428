"""Files of tensors: whole or not at all, never executed, and refused in words that name them."""

import json
import os
import pickle
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.checkpoint import (
    file_sha256,
    load_strictly,
    read_safetensors,
    replacing,
    weights_sha256,
    write_safetensors,
    write_text,
)
from core.errors import InputError
from core.plain_file import parse_json
from core.untrusted import read_torch


class Sprung:
    """Unpickling this makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise error
        assert path.read_text() == "old"
        assert list(path.parent.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    write_text(tmp_path / "ours", "größer")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "any").stat().st_mode
    assert (tmp_path / "ours").read_bytes() == "größer".encode()


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_pickle_that_asks_for_code_is_refused_and_nothing_runs(tmp_path: Path, save: Callable) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    save({"weight": torch.zeros(2), "trap": Sprung(marker)}, path)
    with pytest.raises(
        InputError, match=r"evil\.pth: asks for (posix\.system|torch\.storage\._load_from_bytes), which is refused"
    ) as caught:
        read_torch(path)
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    # The trap is a real one.
    pickle.loads(pickle.dumps(Sprung(marker)))
    assert marker.exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    """The published SlimSAM checkpoints are such files."""
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(InputError, match=r"whole\.pth: asks for torch\.nn\.modules\.linear\.Linear, which is refused"):
        read_torch(tmp_path / "whole.pth")


def test_tensors_and_plain_containers_are_read(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3), "b": [1, "x", None, {"c": 2.5}]}, tmp_path / "fine.pth")
    found = read_torch(tmp_path / "fine.pth")
    assert torch.equal(found["a"], torch.arange(3))
    assert found["b"] == [1, "x", None, {"c": 2.5}]


NOT_CHECKPOINTS = {
    "empty": b"",
    "page": b"<!DOCTYPE html><html><body>404</body></html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "zeros": bytes(4096),
    "zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("kind", NOT_CHECKPOINTS)
def test_a_file_of_something_else_is_not_accused_of_code(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.pth"
    path.write_bytes(NOT_CHECKPOINTS[kind])
    with pytest.raises(InputError, match=rf"{kind}\.pth: truncated or not a PyTorch file") as caught:
        read_torch(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_torch_file_is_named(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "part.pth"
    torch.save({"weight": torch.randn(5, 5)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    words = "truncated or not a PyTorch file"
    for length in range(0, len(whole), 17):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=rf"part\.pth: {words}"):
            read_torch(path)


def test_a_damaged_torch_file_is_read_or_refused_and_never_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "flipped.pth"
    torch.save({"weight": torch.randn(5, 5)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :])
        try:
            # A protocol number that was hit makes PyTorch warn.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_torch(path)
        except InputError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_safetensors_file_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "half.safetensors"
    write_safetensors(path, {"weight": torch.randn(100, 100)}, {})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"half\.safetensors: truncated or not a safetensors file"):
        read_safetensors(path)


@pytest.mark.parametrize("read", [read_torch, read_safetensors])
def test_a_file_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], Any]
) -> None:
    path = tmp_path / "closed.safetensors"
    write_safetensors(path, {"weight": torch.zeros(2)}, {})

    def refused(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(InputError, match=r"closed\.safetensors: cannot be read \(Permission denied\); check its perm"):
        read(path)


def test_a_key_among_very_many_that_comes_twice_is_found_in_one_pass() -> None:
    names = [f'"{number}": 0' for number in range(200_000)]
    started = time.perf_counter()
    with pytest.raises(ValueError, match="has the key '199999' twice"):
        parse_json("{" + ",".join([*names, names[-1]]) + "}")
    assert time.perf_counter() - started < 30


@pytest.mark.parametrize("read", [read_torch, read_safetensors])
def test_missing_files_and_folders_are_named(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(InputError, match=f"{path.name}: no such checkpoint file"):
            read(path)


def test_tensors_and_metadata_survive_the_round_trip(tmp_path: Path) -> None:
    tensors = {
        "transposed": torch.randn(3, 5).T,
        "half": torch.randn(4).bfloat16(),
        "whole": torch.arange(6).reshape(2, 3),
        "scalar": torch.tensor(2.5),
        "trained": nn.Parameter(torch.randn(2)),
    }
    metadata = {"text": "größe\n", "number": 0.1, "nested": {"a": [1, None, True]}, "format": "x"}
    write_safetensors(tmp_path / "a", tensors, metadata)
    found, reported = read_safetensors(tmp_path / "a")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert {key: json.loads(value) for key, value in reported.items()} == metadata


def test_a_file_without_metadata_has_none(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a")
    assert read_safetensors(tmp_path / "a")[1] == {}


def test_the_same_content_makes_the_same_file(tmp_path: Path) -> None:
    metadata = {f"größe {i}": [i, '"\n'] for i in range(10)}
    for name in "ab":
        write_safetensors(tmp_path / name, {"x": torch.arange(4.0), "y": torch.ones(2)}, metadata)
    assert file_sha256(tmp_path / "a") == file_sha256(tmp_path / "b")


def test_file_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_load_strictly_names_what_does_not_fit() -> None:
    model, good = linear(), dict(linear().state_dict())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def refused(tensors: dict[str, Tensor], words: str) -> None:
        with pytest.raises(InputError, match=f"^x.pth: does not fit this model: {words}$"):
            load_strictly(model, tensors, "x.pth")
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    refused({"weight": torch.ones(2, 3)}, "missing bias")
    refused(good | {"scale": torch.ones(1)}, "unexpected scale")
    refused(good | {"weight": torch.ones(3, 2)}, r"weight has shape \(3, 2\), expected \(2, 3\)")
    refused({"bias": torch.ones(3)}, r"missing weight; bias has shape \(3,\), expected \(2,\)")
    refused(good | {f"x{i}": torch.ones(1) for i in range(7)}, r"(unexpected x\d(; )?){5} and 2 more")

    load_strictly(model, {name: tensor + 1 for name, tensor in good.items()}, "x.pth")
    assert all(torch.equal(before[name] + 1, tensor) for name, tensor in model.state_dict().items())


def test_weights_sha256_sees_one_bit_and_one_name() -> None:
    model = linear()
    original = weights_sha256(model)
    assert weights_sha256(linear()) == original
    with torch.no_grad():
        bits = model.weight.view(torch.int32)
        bits[1, 2] ^= 1
    assert weights_sha256(model) != original
    with torch.no_grad():
        bits[1, 2] ^= 1
    assert weights_sha256(model) == original
    assert weights_sha256(nn.Sequential(linear())) != original
    assert weights_sha256(linear().bfloat16()) != original


def test_weights_sha256_sees_a_shape() -> None:
    class Holder(nn.Module):
        def __init__(self, tensor: Tensor) -> None:
            super().__init__()
            self.register_buffer("tensor", tensor)

    assert weights_sha256(Holder(torch.zeros(2, 3))) != weights_sha256(Holder(torch.zeros(3, 2)))
    assert weights_sha256(Holder(torch.tensor(0.0))) != weights_sha256(Holder(torch.zeros(1)))
    assert len(weights_sha256(Holder(torch.zeros(0)))) == 64


def test_weights_sha256_does_not_see_memory_layout() -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 3)
    original = weights_sha256(model)
    assert not model.to(memory_format=torch.channels_last).weight.is_contiguous()
    assert weights_sha256(model) == original


@pytest.mark.gpu
def test_weights_sha256_does_not_see_the_device() -> None:
    assert weights_sha256(linear().cuda()) == weights_sha256(linear())
