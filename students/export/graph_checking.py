"""ONNX and OpenVINO files, looked at before a runtime opens them: they hold what they claim, and name no others."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.plain_file import check_regular

_DOMAINS = ("", "ai.onnx")


def check_onnx(path: Path) -> None:
    """Refuse tensors that are kept elsewhere than beside the file or claim more than it has, and foreign operators.

    Raises:
        InputError: the message names the first such tensor or operator; or the file is no ONNX file.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    check_regular(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise InputError(f"{path}: ONNX Runtime cannot open it ({error}); export it again") from error
    for function in model.functions:
        _check(path, function)
    _check(path, model.graph)


def check_openvino(path: Path) -> None:
    """Refuse a document type in the description, which could name other files, and weights that are no file.

    Raises:
        InputError: see above; or there are no weights beside the file.
    """
    check_regular(path)
    text = path.read_bytes()
    # An XML file in UTF-16 would hide the rest from the search.
    if not text.lstrip().startswith((b"<?xml", b"<net")) or b"\0" in text or b"<!" in text:
        raise InputError(
            f"{path}: OpenVINO cannot open it (no plain XML: it begins otherwise or has a <!); export it again"
        )
    if not path.with_suffix(".bin").is_file():
        raise InputError(f"{path.with_suffix('.bin')}: no such file, though {path.name} needs it; export it again")


def _check(path: Path, graph: Any) -> None:
    for tensor in getattr(graph, "initializer", ()):
        _check_tensor(path, tensor)
    for sparse in getattr(graph, "sparse_initializer", ()):
        raise InputError(f"{path}: holds a sparse tensor ({sparse.values.name}), which is refused; export it again")
    for node in graph.node:
        if node.domain not in _DOMAINS:
            raise InputError(
                f"{path}: uses the operator {node.domain}.{node.op_type}, which is no part of ONNX; export it again"
            )
        for attribute in node.attribute:
            for tensor in (*((attribute.t,) if attribute.HasField("t") else ()), *attribute.tensors):
                _check_tensor(path, tensor)
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                _check(path, inner)


def _check_tensor(path: Path, tensor: Any) -> None:
    import onnx

    claimed = math.prod(tensor.dims)
    if any(size < 0 for size in tensor.dims):
        raise InputError(f"{path}: {tensor.name} has a negative size; export it again")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        held = _external_bytes(path, tensor)
    else:
        held = len(tensor.raw_data) + sum(8 * count for count in _counts(tensor))
    # Two values of four bits share a byte.
    if claimed > 2 * held:
        raise InputError(f"{path}: {tensor.name} claims {claimed} values in {held} bytes; export it again")


def _counts(tensor: Any) -> Iterator[int]:
    for field in ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"):
        yield len(getattr(tensor, field))


def _external_bytes(path: Path, tensor: Any) -> int:
    """How many bytes beside the file a tensor may read."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    name = told.get("location", "")
    beside = path.parent / name
    if Path(name).name != name or not name or beside.is_symlink() or not beside.is_file():
        raise InputError(f"{path}: {tensor.name} lies in {name!r}, which is no file beside it; export it again")
    start, length = (told.get(key, "0") for key in ("offset", "length"))
    if not (start.isdecimal() and length.isdecimal() and len(start + length) < 40):
        raise InputError(f"{path}: {tensor.name} has no place in {name}; export it again")
    left = beside.stat().st_size - int(start)
    if int(length) > left:
        raise InputError(f"{path}: {tensor.name} ends behind the end of {name}; export it again")
    return int(length) or max(left, 0)
