"""Annotation files at their full size: opened first and again, detections too, and average precision over them.

``python -m benchmarks.annotations`` makes LVIS's validation (19,809 images, 244,707 instances, 1,203 categories) with
1.5 million boxes, opens it in a new process each time, and scores the boxes by faster-coco-eval. ``--layout coco`` does
so with COCO's (5,000 and 36,781), ``--layout sa1b`` opens SA-1B with its labels (``--images``, in tar files unless
``--folders``). Nothing is compared but the first opening with the second.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks._timing import busy, machine
from benchmarks.synthetic.coco import LAYOUTS, write_coco
from benchmarks.synthetic.sa1b import write_sa1b
from data import kept
from data.coco import Coco
from data.detections import Detections
from data.json_fields import parse_json
from data.lvis import Lvis
from data.sa1b import Sa1b
from evaluation.average_precision.figures import average_precision

OPENED: dict[str, Callable[[Path], Any]] = {"lvis": Lvis, "coco": Coco, "sa1b": lambda root: Sa1b(root, "all")}


def opened(layout: str, root: Path) -> str:
    """Open the annotations; how many there are."""
    data = OPENED[layout](root)
    return f"{sum(data.instance_count(index) for index in range(len(data))):,} instances in {len(data):,} images"


def detected(layout: str, root: Path) -> str:
    """Open the annotations and the detections; how many of these there are."""
    data = OPENED[layout](root)
    return f"{len(Detections(root / 'detections.json', data.sizes_hw(), None, data.category_ids)):,} boxes"


def scored(layout: str, root: Path) -> str:
    """Average precision of the boxes; the detections are read as they are."""
    truth, results = OPENED[layout](root).truth(), parse_json(root / "detections.json")
    found = average_precision(truth, results, style=layout, iou_type="bbox")
    return ", ".join(f"{name} {value}" for name, value in list(found.items())[:2])


def _measured(work: Callable[[], str], folder: Path, sender: Any) -> None:
    began, cpu = time.perf_counter(), sum(os.times()[:4])
    with kept.keeping(folder):
        found = work()
    seconds = time.perf_counter() - began, sum(os.times()[:4]) - cpu
    sender.send((found, *seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6))


def line(name: str, work: Callable[[], str], folder: Path) -> str:
    """What a piece of work takes in a process of its own: seconds, of the processor too, and its peak of memory."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(work, folder, sender))
    process.start()
    # Else a process that dies is waited for for ever.
    sender.close()
    found, wall, cpu, memory = receiver.recv()
    process.join()
    return f"{name:34} {wall:8.1f} {cpu:8.1f} {memory:8.2f}  {found}"


def main() -> None:
    """Parse the command line, measure, print a line a piece of work."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.annotations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--layout", choices=sorted(OPENED), default="lvis")
    parser.add_argument("--data", type=Path, help="folder by python -m benchmarks.synthetic.coco; default: one is made")
    parser.add_argument("--detections", type=int, default=1_500_000)
    parser.add_argument("--images", type=int, default=2000, help="of sa1b; all of them have some 100 masks")
    parser.add_argument("--folders", action="store_true", help="sa1b in folders of files")
    given = parser.parse_args()
    print(f"{given.layout}; {machine(torch.device('cpu'))}")
    print(f"{'':34} {'seconds':>8} {'CPU':>8} {'GB':>8}")
    with tempfile.TemporaryDirectory() as temporary:
        root = given.data or Path(temporary) / "data"
        works = {"annotations": opened, "annotations and detections": detected}
        if given.layout == "sa1b":
            del works["annotations and detections"]
            if given.data is None:
                write_sa1b(root, given.images, folders=given.folders)
        elif given.data is None:
            write_coco(root, given.layout, *LAYOUTS[given.layout], given.detections)
        folder = Path(temporary) / "kept"
        for time_of in ("first", "second"):
            for name, work in works.items():
                print(line(f"{name}, {time_of} time", partial(work, given.layout, root), folder), flush=True)
        if given.layout == "sa1b":
            return
        print(line("average precision of boxes", partial(scored, given.layout, root), folder), flush=True)


if __name__ == "__main__":
    main()
    print(busy())
