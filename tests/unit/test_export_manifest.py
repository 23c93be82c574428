"""What a folder's manifest says is compared with what its files compute, and refused in one line."""

import hashlib
import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import InputError
from core.protocols import Prompt
from experiments.model_columns import about_columns, cost_columns
from experiments.runs.segmenters import ChosenSegmenter
from students.export.checking import written_precision
from students.export.folder import part_of
from students.export.manifest import MANIFEST, read_manifest, write_manifest
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


QUANTISED = {
    "weight_bits": 4,
    "activation_bits": 8,
    "bit_operations": 1 << 40,
    "float_macs": {"products": 7},
    "simulated": "fewer than 8 bits",
}


def test_bits_of_a_quantised_model_are_columns_of_its_rows(pocket_onnx: Path, tmp_path: Path) -> None:
    model = ExportedSam(changed(pocket_onnx, tmp_path / "changed", quantised=QUANTISED))
    assert {name: cost_columns(model)[name] for name in QUANTISED} == QUANTISED
    write_manifest(tmp_path, model.manifest)
    assert json.loads((tmp_path / MANIFEST).read_text())["quantised"] == QUANTISED
    # Of a float model, or from before they were kept, they are unknown.
    assert "quantised" not in json.loads((pocket_onnx / MANIFEST).read_text())
    assert not QUANTISED.keys() & cost_columns(ExportedSam(pocket_onnx)).keys()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"weight_bits": "4"}, "quantised.weight_bits is '4', no count"),
        ({"bit_operations": -1}, "quantised.bit_operations is '-1', no count"),
        ({"bit_operations": 1 << 63}, "no count"),
        ({"float_macs": {"products": 1.5}}, "quantised.float_macs.products is '1.5', no count"),
        ({"float_macs": [7]}, "a column of another type"),
        ({"simulated": 7}, "a column of another type"),
        ({"miou": 1.0}, "unexpected keyword argument 'miou'"),
    ],
)
def test_bits_that_no_model_has_are_refused(
    pocket_onnx: Path, tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    folder = changed(pocket_onnx, tmp_path / "changed", quantised=QUANTISED | values)
    with pytest.raises(InputError, match=rf"export\.json: does not describe .*{words}.*; export it again"):
        read_manifest(folder)


@pytest.mark.parametrize("quantised", [[], 7, {}, {"weight_bits": 8}])
def test_columns_that_are_not_all_there_are_refused(pocket_onnx: Path, tmp_path: Path, quantised: Any) -> None:
    with pytest.raises(InputError, match=r"export\.json: does not describe .*; export it again"):
        read_manifest(changed(pocket_onnx, tmp_path / "changed", quantised=quantised))


@pytest.mark.parametrize(
    ("runtime", "to", "variant", "precision"),
    [
        ("onnxruntime", "onnx", "onnxruntime int8", "int8"),
        ("openvino", "onnx", "openvino int8 (onnx)", "int8"),
        ("openvino_bf16", "onnx", "openvino_bf16 int8 (onnx)", "int8"),
        ("openvino_bf16", "openvino", "openvino_bf16 int8", "int8"),
        # Its programs multiply what they have made float32 of.
        ("pytorch", "torch", "pytorch int8", "float32"),
    ],
)
def test_a_row_says_which_file_a_runtime_read(
    pocket_onnx: Path, runtime: str, to: str, variant: str, precision: str
) -> None:
    model = ExportedSam(pocket_onnx)
    model.runtime, model.manifest = runtime, replace(model.manifest, to=to, precision="int8")
    found = ChosenSegmenter(model, torch.device("cpu"), "float32", "", {}, "")
    columns = about_columns(found)
    assert (columns["variant"], columns["precision"]) == (variant, precision)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"pixel_mean": [0, 0, 0]},
            r"pixel_mean is \[0, 0, 0\], images are normalised by \[123\.675, 116\.28, 103\.53\]",
        ),
        ({"pixel_std": [1.0]}, r"pixel_std is \[1\.0\], images are normalised by"),
        ({"any_batch": "false"}, "any_batch is 'false', neither true nor false"),
        ({"precision": "w8"}, "precision is w8, and its parts are fp32 and fp32, not w8 and w8"),
    ],
)
def test_what_no_export_writes_is_refused(
    pocket_onnx: Path, tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=rf"export\.json: does not describe .*{words}.*; export it again"):
        read_manifest(changed(pocket_onnx, tmp_path / "changed", **values))


def test_a_precision_that_the_file_was_not_written_in_is_refused(pocket_onnx: Path, tmp_path: Path) -> None:
    parts = json.loads((pocket_onnx / MANIFEST).read_text())
    stated = {part: parts[part] | {"precision": "int8"} for part in ("encoder", "decoder")}
    folder = changed(pocket_onnx, tmp_path / "changed", precision="int8", **stated)
    with pytest.raises(
        InputError, match=r"encoder\.onnx: was written with precision=fp32, .* says int8; export it again"
    ):
        ExportedSam(folder)


def test_openvinos_description_says_its_precision_too(tmp_path: Path) -> None:
    facts = b'<net><rt_info><sampress><model value="m" />\n<precision value="bf16" /></sampress></rt_info></net>'
    (tmp_path / "encoder.xml").write_bytes(facts)
    assert written_precision(tmp_path / "encoder.xml") == "bf16"
    # Of an exporter without these facts nothing is known.
    (tmp_path / "encoder.xml").write_bytes(b'<net><precision value="bf16" /></net>')
    assert written_precision(tmp_path / "encoder.xml") is None


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_without_onnx_its_files_do_not_run_in_any_runtime(
    pocket_onnx: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(
        InputError, match=rf"^runtime={runtime} needs onnx; install with: pip install 'sampress\[export\]'$"
    ):
        ExportedSam(pocket_onnx, runtime)


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
