"""Folders that may not be entered are reported in one line, whatever is looked for in them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import InputError
from core.plain_file import reraise_access
from core.storage import reraise_disk
from data.coco import Coco
from data.lvis import Lvis
from data.sa1b import Sa1b
from data.shapes import Shapes
from data.shapes_export import write_data_set
from students.export.manifest import is_export
from students.export.placing import check_folder
from teachers.weights import load_sam, read_state

NOBODY = 65534


def reported(closed: Path, mode: int, work: Callable[[], object]) -> str:
    """The message for somebody who does not own a folder of some mode, from a process of its own."""
    reading, writing = os.pipe()
    closed.chmod(mode)
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            if not os.geteuid():
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            answer = repr(work())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        answer = stream.read().decode()
    os.waitpid(child, 0)
    closed.chmod(0o755)
    return answer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """``shapes`` in both layouts, in folders that anybody may enter."""
    write_data_set(Shapes("train", 4, size=32), tmp_path)
    top = next((parent for parent in tmp_path.parents if parent.name.startswith("pytest-of-")), tmp_path)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.is_relative_to(top):
            parent.chmod(0o755)
    return tmp_path


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "coco's folder": ("coco", lambda root: Coco(root / "coco", "train")),
    "coco's images": ("coco/train2017", lambda root: Coco(root / "coco", "train", labels=False)),
    "coco's annotations": ("coco/annotations", lambda root: Coco(root / "coco", "train")),
    "lvis's folder": ("coco", lambda root: Lvis(root / "coco", "train")),
    "lvis's annotations": ("coco/annotations", lambda root: Lvis(root / "coco", "train")),
    "sa1b's folder": ("sa1b", lambda root: Sa1b(root / "sa1b", "train")),
    "above sa1b": (".", lambda root: Sa1b(root / "sa1b", "train")),
    "a checkpoint's folder": ("sa1b", lambda root: read_state(root / "sa1b" / "a.pth")),
    "above a folder of SamModel": ("sa1b", lambda root: load_sam("sam_pocket", root / "sa1b" / "sam")),
    "where an export is to go": ("sa1b", lambda root: check_folder(root / "sa1b" / "exported")),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_closed_folder_is_reported_in_one_line(root: Path, reader: str) -> None:
    closed, read = READERS[reader]
    answer = reported(root / closed, 0, lambda: read(root))
    assert answer.startswith("InputError: ") and "cannot be read (Permission denied)" in answer, answer
    assert str(root) in answer


def test_a_folder_that_cannot_be_entered_is_no_export(root: Path) -> None:
    assert reported(root / "sa1b", 0, lambda: is_export(root / "sa1b" / "exported")) == "False"


def test_whatever_a_command_may_not_reach_is_reported(root: Path) -> None:
    def command() -> None:
        with reraise_disk(root):
            (root / "sa1b" / "a.pth").stat()

    answer = reported(root / "sa1b", 0, command)
    assert answer == f"InputError: {root}/sa1b/a.pth: Permission denied; get access to it, or give another path"


def test_links_in_a_circle_are_reported_and_other_errors_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "a")
    with (
        pytest.raises(InputError, match=r"/a: cannot be read \(Too many levels of symbolic links\)"),
        reraise_access(tmp_path),
    ):
        os.stat(tmp_path / "a")
    with pytest.raises(KeyError), reraise_access(tmp_path):
        raise KeyError("a")
