"""The ``shapes`` data set written to disk in the layouts of SA-1B and of COCO, and as a contact sheet."""

import argparse
import io
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core.checkpoint import write_bytes, write_text
from core.errors import InputError
from core.terminal import terminal
from data.annotations import encode_rle, rle_as_text
from data.coco import FOLDERS, annotations_name
from data.sample import ImageSample
from data.shapes import DIFFICULTY, SPLITS, Shapes
from data.shapes_drawing import KINDS

MARK = "shapes.json"
"""Written into the folder before anything else: only what lies beside it is replaced."""
DESCRIPTION = "procedural data set shapes"
COLUMNS, ROWS = 8, 6
"""Pairs of a contact sheet."""
_WRITTEN = re.compile(r"(sa_\d{6}\.(jpg|json)|\d{12}\.png|instances_\w+2017\.json)(\.part)?")


def write_data_set(
    data: Shapes, out: Path, overwrite: bool = False, advance: Callable[[], None] = lambda: None
) -> tuple[Path, Path]:
    """Write every item under ``out/sa1b`` and ``out/coco``.

    SA-1B's layout has a JPEG and a JSON file for each image (``sa_000000.jpg``). COCO's has
    ``annotations/instances_train2017.json`` beside ``train2017/``, or ``val2017`` for the validation split; its
    images are PNG, so that pixels are exactly those of :class:`data.shapes.Shapes`.

    Args:
        data: what to write.
        out: folder, made if need be.
        overwrite: replace what an earlier run left in the two folders, which :data:`MARK` says there was.
        advance: called after each image.

    Returns:
        The folders ``out/sa1b`` and ``out/coco``.

    Raises:
        InputError: ``out`` is a file, or the folders already hold a data set and ``overwrite`` is false, or one that
            was not written here.
    """
    sa1b, coco = out / "sa1b", out / "coco"
    files, listing = coco / FOLDERS[data.split], coco / annotations_name(data.split)
    for folder in (sa1b, files, listing.parent):
        _make_folder(folder)
    # Hidden files are what readers keep beside images.
    there = [path for folder in (sa1b, files) for path in folder.iterdir() if not path.name.startswith(".")]
    there += [listing] if listing.exists() else []
    foreign = there if not (out / MARK).is_file() else [path for path in there if not _WRITTEN.fullmatch(path.name)]
    if foreign:
        raise InputError(f"{foreign[0]}: was not written by this command, which replaces its own; choose another --out")
    if there and not overwrite:
        raise InputError(f"{there[0].parent} already holds a data set; choose another --out or add --overwrite")
    write_text(out / MARK, json.dumps({"description": DESCRIPTION}) + "\n")
    # All of it goes first: a shorter run must not leave the tail of a longer one behind.
    for path in there:
        path.unlink()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(data)):
        sample, kinds = data.sample(index), data.scene(index).kinds
        height, width = sample.image.shape[:2]
        runs = [rle_as_text(encode_rle(mask)) for mask in sample.masks]
        stem = f"sa_{index:06d}"
        write_image(sa1b / f"{stem}.jpg", sample.image, "JPEG", quality=95, subsampling=0)
        record = {
            "image": {"image_id": index, "width": width, "height": height, "file_name": f"{stem}.jpg"},
            "annotations": [_sa1b_annotation(sample, k, runs[k]) for k in range(len(runs))],
        }
        write_text(sa1b / f"{stem}.json", json.dumps(record))
        name = f"{index:012d}.png"
        write_image(files / name, sample.image, "PNG")
        images.append({"id": index, "width": width, "height": height, "file_name": name})
        for k, kind in enumerate(kinds):
            annotations.append(_coco_annotation(sample, k, runs[k], KINDS.index(kind) + 1))
        advance()
    listing_text = json.dumps(
        {
            "info": {
                "description": DESCRIPTION,
                "split": data.split,
                "seed": data.seed,
                "size": data.size,
                "difficulty": data.difficulty,
            },
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": kind} for number, kind in enumerate(KINDS, start=1)],
        }
    )
    write_text(listing, listing_text)
    return sa1b, coco


def _box_xywh(sample: ImageSample, k: int) -> list[float]:
    x0, y0, x1, y1 = (float(side) for side in sample.boxes_xyxy[k])
    return [x0, y0, x1 - x0, y1 - y0]


def _sa1b_annotation(sample: ImageSample, k: int, runs: dict[str, Any]) -> dict[str, Any]:
    height, width = sample.image.shape[:2]
    # The pixel of the mask nearest to its centroid: the centroid itself may lie in a hole.
    rows, columns = np.nonzero(sample.masks[k])
    away = (rows - int(rows.sum()) // len(rows)) ** 2 + (columns - int(columns.sum()) // len(columns)) ** 2
    nearest = int(np.argmin(away))
    return {
        "id": sample.annotation_ids[k],
        "segmentation": runs,
        "bbox": _box_xywh(sample, k),
        "area": int(sample.areas[k]),
        "predicted_iou": 1.0,
        "point_coords": [[float(columns[nearest]), float(rows[nearest])]],
        "crop_box": [0.0, 0.0, float(width), float(height)],
        "stability_score": 1.0,
    }


def _coco_annotation(sample: ImageSample, k: int, runs: dict[str, Any], category: int) -> dict[str, Any]:
    return {
        # COCO's own evaluation takes a match with annotation 0 for no match, so ids start at 1 here.
        "id": sample.annotation_ids[k] + 1,
        "image_id": sample.image_id,
        "category_id": category,
        "segmentation": runs,
        "bbox": _box_xywh(sample, k),
        "area": int(sample.areas[k]),
        "iscrowd": 0,
    }


def contact_sheet(data: Shapes) -> NDArray[np.uint8]:
    """Images beside the same images with masks outlined.

    Args:
        data: the first ``COLUMNS * ROWS`` items are shown, fewer if it has fewer.

    Returns:
        uint8 ``[ROWS * cell, 2 * COLUMNS * cell, 3]`` with ``cell`` the data set's size plus a margin of 4 pixels.
    """
    cell = data.size + 4
    sheet = np.full((ROWS * cell, 2 * COLUMNS * cell, 3), 255, dtype=np.uint8)
    for index in range(min(len(data), COLUMNS * ROWS)):
        image, labels = data.label_map(index)
        height, width = labels.shape
        outlined = image.copy()
        border = np.zeros(labels.shape, dtype=np.bool_)
        border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        border[1:] |= labels[1:] != labels[:-1]
        outlined[border] = (255, 0, 255)
        top, left = index // COLUMNS * cell, index % COLUMNS * 2 * cell
        sheet[top : top + height, left : left + width] = image
        sheet[top : top + height, left + cell : left + cell + width] = outlined
    return sheet


def write_image(path: Path, image: NDArray[np.uint8], form: str, **options: Any) -> None:
    """Encode uint8 ``[H, W, 3]`` as ``PNG`` or ``JPEG`` and put the file in place whole."""
    write_bytes(path, encoded_image(image, form, **options))


def encoded_image(image: NDArray[np.uint8], form: str, **options: Any) -> bytes:
    """The bytes of a file of uint8 ``[H, W, 3]`` as ``PNG`` or ``JPEG``."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=form, **options)
    return buffer.getvalue()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as problem:
        raise InputError(f"cannot make the folder {folder}: a file is in its way; choose another --out") from problem
    except OSError as problem:
        raise InputError(f"cannot make the folder {folder}: {problem.strerror or problem}") from problem


_EXAMPLES = """\
examples:
  python -m data.shapes --out /tmp/shapes --count 500
  python -m data.shapes --out /tmp/shapes_val --count 200 --split validation
  python -m data.shapes --contact-sheet sheet.png --difficulty 0.5
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the data set, a contact sheet or both; 0, or 2 after a message about what was given."""
    parser = argparse.ArgumentParser(
        prog="python -m data.shapes",
        description="Write the procedural data set 'shapes' in the layouts of SA-1B and COCO (DIR/sa1b, DIR/coco).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=_folder, metavar="DIR", help="folder to write both layouts into")
    parser.add_argument("--count", type=int, metavar="N", help="number of images (needed with --out)")
    parser.add_argument("--split", default="train", help=f"{' or '.join(SPLITS)} (default: train)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the whole data set (default: 0)")
    parser.add_argument("--size", type=int, default=128, help="longer side in pixels (default: 128)")
    parser.add_argument(
        "--difficulty", type=float, default=DIFFICULTY, help="0 (flat, clear) to 1 (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier run wrote into DIR")
    parser.add_argument(
        "--contact-sheet",
        type=Path,
        metavar="FILE",
        help=f"write a PNG of the first {COLUMNS * ROWS} images, masks outlined",
    )
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except InputError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; add --overwrite to begin anew", file=sys.stderr)
        return 130
    return 0


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; give a folder, . for this one")
    return Path(text)


def _run(options: argparse.Namespace) -> None:
    if options.out is None and options.contact_sheet is None:
        raise InputError("nothing to write; give --out DIR with --count N, or --contact-sheet FILE")
    if options.out is not None and options.count is None:
        raise InputError("--out needs --count N, the number of images")
    count = COLUMNS * ROWS if options.count is None else options.count
    data = Shapes(options.split, count, options.seed, options.size, options.difficulty)
    if options.out is not None:
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=terminal(stderr=True),
        )
        with progress:
            task = progress.add_task(f"shapes {data.split}", total=len(data))
            folders = write_data_set(data, options.out, options.overwrite, lambda: progress.advance(task))
        print(f"wrote {len(data)} images into {folders[0]} and {folders[1]}")
    if options.contact_sheet is not None:
        if os.path.isdir(options.contact_sheet) or not os.path.isdir(options.contact_sheet.parent):
            raise InputError(f"cannot write {options.contact_sheet}; name a file in a folder that exists")
        write_image(options.contact_sheet, contact_sheet(data), "PNG")
        print(f"wrote {options.contact_sheet}")
