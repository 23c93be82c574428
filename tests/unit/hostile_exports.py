"""Exported folders that name other files than their own, claim what they have not, or run what is no model."""

import pytest

pytest.importorskip("onnx", reason="the extra export is not installed")

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from students.export.manifest import FORMAT, MANIFEST
from tests.unit.hostile_files import Case


def export(folder: Path, written: str, files: dict[str, bytes], **changes: Any) -> Path:
    """A folder as ``export`` writes it, of files of one's own, each with its right hash."""
    ending = {"onnx": "onnx", "openvino": "xml", "torch": "pt2"}[written]
    parts = {}
    for part in ("encoder", "decoder"):
        content = files.get(part, b"")
        (folder / f"{part}.{ending}").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        parts[part] = {"file": f"{part}.{ending}", "precision": "fp32", "bytes": 1, "sha256": digest}
    reported: dict[str, Any] = {
        "name": "m",
        "to": written,
        "precision": "fp32",
        "frame": 64,
        "grid": 4,
        "channels": 16,
        **parts,
    }
    reported |= {"format": FORMAT, "any_batch": False, "cost": {}, "weights_sha256": ""} | changes
    (folder / MANIFEST).write_text(json.dumps(reported))
    return folder


def cases() -> Iterator[Case]:
    """All of them."""
    part = {"file": "encoder.onnx", "precision": "fp32", "bytes": 1, "sha256": ""}
    for name, reported in {
        "path": {"encoder": {**part, "file": "../../etc/passwd"}},
        "absolute": {"encoder": {**part, "file": "/etc/passwd"}},
        "ending": {"encoder": {**part, "file": "export.json"}},
        "no_part": {"encoder": [1]},
        "format": {"format": "sampress-export-99"},
        "runtime": {"to": "tensorflow"},
        "list_as_to": {"to": ["onnx"]},
        "huge_frame": {"frame": 1 << 40},
        "frame_of_text": {"frame": "64"},
        "unknown": {"os.system": 1},
        "about": {"about": [1]},
        "hash": {"encoder": part},
        "name_elsewhere": {"name": "../../escaped/x"},
        "name_escapes": {"name": "a\nb\x1b[31m"},
        "no_name": {"name": None},
        "ratio_of_text": {"about": {"ratio": "x"}},
        "method_elsewhere": {"about": {"method": "../../escaped/x"}},
        "foreign_cost": {"cost": {"evil": 1}},
        "cost_of_text": {"cost": {"parameters": "1"}},
        "cost_of_a_list": {"cost": [1]},
        "bytes_of_text": {"encoder": {**part, "bytes": "12"}},
        "beside_elsewhere": {"encoder": {**part, "beside": {"../../etc/passwd": ""}}},
        "beside_of_text": {"encoder": {**part, "beside": "encoder.bin"}},
        "group_size_of_text": {"group_size": "\x1b[2J"},
    }.items():
        yield Case(f"export_{name}", "export", lambda f, t=reported: export(f, "onnx", {}, **t), "export it again")  # type: ignore[misc]
    for name, text in {
        "deep": "[" * 100_000,
        "long": " " * (9 << 20),
        "twice": '{"to": 1, "to": 2}',
        "list": "[]",
    }.items():
        yield Case(f"export_text_{name}", "export", _manifest(text), "export it again")
    for name, model in graphs().items():
        content = model if isinstance(model, bytes) else model.SerializeToString()
        yield Case(f"onnx_{name}", "export", _graph(content), "export it again")
    for name, text in {
        "entity": b'<?xml version="1.0"?><!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]><net name="&x;"/>',
        "laughs": b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "b"><!ENTITY c "&a;&a;&a;">]><net name="&c;"/>',
        "utf16": '<?xml version="1.0"?><!DOCTYPE net><net/>'.encode("utf-16"),
        "no_weights": b'<?xml version="1.0"?><net name="m" version="11"></net>',
        "not_xml": b"\x7fELF",
        "empty": b"",
    }.items():
        yield Case(f"openvino_{name}", "export", _openvino(text), "export it again")


def _manifest(text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / MANIFEST).write_text(text)
        return folder

    return make


def _graph(content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "outside").symlink_to("/etc/passwd")
        return export(folder, "onnx", {"encoder": content, "decoder": content})

    return make


def _openvino(text: bytes) -> Callable[[Path], Path]:
    return lambda folder: export(folder, "openvino", {"encoder": text, "decoder": text})


def _model(*nodes: Any, tensors: tuple[TensorProto, ...] = (), domains: tuple[str, ...] = ()) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("image_embeddings", TensorProto.FLOAT, [1])
    graph = helper.make_graph(list(nodes), "g", [image], [out], list(tensors))
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets)


def _external(location: str, offset: str = "0", length: str = "4") -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def graphs() -> dict[str, onnx.ModelProto | bytes]:
    """ONNX files that read elsewhere, claim what they have not, or run what is not ONNX."""
    add = helper.make_node("Add", ["image", "w"], ["image_embeddings"])
    inner = helper.make_graph([], "inner", [], [], [_external("../../etc/passwd")])
    branch = helper.make_node("If", ["image"], ["image_embeddings"], then_branch=inner, else_branch=inner)
    constant = helper.make_node("Constant", [], ["w"], value=_external("/etc/passwd"))
    huge = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 30, 1 << 30], raw_data=b"1234")
    negative = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[-4], raw_data=b"1234")
    return {
        "outside": _model(add, tensors=(_external("../../../../etc/passwd"),)),
        "absolute": _model(add, tensors=(_external("/etc/passwd"),)),
        "device": _model(add, tensors=(_external("/dev/zero", length=str(1 << 40)),)),
        "link": _model(add, tensors=(_external("outside"),)),
        "no_location": _model(add, tensors=(_external(""),)),
        "beyond": _model(add, tensors=(_external(MANIFEST, offset=str(1 << 40)),)),
        "negative_offset": _model(add, tensors=(_external(MANIFEST, offset="-1"),)),
        "in_a_branch": _model(branch),
        "in_a_constant": _model(constant, add),
        "huge": _model(add, tensors=(huge,)),
        "negative": _model(add, tensors=(negative,)),
        "custom": _model(helper.make_node("Run", ["image"], ["image_embeddings"], domain="evil"), domains=("evil",)),
        "python": _model(helper.make_node("PyOp", ["image"], ["image_embeddings"], domain="ai.onnx.contrib")),
        "unknown": _model(helper.make_node("System", ["image"], ["image_embeddings"])),
        "no_output": _model(helper.make_node("Identity", ["image"], ["other"])),
        "not_onnx": b"#!/bin/sh\ntouch marker\n",
        "zeros": bytes(1000),
    }
