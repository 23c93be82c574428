"""What Weights & Biases gets at a run's end: the comparison, images of masks, the student and its figures."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.tracking.logger import Outcome
from experiments.tracking.settings import artifact_name, shortened

LONGEST_IN_A_FILE = 100
"""Characters of an image's name: the package makes a file's name of it."""


def log_summary(run: Any, outcome: Outcome) -> None:
    """The student's figures by their columns' names, the teacher's quality beside them."""
    student = {
        name: value for name, value in outcome.rows[-1].to_dict().items() if isinstance(value, int | float | str)
    }
    teacher = next((row for row in outcome.rows if row.method == "teacher"), None)
    quality = () if teacher is None else (("teacher/miou", teacher.miou), ("teacher/miou_point", teacher.miou_point))
    run.summary.update(student | {name: value for name, value in quality if value is not None})


def log_table(run: Any, outcome: Outcome) -> None:
    """A line for each row of the run."""
    names, lines = outcome.table()
    run.log({"comparison": importlib.import_module("wandb").Table(columns=names, data=lines)})


def log_images(run: Any, outcome: Outcome) -> None:
    """The image of the run's folder, and images with masks as layers."""
    image = importlib.import_module("wandb").Image(str(outcome.image))
    run.log({"masks/comparison": image, **_images(outcome)})


def log_files(run: Any, outcome: Outcome) -> None:
    """The student and the result as artifacts."""
    wandb = importlib.import_module("wandb")
    for path, kind, facts in (
        (outcome.checkpoint, "model", dict(outcome.facts)),
        (outcome.result, "result", {"run_id": outcome.rows[-1].run_id}),
    ):
        artifact = wandb.Artifact(artifact_name(f"{outcome.rows[-1].run_id}-{path.stem}"), kind, metadata=facts)
        # The file stays as it is and where it is: no copy of it is made.
        artifact.add_file(str(path), name=path.name, policy="immutable")
        run.log_artifact(artifact)


RESULTS: dict[str, Callable[[Any, Outcome], None]] = {
    "summary": log_summary,
    "table": log_table,
    "images": log_images,
    "files": log_files,
}
"""What is logged of a finished run, in this order."""


def _images(outcome: Outcome) -> dict[str, list[Any]]:
    """Some held-out images, each as every model sees it: predicted and true masks are layers to switch on and off."""
    from experiments.reporting.mask_images import OBJECTS, predicted_masks, samples_shown

    wandb = importlib.import_module("wandb")
    found: dict[str, list[Any]] = {}
    for sample in samples_shown(outcome.evaluation_set):
        # The largest first: smaller objects lie over them.
        chosen = np.argsort(-sample.areas)[:OBJECTS]
        labels = {0: "background"} | {number + 1: f"object {number + 1}" for number in range(len(chosen))}
        images = found.setdefault(f"masks/{shortened(sample.name, LONGEST_IN_A_FILE)}", [])
        for name, model in outcome.models.items():
            layers = {"prediction": predicted_masks(model, sample, chosen), "ground_truth": sample.masks[chosen]}
            masks = {key: {"mask_data": numbered(part), "class_labels": labels} for key, part in layers.items()}
            images.append(wandb.Image(sample.image, caption=name, masks=masks))
    return found


def numbered(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Masks bool ``[N, H, W]`` as one image uint8 ``[H, W]`` of their numbers from 1, 0 outside of all."""
    numbers = np.zeros(masks.shape[1:], np.uint8)
    for number, mask in enumerate(masks):
        numbers[mask] = number + 1
    return numbers
