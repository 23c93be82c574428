"""Exported graphs and programs from elsewhere, looked at before anything of them runs."""

import ast
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from core.errors import InputError
from core.plain_file import check_regular, parse_json
from core.untrusted.pickle_machine import DAMAGED
from core.untrusted.zip_format import one_line, opened_zip, sizes_of
from students.export.weight_groups import BITS, DOMAIN, GROUP_SIZES, OPERATOR

_DOMAINS = ("", "ai.onnx")
_MOST = 2**31
"""Of inputs and outputs of a linear layer."""


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


def written_precision(path: Path) -> str | None:
    """The fact ``precision`` that an ONNX file or OpenVINO's description keeps; None where there is none.

    What cannot be read has none either: opening it says what is wrong.
    """
    check_regular(path)
    if path.suffix == ".xml":
        # A value is printed, so that it is a plain word.
        found = re.search(rb'<sampress>.*?<precision value="(\w{1,20})" />', path.read_bytes(), re.DOTALL)
        return found[1].decode() if found else None
    if path.suffix != ".onnx":
        return None
    import onnx
    from google.protobuf.message import DecodeError

    try:
        kept = onnx.load(path, load_external_data=False).metadata_props
    except (DecodeError, OSError, ValueError):
        return None
    return next((one_line(fact.value) for fact in kept if fact.key == "precision"), None)


def _check(path: Path, graph: Any) -> None:
    for tensor in getattr(graph, "initializer", ()):
        _check_tensor(path, tensor)
    for sparse in getattr(graph, "sparse_initializer", ()):
        raise InputError(f"{path}: holds a sparse tensor ({sparse.values.name}), which is refused; export it again")
    initializers = {tensor.name: math.prod(tensor.dims) for tensor in getattr(graph, "initializer", ())}
    for node in graph.node:
        if (node.domain, node.op_type) == (DOMAIN, OPERATOR):
            _check_groups(path, node, initializers)
        elif node.domain not in _DOMAINS:
            raise InputError(
                f"{path}: uses the operator {node.domain}.{node.op_type}, which is no part of ONNX; export it again"
            )
        for attribute in node.attribute:
            for tensor in (*((attribute.t,) if attribute.HasField("t") else ()), *attribute.tensors):
                _check_tensor(path, tensor)
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                _check(path, inner)


def _check_groups(path: Path, node: Any, initializers: dict[str, int]) -> None:
    """A product with weights in groups has as many codes and scales as its attributes say."""
    found = {attribute.name: attribute.i for attribute in node.attribute}
    inputs, outputs, bits, size = (found.get(key, 0) for key in ("K", "N", "bits", "block_size"))
    known = bits in BITS.values() and size in GROUP_SIZES and 0 < inputs < _MOST and 0 < outputs < _MOST
    groups = outputs * -(-inputs // size) if known else -1
    stored = [initializers.get(name) for name in node.input[1:]]
    if stored != [groups * size * bits // 8, groups]:
        raise InputError(f"{path}: {node.name or OPERATOR} has no {outputs} x {inputs} weights; export it again")


def _check_tensor(path: Path, tensor: Any) -> None:
    import onnx

    claimed = math.prod(tensor.dims)
    if any(size < 0 for size in tensor.dims):
        raise InputError(f"{path}: {tensor.name} has a negative size; export it again")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        stored = _external_bytes(path, tensor)
    else:
        stored = len(tensor.raw_data) + sum(8 * count for count in _counts(tensor))
    # Two values of four bits share a byte.
    if claimed > 2 * stored:
        raise InputError(f"{path}: {tensor.name} claims {claimed} values in {stored} bytes; export it again")


def _counts(tensor: Any) -> Iterator[int]:
    for field in ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"):
        yield len(getattr(tensor, field))


def _external_bytes(path: Path, tensor: Any) -> int:
    """How many bytes beside the file a tensor may read."""
    fields = {entry.key: entry.value for entry in tensor.external_data}
    name = fields.get("location", "")
    beside = path.parent / name
    if Path(name).name != name or not name or beside.is_symlink() or not beside.is_file():
        raise InputError(f"{path}: {tensor.name} lies in {name!r}, which is no file beside it; export it again")
    start, length = (fields.get(key, "0") for key in ("offset", "length"))
    if not (start.isdecimal() and length.isdecimal() and len(start + length) < 40):
        raise InputError(f"{path}: {tensor.name} has no place in {name}; export it again")
    left = beside.stat().st_size - int(start)
    if int(length) > left:
        raise InputError(f"{path}: {tensor.name} ends behind the end of {name}; export it again")
    return int(length) or max(left, 0)


_JSON_LIMIT = 64 << 20
_TENSORS = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_GRAPH = "models/model.json"
_SAMPLE = "data/sample_inputs/model.pt"
_REST = ("archive_format", "archive_version", ".data/version", "byteorder", ".data/serialization_id")
# Arithmetic of sizes, beside operators on tensors.
_OF_SIZES = {
    *(f"_operator.{name}" for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "getitem")),
    *(f"_operator.{name}" for name in ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_")),
    *(f"torch.sym_{name}" for name in ("float", "int", "ite", "max", "min", "not", "sum")),
    *(f"math.{name}" for name in ("ceil", "floor", "trunc")),
}
# Operators with a text among their arguments; of others that have one it may be the name of a file.
_WITH_TEXT = {"einsum", "gelu", "pad", "div", "meshgrid", "scatter_reduce"}
_EXPRESSION = {
    *("Symbol", "Integer", "Add", "Mul", "Mod", "FloorDiv", "CeilDiv", "IntTrueDiv", "Max", "Min", "PythonMod"),
    *("Eq", "Equality", "Ne", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan"),
    *("And", "Or", "Not", "positive", "nonnegative", "negative", "integer", "real", "True", "False"),
}
_POWER = "Pow"
_SIZE = re.compile(r"[su]\d{1,6}")
# Names, equations of einsum, and the structure of inputs as JSON.
_PLAIN = re.compile(r"[\w.,:> +\[\]{}\"-]*")


def checked_program(path: Path) -> io.BytesIO:
    """An archive for ``torch.export.load`` with what is harmless in a file.

    Raises:
        InputError: the file is damaged, or holds anything that opening it would run; the message names what.
    """
    check_regular(path)
    try:
        with opened_zip(path) as archive:
            return _rebuilt(archive, sizes_of(archive, path.stat().st_size))
    except InputError as error:
        raise InputError(f"{path}: {error}; export it again") from None
    except (*DAMAGED, AttributeError) as error:
        raise InputError(f"{path}: PyTorch cannot open it ({one_line(str(error))}); export it again") from error


def _rebuilt(archive: zipfile.ZipFile, sizes: dict[str, int]) -> io.BytesIO:
    folder = f"{next(iter(sizes), '').partition('/')[0]}/"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as copy:
        for name in sizes:
            inner = name.removeprefix(folder)
            known = inner in (_GRAPH, _SAMPLE, *_CONFIGS, *_REST) or _TENSORS.fullmatch(inner)
            if not known or not name.startswith(folder):
                raise InputError(f"holds {one_line(name)}, which no file of to=torch needs")
            content = archive.read(name)
            if inner == _SAMPLE and content:
                raise InputError(f"holds a pickle ({one_line(name)}), which is refused")
            if inner in (_GRAPH, *_CONFIGS):
                if len(content) > _JSON_LIMIT:
                    raise InputError(f"{one_line(name)} is longer than {_JSON_LIMIT} bytes")
                program = parse_json(content)
                if inner == _GRAPH:
                    program["graph_module"]["graph"]["nodes"] = [
                        _bare(n) for n in program["graph_module"]["graph"]["nodes"]
                    ]
                    _check_graph(program)
                else:
                    _check_tensors(program, folder + inner.rpartition("/")[0], sizes)
                content = json.dumps(program).encode()
            copy.writestr(name, content)
    made.seek(0)
    return made


def _bare(node: dict[str, Any]) -> dict[str, Any]:
    """A node without what it says of the lines of code that it comes from."""
    return {**node, "metadata": {}}


def _check_tensors(config: Any, folder: str, sizes: dict[str, int]) -> None:
    for name, entry in config["config"].items():
        if entry["use_pickle"] is not False:
            raise InputError(f"holds {one_line(name)} as a pickle, which is refused")
        member = f"{folder}/{entry['path_name']}"
        claimed = [size["as_int"] for size in entry["tensor_meta"]["sizes"]]
        if member not in sizes or not all(type(size) is int and size >= 0 for size in claimed):
            raise InputError(f"has no {one_line(str(entry['path_name']))}, or one without a size")
        if math.prod(claimed) > sizes[member]:
            raise InputError(f"{one_line(name)} claims {math.prod(claimed)} values in {sizes[member]} bytes")


def _check_graph(graph: Any) -> None:
    """Look at every text of a graph."""
    waiting: list[tuple[str, Any]] = [("", graph)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
            waiting += [("", name) for name in value]
        elif isinstance(value, list):
            waiting += [(key, part) for part in value]
        elif isinstance(value, str) and not _harmless(key, value):
            raise InputError(f"has the {key or 'key'} {one_line(value)!r}, which is refused")


def _harmless(key: str, text: str) -> bool:
    if key == "target":
        return text in _OF_SIZES or _on_tensors(text)
    if key in ("expr_str", "guards_code"):
        return _arithmetic(text)
    return _PLAIN.fullmatch(text) is not None and "__enum__" not in text


def _on_tensors(text: str) -> bool:
    """Whether a text names one of PyTorch's operators on tensors, which read and write no files."""
    found = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", text)
    if found is None or "__" in text:
        return False
    overload = getattr(getattr(torch.ops.aten, found[1], None), found[2], None)
    if not isinstance(overload, torch._ops.OpOverload):
        return False
    words = any("str" in str(argument.type) for argument in overload._schema.arguments)
    return found[1] in _WITH_TEXT or not words


def _arithmetic(text: str) -> bool:
    """Whether a text is arithmetic of sizes: as sympy spells it, or as a guard compares those of inputs."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval"))) if len(text) <= 2000 else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    powers = [node for node in nodes if _is_small_power(node)]
    named = sum(isinstance(node, ast.Name) and node.id == _POWER for node in nodes)
    return bool(nodes) and named == len(powers) and all(_allowed(node) for node in nodes)


def _is_small_power(node: ast.AST) -> bool:
    """Whether a node is ``Pow(size, Integer(n))``, n from 2 to 4, and no power in it: others may be endless."""
    match node:
        case ast.Call(
            func=ast.Name(id="Pow"),
            args=[size, ast.Call(func=ast.Name(id="Integer"), args=[ast.Constant(value=2 | 3 | 4)], keywords=[])],
            keywords=[],
        ):
            return not any(isinstance(part, ast.Name) and part.id == _POWER for part in ast.walk(size))
    return False


def _allowed(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name):
            return name in _EXPRESSION or name in ("L", _POWER) or _SIZE.fullmatch(name) is not None
        case ast.Attribute(attr=name):
            return name == "size"
        case ast.Constant(value=value):
            return (type(value) is int and value < 1 << 62) or type(value) is bool or _is_name(value)
        case ast.keyword(arg=name):
            return name in _EXPRESSION
    return isinstance(
        node,
        ast.Expression
        | ast.Call
        | ast.Subscript
        | ast.Compare
        | ast.BinOp
        | ast.UnaryOp
        | ast.BoolOp
        | ast.boolop
        # Powers by this sign are not among these.
        | ast.cmpop
        | ast.USub
        | ast.Not
        | ast.Add
        | ast.Sub
        | ast.Mult
        | ast.FloorDiv
        | ast.Mod
        | ast.Load,
    )


def _is_name(value: object) -> bool:
    return type(value) is str and value.isidentifier() and "__" not in value
