"""Whether a place takes files is known before the work that is to be written there, and leaves nothing."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import InputError
from core.storage import NotWritten, check_place
from experiments.cli.command_line import main
from experiments.out_place import check_out, writing_to
from tests.smoke.small_disk import SmallDisk
from tests.smoke.test_faults_disk import fill, in_a_fork, small_disk  # noqa: F401 (a fixture)


def test_places_that_take_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("kept")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, tmp_path / "a" / "b" / "c.json", tmp_path / "file", Path("."), Path("new/x"), Path("file")):
        check_place(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "kept"


def test_places_that_take_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, reason in (
        (tmp_path / "file" / "below" / "x", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
        (Path("/proc/none/x"), "No such file or directory"),
    ):
        with pytest.raises(NotWritten, match=re.escape(f"{path}: cannot be written ({reason})")):
            check_place(path)
    with pytest.raises(InputError, match=r"^out=~/file: cannot be written \(Not a directory\); give another path$"):
        check_out("~/file", tmp_path / "file" / "x.png")
    with pytest.raises(InputError, match=r"^out=here: cannot be written \(No space"), writing_to("here"):
        raise NotWritten(tmp_path, 28)


def test_full_read_only_and_closed_places(
    small_disk: Callable[[str], SmallDisk],  # noqa: F811
    tmp_path: Path,
) -> None:
    disk = small_disk("64k")
    fill(disk.folder)
    with pytest.raises(NotWritten, match="No space left"):
        check_place(disk.folder / "x")
    disk.change("64k", read_only=True)
    with pytest.raises(NotWritten, match="Read-only file system"):
        check_place(disk.folder / "new" / "x")

    def as_somebody() -> None:
        os.setuid(65534)
        check_place(tmp_path / "x")

    tmp_path.chmod(0o700)
    if os.getuid() == 0:
        assert f"NotWritten: {tmp_path / 'x'}: cannot be written (Permission denied)" in in_a_fork(as_somebody)


COMMANDS = {
    "predict": "checkpoint=nothing image=nothing.png box=[1,2,3,4] out=file",
    "convert": "checkpoint=nothing to=sampress out=file/x.safetensors",
    "export": "checkpoint=nothing to=torch out=file/x",
    "compare": "one two out=file/x",
    "everything": "checkpoint=nothing image=image.png out=file",
}


def test_evaluations_and_runs_look_before_they_load_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for command in (
        ["evaluate", "checkpoint=nothing", "evaluation=coco", "data.root=.", "out=file"],
        ["evaluate", "checkpoint=nothing", "evaluation=shapes", "runs=file/runs"],
        ["method=scratch", "ratio=0.5", "teacher=sam_vit_b", "runs=file/runs"],
    ):
        assert main(command) == 2
        assert re.search(r"^error: file.*: cannot be written \(Not a directory\)", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_look_before_they_load_anything(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("file", "image.png"):
        (tmp_path / name).write_text("")
    words = COMMANDS[command].split()
    assert main([command, *words]) == 2
    out = next(word for word in words if word.startswith("out="))
    assert capsys.readouterr().err == f"error: {out}: cannot be written (Not a directory); give another path\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "image.png"]
