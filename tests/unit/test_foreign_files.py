"""What a command did not write is neither taken away nor replaced by what it writes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from core.checkpoint import weights_sha256
from core.errors import InputError
from experiments.commands.convert import LAYOUTS
from experiments.runs.checkpoints import LoadedModel, find_model
from students.export.manifest import MANIFEST
from students.export.placing import check_folder
from students.files import save_model
from tests.unit.tiny import tiny_sam

Call = Callable[..., tuple[int, str, str]]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "name", ["notes.txt", "model.safetensors", "config.json", "encoder.onnx.bak", "my_decoder.xml"]
)
def test_an_export_replaces_nothing_but_an_export(tmp_path: Path, name: str) -> None:
    for own in (MANIFEST, "encoder.onnx", "encoder.onnx.data", "decoder.xml", "decoder.bin", "encoder.pt2"):
        (tmp_path / own).touch()
    check_folder(tmp_path)
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=rf"holds other files than an earlier export, as {name}; give a new folder$"):
        check_folder(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_convert_replaces_no_folder_of_others(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(json.dumps({"model_type": "sam"}))
    before = files_of(tmp_path)
    with pytest.raises(InputError, match=rf"holds a {name} that convert did not write; give a new folder$"):
        LAYOUTS["hf"](tmp_path, LoadedModel(tiny_sam(), "of a test"))
    assert files_of(tmp_path) == before


def test_convert_writes_into_no_exported_folder(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(InputError, match=r"is an exported folder; give a new one$"):
        LAYOUTS["hf"](tmp_path, LoadedModel(tiny_sam(), "of a test"))
    assert list(files_of(tmp_path)) == [MANIFEST]


@pytest.mark.parametrize(
    ("to", "name"), [("meta", "a.pth"), ("sampress", "a.safetensors"), ("sampress", "other.safetensors")]
)
def test_convert_replaces_no_file_of_others_and_no_runs_student(tmp_path: Path, to: str, name: str) -> None:
    path = tmp_path / name
    state = tiny_sam().state_dict()
    if to == "meta":
        torch.save(state, path)
    elif name == "a.safetensors":
        save_file(state, path)
    else:
        save_model(path, tiny_sam())
        (tmp_path / "result.json").write_text("{}")
    before = files_of(tmp_path)
    with pytest.raises(InputError, match=rf"{name}: is a file that convert did not write; give a new name$"):
        LAYOUTS[to](path, LoadedModel(tiny_sam(1), "of a test"))
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(("to", "name"), [("meta", "a.pth"), ("sampress", "a.safetensors")])
def test_convert_replaces_a_file_that_it_wrote(tmp_path: Path, to: str, name: str) -> None:
    for seed in (0, 1):
        LAYOUTS[to](tmp_path / name, LoadedModel(tiny_sam(seed), "of a test"))
    assert weights_sha256(find_model(str(tmp_path / name)).model) == weights_sha256(tiny_sam(1))


def test_convert_replaces_what_it_wrote_and_leaves_the_rest(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    for seed in (0, 1):
        LAYOUTS["hf"](tmp_path, LoadedModel(tiny_sam(seed), "of a test"))
    names = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(files_of(tmp_path)) == names and (tmp_path / "README.md").read_text() == "mine"


def test_predict_replaces_its_own_files_of_the_same_image_alone(command: Call, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for name in ("photo.jpg", "photo.png"):
        Image.fromarray(noise).save(tmp_path / name)

    def predict(image: str, *words: str) -> tuple[int, str]:
        words = ("checkpoint=sam_pocket", f"image={tmp_path / image}", "box=[5,5,30,30]", *words)
        status, _, err = command("predict", *words)
        return status, err.strip()

    truth = Path("photo_mask.png")
    Image.fromarray(noise[..., 0]).save(truth)
    before = truth.read_bytes()
    status, err = predict("photo.jpg")
    assert (status, err.count("\n")) == (2, 0) and "photo_mask.png: is none of this command's files" in err
    assert files_of(Path.cwd()) == {"photo_mask.png": before}
    truth.unlink()
    # Again, and with other masks, which go when they are no longer those of the overlay.
    for words, count in (((), 2), ((), 2), (("multimask=true",), 4), ((), 2)):
        assert predict("photo.jpg", *words) == (0, "")
        assert len(made := files_of(Path.cwd())) == count
    status, err = predict("photo.png")
    assert status == 2 and "photo_mask.png: was made of 'photo.jpg'; give another folder as out=" in err
    assert files_of(Path.cwd()) == made
    assert predict("photo.png", "out=other") == (0, "")
