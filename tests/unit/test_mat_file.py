"""Files of MATLAB: the same as scipy reads, and no damage that ends the process."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from core.errors import InputError
from data.convert.mat_file import read_variable
from tests.unit.test_convert import ground_truth, labels


@pytest.mark.parametrize("packed", [True, False])
def test_files_of_matlab_are_read_as_scipy_reads_them(packed: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tables = {kind: (random.random((4, 7)) * 200).astype(kind) for kind in ("u1", "i2", "u2", "i4", "f4", "f8", "i8")}
    savemat(tmp_path / "a.mat", {**tables, "cell": ground_truth(labels(a_200=(0, 0, 2, 2)))}, do_compression=packed)
    for name, table in tables.items():
        assert np.array_equal(read_variable(tmp_path / "a.mat", name), table)
    ((annotator,),) = read_variable(tmp_path / "a.mat", "cell")
    assert list(annotator) == ["Segmentation", "Boundaries"]
    assert np.array_equal(annotator["Segmentation"], loadmat(tmp_path / "a.mat")["cell"][0, 0]["Segmentation"][0, 0])


def test_damaged_files_of_matlab_end_no_process(tmp_path: Path) -> None:
    path, random = tmp_path / "a.mat", np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}
    for packed in (True, False):
        savemat(path, {"groundTruth": ground_truth(labels(a_1=(2, 2, 8, 8)))}, do_compression=packed)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(300):
            spoilt = whole.copy()
            spoilt[random.integers(0, len(whole), 4)] = random.integers(0, 256, 4)
            path.write_bytes(spoilt[: random.integers(len(whole) // 2, len(whole) + 1)].tobytes())
            try:
                read_variable(path, "groundTruth")
                outcomes["read"] += 1
            except InputError as problem:
                outcomes["refused"] += 1
                assert str(problem).startswith(f"{path}: ")
    assert outcomes["read"] + outcomes["refused"] == 600 and outcomes["refused"] > 300
