"""The command line of the converters."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core.closed_pipes import outlive_closed_pipes
from core.errors import InputError
from core.plain_file import home_path
from core.terminal import terminal
from data.convert.sources import SOURCES
from data.convert.writing import Conversion, convert

_SETTINGS = """\
settings:
  out=DIR          folder to write into (needed), not in SOURCE; a stopped conversion goes on with the same command
                   (without overwrite=true)
  part=NAME        only images below a folder of this name, such as train
  every=N          the first image of each folder and every n-th from there (default 1)
  without_every=N  all images of each folder but these: every=N takes what it leaves out (at least 2)
  longest=PIXELS   the longer side at most; larger images are scaled down (default 448, 0 keeps all sizes)
  smallest=PIXELS  masks with fewer pixels are left out (default 60, of CamVid 100)
  largest=SHARE    masks that cover more of the image are left out (default 1, of BSDS500 0.8)
  first=NUMBER     number of the first image, so that several sources can share a folder (default 0)
  damaged=skip     leave out and count images and annotations that are damaged, and images of one name and two
                   suffixes, such as a.jpg and a.png (default: refuse)
  overwrite=true   begin anew: what was made of this source from that number on goes first

Connected regions of one label become masks; a mask whose IoU with an earlier one is 0.8 or more is left out.

examples:
  python -m data.convert bsds500 BSR/BSDS500/data out=photographs part=train first=10000
  python -m data.convert clothing_co_parsing CCP out=photographs without_every=10 first=30000
  python -m data.convert camvid CamVid out=photographs part=train every=4 first=40000
  python -m data.convert yolo_segments coco128-seg out=photographs first=50000
"""


def _choice(**words: bool) -> Callable[[str], bool]:
    def read(text: str) -> bool:
        return words[text]

    return read


READERS: Mapping[str, Callable[[str], Any]] = {
    "out": home_path,
    "part": str,
    "every": int,
    "without_every": int,
    "longest": int,
    "smallest": int,
    "largest": float,
    "first": int,
    "damaged": _choice(refuse=False, skip=True),
    "overwrite": _choice(false=False, true=True),
}


def read_settings(words: Sequence[str]) -> dict[str, Any]:
    """What was typed as ``name=value``, by name.

    Raises:
        InputError: a setting is unknown, given twice or of another kind, or ``out`` is missing.
    """
    given: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in READERS:
            raise InputError(f"{word}: is no setting; give {', '.join(f'{known}=' for known in READERS)}")
        if name in given:
            raise InputError(f"{word}: {name} is given twice; remove one")
        try:
            given[name] = READERS[name](text)
        except (ValueError, KeyError):
            raise InputError(f"{word}: is no value of {name}; see python -m data.convert --help") from None
    if not str(given.get("out", "")):
        raise InputError("there is nowhere to write; give out=DIR")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert; 0, 2 after a message about what was given, or 130 when it was stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m data.convert",
        description="Bring an annotated data set into SA-1B's layout, read by data=sa1b: sa_<number>.jpg and .json.",
        epilog=_SETTINGS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    layouts = "; ".join(f"{name}: {source.layout}" for name, source in SOURCES.items())
    parser.add_argument("source", help=layouts)
    parser.add_argument("folder", metavar="SOURCE", help="the data set's folder")
    parser.add_argument("settings", metavar="SETTING=VALUE", nargs="+", help="out=DIR, and those below")
    options = parser.parse_args(arguments)
    try:
        _run(options.source, home_path(options.folder), read_settings(options.settings))
    except InputError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # The setting would begin anew.
        less = " without overwrite=true" if "overwrite=true" in options.settings else ""
        print(f"stopped; the same command{less} goes on", file=sys.stderr)
        return 130
    return 0


def _run(source: str, root: Path, settings: dict[str, Any]) -> None:
    out: Path = settings.pop("out")
    skip, overwrite = settings.pop("damaged", False), settings.pop("overwrite", False)
    conversion = Conversion(source, **settings)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal(stderr=True)) as progress:
        task = progress.add_task(SOURCES[source].title, total=None)

        def advance(total: int) -> None:
            progress.update(task, advance=1, total=total)

        counts = convert(conversion, root, out, skip=skip, overwrite=overwrite, advance=advance)
    out_of = ("already", "without_annotations", "without_masks", "damaged")
    notes = [f"{counts[name]} {name.replace('_', ' ')}" for name in out_of if counts[name]]
    print(f"{out}: {counts['images']} images, {counts['masks']} masks{''.join(f'; {note}' for note in notes)}")


if __name__ == "__main__":
    outlive_closed_pipes()
    sys.exit(main())
