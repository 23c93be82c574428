"""The teacher's cache: a hit is what a miss computed, and nothing torn, damaged or foreign is ever returned."""

import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from compressors.distill.engine import Engine
from compressors.distill.teacher_outputs import TeacherEmbeddings, embedding_cache
from data.batches import ImageBatches
from data.embeddings import LOOK_EVERY_S, DiskEmbeddings, MemoryEmbeddings
from tests.unit.tiny import Images, tiny_encoder

CHANNELS, GRID = 16, 4


def record(number: int) -> tuple[bytes, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    values = torch.randn(CHANNELS, GRID, GRID, generator=generator)
    return number.to_bytes(32, "big"), values, torch.rand(GRID, GRID, generator=generator) > 0.5


def filled(folder: Path, numbers: range = range(3)) -> DiskEmbeddings:
    store = DiskEmbeddings(folder, CHANNELS, GRID)
    for number in numbers:
        store.put(*record(number))
    return store


def holds(store: DiskEmbeddings | MemoryEmbeddings, number: int) -> bool:
    """Whether a record is there; where it is, it must be the one that was put."""
    key, values, valid = record(number)
    found = store.get(key)
    if found is None:
        return False
    assert found[0].dtype == torch.float16 and torch.equal(found[0], values.half()) and torch.equal(found[1], valid)
    return True


@pytest.mark.parametrize("reopened", [False, True])
def test_what_was_put_is_found(tmp_path: Path, reopened: bool) -> None:
    store = filled(tmp_path / "cache")
    if reopened:
        store = DiskEmbeddings(tmp_path / "cache", CHANNELS, GRID)
    assert len(store) == 3 and all(holds(store, number) for number in range(3)) and not holds(store, 3)
    # What is appended after the shard was mapped is found too.
    store.put(*record(3))
    assert holds(store, 3) and holds(DiskEmbeddings(tmp_path / "cache", CHANNELS, GRID), 3)


def test_a_record_is_kept_once(tmp_path: Path) -> None:
    store = filled(tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    filled(tmp_path)
    store.put(*record(0))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == size


def test_a_record_torn_at_any_byte_is_not_returned_and_is_made_again(tmp_path: Path) -> None:
    filled(tmp_path / "whole")
    (shard,) = (tmp_path / "whole").iterdir()
    content = shard.read_bytes()
    length = (len(content) - 30) // 3
    for cut in (0, 1, 29, 30, 31, 30 + length - 1, 30 + length, 30 + length + 40, len(content) - 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / shard.name).write_bytes(content[:cut])
        store = DiskEmbeddings(folder, CHANNELS, GRID)
        whole = max(0, (cut - 30) // length)
        assert [holds(store, number) for number in range(3)] == [number < whole for number in range(3)]
        for number in range(3):
            store.put(*record(number))
        assert all(holds(DiskEmbeddings(folder, CHANNELS, GRID), number) for number in range(3))


def test_a_damaged_record_is_noticed_wherever_the_damage_is(tmp_path: Path) -> None:
    filled(tmp_path / "whole", range(1))
    (shard,) = (tmp_path / "whole").iterdir()
    content = shard.read_bytes()
    # In the key, the map of valid cells, the embedding, the checksum.
    for place in (30, 30 + 31, 30 + 33, 30 + 200, len(content) - 1):
        folder = tmp_path / str(place)
        folder.mkdir()
        (folder / shard.name).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        store = DiskEmbeddings(folder, CHANNELS, GRID)
        assert not holds(store, 0)
        store.put(*record(0))
        assert holds(store, 0) and holds(DiskEmbeddings(folder, CHANNELS, GRID), 0)


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "notes.shard").write_bytes(b"not ours" * 1000)
    (tmp_path / "empty.shard").touch()
    other = DiskEmbeddings(tmp_path, CHANNELS, GRID + 1)
    assert len(other) == 0
    other.put(b"k" * 32, torch.zeros(CHANNELS, GRID + 1, GRID + 1), torch.ones(GRID + 1, GRID + 1, dtype=torch.bool))
    again = DiskEmbeddings(tmp_path, CHANNELS, GRID)
    assert len(again) == 3 and again.get(b"k" * 32) is None
    with pytest.raises(ValueError, match="a record here is 16 x 4 x 4"):
        again.put(b"k" * 32, torch.zeros(CHANNELS, 2, 2), torch.ones(2, 2, dtype=torch.bool))


def test_shards_end_at_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.embeddings.SHARD_BYTES", 1500)
    filled(tmp_path, range(7))
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 4 and max(sizes) <= 1500
    assert all(holds(DiskEmbeddings(tmp_path, CHANNELS, GRID), number) for number in range(7))


def test_what_another_process_keeps_meanwhile_is_found_and_not_kept_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each of eight processes would come to keep every image, epoch by epoch."""
    now = [0.0]
    monkeypatch.setattr("data.embeddings.time", SimpleNamespace(monotonic=lambda: now[0]))
    first, second = filled(tmp_path, range(0)), filled(tmp_path, range(0))
    for number in range(3):
        first.put(*record(number))
        # It looks now and then, and not at every miss.
        assert not holds(second, number)
        now[0] += LOOK_EVERY_S
        assert holds(second, number)
        second.put(*record(number))
    second.put(*record(3))
    now[0] += LOOK_EVERY_S
    assert holds(first, 3) and len(list(tmp_path.iterdir())) == 2
    sizes = sum(path.stat().st_size for path in tmp_path.iterdir())
    # As in one shard, but for the header of the second.
    (alone,) = filled(tmp_path / "one", range(4)).folder.iterdir()
    assert sizes == alone.stat().st_size + 30


def _write(folder: Path, first: int) -> None:
    for start in range(first, first + 40, 4):
        filled(folder, range(start, start + 4))


def test_processes_write_without_clashes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, first)) for first in (0, 20, 40)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    store = DiskEmbeddings(tmp_path, CHANNELS, GRID)
    assert all(holds(store, number) for number in range(80))


def test_a_full_disk_ends_the_keeping_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = filled(tmp_path, range(1))

    def full(record: bytes) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(store, "_append", full)
    store.put(*record(1))
    store.put(*record(2))
    assert holds(store, 0) and not holds(store, 1)
    assert capsys.readouterr().err.count("no longer kept (No space left on device)") == 1


def test_memory_keeps_up_to_its_limit() -> None:
    size = 2 * CHANNELS * GRID * GRID + GRID * GRID
    store = MemoryEmbeddings(2 * size + 1)
    for number in range(3):
        store.put(*record(number))
    assert [holds(store, number) for number in range(3)] == [True, True, False]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["disk", "memory", "off"])
def test_a_hit_equals_a_miss_whatever_the_neighbours(tmp_path: Path, mode: str, precision: str) -> None:
    batches = ImageBatches(Images(), 64, 4, 0)
    encoder, engine = tiny_encoder(), Engine(tmp_path, precision=precision)
    plain = TeacherEmbeddings(encoder, engine)(batches.of([0, 1, 2, 3]))
    kept = TeacherEmbeddings(encoder, engine, embedding_cache(mode, tmp_path / "cache", encoder))
    assert torch.equal(kept(batches.of([1, 0])), plain[[1, 0]])
    assert torch.equal(kept(batches.of([0, 1, 2, 3])), plain)
    assert kept.computed == (6 if mode == "off" else 4)
    torch.testing.assert_close(plain, encoder(batches.of([0, 1, 2, 3]).images), rtol=2e-2, atol=2e-2)


def test_other_weights_precisions_and_images_have_entries_of_their_own(tmp_path: Path) -> None:
    batch = ImageBatches(Images(), 64, 4, 0).of([0, 1])
    makers = [(tiny_encoder(0), "float32"), (tiny_encoder(1), "float32"), (tiny_encoder(0), "bfloat16")]
    for encoder, precision in makers:
        engine = Engine(tmp_path, precision=precision)
        kept = TeacherEmbeddings(encoder, engine, embedding_cache("disk", tmp_path / "cache", encoder))
        assert torch.equal(kept(batch), TeacherEmbeddings(encoder, engine)(batch))
        assert kept.computed == 2
    assert len(DiskEmbeddings(tmp_path / "cache", CHANNELS, GRID)) == 6


def test_numbers_of_threads_have_entries_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run would end in other weights where one with more threads has filled the cache."""
    batch, encoder = ImageBatches(Images(), 64, 4, 0).of([0, 1]), tiny_encoder()
    computed = []
    for threads in (1, 2, 1):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        kept = TeacherEmbeddings(encoder, Engine(tmp_path), embedding_cache("disk", tmp_path / "cache", encoder))
        kept(batch)
        computed.append(kept.computed)
    assert computed == [2, 2, 0]
