"""Zip files of torch.save: what their members and tensors claim is checked before memory is taken."""

import random
import re
import struct
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.errors import InputError
from core.untrusted import read_inert
from tests.unit.torch_files import FLOATS, PLAIN, refusal, storage, tensor, torch_zip

BAD_TENSORS = {
    "more_bytes_claimed": (tensor(0, [7], [1], of=storage(count=7)), "has 24 bytes, but claims 7 values"),
    "fewer_bytes_claimed": (tensor(0, [5], [1], of=storage(count=5)), "has 24 bytes, but claims 5 values"),
    "wider_type_claimed": (tensor(0, [6], [1], of=storage(kind="DoubleStorage")), "has 24 bytes, but claims 6 values"),
    "negative_count": (tensor(0, [6], [1], of=storage(count=-6)), "has 24 bytes, but claims -6 values"),
    "count_of_many_digits": (tensor(0, [6], [1], of=storage(count=1 << 1_000_000)), "truncated"),
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
    "huge_number": (tensor(0, [1 << 1_000_000] * 8, [0] * 8), "beyond any storage"),
    "huge_and_empty": (tensor(0, [1 << 61, 1 << 61, 0], [0, 0, 0]), "truncated|of a storage"),
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


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save(nn.Sequential(nn.Linear(3, 2), nn.GELU()), tmp_path / "model.pth")
    return tmp_path / "model.pth"


def test_a_truncated_file_is_named(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in range(0, len(whole), 29):
        saved.write_bytes(whole[:length])
        refusal(saved)


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
    found = read_inert(tmp_path / "all.pth", ())
    assert found.pop("plain") == stored["plain"]
    assert list(found) == list(stored)[:-1]
    for name, tensor_found in found.items():
        assert tensor_found.dtype == dtype and tensor_found.stride() == stored[name].stride()
        assert torch.equal(tensor_found, stored[name])
