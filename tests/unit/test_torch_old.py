"""PyTorch's format before 1.6 is read as data too, and holds what the new one holds."""

from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.errors import InputError
from core.untrusted import read_torch

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64]
DTYPES += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    else:
        assert found == expected


@pytest.mark.parametrize("zipped", [True, False])
def test_what_training_saves_is_read(tmp_path: Path, zipped: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    wide = torch.arange(12.0).reshape(3, 4)
    stored = {
        "model": OrderedDict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "views": {"rows": wide[1:], "columns": wide[:, 2], "turned": wide.T, "none": wide[:0], "one": wide[1, 1]},
        "numbers": {str(dtype): torch.tensor([0, 1, 1]).to(dtype) for dtype in DTYPES},
        "rest": [1, 2.5, "größe", None, True, (1, "a"), b"bytes"],
    }
    torch.save({**stored, "milestones": Counter([3, 3, 5])}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    found = read_torch(tmp_path / "a.pth")
    assert found.pop("milestones") == {3: 2, 5: 1}
    assert_same(found, stored)
    views = found["views"]
    # What shared memory still does.
    assert views["rows"].untyped_storage().data_ptr() == views["columns"].untyped_storage().data_ptr()


@pytest.mark.parametrize("cut", [1, 8, 100])
def test_a_truncated_file_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(50)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match=r"a\.pth: truncated or not a PyTorch file: its storages end at byte"):
        read_torch(path)
