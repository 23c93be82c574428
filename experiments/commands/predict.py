"""The command ``predict``: one prompt on one image, its masks as files."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core.checkpoint import replacing
from core.errors import InputError
from core.plain_file import home_path
from data.upright import upright_image
from evaluation.latency import device_name, timed
from evaluation.predictor import SamPredictor
from experiments.commands.typed_prompt import typed_prompt
from experiments.config.schema import PredictConfig
from experiments.everything.files import SHOWS, drawing_of
from experiments.out_place import check_out, writing_to
from experiments.reporting.columns import milliseconds
from experiments.runs.segmenters import chosen_segmenter

_CANDIDATES = 3
_MADE = "sampress predict "


@dataclass(frozen=True)
class PredictedMask:
    """A mask that was written.

    Attributes:
        image, mask, overlay: files.
        model: the model's name.
        runtime: what ran exported files; None of a model that PyTorch ran as it is.
        index: which of the candidates.
        area: pixels inside, of the image's own.
        iou_pred: what the model predicts its IoU to be.
        encode_ms, decode_ms: of the image and of all candidates, resizing included: one call each.
        device: where that was.
    """

    image: str
    mask: str
    overlay: str
    model: str
    runtime: str | None
    index: int
    area: int
    iou_pred: float
    encode_ms: float
    decode_ms: float
    device: str

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return dataclasses.asdict(self)


def predict(settings: PredictConfig, cfg: DictConfig) -> list[PredictedMask]:
    """Write ``<stem>_mask.png`` (or one a candidate) and ``<stem>_overlay.png``, and say what is in them.

    Masks that the command made of an image of this name with the other ``multimask`` go: the overlay is not theirs.

    Raises:
        InputError: there is no image or no such model, nothing can be written, or a file of one of these names is none
            that this command made of an image of this name.
    """
    path, out = home_path(settings.image), home_path(settings.out)
    candidates, one = (
        [out / f"{path.stem}_mask{index}.png" for index in range(_CANDIDATES)],
        [out / f"{path.stem}_mask.png"],
    )
    files, earlier = (candidates, one) if settings.multimask else (one, candidates)
    overlay = out / f"{path.stem}_overlay.png"
    # Escaped: names of files need not be text.
    shows = f"{_MADE}{path.name!a}"
    check_out(settings.out, overlay)
    for file in (*files, overlay):
        _check_own(file, shows)
    image = upright_image(path)
    prompt = typed_prompt(settings, (image.shape[0], image.shape[1]))
    found = chosen_segmenter(settings)
    device, predictor = found.device, SamPredictor(found.model)
    _, encode_s = timed(lambda: predictor.set_image(image), device)
    # bool [M, H, W] and float [M]
    (masks, iou_pred, _), decode_s = timed(
        lambda: predictor.predict(prompt.points_xy, prompt.labels, prompt.box_xyxy, None, settings.multimask), device
    )
    text = PngInfo()
    text.add_text(SHOWS, shows)
    # Here, because matplotlib makes folders in the user's home as soon as it is imported.
    from experiments.reporting.mask_images import draw_prediction

    with writing_to(settings.out):
        for file, mask in zip(files, masks, strict=True):
            with replacing(file) as temporary:
                Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG", pnginfo=text)
        draw_prediction(overlay, image, masks, iou_pred, prompt, **{SHOWS: shows})
        for file in earlier:
            if file.is_file() and not file.is_symlink() and drawing_of(file) == shows:
                file.unlink()
    rows = [
        PredictedMask(
            image=str(path),
            mask=str(file),
            overlay=str(overlay),
            model=found.model.name,
            runtime=found.runtime,
            index=index,
            area=int(np.count_nonzero(mask)),
            iou_pred=float(value),
            encode_ms=1000 * encode_s,
            decode_ms=1000 * decode_s,
            device=device_name(device),
        )
        for index, (file, mask, value) in enumerate(zip(files, masks, iou_pred, strict=True))
    ]
    if settings.format == "table":
        _print(rows, image.shape[0] * image.shape[1])
    return rows


def _check_own(file: Path, shows: str) -> None:
    """Refuse to replace what this command did not write, or made of another image; of a link, the link is replaced."""
    if file.is_symlink() or not file.exists():
        return
    found = drawing_of(file)
    if found is None or not found.startswith(_MADE):
        raise InputError(f"{file}: is none of this command's files and would be replaced; give another folder as out=")
    if found != shows:
        raise InputError(f"{file}: was made of {found.removeprefix(_MADE)}; give another folder as out=")


def _print(rows: list[PredictedMask], pixels: int) -> None:
    for row in rows:
        name = f"mask {row.index}" if len(rows) > 1 else "mask"
        share = f"{100 * row.area / pixels:.1f} % of the image"
        print(f"{name}: {row.area:,} pixels ({share}), predicted IoU {row.iou_pred:.3f}, {row.mask}")
    first = rows[0]
    print(f"overlay: {first.overlay}")
    times = f"encoding {milliseconds(first.encode_ms)}, decoding {milliseconds(first.decode_ms)}"
    where = first.device if first.runtime is None else f"{first.runtime}, {first.device}"
    print(f"{first.model}: {times}, {where}")
