"""``doctor`` on data sets: what of each layout lies below ``data.root``, with the commands that fetch the rest."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from core.plain_file import home_path
from data.image_files import SA1B_ARCHIVE, files_below, is_image, is_sa1b_image
from data.tar_members import has_end
from experiments.cli.doctor.finding import Finding

_COCO = "http://images.cocodataset.org"
_FETCHED = {
    "train2017": f"{_COCO}/zips/train2017.zip",
    "val2017": f"{_COCO}/zips/val2017.zip",
    "instances_train2017.json": f"{_COCO}/annotations/annotations_trainval2017.zip",
    "instances_val2017.json": f"{_COCO}/annotations/annotations_trainval2017.zip",
    "lvis_v1_train.json": "https://dl.fbaipublicfiles.com/LVIS/lvis_v1_train.json.zip",
    "lvis_v1_val.json": "https://dl.fbaipublicfiles.com/LVIS/lvis_v1_val.json.zip",
}
"""Where each part comes from, in archives."""
_MOST_FILES = 200_000
"""Files of SA-1B that are looked at: all of it has 22 million."""
_ASK = "python -m experiments doctor data.root=FOLDER"


def data_sets(root: str | None) -> Iterator[Finding]:
    """The built-in data set, and what of COCO, LVIS and SA-1B is there.

    Args:
        root: ``data.root``; None where none is given.
    """
    yield Finding("shapes", "ok", "made by the program, nothing to download", needed=True)
    if root is None:
        for name in ("coco", "lvis", "sa1b"):
            yield Finding(name, "missing", "no data.root is given", _ASK)
        return
    folder = home_path(root)
    if not folder.is_dir():
        yield Finding(f"data.root={root}", "broken", "no such folder", "give data.root=FOLDER that exists")
        return
    yield from _images(folder)
    yield from _annotations(folder)
    yield _sa1b(folder)


def _images(folder: Path) -> Iterator[Finding]:
    for name in ("train2017", "val2017"):
        place = folder / name
        if not place.is_dir():
            yield Finding(f"coco {name}/", "missing", "no such folder below data.root", _unpack(name, folder))
            continue
        count = sum(map(is_image, files_below(place)))
        state, fix = ("ok", "") if count else ("broken", _unpack(name, folder))
        yield Finding(f"coco {name}/", state, f"{count:,} image{'s' * (count != 1)}", fix)


def _annotations(folder: Path) -> Iterator[Finding]:
    for name in [name for name in _FETCHED if name.endswith(".json")]:
        path = folder / "annotations" / name
        if not path.is_file():
            # COCO's archive holds the folder itself, LVIS's only the file.
            into = folder if name.startswith("instances") else folder / "annotations"
            yield Finding(name, "missing", "no such file in annotations/", _unpack(name, into))
        elif path.stat().st_size < 2:
            yield Finding(name, "broken", "an empty file", f"rm '{path}', and {_unpack(name, path.parent)}")
        else:
            yield Finding(name, "ok", f"{path.stat().st_size / 1e6:,.0f} MB")


def _sa1b(folder: Path) -> Finding:
    """SA-1B's tar files, and its images in the folder and below it, among so many files."""
    files = list(islice(files_below(folder), _MOST_FILES))
    count = sum(is_sa1b_image(name) for name in files)
    more = f" among the first {_MOST_FILES:,} files" if len(files) == _MOST_FILES else ""
    archives = sorted(folder / name for name in files if SA1B_ARCHIVE.fullmatch(name.rpartition("/")[2]))
    if endless := [archive for archive in archives if not has_end(archive)]:
        found = f"{len(endless)} of {len(archives)} tar files have no end, such as {endless[0].name}: truncated"
        return Finding("sa1b", "broken", found, "fetch them again, or give data.missing=skip")
    if archives:
        size = sum(archive.stat().st_size for archive in archives)
        beside = f", {count:,} images beside them" if count else ""
        return Finding("sa1b", "ok", f"{len(archives):,} tar files, {size / 1e9:,.1f} GB{beside}{more}")
    if not count:
        fix = "fetch shards by hand (they ask for consent): https://ai.meta.com/datasets/segment-anything-downloads"
        return Finding("sa1b", "missing", f"no sa_*.tar and no sa_*.jpg in data.root or below{more}", fix)
    return Finding("sa1b", "ok", f"{count:,} images{more}")


def _unpack(name: str, into: Path) -> str:
    url = _FETCHED[name]
    archive = into / url.rsplit("/", 1)[-1]
    return f"curl -L -C - --create-dirs -o '{archive}' {url} && unzip -d '{into}' '{archive}'"
