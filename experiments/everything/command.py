"""The command ``everything``: all masks of images as files, or how well they find the objects of a data set."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from core.errors import InputError
from core.result import Row
from evaluation.everything import EverythingSettings
from experiments.config.schema import EverythingConfig
from experiments.everything.folder import segment_images
from experiments.everything.score import score_strategy
from experiments.everything.strategies import strategies_table
from experiments.reporting.run_report import left_out_line


def everything(settings: EverythingConfig, cfg: DictConfig) -> Sequence[Row]:
    """Segment everything in ``image``, or score what that finds on ``evaluation``.

    Returns:
        A :class:`experiments.everything.folder.SegmentedImage` an image, or one
        :class:`experiments.everything.strategies.StrategyRow`.

    Raises:
        InputError: a setting is out of range, the model or the data set cannot be read, or no image at all.
    """
    generator = generator_settings(settings.generator)
    if settings.image is not None:
        return segment_images(settings, settings.image, generator)
    assert settings.evaluation is not None, "checked with the other settings"
    row = score_strategy(settings, settings.evaluation, generator, cfg)
    if settings.format == "table":
        print(strategies_table([row]))
        if left_out := left_out_line(row.skipped or {}):
            print(f"\n{left_out}")
    return [row]


def generator_settings(generator: Any) -> EverythingSettings:
    """The settings of the group ``generator``, checked.

    Raises:
        InputError: a value is out of range; the message names its key.
    """
    try:
        return EverythingSettings(**dataclasses.asdict(generator))
    except InputError as error:
        raise InputError(f"generator.{error}") from None
