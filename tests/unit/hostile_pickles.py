"""Pickles that would run something, and zip files around them that would write or fill something."""

import builtins
import functools
import importlib
import io
import marshal
import os
import pickle
import shutil
import struct
import subprocess
import tarfile
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.unit.hostile_files import CANARY, Case
from tests.unit.torch_files import FLOATS, integer, named, storage, tensor, text, torch_zip


class Sprung:
    """Unpickling this calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


_CODE = marshal.dumps(compile("open('marker', 'w')", "x", "exec"))
TRAPS: dict[str, Sprung] = {
    "os.system": Sprung(os.system, "touch marker"),
    "subprocess": Sprung(subprocess.Popen, ["touch", "marker"]),
    "eval": Sprung(eval, "open('marker', 'w')"),
    "exec": Sprung(exec, "open('marker', 'w')"),
    "open": Sprung(io.open, "marker", "w"),
    "import": Sprung(importlib.import_module, CANARY),
    "builtins_import": Sprung(builtins.__import__, CANARY),
    "getattr": Sprung(getattr, "text", "upper"),
    "environment": Sprung(os.putenv, b"HOSTILE", b"1"),
    "remove_tree": Sprung(shutil.rmtree, "/nonexistent-hostile"),
    "partial": Sprung(functools.partial, os.system, "touch marker"),
    "marshal": Sprung(marshal.loads, _CODE),
    "function": Sprung(types.SimpleNamespace),
    "torch_load": Sprung(torch.load, "elsewhere.pth"),
    "torch_hub": Sprung(torch.hub.load, "owner/name", "model"),
    "load_from_bytes": Sprung(torch.storage._load_from_bytes, pickle.dumps(1)),
    "nested_pickle": Sprung(pickle.loads, pickle.dumps(Sprung(os.system, "touch marker"))),
}
_BUILT = named("torch.nn", "Linear") + b")\x81}" + text("__class__") + named("os", "system") + b"sb."
PROGRAMS: dict[str, bytes] = {
    "inst": b"(S'touch marker'\nios\nsystem\n.",
    "obj": b"(" + named("os", "system") + text("touch marker") + b"o.",
    "stack_global": b"\x80\x04" + text("os") + text("system") + b"\x93" + text("touch marker") + b"\x85R.",
    "newobj": b"\x80\x02" + named("os", "system") + text("touch marker") + b"\x85\x81.",
    "newobj_ex": b"\x80\x04" + named("subprocess", "Popen") + text("touch marker") + b"\x85}\x92.",
    "build": _BUILT,
    "dotted": b"\x80\x04" + text("torch") + text("serialization.os.system") + b"\x93.",
    "dunder": b"\x80\x04" + text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93.",
    "extension": b"\x82\x01.",
    "persistent_text": b"Pelsewhere\n.",
    "persistent_of_another_kind": text("os.system") + b"Q.",
    "deep_lists": b"]" * 200_000 + b"a" * 199_999 + b".",
    "deep_key": b"}" + b")" + b"\x85" * 300_000 + b"Ns.",
    "deep_reduce": (named("collections", "OrderedDict") + b")R}") * 20_000 + b".",
    "huge_memo": b"}r\xff\xff\xff\xff" + b"j\xff\xff\xff\xff" + b"\x86.",
    "text_of_4_gb": b"X\xff\xff\xff\xffabc.",
    "text_of_an_exabyte": b"\x8d" + b"\xff" * 6 + b"\x0f\x00abc.",
    "bytes_of_4_gb": b"B\xff\xff\xff\xffabc.",
    "digits": b"I" + b"9" * 100_000 + b"\n.",
    "huge_integer": b"\x8b" + struct.pack("<i", 1_000_000) + b"\x7f" * 1_000_000 + b".",
    "frame_lies": b"\x80\x04\x95" + b"\xff" * 8 + b"}.",
    "key_twice": b"}" + text("a") + b"K\x01s" + text("a") + b"K\x02s.",
    "empty": b"",
    "no_operand": b"R.",
    "long_pickle": b"]" * 3_000_000,
    "buffer": b"\x80\x05\x97.",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b".",
}


def cases() -> Iterator[Case]:
    """All of them, through the door of checkpoints."""
    for protocol in range(6):
        for name in ("os.system", "eval") if protocol in (0, 4) else ("os.system",):
            program = pickle.dumps({"a": [(TRAPS[name],)]}, protocol)
            yield Case(f"zip_{name}_protocol_{protocol}", "model", _zip(program), r"asks for .*, which is refused")
            yield Case(f"raw_{name}_protocol_{protocol}", "model", _raw(program), "refused|not a PyTorch file")
    for name, trap in TRAPS.items():
        program = pickle.dumps({"weight": trap}, 2)
        yield Case(f"zip_{name}", "model", _zip(program), r"asks for .*, which is refused")
        yield Case(f"slimsam_{name}", "model", _zip(program + b"segment_anything_kd"), r"asks for .*, which is refused")
    for name, program in PROGRAMS.items():
        yield Case(f"program_{name}", "model", _zip(program))
    yield from _old()
    yield from _zips()


def _zip(program: bytes, members: dict[str, bytes] | None = None) -> Callable[[Path], Path]:
    return lambda folder: torch_zip(folder / "model.pth", program, members or {"model/data/0": FLOATS})


def _raw(content: bytes, name: str = "model.pth") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _parts(program: bytes, keys: bytes, values: bytes, little: bool = True) -> bytes:
    """A file of the format before PyTorch 1.6."""
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": little})]
    return b"".join(head) + program + keys + values


def _old() -> Iterator[Case]:
    keys, values = b"]" + text("0") + b"a.", struct.pack("<q", 6) + FLOATS
    fine = tensor(0, [6], [1]) + b"."
    old = {
        "trap": (_parts(pickle.dumps(TRAPS["os.system"], 2), keys, values), "asks for posix.system"),
        "trap_in_the_keys": (_parts(fine, pickle.dumps(TRAPS["os.system"], 2), values), "asks for posix.system"),
        "trap_in_the_magic": (pickle.dumps(TRAPS["os.system"], 2), "asks for posix.system"),
        "huge_storage": (_parts(tensor(0, [6], [1], of=storage(count=1 << 40)) + b".", keys, values), "claims more"),
        "negative_storage": (_parts(tensor(0, [6], [1], of=storage(count=-6)) + b".", keys, values), "claims more"),
        "short_storage": (_parts(fine, keys, struct.pack("<q", 6) + FLOATS[:-1]), "end at byte"),
        "other_length": (_parts(fine, keys, struct.pack("<q", 7) + FLOATS), "has not the 6 values"),
        "other_keys": (_parts(fine, b"]" + text("1") + b"a.", values), "storages are not those"),
        "no_keys": (_parts(fine, integer(3) + b".", values), "storages are not those"),
        "other_endian": (_parts(fine, keys, values, little=False), "endian"),
        "negative_stride": (_parts(tensor(5, [6], [-1]) + b".", keys, values), "negative"),
        "not_a_state": (_parts(fine, keys, values), "not a dict of tensors"),
        "only_the_magic": (_parts(b"", b"", b""), "truncated"),
    }
    for name, (content, words) in old.items():
        yield Case(f"old_{name}", "model", _raw(content), words)

    def tarred(folder: Path) -> Path:
        with tarfile.open(folder / "model.pth", "w") as archive:
            for name in ("sys_info", "pickle", "../escaped"):
                archive.addfile(tarfile.TarInfo(name))
        return folder / "model.pth"

    yield Case("old_tar", "model", tarred, "not a PyTorch file")


def _zips() -> Iterator[Case]:
    plain = pickle.dumps({"a": 1}, 2)

    def written(*members: tuple[str | zipfile.ZipInfo, bytes]) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            with warnings.catch_warnings(), zipfile.ZipFile(folder / "model.pth", "w") as archive:
                # Of a name that it writes twice.
                warnings.simplefilter("ignore")
                for name, content in members:
                    archive.writestr(name, content)
            return folder / "model.pth"

        return make

    link = zipfile.ZipInfo("model/data/0")
    link.external_attr = 0o120777 << 16
    first, bomb = ("model/data.pkl", plain), bytes(256 << 20)
    yield Case("zip_bomb_pickle", "model", _bomb("model/data.pkl", bomb), "is compressed")
    yield Case("zip_bomb_storage", "model", _bomb("model/data/0", bomb), "is compressed|0 members")
    for name in ("../escaped", "/tmp/escaped", "model/../../escaped", "model\\..\\escaped", "C:\\escaped"):
        yield Case(f"zip_member_{name.replace('/', '|')}", "model", written(first, (name, b"x")), "which is refused")
    yield Case("zip_link", "model", written(first, (link, b"/etc/passwd")), "not a dict of tensors")
    yield Case("zip_twice", "model", written(first, first), "two members named")
    yield Case("zip_two_pickles", "model", written(first, ("other/data.pkl", plain)), "2 members")
    yield Case("zip_no_pickle", "model", written(("readme.txt", b"text")), "0 members")
    yield Case(
        "zip_many_members", "model", written(first, *((f"m/{i}", b"") for i in range(60_000))), "lists its members"
    )
    yield Case("zip_encrypted", "model", _patched(written(first), 6, b"\x01\x00"), "encrypted|not a PyTorch file")
    yield Case("zip_claims_gigabytes", "model", _claiming(written(first)), "claim|not a PyTorch file|compressed")
    yield Case("zip_truncated", "model", _cut(written(first), 30), "not a PyTorch file")
    yield Case("zip_only_its_mark", "model", _raw(b"PK\x03\x04"), "not a PyTorch file")


def _bomb(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "model.pth", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr(name, content)
        return folder / "model.pth"

    return make


def _changed(make: Callable[[Path], Path], change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def changed(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return changed


def _patched(make: Callable[[Path], Path], place: int, content: bytes) -> Callable[[Path], Path]:
    """With bytes of the local header, and the same ones of the list of members, replaced."""

    def change(whole: bytes) -> bytes:
        listed = whole.index(b"PK\x01\x02") + place + 2
        whole = whole[:place] + content + whole[place + len(content) :]
        return whole[:listed] + content + whole[listed + len(content) :]

    return _changed(make, change)


def _claiming(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    return _patched(make, 18, struct.pack("<II", 3 << 30, 3 << 30))


def _cut(make: Callable[[Path], Path], count: int) -> Callable[[Path], Path]:
    return _changed(make, lambda whole: whole[:-count])
