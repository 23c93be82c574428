"""Long jobs on many images: each is read once by all processes together, and memory stays as it is."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.synthetic.sa1b import write_sa1b
from compressors.distill.engine import Engine, Frozen, Stage, parts_of_step
from compressors.distill.optimizer import OptimizerConfig
from core import distributed
from data.batches import ImageBatches, ImageCache, InstanceBatch, InstanceBatches
from data.sa1b import Sa1b
from tests.unit.tiny import Images


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("layer", [nn.Identity, lambda: nn.BatchNorm2d(3)])
def test_processes_together_read_each_image_once_an_epoch(
    monkeypatch: pytest.MonkeyPatch, whole: bool, layer: Callable[[], nn.Module]
) -> None:
    count, accumulate, steps = 8, 2, 3
    monkeypatch.setattr(distributed, "count", lambda: 2)
    read: list[list[int]] = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        data = Images(count)
        # What is decoded is kept for the next epoch, if there is room; here there is none.
        stage = Stage(
            name="toy",
            key="toy",
            model=nn.Sequential(nn.Conv2d(3, 3, 1), layer()),
            batch=ImageBatches(data, 64, 4, 0, ImageCache(0)),
            batch_size=count // accumulate,
            loss=lambda batch, step: {},
            steps=steps,
            optimisation=OptimizerConfig(lr=0.01, accumulate=accumulate),
            whole_batches=whole,
        )
        for step in range(steps):
            for places in parts_of_step(stage, step):
                stage.batch(places)
        read.append(data.read)
    assert Counter(read[0] + read[1]) == dict.fromkeys(range(count), steps)
    assert len(read[0]) == len(read[1])


MOST_GROWTH = 24_000_000
"""Bytes between the 5,000th and the 20,000th image: 1.6 kB an image, a hundredth of what a batch holds of one."""


@pytest.mark.slow
def test_memory_stays_as_it_is_over_20_000_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, size = 20_000, 64
    write_sa1b(tmp_path / "sa1b", count, 3, (size, size), distinct=4)
    data = Sa1b(tmp_path / "sa1b", "all", labels=True)
    assert len(data) == count
    batches = InstanceBatches(data, size, 4, 0, 2)
    # What is decoded is kept up to a size, which these images would only just reach.
    object.__setattr__(batches.images, "images", ImageCache(1_000_000))
    encoder, teacher, resident = nn.Conv2d(3, 8, 16, 16), nn.Conv2d(3, 8, 16, 16), []

    def loss(batch: InstanceBatch, step: int) -> dict[str, Tensor]:
        if step % 25 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
        return {"distance": (encoder(batch.images.images) - frozen(batch, step)).square().mean()}

    frozen = Frozen[InstanceBatch, Tensor](lambda batch, step: teacher(batch.images.images))
    stage = Stage(
        name="toy",
        key="toy",
        model=encoder,
        batch=batches,
        batch_size=8,
        loss=loss,
        steps=count // 8,
        optimisation=OptimizerConfig(lr=0.001),
        frozen=frozen,
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        progress = Engine(tmp_path, workers=1).fit(stage)
    finally:
        torch.set_num_threads(before)
    assert progress.images == count and len(resident) == 100
    early, late = (float(np.median(part)) for part in (resident[20:30], resident[-10:]))
    assert late - early < MOST_GROWTH, f"{early / 1e6:.0f} MB, then {late / 1e6:.0f} MB"
