"""Which files SA-1B consists of, in folders and in tar archives: images and JSON files by number."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import InputError
from core.plain_file import reraise_access
from core.progress import counted
from data import kept
from data.content import Stamp, stamp_of
from data.image_files import SA1B_ARCHIVE, SA1B_FILE, files_below, is_image, require_plain
from data.parallel import in_processes, in_threads
from data.tar_members import File, TarMember, is_hidden, list_members

_MOST_DIGITS = 18
_LARGE = 100_000_000


@dataclass(frozen=True)
class Listing:
    """The files of SA-1B.

    Attributes:
        images, sources: images and JSON files by number.
        others: how many files are neither.
        damaged: what is wrong with archives, by archive; what they list before the damage is there.
    """

    images: dict[int, File]
    sources: dict[int, File]
    others: int
    damaged: dict[Path, str]


def find_files(root: Path) -> Listing:
    """Images and JSON files by number.

    Images may have any suffix of :data:`data.image_files.SUFFIXES`, and files any depth below the root. Archives named
    ``sa_*.tar`` are read in place; which files they hold is kept (:mod:`data.kept`).

    Raises:
        InputError: there is no such folder, it has no images, one is closed, an archive is none or has a link
            that leads to nothing in it, or a number occurs twice or fits into no array.
    """
    with reraise_access(root):
        if not root.is_dir():
            what = "put SA-1B's sa_*.tar, or sa_*.jpg and sa_*.json, there"
            raise InputError(f"{root}: no such folder; {what} or give another root")
    found = Listing({}, {}, 0, {})
    names = list(files_below(root))
    archives = sorted(root / require_plain(root, name) for name in names if SA1B_ARCHIVE.fullmatch(_last(name)))
    loose = [name for name in names if not SA1B_ARCHIVE.fullmatch(_last(name))]
    others = _sort(
        (root / require_plain(root, name) if SA1B_FILE.fullmatch(_last(name)) else None for name in loose), found
    )
    for archive, (members, flaw) in zip(archives, _members(archives), strict=True):
        others += _sort(members, found)
        if flaw is not None:
            found.damaged[archive] = flaw
    if not found.images:
        raise InputError(
            f"{root}: no sa_*.jpg and no sa_*.tar there or below; put SA-1B's files there or give another root"
        )
    return Listing(found.images, found.sources, others, found.damaged)


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _sort(files: Iterable[File | None], found: Listing) -> int:
    """Put files where they belong by their names; returns how many belong nowhere."""
    others = 0
    for file in files:
        match = None if file is None else SA1B_FILE.fullmatch(file.name)
        if file is None or match is None:
            others += 1
            continue
        by_number = found.images if is_image(file.name) else found.sources if match[2].lower() == "json" else None
        if by_number is None:
            others += 1
            continue
        if len(match[1]) > _MOST_DIGITS:
            raise InputError(f"{file}: a number of {len(match[1])} digits; rename the file")
        number = int(match[1])
        if number in by_number:
            first, second = sorted([str(file), str(by_number[number])])
            raise InputError(f"{second}: the same number is also {first}; remove one of them")
        by_number[number] = file
    return others


def _members(archives: Sequence[Path]) -> list[tuple[list[TarMember], str | None]]:
    """What each archive holds, and what is wrong with it; as it was kept where the archive is still the same."""
    stamps = list(in_threads(stamp_of, archives))
    found = {archive: _kept(archive, stamp) for archive, stamp in zip(archives, stamps, strict=True)}
    new = [archive for archive, members in found.items() if members is None]
    size = sum(stamp[0] for archive, stamp in zip(archives, stamps, strict=True) if stamp and archive in new)
    # Listing is Python's work: threads would take turns.
    listings = in_processes(_all_listed, new, 1) if size > _LARGE else map(_listed, new)
    with counted("finding the images in tar files, once", len(new), "files", size > _LARGE) as done:
        for count, (archive, listed) in enumerate(zip(new, listings, strict=True), 1):
            found[archive] = listed
            done(count)
    return [members for members in found.values() if members is not None]


def _all_listed(archives: Sequence[Path]) -> list[tuple[list[TarMember], str | None]]:
    return [_listed(archive) for archive in archives]


def _listed(archive: Path) -> tuple[list[TarMember], str | None]:
    stamp = stamp_of(archive)
    members, flaw = list_members(archive)
    members = [member for member in members if not is_hidden(member.path)]
    for member in members:
        require_plain(archive, member.path)
    # A damaged one may be on its way.
    if stamp is not None and flaw is None:
        text = np.frombuffer("\n".join(member.path for member in members).encode(), dtype=np.uint8)
        places = np.array([(member.offset, member.size) for member in members], dtype=np.int64).reshape(-1, 2)
        kept.save("tar members", archive, {"stamp": np.array(stamp), "names": text, "places": places})
    return members, flaw


def _kept(archive: Path, stamp: Stamp | None) -> tuple[list[TarMember], str | None] | None:
    arrays = kept.load("tar members", archive)
    if stamp is None or arrays.keys() != {"stamp", "names", "places"} or tuple(arrays["stamp"].tolist()) != stamp:
        return None
    names, places = arrays["names"].tobytes().decode().split("\n"), arrays["places"].tolist()
    return [TarMember(archive, name, *place) for name, place in zip(names, places, strict=bool(places))], None
