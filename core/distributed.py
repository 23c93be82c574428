"""The processes of one run, as ``torchrun`` starts them; a single one where it does not."""

import contextlib
import datetime
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from core.errors import InputError, OthersLost

PATIENCE = datetime.timedelta(hours=12)
"""How long processes wait for each other: the first one may fetch weights or measure latency while the others idle."""

ERROR_WAIT = datetime.timedelta(seconds=10)
"""How long a process that met an error waits for the others to say that they met it too."""

T = TypeVar("T")
_store: dist.Store | None = None
_errors = itertools.count()
_GONE = ("connection", "timed out", "timeout", "socket", "remote process exited", "aborted")


def announced() -> int:
    """How many processes ``torchrun`` says there are; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_count() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", announced()))


def local_rank() -> int:
    """This process's number on its machine: which of its accelerators it takes."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def init(device: torch.device) -> None:
    """Meet the other processes, over NCCL where ``device`` is a CUDA device, else over gloo. Once met, does nothing."""
    if announced() == 1 or dist.is_initialized():
        return
    global _store
    backend = "nccl" if device.type == "cuda" else "gloo"
    # Met here rather than by PyTorch, so that errors can be spoken of while others wait in an exchange of tensors.
    _store, number, processes = next(dist.rendezvous("env://", timeout=PATIENCE))
    dist.init_process_group(
        backend,
        timeout=PATIENCE,
        store=_store,
        rank=number,
        world_size=processes,
        device_id=device if backend == "nccl" else None,
    )


def shut_down() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def count() -> int:
    """How many processes met."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    if dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get("RANK", "0")) if announced() > 1 else 0


def is_main() -> bool:
    """Whether this process is the one that writes and speaks."""
    return rank() == 0


def barrier() -> None:
    """Until every process is here."""
    if dist.is_initialized():
        with _reraise_lost():
            dist.barrier()


def from_main(make: Callable[[], T]) -> T:
    """What the first process makes, in every process.

    Raises:
        InputError: it did in the first process.
    """
    if count() == 1:
        return make()
    made: list[Any] = [None]
    if is_main():
        try:
            made = [make()]
        except InputError as error:
            made = [error]
    with _reraise_lost():
        dist.broadcast_object_list(made)
    if isinstance(made[0], InputError):
        raise made[0]
    found: T = made[0]
    return found


def on_main(make: Callable[[], T]) -> T | None:
    """What the first process makes, in that process; None in the others, which it may be too large to send to.

    Raises:
        InputError: it did in the first process; in all of them.
    """
    made: list[T] = []
    from_main(lambda: made.append(make()))
    return made[0] if made else None


def from_all(mine: T) -> list[T]:
    """What every process has, in the order of their numbers, in every process."""
    if count() == 1:
        return [mine]
    found: list[Any] = [None] * count()
    with _reraise_lost():
        dist.all_gather_object(found, mine)
    return found


def is_shared(error: str) -> bool:
    """Whether every process met an error, as they all meet what is wrong with a setting.

    Each process that meets one calls this, before it parts from the others, and waits for them :data:`ERROR_WAIT` at
    most. Processes that have not met each other know nothing but settings, so theirs is shared.

    Args:
        error: its text, and whatever tells what was being done.
    """
    if _store is None or not dist.is_initialized():
        return True
    # All have met equally many before, or would have ended.
    place = f"sampress/error/{next(_errors)}"
    everybody = [f"{place}/{other}" for other in range(count())]
    try:
        _store.set(f"{place}/{rank()}", error)
        if not _are_there(_store, everybody):
            return False
        shared = all(other == error.encode() for other in _store.multi_get(everybody))
        _store.set(f"{place}/{rank()}/read", "")
        if shared and is_main():
            # It may be the one that keeps the store, and so must not leave before the others have read.
            _are_there(_store, [f"{key}/read" for key in everybody])
    except RuntimeError:
        # The process that kept the store is gone.
        return False
    return shared


def _are_there(store: dist.Store, keys: list[str]) -> bool:
    """Whether keys come to be in a store within :data:`ERROR_WAIT`; its own wait would print what it waited for."""
    deadline = time.monotonic() + ERROR_WAIT.total_seconds()
    while not store.check(keys):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def shard(places: range, batch: bool = False) -> range:
    """This process's part of consecutive places; all parts are equally long.

    Args:
        batch: whether they are those of a batch, else of a step; the message says so.

    Raises:
        InputError: the places cannot be shared equally.
    """
    parts = count()
    check_shared(len(places), parts, batch)
    part = len(places) // parts
    return places[rank() * part : (rank() + 1) * part]


def check_shared(images: int, processes: int, batch: bool = False) -> None:
    """Refuse images that processes cannot share equally.

    Args:
        batch: as of :func:`shard`.

    Raises:
        InputError: they cannot; the message has both numbers.
    """
    if images % processes:
        what, fix = ("step", "a batch (times accumulated batches)")
        if batch:
            what, fix = ("batch, which must be seen as a whole,", "a batch")
        raise InputError(
            f"{images} images a {what} cannot be shared by {processes} processes; choose {fix} that they divide"
        )


def stacked(mine: Tensor) -> Tensor:
    """A tensor of every process, in the order of their numbers: ``[processes, *mine.shape]``, equal in all of them."""
    if count() == 1:
        return mine[None]
    found = [torch.empty_like(mine) for _ in range(count())]
    with _reraise_lost():
        dist.all_gather(found, mine.contiguous())
    return torch.stack(found)


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in place and in one exchange."""
    together = list(tensors)
    if count() == 1 or not together:
        return
    flat = torch.cat([tensor.flatten().float() for tensor in together])
    with _reraise_lost():
        dist.all_reduce(flat)
    flat /= count()
    _spread(flat, together)


@contextlib.contextmanager
def _reraise_lost() -> Iterator[None]:
    """A block that needs the other processes; if one of them is gone, that is reported in one line.

    Raises:
        OthersLost: one ended, or did not come in time.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error).lower() for sign in _GONE):
            raise
        raise OthersLost(
            f"process {rank()} of {count()}: another process of this run ended or no longer answers; its own error, if "
            "it had time for one, stands above; the same command goes on from the last saved state"
        ) from error


def _spread(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    start = 0
    for tensor in tensors:
        tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()
