"""SA-1B as it is downloaded: tar archives read in place are the same data as folders, and damage is reported alike."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.synthetic.sa1b import write_sa1b
from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.tinysam import TinySam
from core.checkpoint import weights_sha256
from core.errors import InputError
from data import kept, parallel, sa1b_files, sa1b_index
from data.batches import ImageBatches, InstanceBatches
from data.content import FileHashes, content_sha256, files_of, image_contents
from data.sa1b import Sa1b
from data.sample import EncodedSample
from data.tar_members import list_members
from tests.unit.tiny import Killed, TinyStudent, tiny_sam

SIZE_HW = (60, 90)
IMAGES = 12


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same twelve images as folders and as three archives."""
    root = tmp_path_factory.mktemp("sa1b")
    for folders in (True, False):
        write_sa1b(root / f"{folders}", IMAGES, 6, SIZE_HW, folders, shard=5, distinct=3)
    return root / "True", root / "False"


@pytest.fixture
def tars(both: tuple[Path, Path], tmp_path: Path) -> Path:
    """The archives, to be damaged."""
    (tmp_path / "tars").mkdir()
    for path in both[1].iterdir():
        (tmp_path / "tars" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "tars"


def identity(data: Sa1b, hashes: FileHashes) -> str:
    files = files_of(data, range(len(data)), True)
    hashes.read(hashes.unread(path for own in files for path in own if path is not None))
    return content_sha256(data, image_contents(data, range(len(data)), True, files, hashes))


def refusal(root: Path, **arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        Sa1b(root, "all", **arguments)
    assert "\n" not in str(caught.value) and ";" in str(caught.value)
    return str(caught.value)


def rewritten(path: Path, change: Any) -> None:
    """An archive with other members: ``change`` gives each one's new name and content, or None to leave it out."""
    with tarfile.open(path) as old:
        members = [(found.name, old.extractfile(found).read()) for found in old]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as new:
        for name, content in filter(None, (change(name, content) for name, content in members)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("split", ["all", "train", "validation"])
def test_archives_and_folders_are_the_same_data(both: tuple[Path, Path], split: str, tmp_path: Path) -> None:
    folders, tars = (Sa1b(root, split, 4) for root in both)
    assert len(folders) == len(tars) == {"all": 12, "train": 8, "validation": 4}[split]
    assert folders.skipped == tars.skipped
    for index in range(len(folders)):
        ours, theirs = folders.sample(index), tars.sample(index)
        assert (ours.image_id, ours.name, ours.annotation_ids) == (theirs.image_id, theirs.name, theirs.annotation_ids)
        assert np.array_equal(ours.image, theirs.image) and np.array_equal(ours.masks, theirs.masks)
        assert np.array_equal(ours.boxes_xyxy, theirs.boxes_xyxy)
        assert ours.points_xy is not None and np.array_equal(ours.points_xy, theirs.points_xy)
    assert identity(folders, FileHashes()) == identity(tars, FileHashes(tmp_path))
    # Kept hashes of an archive's members hold as long as the archive.
    again = FileHashes(tmp_path)
    assert again.unread(path for own in files_of(tars, range(len(tars)), True) for path in own if path) == []


def test_archives_and_folders_together(both: tuple[Path, Path], tars: Path) -> None:
    (tars / "sa_000001.tar").unlink()
    (tars / "sa_000001").symlink_to(both[0] / "sa_000001", target_is_directory=True)
    assert [Sa1b(tars, "all").image_name(index) for index in range(IMAGES)] == [f"sa_{n}.jpg" for n in range(1, 13)]
    (tars / "more").symlink_to(both[0] / "sa_000002", target_is_directory=True)
    assert "sa_000002.tar/sa_11.jpg: the same number is also" in refusal(tars)


def test_batches_are_those_of_drawn_masks(both: tuple[Path, Path]) -> None:
    class Drawn:
        """The same data without what training reads: masks are drawn, images whole."""

        def __init__(self, data: Sa1b) -> None:
            self._data = data
            self.name, self.image, self.sample, self.image_name = data.name, data.image, data.sample, data.image_name

        def __len__(self) -> int:
            return len(self._data)

    data = Sa1b(both[1], "all")
    for jitter in (0.0, 0.1):
        # Images of 90 pixels are less than twice this frame, so that they are read whole.
        ours, theirs = (InstanceBatches(d, 64, 4, 3, 5, jitter)(range(20)) for d in (data, Drawn(data)))  # type: ignore[arg-type]
        assert ours.names == theirs.names and torch.equal(ours.images.images, theirs.images.images)
        assert torch.equal(ours.coverage, theirs.coverage) and torch.equal(ours.boxes_xyxy, theirs.boxes_xyxy)
        assert ours.images.digests == theirs.images.digests and torch.equal(ours.labelled, theirs.labelled)


def test_images_much_larger_than_the_frame_are_read_at_a_reduced_scale(both: tuple[Path, Path]) -> None:
    data = Sa1b(both[1], "all")
    read = data.training_image(0, 32)
    assert read.image.shape == (30, 45, 3) and read.size_hw == SIZE_HW
    assert data.training_image(0, 46).image.shape == (60, 90, 3)
    reduced, whole = (ImageBatches(d, 32, 2, 0)(range(2)) for d in (data, _Whole(data)))
    assert reduced.names == whole.names and torch.equal(reduced.valid, whole.valid)
    assert reduced.digests != whole.digests
    # In units of the normalised frame, of which 1 is about 57 levels.
    assert float((reduced.images - whole.images).abs().mean()) < 0.1
    assert torch.equal(reduced.images == 0, whole.images == 0), "the same padding"


class _Whole:
    """Images alone, read whole."""

    def __init__(self, data: Sa1b) -> None:
        self.name, self.image, self.image_name, self._count = data.name, data.image, data.image_name, len(data)

    def __len__(self) -> int:
        return self._count


def test_a_second_opening_reads_no_archive_and_new_shards_are_added(
    both: tuple[Path, Path], tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = tars / "sa_000002.tar"
    later.rename(tmp_path / "later")
    read: list[str] = []
    describe = sa1b_index._describe
    monkeypatch.setattr(sa1b_index, "_describe", lambda files: read.extend(map(str, files)) or describe(files))
    with kept.keeping(tmp_path / "kept"):
        first = Sa1b(tars, "all")
        assert len(first) == 10 and len(read) == 10
        part = Sa1b(tars, "all", count=3)
        with monkeypatch.context() as patched:
            patched.setattr("data.sa1b_files.list_members", lambda path: pytest.fail(f"{path} was read"))
            again = Sa1b(tars, "all")
        assert len(part) == 3 and len(read) == 10
        assert [again.instance_count(k) for k in range(10)] == [first.instance_count(k) for k in range(10)]
        assert [again.instance_count(k) for k in range(10)] == [len(first.sample(k).masks) for k in range(10)]
        (tmp_path / "later").rename(later)
        assert len(Sa1b(tars, "all")) == IMAGES and read[10:] == [f"{later}/sa_11.json", f"{later}/sa_12.json"]
        rewritten(later, lambda name, content: (name, content))
        assert len(Sa1b(tars, "all")) == IMAGES and len(read) == 14, "another archive"
        for path in (tmp_path / "kept").iterdir():
            path.write_bytes(path.read_bytes()[:-9])
        assert len(Sa1b(tars, "all")) == IMAGES and len(read) == 26, "what is kept was damaged"
    Sa1b(tars, "all")
    assert len(read) == 38, "nothing is kept where nobody said so"


def test_many_files_are_looked_at_in_several_processes(
    both: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Sa1b(both[1], "all")
    monkeypatch.setattr(sa1b_index, "_PARALLEL_FROM", 4)
    monkeypatch.setattr(sa1b_index, "_TOGETHER", 2)
    monkeypatch.setattr(sa1b_files, "_LARGE", 1)
    monkeypatch.setattr(parallel, "allowed", lambda: 2)
    data = Sa1b(both[1], "all")
    assert [data.image_name(k) for k in range(IMAGES)] == [alone.image_name(k) for k in range(IMAGES)]
    assert [data.instance_count(k) for k in range(IMAGES)] == [alone.instance_count(k) for k in range(IMAGES)]


def test_a_truncated_archive(tars: Path) -> None:
    path = tars / "sa_000001.tar"
    members, flaw = list_members(path)
    assert len(members) == 10 and flaw is None
    path.write_bytes(path.read_bytes()[: members[7].offset + 5])
    assert "sa_000001.tar: truncated or damaged" in refusal(tars)
    data = Sa1b(tars, "all", missing="skip")
    # The archive, and the image whose JSON the end cuts; of the last image nothing is there.
    assert len(data) == 10 and data.skipped["image_left_out"] == 2
    path.write_bytes(path.read_bytes()[: members[6].offset + 700])
    data = Sa1b(tars, "all", missing="skip")
    assert len(data) == 10 and data.skipped["image_left_out"] == 2


def test_an_archive_without_its_end(tars: Path) -> None:
    path = tars / "sa_000000.tar"
    last = list_members(path)[0][-1]
    path.write_bytes(path.read_bytes()[: last.offset + -(-last.size // 512) * 512])
    assert "sa_000000.tar: truncated or damaged: it has no end; fetch it again" in refusal(tars)
    path.write_bytes(b"")
    assert "sa_000000.tar: is empty or no tar archive" in refusal(tars)
    path.write_bytes(b"\x1f\x8b" + bytes(2000))
    assert "sa_000000.tar: is compressed by gzip; unpack it" in refusal(tars)


def test_bad_members_are_reported_as_bad_files_are(tars: Path) -> None:
    def damaged(name: str, content: bytes) -> tuple[str, bytes] | None:
        if name == "./sa_6.jpg":
            return name, content[:100]
        if name == "./sa_9.json":
            return name, content.replace(b'"width": 90', b'"width": 91').replace(b"[60, 90]", b"[60, 91]")
        return None if name in ("./sa_7.json", "./sa_8.jpg") else (name, content)

    rewritten(tars / "sa_000001.tar", damaged)
    assert "sa_000001.tar/sa_8.jpg: no such image file beside its JSON" in refusal(tars)
    data = Sa1b(tars, "all", missing="skip", unusable="skip")
    assert [data.image_name(k) for k in range(len(data))] == [f"sa_{n}.jpg" for n in (1, 2, 3, 4, 5, 10, 11, 12)]
    assert data.skipped["image_left_out"] == 4
    rewritten(tars / "sa_000001.tar", lambda name, content: None if name == "./sa_8.json" else (name, content))
    assert "sa_000001.tar/sa_6.jpg: truncated or damaged image" in refusal(tars)


def test_a_bad_annotation_in_an_archive(tars: Path) -> None:
    def damaged(name: str, content: bytes) -> tuple[str, bytes]:
        if name == "./sa_2.json":
            parsed = json.loads(content)
            parsed["annotations"][0]["segmentation"]["counts"] = "o"
            content = json.dumps(parsed).encode()
        return name, content

    rewritten(tars / "sa_000000.tar", damaged)
    message = refusal(tars)
    assert "sa_000000.tar/sa_2.json: annotation 4" in message and "malformed counts string" in message
    data = Sa1b(tars, "all", unusable="skip")
    assert len(data) == IMAGES and data.skipped["unusable_annotation"] == 1
    batch = InstanceBatches(data, 64, 4, 0, 2)(range(IMAGES))
    assert bool(batch.labelled.all())


def linked(path: Path, kind: bytes, links: dict[str, str], first: bool = False) -> None:
    """An archive with links (or sparse files) in place of members, after all others or before them."""
    rewritten(path, lambda name, content: None if name in links else (name, content))
    old = path.read_bytes()
    with tarfile.open(path, "w" if first else "a") as new:
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            new.addfile(member)
        end = new.offset
    if first:
        path.write_bytes(path.read_bytes()[:end] + old)


def test_hard_links_in_an_archive_are_followed(both: tuple[Path, Path], tars: Path, tmp_path: Path) -> None:
    path, rules = tars / "sa_000001.tar", {"missing": "skip", "unusable": "skip"}
    content = {found.path: found.read_bytes() for found in list_members(path)[0]}
    linked(path, tarfile.LNKTYPE, {"./sa_7.jpg": "sa_6.jpg", "./sa_8.jpg": "./sa_7.jpg"})
    found = {member.path: member.read_bytes() for member in list_members(path)[0]}
    assert found == {**content, **dict.fromkeys(("./sa_7.jpg", "./sa_8.jpg"), content["./sa_6.jpg"])}
    with kept.keeping(tmp_path / "kept"):
        for _ in range(2):
            data = Sa1b(tars, "all", **rules)
            assert len(data) == IMAGES and np.array_equal(data.image(6), data.image(5))


@pytest.mark.parametrize("rules", [{}, {"missing": "skip", "unusable": "skip"}])
@pytest.mark.parametrize(
    ("kind", "target", "first", "problem"),
    [
        (tarfile.LNKTYPE, "./sa_99.jpg", False, "is a hard link to ./sa_99.jpg, which is no file before it"),
        (tarfile.LNKTYPE, "./sa_6.jpg", True, "is a hard link to ./sa_6.jpg, which is no file before it"),
        (
            tarfile.SYMTYPE,
            "sa_6.jpg",
            False,
            "is a symbolic link to sa_6.jpg; make the archive again with tar's --deref",
        ),
        (tarfile.GNUTYPE_SPARSE, "", False, "is stored as a sparse file; make the archive again without"),
    ],
)
def test_members_without_content_are_refused(
    kind: bytes, target: str, first: bool, problem: str, rules: dict[str, Any], tars: Path
) -> None:
    path = tars / "sa_000001.tar"
    whole, others = path.read_bytes(), {"./.cache/sa_7.jpg": target, "./notes.txt": target}
    linked(path, kind, others, first)
    assert len(Sa1b(tars, "all", **rules)) == IMAGES
    path.write_bytes(whole)
    linked(path, kind, {**others, "./sa_7.jpg": target}, first)
    assert f"{path}/sa_7.jpg: {problem}" in refusal(tars, **rules)


def test_an_archive_that_changes_after_it_was_hashed_is_refused(tars: Path) -> None:
    data = Sa1b(tars, "all")
    data.hashes = FileHashes()
    identity(data, data.hashes)
    InstanceBatches(data, 64, 4, 0, 2)(range(2))
    rewritten(tars / "sa_000000.tar", lambda name, content: (name, content[:-1] + b" "))
    with pytest.raises(InputError, match="was changed or removed after this command began"):
        data.sample(0)


def test_training_on_archives_that_is_killed_ends_as_training_on_folders(
    both: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = TinySam(TinyStudent(), steps=2, batch=2, prompts=3, boxes="also")

    def weights(root: Path, folder: Path, workers: int = 0) -> str:
        engine = Engine(folder, save_every_s=-1.0, workers=workers)
        student = method.compress(tiny_sam(), Sa1b(root, "train", 2), RunContext(0, folder, engine)).student
        return weights_sha256(student)

    undisturbed = weights(both[0], tmp_path / "folders", workers=2)
    read, reading = [0], Sa1b.training_sample

    def killed(self: Sa1b, index: int, frame: int) -> EncodedSample:
        read[0] += 1
        if read[0] == 6:
            raise Killed
        return reading(self, index, frame)

    with monkeypatch.context() as patched:
        patched.setattr(Sa1b, "training_sample", killed)
        with pytest.raises(Killed):
            weights(both[1], tmp_path / "tars")
    assert (tmp_path / "tars" / "full_stage.state").is_file()
    assert weights(both[1], tmp_path / "tars") == undisturbed
