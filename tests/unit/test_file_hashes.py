"""Hashes of files are kept by path, size and times: what has not changed is not read, what has is read again."""

import hashlib
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from data import content
from data.content import FileHashes

FORK = multiprocessing.get_context("fork")


def hashed(kept: Path | None, *paths: Path) -> tuple[list[str | None], int]:
    """The hashes, and how many files were read for them."""
    hashes = FileHashes(kept)
    unread = hashes.unread(paths)
    hashes.read(unread)
    return [hashes[path] for path in paths], len(unread)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two hundred files in two folders, the number of each being its content."""
    found = []
    for number in range(200):
        path = tmp_path / f"shard{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(number))
        found.append(path)
    return found


def test_a_second_start_reads_nothing(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [sha256(str(number)) for number in range(200)]
    assert hashed(tmp_path / "kept", *files) == (expected, 200)
    assert len(list((tmp_path / "kept").iterdir())) == 2
    # By another way to the same place, too.
    monkeypatch.chdir(tmp_path)
    again = [path.relative_to(tmp_path) for path in files]
    monkeypatch.setattr(content, "_sha256", lambda path: pytest.fail(f"{path} was read"))
    assert hashed(tmp_path / "kept", *again) == (expected, 0)


def test_what_changed_is_read_again_even_if_size_and_modification_time_are_the_same(
    files: list[Path], tmp_path: Path
) -> None:
    before, _ = hashed(tmp_path / "kept", *files)
    status = files[10].stat()
    files[10].write_text("ab")
    os.utime(files[10], ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(files[13], files[12])
    found, read = hashed(tmp_path / "kept", *files)
    assert read == 2
    assert [place for place in range(200) if found[place] != before[place]] == [10, 12, 13]
    assert found[10] == sha256("ab") and found[12] == before[13] and found[13] is None


def test_what_cannot_be_read_has_no_hash(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    paths = [tmp_path / f"{name}.jpg" for name in ("pipe", "folder", "loop", "nowhere")]
    assert hashed(tmp_path / "kept", *paths, tmp_path / "nowhere" / "a.jpg") == ([None] * 5, 0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-9],
        lambda content: content.replace(b"7", b"8"),
        lambda content: b"\xff" * 99,
        lambda content: hashlib.sha256(b"[1]").hexdigest().encode() + b"\n[1]",
        lambda content: hashlib.sha256(b"[" * 99_999).hexdigest().encode() + b"\n" + b"[" * 99_999,
    ],
    ids=["empty", "cut", "digits", "bytes", "no_entries", "deep"],
)
def test_a_damaged_cache_is_made_anew(damage: Any, files: list[Path], tmp_path: Path) -> None:
    own = files[::2]
    expected = hashed(tmp_path / "kept", *own)
    (kept,) = (tmp_path / "kept").iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    assert hashed(tmp_path / "kept", *own) == expected
    assert hashed(tmp_path / "kept", *own)[1] == 0
    kept.unlink()
    os.mkfifo(kept)
    assert hashed(tmp_path / "kept", *own) == expected


def test_a_cache_that_cannot_be_written_stops_nothing(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file in the folder's place")
    assert hashed(tmp_path / "kept", *files)[1] == 200
    assert hashed(None, *files)[1] == 200
    assert (tmp_path / "kept").read_text() == "a file in the folder's place"


def test_a_reading_that_is_stopped_keeps_what_it_has(files: list[Path], tmp_path: Path) -> None:
    def stop(count: int) -> None:
        if count == 130:
            raise KeyboardInterrupt

    hashes = FileHashes(tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        hashes.read(hashes.unread(files), stop)
    assert len(FileHashes(tmp_path / "kept").unread(files)) == 70


def _hash_some(kept: Path, paths: list[Path]) -> None:
    for path in paths:
        hashed(kept, path)


def test_processes_that_share_a_cache_leave_it_whole(files: list[Path], tmp_path: Path) -> None:
    children = [FORK.Process(target=_hash_some, args=(tmp_path / "kept", files[start::4])) for start in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * 4
    found, read = hashed(tmp_path / "kept", *files)
    # Of two that write at once one may be lost, never damaged: what is lost is read again.
    assert found == [sha256(str(number)) for number in range(200)] and read < 200
