"""Threads: no more than affinity, control groups and Slurm allow; idle ones sleep in every process that computes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core import distributed, threads
from core.errors import InputError
from core.provenance import ROOT
from core.threads import allowed, take_threads, threads_taken
from experiments.config.groups import EngineConfig
from experiments.runs.build import build_device
from experiments.runs.kept_threads import keep_threads, take_one_thread
from teachers.catalog import MODELS

MANY = 64
V2 = "0::/job/task\n"
V1 = "5:cpu,cpuacct:/job/task\n3:cpuset:/\n0::/\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 CPUs without limits; tests write its control groups below the folder that is returned."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(MANY)))
    for name in ("SLURM_CPUS_PER_TASK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def grouped(place: Path, cgroup: str, files: dict[str, str], root: str = "/") -> Path:
    """A process of control groups, and their files below ``place/fs``."""
    (place / "cgroup").write_text(cgroup)
    kind = "cgroup2 cgroup2 rw" if cgroup == V2 else "cgroup cgroup rw,cpu,cpuacct"
    other = f"30 23 0:27 / {place}/fs/set rw shared:9 - cgroup cgroup rw,cpuset\n"
    (place / "mountinfo").write_text(f"{other}36 35 98:0 {root} {place}/fs rw,nosuid shared:1 master:2 - {kind}\n")
    for name, text in files.items():
        (place / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "fs" / name).write_text(text)
    return place


def test_the_affinity(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert allowed(machine) == MANY
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 9})
    assert allowed(machine) == 3


@pytest.mark.parametrize(
    ("cgroup", "root", "files", "count"),
    [
        (V2, "/", {"job/task/cpu.max": "400000 100000\n"}, 4),
        (V2, "/", {"job/task/cpu.max": "max 100000\n"}, MANY),
        (V2, "/", {"job/task/cpu.max": "max 100000\n", "job/cpu.max": "300000 100000\n"}, 3),
        (V2, "/", {"job/task/cpu.max": "200000 100000\n", "job/cpu.max": "800000 100000\n"}, 2),
        (V2, "/", {"job/task/cpu.max": "150000 100000\n"}, 1),
        (V2, "/", {"job/task/cpu.max": "25000 100000\n"}, 1),
        # A container sees its own group as the root, whatever it is called outside.
        (V2, "/job/task", {"cpu.max": "500000 100000\n"}, 5),
        (V2, "/docker/1", {"cpu.max": "500000 100000\n"}, 5),
        (V2, "/", {"job/task/cpu.max": "of another kernel\n"}, MANY),
        (V2, "/", {}, MANY),
        ("nothing that is known\n", "/", {}, MANY),
        (V1, "/", {"job/task/cpu.cfs_quota_us": "700000\n", "job/task/cpu.cfs_period_us": "100000\n"}, 7),
        (V1, "/", {"job/task/cpu.cfs_quota_us": "-1\n", "job/task/cpu.cfs_period_us": "100000\n"}, MANY),
        (V1, "/", {"job/cpu.cfs_quota_us": "100000\n", "job/cpu.cfs_period_us": "50000\n"}, 2),
        (V1, "/job/task", {"cpu.cfs_quota_us": "600000\n", "cpu.cfs_period_us": "100000\n"}, 6),
        (V1, "/", {"job/task/cpu.cfs_quota_us": "600000\n", "job/task/cpu.cfs_period_us": "0\n"}, MANY),
    ],
)
def test_the_quota_of_control_groups(machine: Path, cgroup: str, root: str, files: dict[str, str], count: int) -> None:
    assert allowed(grouped(machine, cgroup, files, root)) == count


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({"SLURM_CPUS_PER_TASK": "8"}, 8),
        ({"SLURM_CPUS_PER_TASK": "128"}, MANY),
        ({"SLURM_CPUS_PER_TASK": ""}, MANY),
        ({"LOCAL_WORLD_SIZE": "4"}, 16),
        ({"SLURM_CPUS_PER_TASK": "6", "LOCAL_WORLD_SIZE": "4"}, 1),
        ({"SLURM_CPUS_PER_TASK": "2", "LOCAL_WORLD_SIZE": "4"}, 1),
        ({"LOCAL_WORLD_SIZE": "0"}, MANY),
    ],
)
def test_slurm_and_the_processes_of_torchrun(
    machine: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], count: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert allowed(machine) == count


def test_pytorch_takes_what_is_allowed(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    for count in (5, 40):
        monkeypatch.setattr(threads, "allowed", lambda count=count: count)
        take_threads()
    assert taken == [5, 16]
    monkeypatch.setenv("OMP_NUM_THREADS", "12")
    take_threads()
    assert taken == [5, 16], "a number that was given stays"


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """PyTorch as if it took four threads; the last number is the one that it computes with."""
    taken = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: taken[-1])
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    return taken


def test_a_command_gives_the_threads_back(machine: Path, four_threads: list[int]) -> None:
    with pytest.raises(KeyError), threads_taken():
        torch.set_num_threads(2)
        raise KeyError
    assert four_threads == [4, 4, 2, 4]


def test_a_run_goes_on_with_the_threads_it_began_with(
    tmp_path: Path, four_threads: list[int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_threads(tmp_path, chosen=False)
    assert json.loads((tmp_path / "threads.json").read_text()) == {"threads": 4, "processes": 1}
    assert not capfd.readouterr().err
    four_threads.append(16)
    keep_threads(tmp_path, chosen=False)
    assert four_threads[-1] == 4
    said = f"{tmp_path}: goes on with threads: 4, not 16; as it began, so that it ends in the same weights\n"
    assert capfd.readouterr().err == said
    # The settings' own number is a part of the run's name.
    four_threads.append(16)
    keep_threads(tmp_path, chosen=True)
    assert four_threads[-1] == 16 and not capfd.readouterr().err
    monkeypatch.setattr(distributed, "count", lambda: 2)
    keep_threads(tmp_path, chosen=True)
    assert "goes on with processes: 2, not 1; it ends in other weights than it would have" in capfd.readouterr().err


@pytest.mark.parametrize(("name", "count"), [("sam_pocket", 1), ("sam2_pocket", 1), ("sam_vit_b", 4)])
def test_a_small_teacher_takes_one_thread(
    machine: Path, four_threads: list[int], monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    with torch.device("meta"):
        teacher = MODELS[name].config.make()
    take_one_thread(teacher, torch.device("cuda"))
    assert four_threads[-1] == 4
    take_one_thread(teacher, torch.device("cpu"))
    assert four_threads[-1] == count
    four_threads.append(3)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    take_one_thread(teacher, torch.device("cpu"))
    assert four_threads[-1] == 3, "a number that was given stays"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"threads": 0, "processes": 1}', '{"threads": true, "processes": 1}',
             '{"threads": 1e9, "processes": 1}', '{"threads": 999999999, "processes": 1}', '{"threads": 4}'],
)  # fmt: skip
def test_a_damaged_note_of_the_threads_is_named(tmp_path: Path, four_threads: list[int], text: str) -> None:
    (tmp_path / "threads.json").write_text(text)
    with pytest.raises(
        InputError, match=r"threads\.json: is damaged; remove it to go on with 4 threads, or give force"
    ):
        keep_threads(tmp_path, chosen=False)
    assert four_threads == [4] and (tmp_path / "threads.json").read_text() == text


@pytest.mark.parametrize("count", [-1, 0, 1025, 10**9])
def test_a_number_of_threads_out_of_range_is_refused(four_threads: list[int], count: int) -> None:
    with pytest.raises(InputError, match=rf"^engine.threads={count} must be at least 1 and at most 1024$"):
        build_device(EngineConfig(device="cpu", threads=count))
    assert four_threads == [4]
    build_device(EngineConfig(device="cpu", threads=3))
    assert four_threads == [4, 3]


ENTRIES = {
    "the module": ("-m", "experiments", "method=slimsam", "ratio=0.5"),
    "the console script": ("-c", "from experiments.__main__ import command; command()", "method=slimsam", "ratio=0.5"),
    **{
        name: ("-m", name)
        for name in (
            "experiments.pretrain",
            "experiments.readme",
            "experiments.paper_table",
            "data.shapes",
            "data.convert",
        )
    },
    "everything's figure": ("-m", "experiments.everything.figure"),
    "a launcher's process": ("-c", "from experiments.runs.job import Job; import experiments.runs.run"),
    **{
        f"benchmarks.{file.stem}": ("-m", f"benchmarks.{file.stem}")
        for file in sorted((ROOT / "benchmarks").glob("[!_]*.py"))
    },
}


@pytest.mark.parametrize(("name", "given"), [*((name, None) for name in ENTRIES), ("the module", "ACTIVE")])
def test_idle_threads_sleep_before_pytorch_is_loaded(name: str, given: str | None, tmp_path: Path) -> None:
    """In place of PyTorch stands a package that tells what it finds, and ends the process."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        "import os; print(os.environ.get('OMP_WAIT_POLICY'), flush=True); os._exit(0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    environment.pop("OMP_WAIT_POLICY", None)
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    words = [sys.executable, *ENTRIES[name]]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == (f"{given or 'PASSIVE'}\n", 0), done.stderr


def test_float32_is_not_rounded_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with torch.backends.cudnn.flags(allow_tf32=True):
        assert build_device(EngineConfig()) == torch.device("cuda")
        assert not torch.backends.cudnn.allow_tf32
