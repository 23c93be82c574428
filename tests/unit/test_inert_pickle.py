"""Pickled modules are read as data: hostile and damaged files are refused in one line, and nothing of them runs."""

import functools
import io
import os
import pickle
import pickletools
import random
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.errors import InputError
from core.untrusted import Record, Reference, mentions, read_inert
from tests.unit.torch_files import FLOATS, PLAIN, named, refusal, storage, tensor, text, torch_zip


class Sprung:
    """Unpickling this calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("nested", [False, True])
def test_a_call_of_the_system_is_refused_and_not_made(tmp_path: Path, protocol: int, nested: bool) -> None:
    if protocol > pickle.HIGHEST_PROTOCOL:
        pytest.skip("this Python has no such protocol")
    marker = tmp_path / "marker"
    trap: Any = Sprung(os.system, f"touch '{marker}'")
    program = pickle.dumps({"model": [nn.Identity, (trap,)]} if nested else trap, protocol)
    assert refusal(torch_zip(tmp_path / "evil.pth", program)).startswith("asks for posix.system, which is refused")
    assert not marker.exists()
    # The trap is a real one.
    pickle.loads(program)
    assert marker.exists()


CALLS: dict[str, tuple[Callable[..., Any], Callable[[Path], tuple[Any, ...]]]] = {
    "builtins.eval": (eval, lambda marker: (f"open({str(marker)!r}, 'w')",)),
    "builtins.exec": (exec, lambda marker: (f"open({str(marker)!r}, 'w')",)),
    # "io" or "_io", as this Python names it.
    f"{open.__module__}.open": (open, lambda marker: (str(marker), "w")),
    "builtins.__import__": (__import__, lambda marker: ("os",)),
    "builtins.getattr": (getattr, lambda marker: ("text", "upper")),
    "torch.hub.load": (torch.hub.load, lambda marker: ("owner/name", "model")),
    "torch.serialization.load": (torch.load, lambda marker: (str(marker),)),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", CALLS)
def test_other_functions_are_refused_by_name(tmp_path: Path, name: str, protocol: int) -> None:
    function, arguments = CALLS[name]
    program = pickle.dumps(Sprung(function, *arguments(tmp_path / "marker")), protocol)
    assert refusal(torch_zip(tmp_path / "evil.pth", program)).startswith(f"asks for {name}, which is refused")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "program",
    [
        named("builtins", "getattr") + named("torch.nn", "Module") + text("__init__") + b"\x86R.",
        # An object of functools.partial is a record too, but is no module.
        named("builtins", "getattr") + named("functools", "partial") + b")\x81" + text("func") + b"\x86R.",
        named("builtins", "getattr") + named("torch.nn", "Module") + b")\x81" + text("a.b") + b"\x86R.",
        named("builtins", "getattr") + named("torch.nn", "Module") + b")\x81" + text("a") + text("b") + b"\x87R.",
    ],
)
def test_getattr_is_allowed_for_methods_of_modules_only(tmp_path: Path, program: bytes) -> None:
    path = torch_zip(tmp_path / "evil.pth", b"\x80\x02" + program)
    assert refusal(path).startswith("asks for builtins.getattr, which is refused")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch.nnx", "Linear"),
        ("torch.nn", "functional.os.system"),
        ("torch.nn.functional.os;", "system"),
        ("torch.nn.a\nb", "system"),
        ("o\ns", "sys\ttem"),
        ("torch.nn." + "a" * 1000, "b"),
    ],
)
@pytest.mark.parametrize(
    "call", [b"", b")R", b")\x81", b")}\x92", b"}b"], ids=["refer", "call", "new", "new_ex", "build"]
)
def test_a_name_that_is_not_allowed_is_refused_even_unused(tmp_path: Path, module: str, name: str, call: bytes) -> None:
    program = b"\x80\x04" + text(module) + text(name) + b"\x93" + call + b"."
    assert re.match(r"asks for .{1,120}, which is refused", refusal(torch_zip(tmp_path / "evil.pth", program)))


OPCODES = {
    "INST": b"(ios\nsystem\n.",
    "OBJ": b"(" + named("torch.nn", "Linear") + b"o.",
    "EXT1": b"\x82\x01.",
    "PERSID": b"P0\n.",
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", 1) + b"a.",
    "NEXT_BUFFER": b"\x97.",
    "POP": b"NN0.",
    "DUP": b"N2.",
}


@pytest.mark.parametrize("name", OPCODES)
def test_opcodes_that_torch_does_not_use_are_refused(tmp_path: Path, name: str) -> None:
    message = refusal(torch_zip(tmp_path / "odd.pth", OPCODES[name]))
    assert message.startswith(f"uses the pickle opcode {name}")
    assert name != "INST" or "os.system" in message


DAMAGED_PROGRAMS = {
    "empty": b"",
    "no_end": b"\x80\x02}",
    "no_opcode": b"\x80\x02\xff.",
    "short_text": b"X\xff\xff\xff\x7fabc",
    "short_long_text": b"\x8d" + b"\xff" * 7 + b"\x00abc",
    "absent_memo": b"h\x05.",
    "no_operand": b"R.",
    "no_mark": b"t.",
    "mark_is_no_operand": b"(R.",
    "mark_is_no_result": b"(.",
    "two_results": b"NN.",
    "calls_a_number": b"K\x01)R.",
    "calls_with_a_list": named("torch.nn", "Linear") + b"]R.",
    "calls_a_record": named("torch.nn", "Linear") + b")\x81)R.",
    "calls_a_storage": named("torch", "FloatStorage") + b")R.",
    "appends_to_a_dict": b"}Na.",
    "sets_items_of_a_list": b"]NNs.",
    "odd_items": b"}(Nu.",
    "unhashable_key": b"}]Ns.",
    "attributes_of_a_function": named("torch.nn.functional", "gelu") + b"}b.",
    "attributes_of_a_list": b"]}b.",
    "odd_set": named("builtins", "set") + text("abc") + b"\x85R.",
    "odd_dict": named("collections", "OrderedDict") + b"]\x85R.",
    "storage_of_another_kind": storage().replace(text("storage"), text("module")) + b".",
    "storage_of_a_class": storage().replace(named("torch", "FloatStorage"), named("torch.nn", "Linear")) + b".",
    "storage_without_key": storage().replace(text("0"), b"N") + b".",
    "name_is_a_number": b"K\x01K\x02\x93.",
    "long_decimal": b"I" + b"9" * 10_000 + b"\n.",
}


@pytest.mark.parametrize("kind", DAMAGED_PROGRAMS)
def test_a_damaged_pickle_is_named(tmp_path: Path, kind: str) -> None:
    path = torch_zip(tmp_path / f"{kind}.pth", DAMAGED_PROGRAMS[kind], {"model/data/0": FLOATS})
    assert re.search("damaged|truncated|as a key|no storage", refusal(path))


@pytest.mark.parametrize(
    "program",
    [
        b"}" + b")" + b"\x85" * 300_000 + b"Ns.",
        named("builtins", "set") + b"](" + b")" + b"\x85" * 100_000 + b"e\x85R.",
        b"]" * 100_000 + b"a" * 99_999 + b".",
        b"(" * 100_000 + b"t" * 100_000 + b".",
        named("torch.nn", "Linear") + b")\x81q\x00" + b"}" + text("_modules") + b"h\x00sbh\x00.",
    ],
    ids=["key", "set", "list", "marks", "itself"],
)
def test_endless_nesting_does_not_end_the_process(tmp_path: Path, program: bytes) -> None:
    path = torch_zip(tmp_path / "deep.pth", program)
    try:
        read_inert(path, ("torch.nn",))
    except InputError as error:
        assert str(error).startswith(f"{path}: ")


def test_a_pickle_has_a_limit(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "long.pth", b"]" * 3_000_000)
    assert "has 3000000 bytes, more than" in refusal(path)


def test_a_huge_memo_index_takes_no_memory(tmp_path: Path) -> None:
    """Python's own unpickler would take a table of 64 GB for this one."""
    program = text("kept") + b"r\xff\xff\xff\xff" + b"j\xff\xff\xff\xff" + b"\x86."
    assert read_inert(torch_zip(tmp_path / "memo.pth", program), ()) == ("kept", "kept")


NOT_ZIP = {
    "empty": b"",
    "page": b"<!DOCTYPE html><html><body>404</body></html>",
    "zeros": bytes(4096),
    "old": pickle.dumps(Sprung(os.system, "true"), protocol=2),
    "text_before_a_zip": b"#!/bin/sh\n",
}


@pytest.mark.parametrize("kind", NOT_ZIP)
def test_a_file_of_something_else_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.pth"
    path.write_bytes(NOT_ZIP[kind])
    if kind.endswith("zip"):
        path.write_bytes(NOT_ZIP[kind] + torch_zip(tmp_path / "fine.pth", PLAIN).read_bytes())
    assert refusal(path) == "not a zip file of torch.save (PyTorch's format before 1.6 is not read)"
    assert not mentions(path, "torch")


def test_the_old_format_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert refusal(tmp_path / "old.pth").startswith("not a zip file of torch.save")


def test_a_name_with_a_damaged_escape_is_refused_without_a_warning(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "escape.pth", b"c\\orch._utils\n_rebuild_tensor_v2\n.")
    assert refusal(path).startswith("asks for \\orch._utils._rebuild_tensor_v2, which is refused")


def test_missing_files_and_pickles_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pth", tmp_path):
        assert refusal(path).startswith("no such checkpoint file")
        assert not mentions(path, "torch")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "text")
    assert "0 members */data.pkl" in refusal(tmp_path / "other.zip")
    assert not mentions(tmp_path / "other.zip", "text")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save(nn.Sequential(nn.Linear(3, 2), nn.GELU()), tmp_path / "model.pth")
    return tmp_path / "model.pth"


def test_a_damaged_file_is_read_or_refused_and_never_a_traceback(saved: Path) -> None:
    """Bits of the pickle are flipped behind a right checksum, so that the machine meets them."""
    with zipfile.ZipFile(saved) as archive:
        program = archive.read("model/data.pkl")
        members = {name: archive.read(name) for name in archive.namelist() if not name.endswith("data.pkl")}
    generator = random.Random(0)
    refused = 0
    for _ in range(400):
        changed = bytearray(program)
        for _ in range(generator.choice([1, 1, 3])):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        try:
            read_inert(torch_zip(saved, bytes(changed), members), ("torch.nn",))
        except InputError as error:
            refused += 1
            assert str(error).startswith(f"{saved}: ") and str(error).isprintable()
    assert 100 < refused < 400


def test_a_module_is_read_as_records(tmp_path: Path) -> None:
    layer = nn.Linear(3, 2)
    layer.register_buffer("passing", torch.ones(2, dtype=torch.int64), persistent=False)
    layer.activation = torch.nn.functional.gelu
    layer.place = torch.device("cpu")
    layer.norm = functools.partial(nn.LayerNorm, eps=1e-6)
    layer.forward = layer.forward
    layer.size = torch.Size([3, 2])
    layer.tied = layer.weight
    torch.save(layer, tmp_path / "model.pth")
    found = read_inert(tmp_path / "model.pth", ("torch.nn",))
    assert isinstance(found, Record) and found.kind == "torch.nn.modules.linear.Linear" and found.arguments == ()
    state = found.state
    assert torch.equal(state["_parameters"]["weight"], layer.weight) and type(state["_parameters"]["weight"]) is Tensor
    assert state["_parameters"]["tied"] is state["_parameters"]["weight"]
    assert torch.equal(state["_buffers"]["passing"], torch.ones(2, dtype=torch.int64))
    assert state["_non_persistent_buffers_set"] == ["passing"]
    assert (state["in_features"], state["training"], state["size"]) == (3, True, (3, 2))
    assert isinstance(state["activation"], Reference) and state["activation"].name == "torch._C._nn.gelu"
    assert isinstance(state["place"], Record) and state["place"].arguments == ("cpu",)
    partial = state["norm"]
    assert partial.kind == "functools.partial" and partial.state[2] == {"eps": 1e-6}
    assert isinstance(partial.state[0], Reference)
    assert state["forward"].kind == "builtins.getattr" and state["forward"].arguments == (found, "forward")
    assert mentions(tmp_path / "model.pth", "torch.nn.modules.linear")
    assert not mentions(tmp_path / "model.pth", "absent")
    # Without its package it is refused like any other.
    with pytest.raises(InputError, match=r"asks for torch\.nn\.modules\.linear\.Linear, which is refused"):
        read_inert(tmp_path / "model.pth", ("torch.optim",))


def test_the_programs_of_these_tests_are_what_pickle_takes_them_for() -> None:
    """A refusal of a malformed trap would prove nothing."""
    names = [opcode.name for opcode, _, _ in pickletools.genops(io.BytesIO(tensor(0, [6], [1]) + b"."))]
    assert names.count("REDUCE") == 2 and "BINPERSID" in names and names[-1] == "STOP"
