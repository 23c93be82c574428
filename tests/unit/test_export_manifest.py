"""What a folder's manifest says is compared with what its files compute, and refused in one line."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import InputError
from core.protocols import Prompt
from students.export.folder import part_of
from students.export.manifest import MANIFEST, read_manifest
from students.export.segmenter import ExportedSam
from students.self_check import encoder_problem


def changed(folder: Path, to: Path, **values: Any) -> Path:
    """A copy of an exported folder whose manifest says something else."""
    shutil.copytree(folder, to)
    reported = json.loads((to / MANIFEST).read_text())
    (to / MANIFEST).write_text(json.dumps(reported | values))
    return to


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"frame": 256}, r"encoder\.onnx: is not as export\.json .* fails in onnxruntime \(.*; export it again$"),
        (
            {"grid": 8},
            r"encoder\.onnx: .* gives a map \[1, 128, 16, 16\], stated is \[1, 128, 8, 8\]; export it again$",
        ),
        ({"channels": 64}, r"encoder\.onnx: .* stated is \[1, 64, 16, 16\]; export it again$"),
        ({"family": "sam2"}, "export it again$"),
    ],
)
def test_a_shape_that_the_encoder_has_not_is_refused(
    pocket_onnx: Path, tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    folder = changed(pocket_onnx, tmp_path / "changed", **values)
    with pytest.raises(InputError, match=words) as caught:
        encoder_problem(ExportedSam(folder))
    assert str(folder) in str(caught.value)


def test_a_decoder_that_fails_is_refused(pocket_onnx: Path) -> None:
    model = ExportedSam(pocket_onnx)
    prompt = Prompt(boxes_xyxy=torch.tensor([[1.0, 1.0, 9.0, 9.0]]))
    with pytest.raises(InputError, match=r"decoder\.onnx: is not as export\.json .*; export it again$"):
        model.decode(torch.zeros(1, 128, 8, 8), prompt, (64, 64))


def test_what_export_writes_is_read(pocket_onnx: Path) -> None:
    manifest = read_manifest(pocket_onnx)
    assert manifest.name == "sam_pocket" and manifest.about == {"method": "teacher", "teacher": "sam_pocket"}
    assert all(count > 0 for count in manifest.cost.values()) and len(manifest.cost) == 6


def test_weights_beside_a_file_are_those_that_were_exported(pocket_onnx: Path, tmp_path: Path) -> None:
    # As OpenVINO's files have them: the description alone would fit other weights too.
    weights = b"weights"
    encoder = json.loads((pocket_onnx / MANIFEST).read_text())["encoder"]
    assert "beside" not in encoder
    encoder["beside"] = {"encoder.bin": hashlib.sha256(weights).hexdigest()}
    folder = changed(pocket_onnx, tmp_path / "changed", encoder=encoder)
    with pytest.raises(InputError, match=r"encoder\.bin: no such file, though export\.json names it"):
        ExportedSam(folder)
    (folder / "encoder.bin").write_bytes(weights)
    assert part_of(folder / "encoder.onnx", "fp32").hashes == ExportedSam(folder).manifest.encoder.hashes
    (folder / "encoder.bin").write_bytes(b"others!")
    with pytest.raises(InputError, match=r"encoder\.bin: is not the file that was exported \(sha256\)"):
        ExportedSam(folder)
