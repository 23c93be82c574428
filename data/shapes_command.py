"""The command ``python -m data.shapes``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core.errors import InputError
from core.terminal import terminal
from data.shapes import DIFFICULTY, SPLITS, Shapes
from data.shapes_export import COLUMNS, ROWS, contact_sheet, write_data_set, write_picture

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
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write both layouts into")
    parser.add_argument("--count", type=int, metavar="N", help="number of pictures (needed with --out)")
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
        help=f"write a PNG of the first {COLUMNS * ROWS} pictures, masks outlined",
    )
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except InputError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.out is None and options.contact_sheet is None:
        raise InputError("nothing to write; give --out DIR with --count N, or --contact-sheet FILE")
    if options.out is not None and options.count is None:
        raise InputError("--out needs --count N, the number of pictures")
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
        print(f"wrote {len(data)} pictures into {folders[0]} and {folders[1]}")
    if options.contact_sheet is not None:
        if os.path.isdir(options.contact_sheet) or not os.path.isdir(options.contact_sheet.parent):
            raise InputError(f"cannot write {options.contact_sheet}; name a file in a folder that exists")
        write_picture(options.contact_sheet, contact_sheet(data), "PNG")
        print(f"wrote {options.contact_sheet}")
