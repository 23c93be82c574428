"""One image or a folder of them, segmented: a file of masks and a drawing each."""

import contextlib
import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.checkpoint import file_sha256
from core.errors import InputError
from core.plain_file import home_path
from core.progress import counted
from data.upright import upright_image
from evaluation.everything import EverythingGenerator, EverythingSettings
from evaluation.latency import device_name, timed
from experiments.config.schema import EverythingConfig
from experiments.everything.files import OUT, Made, Place, drawing_of, finished_annotations, places, write_annotations
from experiments.out_place import check_out
from experiments.reporting.columns import seconds
from experiments.runs.segmenters import chosen_segmenter


@dataclass(frozen=True)
class SegmentedImage:
    """What became of an image.

    Attributes:
        image, annotations, drawing: files; None where it was not made.
        model: the model's name.
        status: ``segmented`` now, ``kept`` as an earlier call left it, or ``unreadable`` for ``reason``.
        masks, prompts: how many were found, and how many point prompts there were.
        seconds: of encoding, decoding and filtering; None where that was earlier.
        device: where that was.
    """

    image: str
    status: str
    model: str
    annotations: str | None = None
    drawing: str | None = None
    masks: int | None = None
    prompts: int | None = None
    seconds: float | None = None
    device: str | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return dataclasses.asdict(self)


def segment_images(settings: EverythingConfig, image: str, generator: EverythingSettings) -> list[SegmentedImage]:
    """Write ``<stem>.json`` and ``<stem>.png`` of each image that has none made alike, and say what is in them.

    Images are read one after the other. In a folder an unreadable one is named on standard error and left out.

    Args:
        image: an image's file, or a folder of images.

    Raises:
        InputError: no image, none that can be read, or nothing can be written.
    """
    given, out = home_path(image), home_path(settings.out or OUT)
    work, others = places(given, out, settings.draw)
    check_out(settings.out or OUT, work[0].annotations)
    found = chosen_segmenter(settings)
    model = found.model
    made = Made(model.name, found.identity, generator)
    segment = _Segmenting(EverythingGenerator(model, generator), made, settings, found.device)
    rows: list[SegmentedImage] = []
    folder = given.is_dir()
    bar = counted(f"segmenting with {model.name}", len(work)) if folder else contextlib.nullcontext(lambda count: None)
    with bar as done:
        for place in work:
            try:
                row = segment(place)
            except InputError as error:
                if not folder or isinstance(error, _NotWritten):
                    raise
                row = SegmentedImage(str(place.image), "unreadable", model.name, reason=str(error))
                print(f"left out: {error}", file=sys.stderr)
            rows.append(row)
            if settings.format == "table" and row.status != "unreadable":
                print(_line(row))
            done(len(rows))
    if all(row.status == "unreadable" for row in rows):
        raise InputError(f"image={image}: none of its {len(rows)} images can be read; give a folder of images")
    if settings.format == "table" and folder:
        print(_summary(rows, others))
    return rows


class _NotWritten(InputError):
    """Of the folder for what is made, whereas other input errors are of one image."""


@dataclass(frozen=True)
class _Segmenting:
    """What is done to each image."""

    generator: EverythingGenerator
    made: Made
    settings: EverythingConfig
    device: torch.device

    def __call__(self, place: Place) -> SegmentedImage:
        try:
            digest = file_sha256(place.image)
        except OSError:
            # It will not be read either, and that has the better words.
            digest = ""
        found = None if self.settings.force else finished_annotations(place, self.made, digest)
        row = SegmentedImage(str(place.image), "kept", self.made.model, annotations=str(place.annotations))
        # A drawing may be an earlier image's of this name, which was segmented again without drawing it.
        if found is None or (self.settings.draw and not self._is_drawn(place, digest)):
            image = upright_image(place.image)
            if found is None:
                everything, spent = timed(lambda: self.generator.run(image), self.device)
                row = dataclasses.replace(row, status="segmented", seconds=spent, device=device_name(self.device))
                size = {"file": place.image.name, "height": image.shape[0], "width": image.shape[1]}
                found = {
                    "image": size | {"sha256": digest},
                    "prompts": everything.prompts,
                    "annotations": everything.records,
                }
            self._write(place, image, found, digest, row.status == "segmented")
        return dataclasses.replace(
            row,
            drawing=str(place.drawing) if self.settings.draw else None,
            masks=len(found["annotations"]),
            prompts=found["prompts"],
        )

    def _is_drawn(self, place: Place, digest: str) -> bool:
        return place.drawing.is_file() and drawing_of(place.drawing) == self.made.sha256(digest)

    def _write(self, place: Place, image: NDArray[np.uint8], found: dict[str, Any], digest: str, new: bool) -> None:
        # Here, because matplotlib makes folders in the user's home as soon as it is imported.
        from experiments.everything.drawing import draw_everything

        try:
            if self.settings.draw:
                draw_everything(place.drawing, image, found["annotations"], self.made.sha256(digest))
            if new:
                # Last, because its presence says that the image is done.
                write_annotations(place, self.made, found["image"], found["prompts"], found["annotations"])
        except OSError as error:
            out = place.annotations.parent
            raise _NotWritten(f"out={out}: cannot be written ({error.strerror}); give another folder") from None


def _line(row: SegmentedImage) -> str:
    spent = "kept from an earlier call" if row.seconds is None else seconds(row.seconds)
    files = ", ".join(file for file in (row.annotations, row.drawing) if file is not None)
    hint = ""
    if not row.masks:
        # Small models predict lower IoUs than SAM, for which the defaults were chosen.
        hint = (
            "; lower generator.pred_iou_thresh and stability_score_thresh, as experiment=everything_pocket does for "
            "sam_pocket and its students, and everything_photo for sam_photo"
        )
    return f"{row.image}: {row.masks:,} masks from {row.prompts:,} points, {spent}; {files}{hint}"


def _summary(rows: list[SegmentedImage], others: int) -> str:
    counts = {status: sum(row.status == status for row in rows) for status in ("segmented", "kept", "unreadable")}
    parts = [f"{count:,} {status}" for status, count in counts.items() if count]
    rest = f"; {others:,} other entries of the folder left alone" if others else ""
    return f"{len(rows):,} images: {', '.join(parts)}{rest}"
