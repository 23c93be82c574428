"""Images under the masks that models give for the same boxes and points: ``python -m experiments.prompted_figure``.

Prompts stand in a JSON file: by the name of an image its ``boxes`` ``[[x0, y0, x1, y1], ...]`` and ``points``
``[[x, y], ...]``, in pixels of the image as viewers show it. Each is a prompt of its own; a box gets the single mask, a
point the best predicted of three.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.plain_file import read_json
from core.progress import say
from core.protocols import Segmenter
from core.storage import check_place
from data.upright import upright_image
from evaluation.predictor import SamPredictor
from experiments.everything.figure import heading
from experiments.reporting.mask_images import COLOURS, draw_box, grid, overlaid, save, scaled
from experiments.runs.checkpoints import find_model

LONGEST = 800
"""Longer side of a drawn image in pixels at most; prompts go with it."""
KINDS = {"boxes": 4, "points": 2}
"""Of prompts, and of how many numbers each is."""
LETTERS = 40
"""Of a line above an image, at most: names of files are long."""


def read_prompts(path: Path) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Boxes ``[N, 4]`` and points ``[M, 2]`` by the name of their image.

    Raises:
        InputError: damaged, or a prompt is none.
    """
    raw = read_json(path, "write it anew")
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, prompts in raw.items() if isinstance(raw, dict) else ():
        found[name] = {}
        for kind, size in KINDS.items():
            given = prompts.get(kind, []) if isinstance(prompts, dict) else None
            try:
                array = np.array(given, dtype=np.float64).reshape(-1, size)
                sound = isinstance(given, list) and len(array) == len(given) and np.isfinite(array).all()
            except (TypeError, ValueError):
                sound = False
            if not sound:
                raise InputError(f"{path}: {name}: {kind} must be a list of {size} numbers each")
            found[name][kind] = array
    if not found:
        raise InputError(
            f'{path}: no image; write {{"photo.jpg": {{"boxes": [[x0, y0, x1, y1]], "points": [[x, y]]}}}}'
        )
    return found


def masks_of(model: Segmenter, image: NDArray[np.uint8], prompts: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """A model's masks bool ``[N, H, W]``, by kind of prompt."""
    predictor = SamPredictor(model)
    predictor.set_image(image)
    found: dict[str, list[NDArray[np.bool_]]] = {"boxes": [], "points": []}
    for box in prompts["boxes"]:
        masks, _, _ = predictor.predict(None, None, box, None, False)
        found["boxes"].append(masks[0])
    for point in prompts["points"]:
        masks, iou, _ = predictor.predict(point[None], np.ones(1, np.int64), None, None, True)
        found["points"].append(masks[int(iou.argmax())])
    return {kind: np.array(masks, dtype=bool).reshape(-1, *image.shape[:2]) for kind, masks in found.items()}


def draw(
    path: Path,
    images: Sequence[NDArray[np.uint8]],
    prompts: Sequence[Mapping[str, NDArray[np.float64]]],
    models: Sequence[tuple[str, Segmenter]],
) -> None:
    """Write the figure: a row an image; its prompts, then for each model the masks of boxes and those of points."""
    kinds = [kind for kind in ("boxes", "points") if any(len(each[kind]) for each in prompts)]
    headings = [[part for line in name.splitlines() for part in wrap(line, LETTERS)] for name, _ in models]
    lines = 1 + max(map(len, headings))
    figure, axes = grid(images, 1 + len(kinds) * len(models), lines)
    for place, (row, image, given) in enumerate(zip(axes, images, prompts, strict=True)):
        titles = ["prompts"]
        row[0].imshow(image)
        for number, box in enumerate(given["boxes"]):
            draw_box(row[0], box, number % len(COLOURS), 1.6)
        for number, (x, y) in enumerate(given["points"]):
            colour = tuple(COLOURS[number % len(COLOURS)] / 255)
            row[0].scatter([x], [y], s=32, color=[colour], edgecolors="white", linewidths=1.2, zorder=3)
        shown = iter(row[1:])
        for name, (_, model) in zip(headings, models, strict=True):
            masks = masks_of(model, image, given)
            for kind in kinds:
                next(shown).imshow(overlaid(image, masks[kind]))
                titles.append("\n".join([*name, kind]))
        if place == 0:
            for axis, title in zip(row, titles, strict=True):
                axis.set_title(title, fontsize=8, loc="left")
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, segment, and write the figure."""
    parser = argparse.ArgumentParser(prog="python -m experiments.prompted_figure", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="the folder of the images")
    parser.add_argument("--prompts", type=Path, required=True, help="the prompts' file, .json")
    parser.add_argument("--checkpoints", nargs="+", required=True, help="models by name or file")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of prompts; default both")
    parser.add_argument("--out", type=Path, required=True, help="the figure's file, .png")
    options = parser.parse_args(argv)
    try:
        check_place(options.out)
        prompts = read_prompts(options.prompts)
        found = [find_model(checkpoint) for checkpoint in options.checkpoints]
        images, given = [], []
        for name, of_image in prompts.items():
            image = upright_image(options.images / name)
            scale = min(1.0, LONGEST / max(image.shape[:2]))
            size = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
            images.append(scaled(image, size))
            kept = {kind: array if kind in options.kinds else array[:0] for kind, array in of_image.items()}
            given.append({kind: array * scale for kind, array in kept.items()})
        names = [heading(one) for one in found]
        # Files of one model, such as of two days of training, are distinguished by their paths.
        named = [
            f"{name}:\n{checkpoint}" if names.count(name) > 1 else name
            for name, checkpoint in zip(names, options.checkpoints, strict=True)
        ]
        draw(options.out, images, given, [(name, one.model) for name, one in zip(named, found, strict=True)])
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    say(f"written: {options.out}")


if __name__ == "__main__":
    main()
