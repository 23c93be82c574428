"""Batches of SA-1B for training: images a second of one core, from files and from tar, alone and with prompts.

``python -m benchmarks.loading`` makes images of SA-1B's shape first; ``--files DIR --tar DIR`` takes what is there.
Three ways take turns: ``sampress``; ``drawn``, which is sampress where it cannot use run lengths and reduced scales
(images are read whole, masks drawn and pooled); and ``DataLoader``, the plain way: PyTorch's loader, Pillow and
pycocotools. All give the same: images in the model's frame, boxes, and the share that each cell of the low-res grid has
of each mask. Time is that of the processor, of all threads and processes together; ``in threads`` and ``in processes``
say what two workers of ``sampress`` and of ``DataLoader`` make in a second of the clock.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as mask_api
from torch.utils.data import DataLoader, Dataset

from benchmarks._timing import busy, machine
from benchmarks.synthetic.sa1b import write_sa1b
from compressors.distill.stage import prefetch
from core.geometry import PIXEL_MEAN, PIXEL_STD, boxes_to_frame, resized_size
from data.batches import ImageBatches, InstanceBatches
from data.sa1b import Sa1b
from data.sample import ImageData


class Drawn:
    """A data set without what training reads of files, so that masks are drawn and images read whole."""

    def __init__(self, data: Sa1b) -> None:
        self._count = len(data)
        self.name, self.image, self.sample, self.image_name = data.name, data.image, data.sample, data.image_name

    def __len__(self) -> int:
        return self._count


class Plain(Dataset[dict[str, torch.Tensor]]):
    """Files of SA-1B as a script would read them."""

    def __init__(self, files: list[Path], frame: int, prompts: int) -> None:
        self._files, self._frame, self._prompts = files, frame, prompts

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        path, frame = self._files[index], self._frame
        image = Image.open(path).convert("RGB")
        size_hw = (image.height, image.width)
        height, width = resized_size(size_hw, frame)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float()
        pixels = (pixels - torch.tensor(PIXEL_MEAN)[:, None, None]) / torch.tensor(PIXEL_STD)[:, None, None]
        found = {"image": F.pad(pixels, (0, frame - width, 0, frame - height))}
        if self._prompts:
            annotations = json.loads(path.with_suffix(".json").read_text())["annotations"]
            chosen = (random.sample(annotations, len(annotations)) * self._prompts)[: self._prompts]
            corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in chosen)])
            found["boxes"] = boxes_to_frame(corners, size_hw, frame)
            longer, side = max(size_hw), frame // 4
            shares = []
            for one in chosen:
                mask = torch.from_numpy(mask_api.decode(one["segmentation"])).float()
                square = F.pad(mask, (0, longer - size_hw[1], 0, longer - size_hw[0]))
                shares.append(F.adaptive_avg_pool2d(square[None], side)[0])
            found["masks"] = torch.stack(shares)
        return found


def batches(data: Any, frame: int, prompts: int) -> Callable[[range], Any]:
    """What makes batches of images, with prompts if there are some."""
    if prompts:
        return InstanceBatches(data, frame, frame // 16, 0, prompts, 0.04)
    made = ImageBatches(data, frame, frame // 16, 0)
    # Else a second round would find the first one's images.
    made.images.free = 0
    return made


def ours(data: ImageData | Drawn, frame: int, prompts: int, images: int, workers: int) -> None:
    """Batches of one image each, as the training loop takes them."""
    places = (range(place, place + 1) for place in range(images))
    with prefetch(batches(data, frame, prompts), places, workers) as following:
        for _ in range(images):
            following()


def plain(files: list[Path], frame: int, prompts: int, images: int, workers: int) -> None:
    """The same by PyTorch's loader."""
    for _ in DataLoader(Plain(files[:images], frame, prompts), batch_size=1, shuffle=True, num_workers=workers):
        pass


def _clocks() -> tuple[float, float]:
    """Seconds: of the processor, for this process and those that it waited for; and of the clock."""
    return sum(os.times()[:4]), time.perf_counter()


def in_turns(works: dict[str, Callable[[], None]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of the processor and of the clock for each piece of work; the first round is not counted."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            before = _clocks()
            work()
            after = _clocks()
            if number:
                found[name].append((after[0] - before[0], after[1] - before[1]))
    return {name: (median(cpu for cpu, _ in taken), median(wall for _, wall in taken)) for name, taken in found.items()}


def measure(files: Path, tar: Path, images: int, frame: int, prompts: list[int], rounds: int) -> Iterator[str]:
    """The lines of the table."""
    paths = sorted(path for path in files.rglob("sa_*.jpg"))
    for count in prompts:
        by_files, by_tar = (Sa1b(root, "all", labels=bool(count)) for root in (files, tar))
        works: dict[str, Callable[[], None]] = {
            "sampress, files": partial(ours, by_files, frame, count, images, 0),
            "sampress, tar": partial(ours, by_tar, frame, count, images, 0),
            "drawn, files": partial(ours, Drawn(by_files), frame, count, images, 0),
            "DataLoader, files": partial(plain, paths, frame, count, images, 0),
            "in threads": partial(ours, by_files, frame, count, images, 2),
            "in processes": partial(plain, paths, frame, count, images, 2),
        }
        taken = in_turns(works, rounds)
        slowest = taken["DataLoader, files"][0]
        for name in ("sampress, files", "sampress, tar", "drawn, files", "DataLoader, files"):
            cpu, _ = taken[name]
            yield f"{count:7} {name:20} {1e3 * cpu / images:9.1f} {images / cpu:9.1f} {slowest / cpu:7.2f}x"
        walls = ", ".join(f"{name} {images / taken[name][1]:.1f}" for name in ("in threads", "in processes"))
        yield f"{count:7} images a second of the clock by two workers: {walls}"


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=Path, help="folder of SA-1B's files; default: some are made")
    parser.add_argument("--tar", type=Path, help="folder of tar files with the same images")
    parser.add_argument("--images", type=int, default=16, help="a round, from those")
    parser.add_argument("--frame", type=int, default=1024, help="side of the model's input")
    parser.add_argument("--prompts", type=int, nargs="+", default=[0, 1, 16, 64], help="an image; 0: images alone")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if (given.files is None) != (given.tar is None):
        parser.error("give both --files and --tar, or neither")
    torch.set_num_threads(1)
    print(f"{given.images} images a round, frame {given.frame}, {given.rounds} rounds; {machine(torch.device('cpu'))}")
    print(f"{'prompts':>7} {'way':20} {'ms/image':>9} {'images/s':>9} {'ratio':>8}")
    with tempfile.TemporaryDirectory() as temporary:
        files, tar = given.files, given.tar
        if files is None:
            files, tar = Path(temporary) / "files", Path(temporary) / "tar"
            for folders, out in ((True, files), (False, tar)):
                write_sa1b(out, given.images, folders=folders)
        for line in measure(files, tar, given.images, given.frame, given.prompts, given.rounds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
    print(busy())
