"""Checkpoint files, damaged at random: tensors, or a refusal in one line; never another error."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.checkpoint import read_safetensors, write_safetensors
from core.errors import InputError
from core.untrusted import read_inert, read_torch
from students.files import load_model, read_model_metadata, save_model
from tests.unit.mutations import damaged, spoiled
from tests.unit.tiny import tiny_sam

FAST = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LONG = settings(FAST, max_examples=5_000)
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2, 3]), "c": torch.zeros(0, 4)}


def is_read_or_refused(read: Callable[[Path], object], content: bytes, path: Path) -> None:
    path.write_bytes(content)
    try:
        read(path)
    except InputError as error:
        message = str(error)
        assert str(path) in message and "\n" not in message and len(message) < 1500, message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def made(folder: Path, name: str) -> bytes:
    """The bytes of a sound file."""
    path = folder / name
    if not path.exists():
        if name == "student.safetensors":
            save_model(path, tiny_sam(), {"method": "none"})
        elif name.endswith(".safetensors"):
            write_safetensors(path, TENSORS, {"note": "x"})
        else:
            torch.save(TENSORS, path, _use_new_zipfile_serialization=name != "old.pth")
    return path.read_bytes()


def safetensors(header: Any, behind: bytes) -> bytes:
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + behind


def headers(content: bytes) -> st.SearchStrategy[bytes]:
    """The same tensors under a spoiled header."""
    size = int.from_bytes(content[:8], "little")
    return spoiled(json.loads(content[8 : 8 + size])).map(lambda header: safetensors(header, content[8 + size :]))


READERS: dict[str, list[Callable[[Path], object]]] = {
    "plain.safetensors": [read_safetensors],
    "student.safetensors": [load_model, read_model_metadata],
    "zip.pth": [read_torch, lambda path: read_inert(path, ("torch.nn",))],
    "old.pth": [read_torch],
}


def fuzzed(name: str, folder: Path, data: st.DataObject) -> None:
    content = made(folder, name)
    kinds = damaged(content)
    if name.endswith(".safetensors"):
        kinds |= headers(content)
    spoilt = data.draw(kinds, label=name)
    for read in READERS[name]:
        is_read_or_refused(read, spoilt, folder / f"spoilt_{name}")


@pytest.mark.parametrize("name", READERS)
def test_sound_files_are_read(name: str, folder: Path) -> None:
    made(folder, name)
    for read in READERS[name]:
        assert read(folder / name) is not None


@pytest.mark.parametrize("name", READERS)
@FAST
@given(data=st.data())
def test_damaged_files(name: str, folder: Path, data: st.DataObject) -> None:
    fuzzed(name, folder, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@LONG
@given(data=st.data())
def test_many_damaged_files(name: str, folder: Path, data: st.DataObject) -> None:
    fuzzed(name, folder, data)
