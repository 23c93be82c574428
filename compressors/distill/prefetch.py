"""Batches made ahead of their use, in background threads."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def ahead(make: Callable[[range], T], places: Iterator[range], workers: int) -> Iterator[Callable[[], T]]:
    """Yields a function that gives ``make(place)`` for one place after the other, in their order.

    Each is a function of its place alone, so threads change when a batch is made and not what is in it. An error of
    ``make`` is raised where its batch is asked for.

    Args:
        workers: threads; each keeps two batches in advance. With 0, batches are made when they are asked for.
    """
    if not workers:
        yield lambda: make(next(places))
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
    waiting: deque[Future[T]] = deque()

    def fill() -> None:
        while len(waiting) < 2 * workers and (place := next(places, None)) is not None:
            waiting.append(pool.submit(make, place))

    def following() -> T:
        fill()
        made = waiting.popleft().result()
        fill()
        return made

    try:
        yield following
    finally:
        pool.shutdown(cancel_futures=True)


def chunks(places: range, size: int) -> Sequence[range]:
    """Consecutive parts of at most ``size`` places."""
    return [places[start : start + size] for start in range(0, len(places), size)]
