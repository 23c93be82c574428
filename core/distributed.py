"""The processes of one run, as ``torchrun`` starts them; a single one where it does not."""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from core.errors import InputError, RunFailed

PATIENCE = datetime.timedelta(hours=12)
"""How long processes wait for each other: the first one may fetch weights or measure latency while the others idle."""

T = TypeVar("T")
_GONE = ("connection", "timed out", "timeout", "socket", "remote process exited", "aborted")


def announced() -> int:
    """How many processes ``torchrun`` says there are; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's number on its machine: which of its accelerators it takes."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def init(device: torch.device) -> None:
    """Meet the other processes, over NCCL where ``device`` is a CUDA device, else over gloo. Once met, does nothing."""
    if announced() == 1 or dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE, device_id=device if backend == "nccl" else None)


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
    return int(os.environ.get("RANK", "0"))


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


def from_all(mine: T) -> list[T]:
    """What every process has, in the order of their numbers, in every process."""
    if count() == 1:
        return [mine]
    found: list[Any] = [None] * count()
    with _reraise_lost():
        dist.all_gather_object(found, mine)
    return found


def shard(places: range, batch: bool = False) -> range:
    """This process's part of consecutive places; all parts are equally long.

    Args:
        batch: whether they are those of a batch, else of a step; the message says so.

    Raises:
        InputError: the places cannot be shared equally.
    """
    parts = count()
    if len(places) % parts:
        what, fix = ("step", "a batch (times accumulated batches)")
        if batch:
            what, fix = ("batch, which must be seen as a whole,", "a batch")
        raise InputError(
            f"{len(places)} images a {what} cannot be shared by {parts} processes; choose {fix} that they divide"
        )
    part = len(places) // parts
    return places[rank() * part : (rank() + 1) * part]


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
        RunFailed: one ended, or did not come in time.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error).lower() for sign in _GONE):
            raise
        raise RunFailed(
            f"process {rank()} of {count()}: another process of this run ended or no longer answers; its own error, if "
            "it had time for one, stands above; the same command goes on from the last saved state"
        ) from error


def _spread(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    start = 0
    for tensor in tensors:
        tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()
