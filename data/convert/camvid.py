"""CamVid's label maps: which of them is a frame's, and which regions in it are of a class.

It is published in two forms. The original (Brostow, Fauqueur and Cipolla, 2009) has a colour for each of 32 classes,
of which black, "Void", is none. Copies have numbers in place of colours: SegNet's 0 to 10 for its 11 classes and 11 for
none, or all 32 in the order of their names, 0 to 31, of which 30 is "Void". In numbers 255 is none too.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.plain_file import reraise_access
from data.convert.regions import label_regions, require_size_of_image
from data.image_files import is_image
from data.images import StoredImage, read_stored

UNNAMED = 255
"""A number of no class, in every form."""
VOIDS = {11: 11, 31: 30}
"""The number of no class, by the highest number of a form: SegNet's, and the 32 classes by name."""
COLOURS = frozenset(
    {
        *((64, 128, 64), (192, 0, 128), (0, 128, 192), (0, 128, 64), (128, 0, 0), (64, 0, 128), (64, 0, 192)),
        *((192, 128, 64), (192, 192, 128), (64, 64, 128), (128, 0, 192), (192, 0, 64), (128, 128, 64), (192, 0, 192)),
        *((128, 64, 64), (64, 192, 128), (64, 64, 0), (128, 64, 128), (128, 128, 192), (0, 0, 192), (192, 128, 128)),
        *((128, 128, 128), (64, 128, 192), (0, 0, 64), (0, 64, 64), (192, 64, 128), (128, 128, 0), (192, 128, 192)),
        *((64, 0, 64), (192, 192, 0), (0, 0, 0), (64, 192, 0)),
        # SegNet's road markings and pavement.
        *((255, 69, 0), (60, 40, 222)),
    }
)
"""Red, green and blue of the classes (CamVid's ``label_colors.txt``)."""
_NUMBERS = re.compile("1|L|LA|I.*")


class _Form(NamedTuple):
    """What is decided once for a folder: one frame may hold too few classes to tell.

    Attributes:
        void: the number of no class, where labels are numbers.
        palettes: whether a palette says the classes' colours; else its indices are numbers of classes.
    """

    void: int
    palettes: bool


def label_map_of(path: PurePosixPath, by_stem: Mapping[str, list[str]]) -> str | None:
    """The label map of a frame: ``<frame>_L`` or ``<frame>`` in a folder with "label" or "annot" in its name.

    Of several that of the folder named after the frame's own goes first: for ``train`` it is ``trainannot`` or
    ``train_labels``, then whatever begins with ``train``.

    Args:
        by_stem: paths of all files by their stems.

    Returns:
        A path, whether or not there is such a file; None for a label map.

    Raises:
        InputError: several are left.
    """
    if _is_label(path):
        return None
    among = [*by_stem.get(path.stem, ()), *by_stem.get(f"{path.stem}_L", ())]
    labels = [name for name in among if is_image(name) and _is_label(PurePosixPath(name))]
    own = re.escape(path.parent.name)
    for begins in (rf"{own}[\W_]*(label|annot)", own):
        if own and (named := [name for name in labels if re.match(begins, _folder(name), re.IGNORECASE)]):
            labels = named
            break
    if len(labels) > 1:
        raise InputError(
            f"{path}: its labels may be {labels[0]} or {labels[1]}; give a SOURCE that holds only one of them, or "
            "move the other out of it"
        )
    return labels[0] if labels else f"{path.stem}_L.png"


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.name


def _is_label(path: PurePosixPath) -> bool:
    return path.stem.endswith("_L") or re.search("label|annot", path.parent.name, re.IGNORECASE) is not None


def regions(path: Path, image: Path, stored: tuple[int, int], size: tuple[int, int]) -> Iterator[NDArray[np.bool_]]:
    """The connected regions of every class in a label map, as bool ``[H, W]``.

    The file's own mode says what its pixels are. Grey of any depth (L, I, I;16, 1) is numbers, as they are. RGB and
    RGBA are colours, and black is no class. A palette whose used entries are CamVid's :data:`COLOURS`, in each file of
    the folder, is colours too; with any other palette the indices are the numbers. Which number is no class, and what
    palettes are, goes by all label maps of the folder.

    Args:
        image: the frame, for messages.
        stored: the frame's size ``(h, w)``.
        size: of the regions.

    Raises:
        InputError: the file is damaged, of another size than its frame, or no such label map.
    """
    found = read_stored(path)
    require_size_of_image(path, image, (found.pixels.shape[0], found.pixels.shape[1]), stored)
    form = _form(_label_files(path.parent))
    if (numbers := _numbers(found, form.palettes)) is not None:
        wrong = numbers[(numbers < 0) | (numbers > max(VOIDS)) & (numbers != UNNAMED)]
        if wrong.size:
            raise InputError(
                f"{path}: has the label {wrong[0]}, but numbers of CamVid's classes are 0 to {max(VOIDS)}, and "
                f"{UNNAMED} is none; fetch the PNG again, or save colours as RGB"
            )
        labels, void = np.where(numbers == UNNAMED, form.void, numbers), form.void
    else:
        labels, void = _colours(path, found) @ np.array([1 << 16, 1 << 8, 1]), 0
        if len(np.unique(labels)) > 256:
            raise InputError(f"{path}: has more colours than classes, so it is no label map; fetch the PNG again")
    yield from label_regions(path, labels, size, without=void)


def _label_files(folder: Path) -> tuple[tuple[Path, int, int], ...]:
    """The label maps of a folder, each with its size in bytes and when it was changed."""
    with reraise_access(folder):
        paths = sorted(folder.iterdir())
        labels = [path for path in paths if is_image(path.name) and _is_label(PurePosixPath(path)) and path.is_file()]
        return tuple((path, status.st_size, status.st_mtime_ns) for path in labels if (status := path.stat()))


# Each frame of a folder asks.
@lru_cache(maxsize=4)
def _form(files: tuple[tuple[Path, int, int], ...]) -> _Form:
    highest, indices, palettes = 0, 0, True
    for path, *_ in files:
        try:
            found = read_stored(path)
        except InputError:
            # Reported when it is its frame's turn.
            continue
        if (numbers := _numbers(found, False)) is None:
            continue
        of_file = int(numbers.max(where=numbers != UNNAMED, initial=0))
        if found.palette is not None and _has_classes_colours(found):
            indices = max(indices, of_file)
        elif of_file <= max(VOIDS):
            # Of more it is neither, which is reported likewise.
            highest, palettes = max(highest, of_file), palettes and found.palette is None
    highest = highest if palettes else max(highest, indices)
    return _Form(next((void for most, void in VOIDS.items() if highest <= most), VOIDS[max(VOIDS)]), palettes)


def _has_classes_colours(found: StoredImage) -> bool:
    assert found.palette is not None
    used = np.unique(found.pixels)
    return bool(used.max() < len(found.palette)) and set(map(tuple, found.palette[used].tolist())) <= COLOURS


def _numbers(found: StoredImage, palettes: bool) -> NDArray[np.int64] | None:
    """Numbers of classes ``[H, W]``; None where pixels are colours."""
    if _NUMBERS.fullmatch(found.mode) or (found.palette is not None and not (palettes and _has_classes_colours(found))):
        pixels = found.pixels if found.pixels.ndim == 2 else found.pixels[..., 0]
        return pixels.astype(np.int64)
    return None


def _colours(path: Path, found: StoredImage) -> NDArray[Any]:
    """Red, green and blue, int64 ``[H, W, 3]``."""
    if found.palette is not None:
        return found.palette[found.pixels].astype(np.int64)
    if found.mode not in ("RGB", "RGBA"):
        raise InputError(
            f"{path}: is of the mode {found.mode}, as no label map is; save it as a PNG of grey numbers or RGB colours"
        )
    return found.pixels[..., :3].astype(np.int64)
