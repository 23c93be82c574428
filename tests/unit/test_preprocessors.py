"""Folders whose images were prepared otherwise than this project does are refused, whichever file says it."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError
from experiments.runs.checkpoints import find_model
from experiments.runs.download import fetched_folder
from students.convert.layouts import save_hugging_face
from tests.unit.tiny import tiny_sam

OTHERWISE: dict[str, Any] = {
    "image_mean": [0.5, 0.5, 0.5],
    "rescale_factor": 1.0,
    "size": {"longest_edge": 512},
    "resample": 3,
    "do_pad": False,
    "pad_size": {"height": 256, "width": 256},
    "do_flip_channel_order": True,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_hugging_face(tmp_path, tiny_sam())
    return tmp_path


def write(folder: Path, form: str, **values: Any) -> None:
    """The preprocessor with other values: in the file of transformers 4, in that of 5, or there beside a right one."""
    path = folder / "preprocessor_config.json"
    right = json.loads(path.read_text())
    if form == path.name:
        path.write_text(json.dumps(right | values))
        return
    nested = {"image_processor": right | values, "processor_class": "SamProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    if form == "processor_config.json":
        path.unlink()


@pytest.mark.parametrize("key", OTHERWISE)
@pytest.mark.parametrize("form", ["preprocessor_config.json", "processor_config.json", "both"])
def test_images_prepared_otherwise_are_refused(folder: Path, form: str, key: str) -> None:
    name = form if form.endswith("json") else "processor_config.json"
    write(folder, form, **{key: OTHERWISE[key]})
    with pytest.raises(InputError, match=rf"/{name}: {key} is .*, expected "):
        find_model(str(folder))


@pytest.mark.parametrize("form", ["preprocessor_config.json", "processor_config.json", "both"])
def test_what_is_null_or_of_no_account_is_read(folder: Path, form: str) -> None:
    write(folder, form, resample=None, do_flip_channel_order=False, do_center_crop=None)
    assert find_model(str(folder)).model.input_size == 64


def test_a_processor_of_earlier_versions_says_nothing_of_images(folder: Path) -> None:
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "SamProcessor", "target_size": 64}))
    assert find_model(str(folder)).model.input_size == 64
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": [1]}))
    with pytest.raises(InputError, match=r"processor_config\.json: describes no image processor; save the processor"):
        find_model(str(folder))


def test_a_fetched_folder_has_both_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def download(repository: str, allow_patterns: list[str], **rest: Any) -> str:
        seen.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    fetched_folder("https://huggingface.co/a/b", "b")
    assert {"preprocessor_config.json", "processor_config.json"} <= set(seen[0])
