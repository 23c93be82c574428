"""Pickled modules are read as data: hostile and damaged files are refused in one line, and nothing of them runs."""

import functools
import io
import os
import pickle
import pickletools
import random
import re
import struct
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.errors import InputError
from core.inert_pickle import Record, Reference, mentions, read_inert

FLOATS = struct.pack("<6f", *range(6))
PLAIN = pickle.dumps({"a": 1}, protocol=2)


def torch_zip(path: Path, program: bytes, members: dict[str, bytes] | None = None, **how: Any) -> Path:
    """A file as ``torch.save`` lays it out, with a pickle of one's own."""
    with zipfile.ZipFile(path, "w", **how) as archive:
        archive.writestr("model/data.pkl", program)
        for name, content in (members or {}).items():
            archive.writestr(name, content)
    return path


def refusal(path: Path) -> str:
    """The one line in which a file is refused, without its path."""
    with pytest.raises(InputError) as caught:
        read_inert(path, ("torch.nn",))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable() and len(message) < 400 + len(str(path))
    return message.removeprefix(f"{path}: ")


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    content = pickle.encode_long(value)
    return b"\x8b" + struct.pack("<i", len(content)) + content


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def storage(key: str = "0", count: int = 6, kind: str = "FloatStorage") -> bytes:
    return b"(" + text("storage") + named("torch", kind) + text(key) + text("cpu") + integer(count) + b"tQ"


def tensor(*numbers: Any, of: bytes | None = None) -> bytes:
    """The program of a tensor: offset, size and stride."""
    offset, size, stride = numbers
    shape, steps = (b"(" + b"".join(map(integer, values)) + b"t" for values in (size, stride))
    arguments = (
        (of or storage()) + integer(offset) + shape + steps + b"\x89" + named("collections", "OrderedDict") + b")R"
    )
    return named("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


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
    "io.open": (open, lambda marker: (str(marker), "w")),
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
    "storage_of_another_kind": b"("
    + text("module")
    + named("torch", "FloatStorage")
    + text("0")
    + text("cpu")
    + b"K\x06tQ.",
    "storage_of_a_class": b"(" + text("storage") + named("torch.nn", "Linear") + text("0") + text("cpu") + b"K\x06tQ.",
    "storage_without_key": b"("
    + text("storage")
    + named("torch", "FloatStorage")
    + b"K\x00"
    + text("cpu")
    + b"K\x06tQ.",
    "name_is_a_number": b"K\x01K\x02\x93.",
    "long_decimal": b"I" + b"9" * 10_000 + b"\n.",
}


@pytest.mark.parametrize("kind", DAMAGED_PROGRAMS)
def test_a_damaged_pickle_is_named(tmp_path: Path, kind: str) -> None:
    path = torch_zip(tmp_path / f"{kind}.pth", DAMAGED_PROGRAMS[kind], {"model/data/0": FLOATS})
    assert re.search("damaged|truncated|as a key|no storage", refusal(path))


BAD_TENSORS = {
    "more_bytes_claimed": (tensor(0, [7], [1], of=storage(count=7)), "has 24 bytes, but claims 7 values"),
    "fewer_bytes_claimed": (tensor(0, [5], [1], of=storage(count=5)), "has 24 bytes, but claims 5 values"),
    "wider_type_claimed": (tensor(0, [6], [1], of=storage(kind="DoubleStorage")), "has 24 bytes, but claims 6 values"),
    "negative_count": (tensor(0, [6], [1], of=storage(count=-6)), "has 24 bytes, but claims -6 values"),
    "count_of_a_million_digits": (tensor(0, [6], [1], of=storage(count=1 << 3_000_000)), "damaged"),
    "no_such_storage": (tensor(0, [6], [1], of=storage("1")), "has no member model/data/1"),
    "storage_elsewhere": (tensor(0, [6], [1], of=storage("../data.pkl")), "has no member"),
    "two_types": (storage() + storage(kind="IntStorage") + b"\x86.", "claimed to be of two types"),
    "negative_stride": (tensor(5, [6], [-1]), "negative"),
    "negative_offset": (tensor(-1, [6], [1]), "negative"),
    "negative_size": (tensor(0, [-6], [1]), "negative"),
    "offset_beyond": (tensor(6, [1], [1]), "reaches element 7 of a storage of 6"),
    "offset_of_nothing_beyond": (tensor(7, [0], [1]), "reaches element 7 of a storage of 6"),
    "stride_beyond": (tensor(0, [2], [6]), "reaches element 7 of a storage of 6"),
    "huge_shape": (tensor(0, [1 << 40, 1 << 20], [1 << 20, 1]), "of a storage of 6"),
    "huge_product": (tensor(0, [1 << 61] * 8, [0] * 8), "of a storage of 6"),
    "huge_number": (tensor(0, [1 << 3_000_000] * 8, [0] * 8), "beyond any storage"),
    "huge_and_empty": (tensor(0, [1 << 61, 1 << 61, 0], [0, 0, 0]), "damaged|of a storage"),
    "repeated": (tensor(0, [7], [0]), "of a storage of 6"),
    "ragged": (tensor(0, [2, 3], [1]), "2 sizes and 1 strides"),
    "many_axes": (tensor(0, [1] * 9, [1] * 9), "9 sizes"),
}


@pytest.mark.parametrize("kind", BAD_TENSORS)
def test_tensors_that_leave_their_storage_are_refused(tmp_path: Path, kind: str) -> None:
    program, words = BAD_TENSORS[kind]
    path = torch_zip(
        tmp_path / f"{kind}.pth", program if program.endswith(b".") else program + b".", {"model/data/0": FLOATS}
    )
    assert re.search(words, refusal(path))


def test_tensors_within_their_storage_are_read(tmp_path: Path) -> None:
    program = b"(" + tensor(0, [2, 3], [3, 1]) + tensor(1, [2], [3]) + tensor(0, [6], [0]) + tensor(6, [0], [1]) + b"t."
    rows, column, repeated, nothing = read_inert(
        torch_zip(tmp_path / "fine.pth", program, {"model/data/0": FLOATS}), ()
    )
    assert torch.equal(rows, torch.arange(6.0).reshape(2, 3))
    assert column.tolist() == [1, 4] and repeated.tolist() == [0] * 6 and nothing.shape == (0,)
    assert rows.untyped_storage().data_ptr() == column.untyped_storage().data_ptr()


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


def test_memory_of_a_huge_memo_index_is_not_taken(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "memo.pth", b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff\x85.")
    with pytest.raises(InputError):
        read_inert(torch_zip(tmp_path / "two.pth", b"Nr\xff\xff\xff\xffN."), ())
    with pytest.raises(InputError):
        read_inert(path, ())


MEMBERS: dict[str, tuple[dict[str, bytes], str]] = {
    "parent": ({"model/data/../../escape": b""}, "has a member named model/data/../../escape, which is refused"),
    "leading_parent": ({"../escape": b""}, "has a member named ../escape"),
    "absolute": ({"/etc/escape": b""}, "has a member named /etc/escape"),
    "backslash": ({"model\\..\\escape": b""}, "has a member named model"),
    "second_pickle": ({"other/data.pkl": PLAIN}, "2 members \\*/data.pkl"),
    "byteorder": ({"model/byteorder": b"big" if sys.byteorder == "little" else b"little"}, "-endian"),
    "long_byteorder": ({"model/byteorder": b"x" * 1000}, "has 1000 bytes"),
}


@pytest.mark.parametrize("kind", MEMBERS)
def test_odd_members_are_refused(tmp_path: Path, kind: str) -> None:
    members, words = MEMBERS[kind]
    assert re.search(words, refusal(torch_zip(tmp_path / f"{kind}.pth", PLAIN, members)))


def test_a_name_that_is_cut_at_a_zero_is_refused(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "zero.pth", PLAIN, {"model/data/0_escape": b""})
    path.write_bytes(path.read_bytes().replace(b"data/0_escape", b"data/0\0escape"))
    assert "which is refused" in refusal(path)


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = torch_zip(tmp_path / "two.pth", PLAIN, {"model/data.pkl": PLAIN})
    assert refusal(path) == "has two members named model/data.pkl"


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_member_is_not_expanded(tmp_path: Path, compression: int) -> None:
    path = torch_zip(tmp_path / "bomb.pth", PLAIN, {"model/data/0": bytes(1 << 24)}, compression=compression)
    assert path.stat().st_size < 100_000
    assert re.search("member model/data.* is compressed", refusal(path))


def test_a_compressed_storage_beside_a_stored_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", tensor(0, [1 << 20], [1], of=storage(count=1 << 20)) + b".")
        archive.writestr("model/data/0", bytes(1 << 22), zipfile.ZIP_DEFLATED)
    assert refusal(path) == "member model/data/0 is compressed, which torch.save never does"


def test_a_size_that_the_file_does_not_have_is_refused(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "claims.pth", PLAIN, {"model/data/0": FLOATS})
    content = path.read_bytes()
    sizes = struct.pack("<II", len(FLOATS), len(FLOATS))
    assert content.count(sizes) == 2
    path.write_bytes(content.replace(sizes, struct.pack("<II", 1 << 31, 1 << 31)))
    assert "claim 2147483" in refusal(path)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "locked.pth", PLAIN)
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert refusal(path) == "member model/data.pkl is encrypted"


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "bits.pth", tensor(0, [6], [1]) + b".", {"model/data/0": FLOATS})
    path.write_bytes(path.read_bytes().replace(FLOATS, FLOATS[:-1] + b"\x7f"))
    assert "Bad CRC-32" in refusal(path)


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


def test_missing_files_and_pickles_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pth", tmp_path):
        assert refusal(path) == "no such checkpoint file"
        assert not mentions(path, "torch")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "text")
    assert "0 members */data.pkl" in refusal(tmp_path / "other.zip")
    assert not mentions(tmp_path / "other.zip", "text")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save(nn.Sequential(nn.Linear(3, 2), nn.GELU()), tmp_path / "model.pth")
    return tmp_path / "model.pth"


def test_a_truncated_file_is_named(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in range(0, len(whole), 29):
        saved.write_bytes(whole[:length])
        refusal(saved)


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


def test_damaged_bytes_of_the_zip_file_are_no_traceback(saved: Path) -> None:
    whole, generator = saved.read_bytes(), random.Random(0)
    # The table of contents, at the end, is what a zip file is read by.
    first = whole.index(b"PK\x01\x02")
    for _ in range(300):
        place = generator.randrange(first, len(whole))
        saved.write_bytes(whole[:place] + bytes([generator.randrange(256)]) + whole[place + 1 :])
        try:
            read_inert(saved, ("torch.nn",))
        except InputError as error:
            assert str(error).startswith(f"{saved}: ") and "\n" not in str(error)


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
    assert mentions(tmp_path / "model.pth", "torch.nn.modules.linear") and not mentions(
        tmp_path / "model.pth", "absent"
    )
    # Without its package it is refused like any other.
    with pytest.raises(InputError, match=r"asks for torch\.nn\.modules\.linear\.Linear, which is refused"):
        read_inert(tmp_path / "model.pth", ("torch.optim",))


DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8, torch.bool])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_torch_saves_is_what_is_read(tmp_path: Path, dtype: torch.dtype, protocol: int) -> None:
    values = (torch.randn(4, 6) * 3).to(dtype)
    stored: dict[Any, Any] = OrderedDict(
        whole=values, part=values[1:, ::2], turned=values.T, scalar=values[0, 0], empty=values[:0]
    )
    stored["plain"] = [1, -(1 << 70), 2.5, None, True, "größe", b"bytes", (1, (2,)), {3: {"deep": []}}]
    torch.save(stored, tmp_path / "all.pth", pickle_protocol=protocol)
    if protocol == 2:
        # Bytes are pickled as a call of _codecs.encode before protocol 3.
        assert refusal(tmp_path / "all.pth").startswith("asks for _codecs.encode")
        stored["plain"][6] = "bytes"
        torch.save(stored, tmp_path / "all.pth", pickle_protocol=protocol)
    found = read_inert(tmp_path / "all.pth", ())
    assert found.pop("plain") == stored["plain"]
    assert list(found) == list(stored)[:-1]
    for name, tensor_found in found.items():
        assert tensor_found.dtype == dtype and tensor_found.stride() == stored[name].stride()
        assert torch.equal(tensor_found, stored[name])


def test_the_programs_of_this_file_are_what_pickle_takes_them_for() -> None:
    """A refusal of a malformed trap would prove nothing."""
    names = [opcode.name for opcode, _, _ in pickletools.genops(io.BytesIO(tensor(0, [6], [1]) + b"."))]
    assert names.count("REDUCE") == 2 and "BINPERSID" in names and names[-1] == "STOP"
