"""Many files looked at together: in threads where a disk is waited for, in processes where Python computes."""

import gc
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from core.threads import allowed

_THREADS = 8
_MOST_PROCESSES = 16
T = TypeVar("T")
P = TypeVar("P")


def in_threads(call: Callable[[P], T], paths: Sequence[P], together: int = 64) -> Iterable[T]:
    """The results of a call for each path, in order, made in several threads as disks and networks like it."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for results in pool.map(partial(_each, call), _parts(paths, together)):
            yield from results


def in_processes(call: Callable[[Sequence[P]], Sequence[T]], paths: Sequence[P], together: int) -> Iterator[T]:
    """The results for each path, in order, made in forked processes: as many as there are CPUs, 16 at most.

    Args:
        call: of several paths, to the result of each.
        together: how many paths a call has.
    """
    parts, processes = _parts(paths, together), min(allowed(), _MOST_PROCESSES)
    if processes == 1 or len(parts) < 2:
        for part in parts:
            yield from call(part)
        return
    # Forked, they need not import everything anew; they compute with neither threads nor PyTorch. Nothing that they
    # make is part of a circle, and the collector of such would touch, and so copy, all that this process has.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), gc.disable) as pool:
        try:
            for found in pool.map(call, parts):
                yield from found
        finally:
            pool.shutdown(cancel_futures=True)


def _each(call: Callable[[P], T], part: Sequence[P]) -> list[T]:
    return [call(path) for path in part]


def _parts(paths: Sequence[P], together: int) -> list[Sequence[P]]:
    return [paths[start : start + together] for start in range(0, len(paths), together)]
