"""``doctor`` says what is there, what is not, how to get it, and whether a run can work; no look can end it."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
import torch

from core.checkpoint import file_sha256
from experiments.cli.command_line import main
from experiments.cli.doctor import command
from experiments.cli.doctor import data_sets as doctor_data
from experiments.cli.doctor import machine as doctor_machine
from experiments.cli.doctor import packages as doctor_packages
from experiments.cli.doctor import services as doctor_services
from experiments.cli.doctor import weights as doctor_weights
from experiments.cli.doctor.command import NotReady, examine, not_ready
from experiments.cli.doctor.finding import STATES, Finding, probed
from students.catalog import RELEASED
from teachers.catalog import MODELS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without downloads and logins."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_here_a_run_can_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "format=json", f"runs={tmp_path}/runs"]) == 0
    output = capsys.readouterr()
    assert not output.err
    rows = json.loads(output.out)["rows"]
    assert {tuple(row) for row in rows} == {("part", "name", "state", "found", "fix")}
    assert {row["state"] for row in rows} <= set(STATES) - {"unknown"}
    assert all(row["fix"] for row in rows if row["state"] != "ok"), "each missing thing has its fix"
    parts = [row["part"] for row in rows]
    assert list(dict.fromkeys(parts)) == [
        *("machine", "packages", "extras", "data", "checkpoints", "loggers", "launchers")
    ]
    found = {row["name"]: row for row in rows}
    assert found["torch"]["state"] == "ok" and metadata.version("torch") in found["torch"]["found"]
    assert found["sam_pocket"]["state"] == "ok"
    assert not (tmp_path / "runs").exists(), "nothing is written"


def test_the_table_has_each_command_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"runs={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    url = MODELS["sam_vit_h"].release.url  # type: ignore[union-attr]
    assert sum(line.startswith("  sam_vit_h: curl ") and line.endswith(url) for line in lines) == 1
    assert lines[-1].startswith("a run can work here")


def test_what_a_run_needs_decides_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(doctor_weights.PACKAGED_SHA256, "sam_pocket", "0" * 64)
    assert main(["doctor", f"runs={tmp_path}", "format=json"]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("error: a run cannot work here: sam_pocket: ") and output.err.count("\n") == 1
    rows = {row["name"]: row for row in json.loads(output.out)["rows"]}
    assert rows["sam_pocket"]["state"] == "broken" and rows["torch"]["state"] == "ok", "the rows are there all the same"


def test_a_failing_look_is_a_finding() -> None:
    def look() -> list[Finding]:
        raise OSError("the disk is gone\nand more")

    assert probed("machine", "disk", look) == [Finding("disk", "unknown", "OSError: the disk is gone", part="machine")]


def test_looks_that_fail_do_not_end_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object) -> list[Finding]:
        raise RuntimeError("no")

    for module, name in ((doctor_machine, "processor"), (doctor_packages, "extras"), (doctor_services, "loggers")):
        monkeypatch.setattr(module, name, broken)
    findings = by_name(examine(tmp_path, None))
    for name in ("processor", "extras", "loggers"):
        assert (findings[name].state, findings[name].found) == ("unknown", "RuntimeError: no")
    assert findings["sam_pocket"].state == "ok" and not_ready(findings.values()) is None


def test_one_line_names_the_first_problem_and_its_fix() -> None:
    good = Finding("x", "ok", "here", needed=True)
    spare = Finding("y", "missing", "not here", "get it")
    bad = Finding("z", "broken", "bent", "mend it", needed=True)
    assert not_ready([good, spare]) is None
    assert not_ready([good, spare, bad, bad]) == "a run cannot work here: z: bent (and 1 more); mend it"
    assert NotReady("why", [bad]).rows == [bad]


def test_packages_are_compared_with_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    requested = ["numpy>=1", "numpy>=999", "no-such-package>=2"]
    monkeypatch.setattr(doctor_packages, "requirements", lambda: {"": requested, "export": ["numpy>=999", "scipy"]})
    fits, old, gone = doctor_packages.packages()
    assert fits.state == "ok" and fits.found.endswith("(required: >=1)") and fits.needed
    assert old.state == "broken" and old.fix.endswith("-m pip install -U 'numpy>=999'")
    assert gone.state == "missing" and gone.fix.endswith("-m pip install 'no-such-package>=2'")
    (extra,) = doctor_packages.extras()
    assert extra.state == "broken" and not extra.needed
    assert extra.found.endswith("lacks numpy") and "[export]'" in extra.fix


def test_a_package_that_cannot_be_imported_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> None:
        raise OSError("libx.so: cannot open")

    monkeypatch.setattr(doctor_packages, "requirements", lambda: {"": ["numpy"]})
    monkeypatch.setattr(doctor_packages.importlib, "import_module", fails)
    (found,) = doctor_packages.packages()
    assert found.state == "broken" and found.found.endswith("cannot be imported: libx.so: cannot open")


def test_what_is_required_is_that_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert doctor_packages.requirements() == {"": project["dependencies"], **project["optional-dependencies"]}
    assert set(doctor_packages.EXTRAS) == set(project["optional-dependencies"])
    assert project["requires-python"] == ">=" + ".".join(map(str, doctor_machine.OLDEST))


def test_data_sets_by_their_layout(tmp_path: Path) -> None:
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "part").mkdir()
    for name in ("000000000139.jpg", "part/000000000285.WEBP", ".000000000632.jpg", "notes.txt"):
        (tmp_path / "val2017" / name).touch()
    (tmp_path / "train2017").mkdir()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "lvis_v1_val.json").write_text("{}")
    (tmp_path / "annotations" / "instances_val2017.json").touch()
    (tmp_path / "images" / "sa_000000").mkdir(parents=True)
    for name in ("sa_1.jpg", "sa_2.jpg", "sa_1.json"):
        (tmp_path / "images" / "sa_000000" / name).touch()
    found = by_name(doctor_data.data_sets(str(tmp_path)))
    states = {name: finding.state for name, finding in found.items()}
    assert states == {
        "shapes": "ok",
        "coco train2017/": "broken",
        "coco val2017/": "ok",
        "instances_train2017.json": "missing",
        "instances_val2017.json": "broken",
        "lvis_v1_train.json": "missing",
        "lvis_v1_val.json": "ok",
        "sa1b": "ok",
    }
    assert found["coco val2017/"].found == "2 images" and found["sa1b"].found == "2 images"
    assert f"unzip -d '{tmp_path}'" in found["instances_train2017.json"].fix
    assert not_ready(found.values()) is None, "a run needs none of them"
    for number in (0, 1):
        with tarfile.open(tmp_path / f"sa_00000{number}.tar", "w") as archive:
            archive.add(tmp_path / "images" / "sa_000000" / "sa_1.json", "./sa_1.json")
    found = by_name(doctor_data.data_sets(str(tmp_path)))
    assert found["sa1b"].found == "2 tar files, 0.0 GB, 2 images beside them" and found["sa1b"].state == "ok"
    (tmp_path / "sa_000001.tar").write_bytes((tmp_path / "sa_000000.tar").read_bytes()[:700])
    broken = by_name(doctor_data.data_sets(str(tmp_path)))["sa1b"]
    assert broken.state == "broken" and broken.found.startswith("1 of 2 tar files have no end, such as sa_000001.tar")


def test_no_data_and_a_wrong_folder(tmp_path: Path) -> None:
    nothing = by_name(doctor_data.data_sets(None))
    assert nothing["coco"].state == "missing" and "data.root=FOLDER" in nothing["coco"].fix
    wrong = by_name(doctor_data.data_sets(str(tmp_path / "nowhere")))
    assert wrong[f"data.root={tmp_path / 'nowhere'}"].state == "broken"


def test_the_folder_that_is_given_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "format=json", f"data.root={tmp_path}"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["coco val2017/"]["found"] == "no such folder below data.root"


def test_checkpoints_where_downloads_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "mobile_sam.pt").write_bytes(b"not it")
    (folder / "SlimSAM-50.pth").write_bytes(b"whatever")
    found = by_name([*doctor_weights.teachers(), *doctor_weights.released()])
    assert set(found) == {*(name for name, model in MODELS.items() if model.release), *RELEASED}
    assert found["mobile_sam"].state == "broken" and "is not the published file" in found["mobile_sam"].found
    assert found["slimsam_50"].state == "ok" and "no hash" in found["slimsam_50"].found
    assert found["sam_vit_b"].state == "missing"
    assert found["sam_vit_b"].fix == (
        f"curl -L -C - --create-dirs -o '{folder}/sam_vit_b_01ec64.pth' "
        "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth"
    )


def test_every_packaged_teacher_is_the_one_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: model.packaged for name, model in MODELS.items() if model.packaged is not None}
    assert {name: file_sha256(path) for name, path in files.items()} == doctor_weights.PACKAGED_SHA256
    assert {finding.name: finding.state for finding in doctor_weights.packaged()} == dict.fromkeys(files, "ok")
    # The default of a run needs none of the others.
    monkeypatch.setitem(doctor_weights.PACKAGED_SHA256, "sam_photo", "0" * 64)
    found = by_name(doctor_weights.packaged())
    assert found["sam_photo"].state == "broken" and not found["sam_photo"].needed and found["sam_pocket"].needed


def test_a_login_is_found_and_not_shown(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_services, "version_of", lambda _: "1.0")
    found = by_name(doctor_services.loggers())
    assert found["wandb"].state == "missing" and "wandb login" in found["wandb"].fix
    (nobody / ".netrc").write_text("machine api.wandb.ai login user password verysecret\n")
    (nobody / ".netrc").chmod(0o600)
    found = by_name(doctor_services.loggers())
    assert (found["wandb"].state, found["wandb"].found) == ("ok", "1.0, logged in by .netrc")
    monkeypatch.setenv("WANDB_API_KEY", "verysecret")
    found = by_name(doctor_services.loggers())
    assert found["wandb"].found == "1.0, logged in by WANDB_API_KEY"
    assert all("verysecret" not in f"{finding}" for finding in found.values())


def test_what_is_not_installed_has_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_services, "version_of", lambda _: None)
    found = by_name([*doctor_services.loggers(), *doctor_services.launchers()])
    assert found["csv"].state == found["basic"].state == "ok"
    for name, extra in (("wandb", "wandb"), ("tensorboard", "tensorboard"), ("joblib", "sweeps")):
        assert found[name].state == "missing" and f"[{extra}]'" in found[name].fix


def test_the_disk_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = doctor_machine.disk(tmp_path / "a" / "b")
    assert found.state == "ok" and found.found.endswith("GB free") and not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    (blocked,) = doctor_machine.disk(tmp_path / "file" / "runs")
    assert blocked.state == "broken" and blocked.needed
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    (full,) = doctor_machine.disk(tmp_path)
    assert full.state == "broken" and full.needed and full.found == "0.0 GB free, 0.5 GB is needed"


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor_machine, "_driver", lambda: None)
    (found,) = doctor_machine.accelerators()
    assert found.state == "missing" and not found.needed, "runs use the CPU"
    (found,) = doctor_machine.accelerators("cuda")
    assert found.state == "broken" and found.needed
    monkeypatch.setattr(doctor_machine, "_driver", lambda: "580.1")
    (found,) = doctor_machine.accelerators()
    assert found.state == "broken" and not found.needed and "driver 580.1" in found.found


def test_each_gpu_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Facts:
        name, total_memory, major = "NVIDIA X", 80_000_000_000, 9

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Facts)
    found = by_name(doctor_machine.accelerators("cuda:2"))
    assert found["cuda:1"].found == "NVIDIA X, 80.0 GB, bfloat16"
    assert found["engine.device=cuda:2"].state == "broken" and found["engine.device=cuda:2"].needed
    monkeypatch.setattr(Facts, "major", 7)
    assert "engine.precision=float16" in by_name(doctor_machine.accelerators())["cuda:0"].found


@pytest.mark.parametrize(
    "arguments", [["doctor", "format=json"], pytest.param(["doctor"], marks=pytest.mark.slow), ["leaderboard"]]
)
def test_without_torch_doctor_still_answers(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import importlib.abc, sys\n"
        "class Block(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'hydra'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from experiments.__main__ import command\n"
        "sys.argv = ['x', *sys.argv[1:]]\n"
        "sys.exit(command())\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    if arguments == ["leaderboard"]:
        assert done.stderr.endswith("see what to install: python -m experiments doctor\n") and not done.stdout
    elif arguments == ["doctor"]:
        assert re.search(r"^broken +torch ", done.stdout, re.M) and re.search(r"^\? +sam_pocket ", done.stdout, re.M)
    else:
        rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
        assert rows["torch"]["state"] == "broken" and rows["sam_pocket"]["state"] == "unknown"
        assert "pip install --force-reinstall" in rows["torch"]["fix"]


def test_plain_text_where_rich_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    command.print_findings([Finding("x", "missing", "not here", "get it", part="a")])
    assert capsys.readouterr().out == "-      a x: not here; get it\n"
