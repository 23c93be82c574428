"""How many threads a run takes, and how many threads and processes it began with: by others it ends otherwise."""

import json
from pathlib import Path

import torch

from core import distributed
from core.checkpoint import write_text
from core.errors import InputError
from core.plain_file import parse_json
from core.progress import say
from core.threads import MOST_THREADS, given
from teachers.sam import Sam

NAME = "threads.json"
SMALL = 1e9
"""Weights of an image encoder times cells of its embedding: about the multiply-adds of an image. Operators of smaller
models are shared by threads for nothing: measured at 1e8 to 7e8 (benchmarks/README.md). Between that and SAM-B's 4e11
nothing was measured, and threads are as many as there may be."""


def take_one_thread(teacher: Sam, device: torch.device) -> None:
    """One thread an operator where the teacher is small (:data:`SMALL`), unless the environment gives a number.

    On the CPU. Another thread makes batches then, and what frozen models make of them. A rule rather than a
    measurement: the same command ends in the same weights on machines of one core and of many.
    """
    weights = sum(p.numel() for p in teacher.image_encoder.parameters())
    if device.type == "cpu" and not given() and weights * teacher.config.encoder.grid**2 < SMALL:
        torch.set_num_threads(1)


def keep_threads(folder: Path, chosen: bool) -> None:
    """Compute with as many threads as the run in a folder began with, on whatever machine; note it if it begins.

    Every process of the run calls this. Another number of threads adds in another order, and training makes more and
    more of the difference. Another number of processes does so too; it stays as it is now, and that is said.

    Args:
        chosen: whether the settings name the number, so that it is a part of the run's name already.

    Raises:
        InputError: the note is damaged.
    """
    path, here = folder / NAME, {"threads": torch.get_num_threads(), "processes": distributed.count()}
    if distributed.is_main() and not path.is_file():
        write_text(path, json.dumps(here) + "\n")
    distributed.barrier()
    try:
        began = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        began = None
    sound = isinstance(began, dict) and all(
        type(began.get(key)) is int and 1 <= began[key] <= MOST_THREADS for key in here
    )
    if not sound:
        raise InputError(f"{path}: is damaged; remove it to go on with {here['threads']} threads, or give force=true")
    if not chosen:
        torch.set_num_threads(began["threads"])
        _note_change(folder, "threads", began, here, "as it began, so that it ends in the same weights")
    _note_change(folder, "processes", here, began, "it ends in other weights than it would have")


def _note_change(folder: Path, key: str, now: dict[str, int], otherwise: dict[str, int], note: str) -> None:
    if now[key] != otherwise[key]:
        say(f"{folder}: goes on with {key}: {now[key]}, not {otherwise[key]}; {note}")
