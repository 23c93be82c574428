"""Folders in place of a model: one that holds none says what a folder may hold."""

import re
from pathlib import Path

import pytest

from core.errors import InputError
from experiments.config.schema import SegmenterConfig
from experiments.runs.checkpoints import find_model
from experiments.runs.segmenters import chosen_segmenter


@pytest.mark.parametrize("runtime", [None, "openvino"])
@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.xml", "decoder.pt2"])
def test_an_export_without_its_manifest_says_so(tmp_path: Path, name: str, runtime: str | None) -> None:
    (tmp_path / name).write_bytes(b"")
    words = rf"^{re.escape(str(tmp_path))}/export\.json: no such file, though this looks like an exported folder"
    with pytest.raises(InputError, match=words):
        chosen_segmenter(SegmenterConfig(checkpoint=str(tmp_path), runtime=runtime))
    with pytest.raises(InputError, match=words):
        find_model(str(tmp_path))


@pytest.mark.parametrize("runtime", [None, "openvino"])
def test_a_folder_without_a_model_says_what_it_may_hold(tmp_path: Path, runtime: str | None) -> None:
    words = r"/model\.safetensors: no such checkpoint file, nor is there an export\.json; give a folder of Hugging Face"
    with pytest.raises(InputError, match=words):
        chosen_segmenter(SegmenterConfig(checkpoint=str(tmp_path), runtime=runtime))


def test_weights_beside_a_file_of_onnx_are_read(tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").write_bytes(b"")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"model\.safetensors: .*truncated"):
        find_model(str(tmp_path))


def test_a_folder_called_as_a_model_is_not_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sam_pocket").mkdir()
    monkeypatch.chdir(tmp_path)
    assert chosen_segmenter(SegmenterConfig(checkpoint="sam_pocket")).model.name == "sam_pocket"
    with pytest.raises(InputError, match="runtime=openvino: sam_pocket is no exported folder; leave it out"):
        chosen_segmenter(SegmenterConfig(checkpoint="sam_pocket", runtime="openvino"))
