"""Commands that are disturbed otherwise than by kill -9: ``python -m tests.smoke.disturbing_commands FOLDER WHAT``.

Prints one JSON object: what the disturbed commands ended with and said, and what differs at the end from what an
undisturbed one left.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.smoke.figures_kept import figures_of, leftovers
from tests.smoke.forked_commands import Ended, Forked, begin, import_what, run
from tests.smoke.killing_commands import TINY, WORKS, checked, prepared

LONG = ("method=scratch", "ratio=0.5", "method.steps=12", *TINY)


def until(child: Forked, found: Callable[[], bool]) -> None:
    """Wait for something that a command does."""
    while not found():
        assert not os.waitid(os.P_PID, child.process, os.WEXITED | os.WNOHANG | os.WNOWAIT), "it ended before"
        time.sleep(0.005)


def reported(ended: Ended) -> dict[str, Any]:
    """How a command ended, as JSON takes it."""
    return {"status": ended.status, "said": ended.said.splitlines(), "seconds": ended.seconds}


def _logged(folder: Path) -> Callable[[], bool]:
    return lambda: any(folder.glob("runs/*/scratch.jsonl"))


def slow_steps() -> None:
    """Steps of a tenth of a second, so that there is a time to disturb them in."""
    from compressors.distill.engine import Engine

    step = Engine._step

    def slower(*arguments: Any) -> None:
        time.sleep(0.1)
        step(*arguments)

    Engine._step = slower  # type: ignore[method-assign]


def interrupted(folder: Path, words: list[str], times: int) -> list[dict[str, Any]]:
    """Ctrl-C while a stage trains, once or twice; then the same command again."""
    child = begin(folder, words, slow_steps)
    until(child, _logged(folder))
    for _ in range(times):
        os.kill(child.process, signal.SIGINT)
        time.sleep(0.02)
    ended = child.ended()
    states = [path.name for path in folder.glob("runs/*/*.state")]
    return [reported(ended) | {"states": states}, reported(run(folder, words))]


def beside(folder: Path, words: list[str]) -> list[dict[str, Any]]:
    """The same command twice at a time in one folder; then once more."""
    child = begin(folder, words, slow_steps)
    until(child, _logged(folder))
    second = run(folder, words)
    return [reported(second), reported(child.ended()), reported(run(folder, words))]


def sharing(folder: Path, words: list[str]) -> list[dict[str, Any]]:
    """Two runs at a time that share the cache and the folder of runs, with the leaderboard in it."""
    children = [begin(folder / name, [*words, f"seed={name}", "runs=../runs"]) for name in "01"]
    return [reported(child.ended()) for child in children]


def turned_back(folder: Path, words: list[str]) -> list[dict[str, Any]]:
    """The clock jumps years ahead and back while a run goes on."""

    def jumping() -> None:
        now, calls = time.time, iter(range(10**9))
        time.time = lambda: now() + (-3e8, 3e8, 0, 1e9)[next(calls) % 4]  # type: ignore[assignment]

    first = reported(run(folder, words, jumping))
    rows = json.loads(next(folder.glob("runs/*/result.json")).read_text())["rows"]
    measured = [value for row in rows for name, value in row.items() if name.endswith(("_ms", "seconds", "hours"))]
    return [first | {"least": min(value for value in measured if value is not None)}, reported(run(folder, words))]


def full(folder: Path, words: list[str]) -> list[dict[str, Any]]:
    """A disk that becomes full at each of several sizes; then there is room, and the same command ends."""
    from tests.smoke.small_disk import SmallDisk

    disk = SmallDisk(folder / "runs", "64k")
    try:
        ends = []
        for size in ("64k", "9m", "16m", "22m", "200m"):
            disk.change(size)
            ends.append(reported(run(folder, words)) | {"size": size})
        ends.append({"different": figures_of(disk.folder)})
        return ends
    finally:
        disk.remove()


def main(folder: Path, what: str) -> None:
    """Do one disturbance."""
    prepared(folder)
    words = [word.replace("{root}", str(folder)) for word in (WORKS["run"] if what == "full" else LONG)]
    checked(import_what(folder / "undisturbed", words), "the undisturbed command")
    here = folder / "attempt-0"
    works: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "once": lambda: interrupted(here, words, 1),
        "twice": lambda: interrupted(here, words, 2),
        "beside": lambda: beside(here, words),
        "sharing": lambda: sharing(here, words),
        "clock": lambda: turned_back(here, words),
        "full": lambda: full(here, words),
    }
    ends = works[what]()
    expected, found = figures_of(folder / "undisturbed"), figures_of(here)
    if what == "full":
        found = {f"runs/{name}": value for name, value in ends.pop()["different"].items()}
    if what == "sharing":
        # The run of the other seed has no undisturbed one; its log has the same steps.
        found = {name: value for name, value in found.items() if "-s0-" in name}
        expected = {name: value for name, value in expected.items() if "-s0-" in name}
    different = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({"ends": ends, "different": different, "left": leftovers(here)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
