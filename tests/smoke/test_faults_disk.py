"""A disk that is full, read-only or forbidden: one line each, nothing half-written is read as whole."""

import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from compressors.distill.log import StageLog
from compressors.distill.state import Progress, load_state, save_state
from core.checkpoint import read_safetensors, remove_abandoned, replacing, write_safetensors, write_text
from core.errors import InputError
from core.storage import NotWritten
from data.embeddings import DiskEmbeddings
from evaluation.records import ImageRecords, PartFile, read_parts
from experiments.runs.folder import lock_run_dir
from students.export.manifest import MANIFEST
from students.export.placing import replacing_folder
from tests.smoke.small_disk import SmallDisk

_NOBODY = 65534


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], SmallDisk]]:
    disks: list[SmallDisk] = []

    def make(size: str) -> SmallDisk:
        try:
            disks.append(SmallDisk(tmp_path / f"disk-{len(disks)}", size))
        except OSError as error:
            pytest.skip(f"no file system can be mounted here ({error.strerror})")
        return disks[-1]

    yield make
    for disk in disks:
        disk.remove()


def in_a_fork(work: Callable[[], None]) -> str:
    """What a fork of this process raised, as text; an empty text if nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        reported = ""
        try:
            work()
        except BaseException as error:
            reported = f"{type(error).__name__}: {error}"
        os.write(writing, reported.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        reported = stream.read()
    os.waitpid(child, 0)
    return reported


def fill(folder: Path) -> Path:
    """Leave no room on a disk; returns the file that takes it."""
    path = folder / "filling"
    with open(path, "wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            return path


def stored(folder: Path) -> None:
    """Hold the folder of a run for a moment."""
    with lock_run_dir(folder, fresh=False):
        pass


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: write_text(path, "x" * 200_000),
    "tensors": lambda path: write_safetensors(path, {"a": torch.zeros(100_000)}, {"format": "f"}),
    "state": lambda path: save_state(path, "key", {"model": torch.nn.Linear(200, 200)}, Progress(step=3)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_reported_with_the_file_and_the_fix(kind: str, small_disk: Callable[[str], SmallDisk]) -> None:
    disk = small_disk("1m")
    path = disk.folder / "file"
    WRITERS[kind](path)
    before = path.read_bytes()
    fill(disk.folder)
    with pytest.raises(NotWritten) as reported:
        WRITERS[kind](path)
    assert str(reported.value) == (
        f"{path}: cannot be written (No space left on device); free some space there, or give another folder "
        "(runs=, out=)"
    )
    assert path.read_bytes() == before and not list(disk.folder.glob(".*.part"))
    disk.change("4m")
    WRITERS[kind](path)
    assert len(path.read_bytes()) == len(before)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_limit_on_the_size_of_files_is_reported(kind: str, tmp_path: Path) -> None:
    """Needs no rights: the always-run variant of a full disk."""
    path = tmp_path / "file"
    WRITERS[kind](path)
    before = path.read_bytes()

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        WRITERS[kind](path)

    reported = in_a_fork(limited)
    assert reported.startswith(f"NotWritten: {path}: cannot be written (File too large); raise the limit"), reported
    assert path.read_bytes() == before and not list(tmp_path.glob(".*.part"))


def test_a_state_that_did_not_fit_is_the_earlier_one(small_disk: Callable[[str], SmallDisk]) -> None:
    disk, model = small_disk("1m"), torch.nn.Linear(200, 200)
    path = disk.folder / "stage.state"
    save_state(path, "key", {"model": model}, Progress(step=3))
    fill(disk.folder)
    with pytest.raises(NotWritten):
        save_state(path, "key", {"model": model}, Progress(step=4))
    assert load_state(path, "key", {"model": model}).step == 3


def test_the_log_of_a_stage_on_a_full_disk_goes_on_later(small_disk: Callable[[str], SmallDisk]) -> None:
    disk = small_disk("1m")
    path = disk.folder / "stage.jsonl"
    with StageLog(path, 0) as log:
        log({"step": 1, "loss": 0.5})
    filling = fill(disk.folder)
    with pytest.raises(NotWritten, match=r"stage\.jsonl: cannot be written \(No space left"):
        StageLog(path, 1)
    filling.unlink()
    with StageLog(path, 1) as log:
        fill(disk.folder)
        with pytest.raises(NotWritten, match=r"stage\.jsonl: cannot be written \(No space left"):
            for step in range(2, 2000):
                log({"step": step, "loss": 0.25})
    (disk.folder / "filling").unlink()
    with StageLog(path, 1) as log:
        log({"step": 2, "loss": 0.25})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_records_of_images_on_a_full_disk_are_whole_or_none(small_disk: Callable[[str], SmallDisk]) -> None:
    disk = small_disk("1m")
    part = PartFile(disk.folder, 0, "key")
    part.add(ImageRecords(0))
    fill(disk.folder)
    with pytest.raises(NotWritten, match=r"part-0\.jsonl: cannot be written \(No space left"):
        for place in range(1, 3000):
            part.add(ImageRecords(place, skipped={"crowd": place}))
    part.close()
    kept = read_parts(disk.folder, "key")
    assert sorted(kept) == list(range(len(kept))) and len(kept) < 3000
    assert all(image.skipped.get("crowd", 0) == place for place, image in kept.items())
    (disk.folder / "filling").unlink()
    again = PartFile(disk.folder, 0, "key")
    again.add(ImageRecords(len(kept)))
    again.close()
    assert sorted(read_parts(disk.folder, "key")) == list(range(len(kept) + 1))


def test_the_cache_of_embeddings_goes_without_a_full_disk(
    small_disk: Callable[[str], SmallDisk], capsys: pytest.CaptureFixture[str]
) -> None:
    disk = small_disk("64k")
    cache = DiskEmbeddings(disk.folder, 16, 8)
    records = {bytes([number]) * 32: torch.full((16, 8, 8), float(number)) for number in range(60)}
    for key, embedding in records.items():
        cache.put(key, embedding, torch.ones(8, 8, dtype=torch.bool))
    assert capsys.readouterr().err.count("no longer kept (No space left on device)") == 1
    assert 0 < len(cache) < 60
    again = DiskEmbeddings(disk.folder, 16, 8)
    assert len(again) == len(cache)
    for key, embedding in records.items():
        found = again.get(key)
        assert (found is not None) == (cache.get(key) is not None)
        assert found is None or torch.equal(found[0].float(), embedding)
    disk.change("1m")
    for key, embedding in records.items():
        again.put(key, embedding, torch.ones(8, 8, dtype=torch.bool))
    assert len(DiskEmbeddings(disk.folder, 16, 8)) == 60


def _pytests_above(folder: Path) -> list[Path]:
    """The folders above one that pytest made, which nobody else may enter."""
    top = next((parent for parent in folder.parents if parent.name.startswith("pytest-of-")), folder.parent)
    return [parent for parent in folder.parents if parent.is_relative_to(top)]


def test_read_only_is_reported(small_disk: Callable[[str], SmallDisk]) -> None:
    disk = small_disk("1m")
    disk.change("1m", read_only=True)
    for kind, write in WRITERS.items():
        with pytest.raises(NotWritten, match=r"cannot be written \(Read-only file system\); make it writable"):
            write(disk.folder / kind)
    with pytest.raises(InputError, match=r"cannot be written \(Read-only file system\); give another folder"):
        stored(disk.folder / "run")


def test_a_missing_permission_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    readable = folder / "secret.safetensors"
    write_safetensors(readable, {"a": torch.zeros(2)}, {})
    folder.chmod(0o755)
    readable.chmod(0o600)
    for parent in _pytests_above(folder):
        parent.chmod(0o755)

    def as_somebody(work: Callable[[], object]) -> str:
        def done() -> None:
            if os.getuid() == 0:
                os.setuid(_NOBODY)
            else:
                folder.chmod(0o500)
                readable.chmod(0)
            work()

        return in_a_fork(done)

    reported = as_somebody(lambda: write_text(folder / "new", "text"))
    assert reported.startswith(
        f"NotWritten: {folder}/new: cannot be written (Permission denied); get the permission"
    ), reported
    reported = as_somebody(lambda: read_safetensors(readable))
    assert reported.startswith("InputError: ") and str(readable) in reported and "Permission denied" in reported, (
        reported
    )

    folder.chmod(0)
    reported = as_somebody(lambda: read_safetensors(readable))
    assert reported.startswith("InputError: ") and "Permission denied" in reported, reported
    folder.chmod(0o755)

    reported = as_somebody(lambda: stored(folder / "run"))
    assert "cannot be written (Permission denied); give another folder (runs=, out=)" in reported


def test_a_file_where_a_folder_should_be_and_a_path_that_is_too_long_are_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritten, match="move the file that stands where a folder should be"):
        write_text(tmp_path / "file" / "result.json", "{}")
    with pytest.raises(NotWritten, match="give a shorter path"):
        write_text(tmp_path / ("x" * 300) / "result.json", "{}")
    with pytest.raises(InputError, match=r"give another folder \(runs=, out=\)"):
        stored(tmp_path / "file" / "run")


def test_an_error_of_another_file_is_not_taken_for_one_of_writing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "new"):
        (tmp_path / "other").read_bytes()
    with pytest.raises(ValueError, match="writing"), replacing(tmp_path / "new"):
        raise ValueError("writing of a letter")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_was_writing_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    abandoned = tmp_path / ".result.json.abcdefgh.part"
    abandoned.write_text("half")
    with replacing(tmp_path / "kept") as stored:
        remove_abandoned.cache_clear()
        remove_abandoned(tmp_path)
        assert stored.exists() and not abandoned.exists()
        stored.write_text("whole")
    assert (tmp_path / "kept").read_text() == "whole"


def test_what_a_killed_export_left_goes_and_the_export_before_it_comes_back(tmp_path: Path) -> None:
    folder, left = tmp_path / "exported", tmp_path / ".exported.abcdefgh.part"
    aside = tmp_path / ".exported.abcdefgh.part.earlier"
    for place in (left, aside):
        place.mkdir()
        (place / MANIFEST).write_text(place.name)
    with replacing_folder(folder) as stored:
        # As killed between the two renamings: what stood there stands there again, until this one is whole.
        assert (folder / MANIFEST).read_text() == aside.name
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["exported", stored.name])
        with replacing_folder(folder) as other:
            assert stored.is_dir(), "one that is being written was taken for abandoned"
            (other / MANIFEST).write_text("other")
        (stored / MANIFEST).write_text("stored")
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]
    assert (folder / MANIFEST).read_text() == "stored"
