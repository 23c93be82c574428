"""A run that a training image stopped goes on once the image is mended or left out: it was never trained on."""

import contextlib
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from core import distributed
from core.checkpoint import write_text
from core.errors import InputError
from core.plain_file import parse_json
from experiments.config.schema import RunConfig
from experiments.runs.data_content import DataContent
from experiments.runs.folder import holds_nothing, lock_run_dir

NAME = "stopped_by.json"
"""Of a run that was refused: the key of its states, what it was of, and the places of the images that stopped it."""


def whatever_is_damaged(settings: RunConfig) -> RunConfig:
    """A run without what becomes of images that cannot be read: it is the same until one is met."""
    training, scored = (
        replace(data, missing="refuse") if hasattr(data, "missing") else data
        for data in (settings.data, settings.evaluation.data)
    )
    return replace(settings, data=training, evaluation=replace(settings.evaluation, data=scored))


def take_over(folder: Path, apart: str, images: DataContent) -> None:
    """Give a run that has no folder yet that of one that images stopped, and that is the same but for those.

    Args:
        folder: of the run.
        apart: hash of all that it depends on besides its training images.
        images: it trains on.
    """
    now = [str(image) for image in images.images]
    for path in [] if folder.exists() else sorted(folder.parent.glob(f"*/{NAME}")):
        note = _read(path)
        before, damaged = note.get("images"), note.get("damaged")
        if note.get("run") != apart or not isinstance(before, list) or not isinstance(damaged, list):
            continue
        others = [place for place, content in enumerate(now) if before[place : place + 1] != [content]]
        if len(before) == len(now) and set(others) <= set(damaged):
            with lock_run_dir(path.parent, fresh=False):
                os.replace(path.parent, folder)
            return


@contextlib.contextmanager
def refusals_noted(folder: Path, sha256: str, apart: str, images: DataContent) -> Iterator[str]:
    """A block that trains; if an image stops it, that is noted in the run's folder. Yields the key of the run's states.

    Args:
        sha256: of the run, which is the key unless the run goes on with another one's states.
        apart, images: as of :func:`take_over`.
    """
    key = str(_read(folder / NAME).get("key", sha256))
    distributed.barrier()
    if distributed.is_main() and key != sha256:
        # From here on any image may be trained on.
        write_text(folder / NAME, json.dumps({"key": key}) + "\n")
    elif distributed.is_main():
        (folder / NAME).unlink(missing_ok=True)
    try:
        yield key
    except InputError:
        refused: Collection[int] = getattr(images.data, "refused", frozenset())
        damaged = {place for place, index in enumerate(images.indices) if images.data.image_id(index) in refused}
        # Of several processes the one that met the image knows of it, and that is not always the first.
        if damaged and not holds_nothing(folder):
            # Another one may have met another image in the same step.
            damaged |= set(_read(folder / NAME).get("damaged", ()))
            contents = [str(image) for image in images.images]
            note = {"key": key, "run": apart, "images": contents, "damaged": sorted(damaged)}
            write_text(folder / NAME, json.dumps(note) + "\n")
        raise


def _read(path: Path) -> dict[str, Any]:
    try:
        note = parse_json(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError):
        note = {}
    return note if isinstance(note, dict) else {}
