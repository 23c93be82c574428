"""The tables of exported files: differences to their model, paired by image."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError
from core.result import SCHEMA_VERSION, ResultRow
from experiments.exported import COMPARED, exported_table


def write(path: Path, box: list[float], images: list[int] | None = None, **columns: Any) -> None:
    """A result file of two images with one instance each."""
    row = {field: None for field in ResultRow.__dataclass_fields__} | {
        "method": "teacher",
        "data": "shapes",
        "protocol": "box_point@1",
        "status": "evaluated",
        "miou": sum(box) / 2,
        "miou_point": 0.5,
        "instances": 2,
        "images": 2,
        "size_bytes": 1_000_000,
        "device": "a processor",
        "skipped": {},
        "schema_version": SCHEMA_VERSION,
    }
    by_image = {"image": images or [1, 2], "instances": [1, 1], "miou": box, "miou_point": [0.5, 0.5]}
    path.write_text(json.dumps({"rows": [row | columns], "by_image": by_image}))


def test_a_difference_and_its_interval_by_hand(tmp_path: Path) -> None:
    write(tmp_path / "sam_pocket.json", [0.80, 0.90])
    write(tmp_path / "sam_pocket-w4_32-onnxruntime.json", [0.81, 0.93], variant="onnxruntime w4 group_size=32")
    text = exported_table("exported_weights", tmp_path)
    # Gains of 1 and 3 points: mean 2, standard error 1, and Student's t of one degree of freedom is 12.71.
    assert "| w4 32 | onnxruntime | +2.00 [-10.71, +14.71] | +0.00 [+0.00, +0.00] | 1.00 MB |" in text
    assert "box 0.8500, one point 0.5000" in text and "2 instances in 2 images" in text


def test_lines_come_in_the_order_of_the_table(tmp_path: Path) -> None:
    write(tmp_path / "sam_pocket.json", [0.8, 0.9])
    for name in ("w4_32-openvino", "w8_32-onnxruntime", "fp32-onnxruntime", "int8-onnxruntime"):
        write(tmp_path / f"sam_pocket-{name}.json", [0.8, 0.9], variant=f"{name.partition('-')[2]} of it")
    lines = [line for line in exported_table("exported_weights", tmp_path).splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[1:]] == ["| fp32", "| w8 32", "| w4 32"]


def test_other_instances_do_not_compare(tmp_path: Path) -> None:
    write(tmp_path / "tiny_vit_5m.json", [0.8, 0.9])
    write(tmp_path / "tiny_vit_5m-signed-openvino.json", [0.8, 0.9], images=[1, 3], variant="openvino int8")
    with pytest.raises(InputError, match=r"tiny_vit_5m-signed-openvino\.json: was not scored on the instances"):
        exported_table("exported_tiny_vit", tmp_path)


def test_one_image_does_not_compare(tmp_path: Path) -> None:
    for name in ("sam_pocket", "sam_pocket-w8_32-onnxruntime"):
        write(tmp_path / f"{name}.json", [0.8, 0.9], variant="onnxruntime w8")
        content = json.loads((tmp_path / f"{name}.json").read_text())
        content["by_image"] = {key: values[:1] for key, values in content["by_image"].items()}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="in two images or more"):
        exported_table("exported_weights", tmp_path)


@pytest.mark.parametrize("name", COMPARED)
def test_without_rows_it_says_so(name: str, tmp_path: Path) -> None:
    assert exported_table(name, tmp_path).startswith("No row is committed yet")
