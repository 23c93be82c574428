"""ONNX files as OpenVINO's own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def convert(path: Path, facts: Mapping[str, Any], halve: bool) -> None:
    """Write ``<name>.xml`` and ``<name>.bin`` in place of ``<name>.onnx``.

    Args:
        facts: kept in the file, by name.
        halve: weights in float16, which halves the file.
    """
    import openvino

    model = openvino.convert_model(str(path))
    for key, value in facts.items():
        model.set_rt_info(value if isinstance(value, str) else json.dumps(value), ["sampress", key])
    openvino.save_model(model, str(path.with_suffix(".xml")), compress_to_fp16=halve)
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
