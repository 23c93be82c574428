"""Photographs under all the masks that each of several models finds: ``python -m experiments.everything.figure``.

Settings are those of the command ``everything``; words such as ``generator=hierarchical`` change them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import hydra
import numpy as np
from hydra.errors import HydraException
from matplotlib.figure import Figure
from numpy.typing import NDArray
from omegaconf.errors import OmegaConfBaseException

from core.errors import InputError
from core.progress import counted, say
from core.storage import check_place
from data.upright import upright_image
from evaluation.everything import EverythingGenerator, EverythingSettings
from experiments.config.compose import settings_of
from experiments.config.messages import as_input_error
from experiments.config.targets import register
from experiments.everything.command import generator_settings
from experiments.everything.drawing import painted
from experiments.everything.files import places
from experiments.reporting.mask_images import save, scaled
from experiments.runs.checkpoints import LoadedModel, find_model

WIDTH = 440
"""Of an image in pixels."""
DPI = 100
PRESET = "everything_pocket"


Cell = tuple[NDArray[np.uint8], int]
"""An image as a model segments it: uint8 ``[h, w, 3]``, and how many masks there are."""


def settings_from(words: Sequence[str]) -> EverythingSettings:
    """The generator's settings of the command ``everything``.

    Args:
        words: ``key=value``, as on the command line.

    Raises:
        InputError: a word is no such setting.
    """
    register()
    # The settings looked for do not depend on these two, which have to be there.
    given = [f"experiment={PRESET}", "checkpoint=any", "image=any", *words]
    try:
        with hydra.initialize_config_module("conf", version_base="1.3"):
            return generator_settings(settings_of(hydra.compose("everything", given)).generator)
    except (HydraException, OmegaConfBaseException) as error:
        raise as_input_error(error, given, None) from None


def heading(found: LoadedModel) -> str:
    """What made a model, and how large it is."""
    parameters = sum(parameter.numel() for parameter in found.model.parameters())
    method, ratio = found.about.get("method"), found.about.get("ratio")
    made = {"teacher": f"{found.model.name} (teacher)", None: found.model.name}.get(method, str(method))
    return f"{made}{'' if ratio is None else f' {ratio:g}'}, {parameters / 1e6:.2f} M parameters"


def draw(path: Path, headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Write the figure: a row an image, a column a model, the number of masks below each."""
    gap, top, below = 12, 34, 26
    heights = [row[0][0].shape[0] for row in rows]
    whole = len(headings) * (WIDTH + gap) - gap, top + sum(heights) + len(rows) * below
    figure = Figure(figsize=(whole[0] / DPI, whole[1] / DPI), dpi=DPI)
    for column, text in enumerate(headings):
        x = (column * (WIDTH + gap) + WIDTH / 2) / whole[0]
        figure.text(x, 1 - top / 2 / whole[1], text, ha="center", va="center", fontsize=13)
    bottom = whole[1] - top
    for row, height in zip(rows, heights, strict=True):
        bottom -= height
        for column, (shown, masks) in enumerate(row):
            left = column * (WIDTH + gap)
            figure.figimage(shown, left, bottom, origin="upper")
            x, y = (left + WIDTH / 2) / whole[0], (bottom - below / 2) / whole[1]
            figure.text(x, y, f"{masks:,} masks", ha="center", va="center", fontsize=11, color="0.35")
        bottom -= below
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, segment, and write the figure."""
    parser = argparse.ArgumentParser(prog="python -m experiments.everything.figure", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="an image, or a folder of images")
    parser.add_argument("--checkpoints", nargs="+", required=True, help="models by name or file, one a column")
    parser.add_argument("--out", type=Path, required=True, help="the figure's file, .png")
    parser.add_argument("settings", nargs="*", metavar="key=value", help=f"changes to experiment={PRESET}")
    options = parser.parse_args(argv)
    try:
        check_place(options.out)
        settings = settings_from(options.settings)
        files = [place.image for place in places(options.images, options.out.parent, draw=False)[0]]
        models = [find_model(checkpoint) for checkpoint in options.checkpoints]
        cells: list[list[Cell]] = []
        with counted("segmenting", len(files) * len(models)) as done:
            for file in files:
                image = upright_image(file)
                # As small as it is shown: masks of a small model gain nothing from more pixels, and each takes time.
                image = scaled(image, (max(1, round(image.shape[0] * WIDTH / image.shape[1])), WIDTH))
                cells.append([])
                for found in models:
                    records = EverythingGenerator(found.model, settings).generate(image)
                    cells[-1].append((painted(image, records, image.shape[:2]), len(records)))
                    done(len(models) * (len(cells) - 1) + len(cells[-1]))
        draw(options.out, [heading(found) for found in models], cells)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    say(f"written: {options.out}")


if __name__ == "__main__":
    main()
