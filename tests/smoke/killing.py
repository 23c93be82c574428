"""A run that stops itself, and the run after it: ``python -m tests.smoke.killing FOLDER SEED COUNT FOLDERS``.

Places to die at are events of a run: a step, a line of the log, a record of the teacher's cache half written, a file
half written, a file written but not yet renamed. Every attempt is a fork of this process, which itself computes
nothing: a killed attempt, then one that goes on in the same folder. Prints one JSON object with what the undisturbed
run, each resumed one and the interrupted ones (:mod:`tests.smoke.interrupting`) came to.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning  # noqa: F401  # Imported once, not by every fork.

from compressors.distill.engine import Engine
from compressors.distill.optimizer import OptimizerConfig
from compressors.method import RunContext
from compressors.slimsam import SlimSam
from core.checkpoint import weights_sha256
from data.embeddings import DiskEmbeddings
from tests.smoke.interrupting import interruptions
from tests.unit.tiny import Images, tiny_sam

METHOD = SlimSam(
    0.5,
    importance_images=3,
    steps=6,
    batch=2,
    validations=3,
    optimisation=OptimizerConfig(lr=0.01, ema=0.5, schedule="plateau", patience=0),
)


KINDS = ("half a record", "half a file", "not yet renamed", "renamed", "step")
"""Of events; records first, since a run that goes on has few left to write."""


class Countdown:
    """Counts events, and kills the process at one of them.

    Args:
        kill_at: the kind of that event, and how many of its kind come before it; None for none. Threads write records
            while others train, so that the order of events of several kinds is another one each time.
    """

    def __init__(self, kill_at: tuple[str, int] | None) -> None:
        self.kill_at, self.events = kill_at, list[str]()

    def __call__(self, event: str) -> None:
        if (event, self.events.count(event)) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.events.append(event)


def instrument(at: Countdown) -> None:
    """Make the program pass through the places a kill can find it at."""
    step, save, replace, append = Engine._step, torch.save, os.replace, DiskEmbeddings._append

    def counted_step(*arguments: Any) -> None:
        at("step")
        step(*arguments)

    def halving_save(content: Any, path: Path) -> None:
        save(content, path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        at("half a file")
        path.write_bytes(whole)

    def counted_replace(*arguments: Any) -> None:
        at("not yet renamed")
        replace(*arguments)
        at("renamed")

    def halving_append(store: DiskEmbeddings, record: bytes) -> Any:
        path, start = append(store, record)
        with open(path, "r+b") as stream:
            stream.truncate(start + len(record) // 2)
            at("half a record")
            stream.seek(0, os.SEEK_END)
            stream.write(record[len(record) // 2 :])
        return path, start

    Engine._step, torch.save, os.replace = counted_step, halving_save, counted_replace  # type: ignore[assignment,method-assign]
    DiskEmbeddings._append = halving_append  # type: ignore[assignment,method-assign]


def compress(folder: Path, kill_at: tuple[str, int] | None) -> dict[str, Any]:
    """One run: what it ended with."""
    at = Countdown(kill_at)
    instrument(at)
    data = Images()
    engine = Engine(folder, workers=1, save_every_s=-1.0, log_every=1)
    teacher = tiny_sam()
    probe = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = teacher.encode(probe)

    def validate(model: Any) -> float:
        return -(model.encode(probe) - expected).square().mean().item()

    context = RunContext(0, folder, engine, "disk", folder / "cache", validate)
    compressed = METHOD.compress(teacher, data, context)
    logs = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    for entry in logs:
        for measured in ("images_per_s", "peak_memory_bytes"):
            entry.pop(measured, None)
    digest = hashlib.sha256(json.dumps(logs).encode()).hexdigest()
    return {
        "student": weights_sha256(compressed.student),
        "images": compressed.images_seen,
        "logs": digest,
        "left": sorted(path.name for path in folder.glob(".*.part")),
        "events": at.events,
    }


def forked(work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """What a fork of this process found; None if it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        status = 1
        try:
            os.write(writing, json.dumps(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        content = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    if status:
        raise SystemExit("an attempt failed")
    found: dict[str, Any] = json.loads(content)
    return found


def main(folder: Path, seed: int, count: int, folders: int) -> None:
    """Print what an undisturbed run ends with, then the same for runs killed ``count`` times in a row at most.

    Each of these runs has a folder of its own.
    """
    torch.set_num_threads(1)
    undisturbed = forked(lambda: compress(folder / "undisturbed", None))
    assert undisturbed is not None
    resumed = []
    rng = np.random.Generator(np.random.PCG64(seed))
    for number in range(folders):
        here, kinds = folder / str(number), []
        for kind in sorted((KINDS[(number * count + turn) % len(KINDS)] for turn in range(count)), key=KINDS.index):
            # So early that the later attempts have something to do.
            place = (kind, int(rng.integers(max(1, undisturbed["events"].count(kind) // count))))
            if forked(lambda here=here, place=place: compress(here, place)) is not None:  # type: ignore[misc]
                break
            kinds.append(kind)
        found = forked(lambda here=here: compress(here, None))  # type: ignore[misc]
        assert found is not None
        resumed.append(found | {"killed_at": kinds})
    stopped = interruptions(folder / "interrupted", forked)
    print(json.dumps({"undisturbed": undisturbed, "resumed": resumed, "interrupted": stopped}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
