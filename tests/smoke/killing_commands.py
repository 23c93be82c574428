"""kill -9 at random moments over whole commands: ``python -m tests.smoke.killing_commands FOLDER WORK SEED KILLS``.

Each command is killed, and given again in the same folder, until it ends; then what it left is compared with what an
undisturbed one left. Every second kill waits for a random time, every other one for a random event (a file half
written, written and not yet renamed, renamed, a line or a record half written). Prints one JSON object a folder.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.smoke.figures_kept import figures_of, leftovers
from tests.smoke.forked_commands import Ended, begin, import_what, kill_after, run

TINY = (
    *("method.batch=2", "data.count=8", "evaluation.images=2", "evaluation.latency_runs=1", "logger=csv"),
    *("logger.scores=0", "teacher.recipe.importance_images=2", "teacher.checkpoint={root}/pocket.pth"),
    *("engine.cache_folder=cache", "engine.workers=1", "engine.device=cpu", "engine.precision=float32", "runs=runs"),
)
QUICK_PTQ = ("then.metric=minmax", "then.images=1", "then.prompts=1", "then.rounds=1", "then.candidates=2")
WORKS: dict[str, tuple[str, ...]] = {
    "run": ("method=slimsam", "ratio=0.5", "method.importance_images=2", "method.steps=2", *TINY),
    "chain": ("method=scratch", "ratio=0.5", "method.steps=1", "then=ptq", *TINY, *QUICK_PTQ),
    "sweep": ("-m", "method=scratch,mobilesam", "ratio=0.5", "method.steps=1", *TINY),
    "evaluate": (
        *("evaluate", "checkpoint={root}/pocket.pth", "evaluation=shapes_box", "evaluation.images=40", "out=scored"),
        *("evaluation.latency_runs=1", "evaluation.precision=float32", "engine.device=cpu"),
    ),
    "everything": (
        *("everything", "checkpoint={root}/pocket.pth", "image={root}/images", "out=masks", "engine.device=cpu"),
        *("generator.points_per_side=4", "generator.pred_iou_thresh=0", "generator.stability_score_thresh=0"),
    ),
    "convert": ("convert", "checkpoint={root}/pocket.pth", "to=hf", "out=hf"),
    "export": ("export", "checkpoint={root}/pocket.pth", "to=torch", "out=exported"),
    "leaderboard": ("leaderboard", "runs={root}/before/runs", "out=board", "results=false", "published=false"),
}
"""What is killed. A leaderboard is made of a run that was done before."""
ATTEMPTS = 8
"""Kills in a folder before its command is let end."""


class Countdown:
    """Counts events, and kills the process at the given one; -1 for none."""

    def __init__(self, kill_at: int, note: Path | None = None) -> None:
        self.kill_at, self.note, self.events = kill_at, note, 0

    def __call__(self, event: str) -> None:
        if self.events == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.events += 1
        if self.note is not None:
            self.note.write_text(str(self.events))

    def instrument(self) -> None:
        """Make the program pass through the places a kill can find it at."""
        from core import checkpoint
        from data.embeddings import DiskEmbeddings
        from evaluation.records import PartFile

        replace, umask, append, write = os.replace, checkpoint.umask, DiskEmbeddings._append, PartFile._write

        def counted_replace(*arguments: Any) -> None:
            self("not yet renamed")
            replace(*arguments)
            self("renamed")

        def counted_umask() -> int:
            # Called between writing a file and renaming it.
            self("written")
            return umask()

        def halving_append(store: DiskEmbeddings, record: bytes) -> Any:
            path, start = append(store, record)
            with open(path, "r+b") as stream:
                stream.truncate(start + len(record) // 2)
                self("half a record")
                stream.seek(0, os.SEEK_END)
                stream.write(record[len(record) // 2 :])
            return path, start

        def halving_write(part: PartFile, content: Any) -> None:
            start = part._stream.tell()
            write(part, content)
            with open(part._stream.name, "r+b") as stream:
                stream.seek(start)
                whole = stream.read()
                stream.truncate(start + len(whole) // 2)
                self("half a line")
                stream.seek(start)
                stream.write(whole)

        os.replace, checkpoint.umask = counted_replace, counted_umask  # type: ignore[assignment]
        DiskEmbeddings._append = halving_append  # type: ignore[assignment,method-assign]
        PartFile._write = halving_write  # type: ignore[method-assign]


def prepared(folder: Path) -> None:
    """Write what the works begin with: a teacher and images, in a fork."""

    def write() -> None:
        from PIL import Image

        from data.shapes import Shapes
        from tests.unit.tiny import pocket_file

        pocket_file(folder / "pocket.pth")
        (folder / "images").mkdir()
        for index in range(4):
            Image.fromarray(Shapes(split="train", count=4).image(index)).save(folder / "images" / f"{index}.png")

    ended = _forked(write)
    assert ended == 0, "the teacher and the images could not be written"


def _forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def checked(ended: Ended, what: str) -> Ended:
    """A command that must have ended well."""
    assert ended.status == 0, f"{what} ended with {ended.status}: {ended.said[-2000:]}"
    return ended


def main(folder: Path, work: str, seed: int, kills: int) -> None:
    """Print what an undisturbed command left, then the same of each folder where it was killed."""
    prepared(folder)
    words = [word.replace("{root}", str(folder)) for word in WORKS[work]]
    noted = folder / "events"
    if work == "leaderboard":
        checked(run(folder / "before", [word.replace("{root}", str(folder)) for word in WORKS["run"]]), "run")
    checked(import_what(folder / "imports", words), work)
    undisturbed = checked(run(folder / "undisturbed", words, Countdown(-1, noted).instrument), work)
    expected, events = figures_of(folder / "undisturbed"), int(noted.read_text()) if noted.exists() else 0
    print(
        json.dumps({"work": work, "files": sorted(expected), "events": events, "seconds": undisturbed.seconds}),
        flush=True,
    )
    rng = np.random.Generator(np.random.PCG64(seed))
    done = tried = number = 0
    while done < kills and tried < 3 * kills:
        here, hits, ended = folder / f"attempt-{number}", 0, None
        for _ in range(min(ATTEMPTS, kills - done)):
            tried += 1
            if tried % 2 and events:
                place = int(rng.integers(events))
                ended = run(here, words, Countdown(place).instrument)
            else:
                child = begin(here, words)
                kill_after(child, float(rng.uniform(0, undisturbed.seconds)))
                ended = child.ended()
            hits += ended.was_killed
            done += ended.was_killed
            if not ended.was_killed:
                break
        last = checked(run(here, words) if ended is None or ended.was_killed else ended, work)
        # Given once more, it has nothing to do or does the same.
        found = figures_of(here)
        different = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        print(
            json.dumps(
                {"kills": hits, "different": different, "left": leftovers(here), "said": last.said.splitlines()[-3:]}
            ),
            flush=True,
        )
        number += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
