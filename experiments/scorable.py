"""Data that give no figure, or one that says nothing: found before the work, or where only pixels show it, after."""

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any

from core.errors import InputError
from data.annotated_pictures import AnnotatedPictures
from data.sample import ImageData
from data.skipped import NO_ANNOTATIONS


def has_instances(data: ImageData, indices: Sequence[int]) -> bool:
    """Whether the rules admit an instance of one of the images; True where nobody knows without reading them all."""
    count = getattr(data, "instance_count", None)
    return count is None or any(count(index) for index in indices)


def require_instances(data: ImageData, indices: Sequence[int], key: str) -> None:
    """Refuse images of which none has an instance that the rules admit.

    Args:
        indices: of the images that are to be scored or learnt from.
        key: of the data set's settings, for messages.

    Raises:
        InputError: there is none; the message says what was left out.
    """
    if has_instances(data, indices):
        return
    if has_instances(data, range(len(data))):
        problem = f"none of the {len(indices)} images asked for has an instance"
        raise InputError(f"{data.name}: {problem}; give a larger evaluation.images")
    source, fix = data.name, "give annotations that have some"
    if isinstance(data, AnnotatedPictures):
        source = f"{data.truth_path}"
        fix = f"correct the file, or give {key}.least_area=0 or {key}.crowd=true where such are to count"
    raise InputError(f"{source}: no annotation is left as an instance ({_left_out(data)}); {fix}")


def require_points(data: ImageData, indices: Sequence[int]) -> None:
    """Refuse images of which an instance does not name the point that it was annotated from.

    Raises:
        InputError: there is one; the message names the first.
    """
    find = getattr(data, "without_point", lambda index: None)
    for index in indices:
        if (found := find(index)) is not None:
            problem = f"its annotations name no points (point_coords of annotation {found} is missing)"
            raise InputError(f"{data.image_name(index)}: {problem}; choose a protocol with another prompt")


def require_records(records: Sized, data: ImageData) -> None:
    """Refuse to report on nothing.

    Raises:
        InputError: there are no records of instances.
    """
    if not len(records):
        problem = f"no instance could be scored ({_left_out(data)})"
        raise InputError(f"{data.name}: {problem}; look at the masks and images of this data set")


def _left_out(data: ImageData) -> str:
    counts = {reason: count for reason, count in data.skipped.items() if count and reason not in NO_ANNOTATIONS}
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items()) or "there are none"


def require_held_out(training: Any, evaluation: Any) -> None:
    """Refuse to score a run on a folder that it was trained on as a whole.

    Args:
        training, evaluation: settings of data sets.

    Raises:
        InputError: both are of one folder, and one of them takes all of it.
    """
    splits = [getattr(settings, "split", None) for settings in (training, evaluation)]
    if "all" not in splits or training._target_ != evaluation._target_:
        return
    if Path(training.root).resolve() == Path(evaluation.root).resolve():
        problem = f"data.split={splits[0]} and evaluation.data.split={splits[1]} share images of {training.root}"
        raise InputError(f"{problem}; give evaluation.data.root=FOLDER of other images, or data.split=train")
