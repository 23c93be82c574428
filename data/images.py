"""Reading images as stored, and bringing them into the square frame a model sees."""

import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from core.errors import InputError
from core.geometry import normalise, resized_size
from data.sample import ScaledImage
from data.tar_members import File

T = TypeVar("T", bound=np.generic)


class _Ignored:
    """A block in which Pillow's warnings are ignored, as they are in other threads as long as any is inside.

    Python's filters of warnings belong to all threads. Were each thread to put back those that it found, a thread that
    leaves would take the filter from those still inside, and the last would put it back for good.
    """

    def __init__(self) -> None:
        self._begin()
        # A fork has one thread, and no other to open a lock that one had locked.
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._found = warnings.catch_warnings()
                self._found.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._found.__exit__(None, None, None)


WITHOUT_PILLOWS_WARNINGS = _Ignored()


_END, _SCAN, _RESTART_INTERVAL, _EXTENSIONS = 0xD9, 0xDA, 0xDD, 0xC8
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, _EXTENSIONS, 0xCC}
_WITH_LENGTH = (frozenset(range(0xC0, 0xD0)) | frozenset(range(0xDA, 0xF0)) | {0xFE}) - {_EXTENSIONS}


def flaw_of(content: bytes) -> str | None:
    """What is wrong with a JPEG or PNG file that decoders say nothing of, in a few words; None for other files too.

    Decoders stop when they have all rows, and JPEG's fill in what is missing. So a file that was given its length
    before its content, or lost its middle, may be read as an image of something else.
    """
    if content.startswith(b"\xff\xd8"):
        return _jpeg_flaw(content)
    return _png_flaw(content) if content.startswith(b"\x89PNG\r\n\x1a\n") else None


def _png_flaw(content: bytes) -> str | None:
    """Whether each chunk of pixels has its checksum."""
    place = 8
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        end = place + 8 + length
        if content[place + 4 : place + 8] == b"IEND":
            return None
        # In the last bytes of what was cut, Pillow finds the end of the pixels or does not.
        if content[place + 4 : place + 8] in (b"IDAT", b"PLTE", b"fdAT") and end + 4 <= len(content):
            (listed,) = struct.unpack_from(">I", content, end)
            if zlib.crc32(memoryview(content)[place + 4 : end]) != listed:
                return "a checksum is wrong"
        place = end + 4
    return None


def _jpeg_flaw(content: bytes) -> str | None:
    """Whether the segments of the first image follow each other to its end; coded data has no checksum.

    In coded data 0xFF is followed by 0x00, and what else follows is a marker.
    """
    bytes_ = np.frombuffer(content, dtype=np.uint8)
    ends = np.flatnonzero(bytes_[:-1] == 0xFF) + 1
    markers = ends[(bytes_[ends] != 0) & (bytes_[ends] != 0xFF)]
    behind, interval, restarts, frames = 2, 0, 0, 0
    for place in markers.tolist():
        if place < behind:
            continue
        marker, behind = content[place], place + 1
        if marker == _END:
            return None
        if 0xD0 <= marker < 0xD8:
            if not interval or marker != 0xD0 + restarts % 8:
                return "its coded data breaks off"
            restarts += 1
            continue
        length = int.from_bytes(content[behind : behind + 2], "big")
        frames += marker in _FRAMES
        if marker not in _WITH_LENGTH or length < 2 or frames > 1:
            return f"a marker 0x{marker:02X} is where none belongs"
        if marker == _RESTART_INTERVAL:
            interval = int.from_bytes(content[behind + 2 : behind + 4], "big")
        restarts = 0 if marker == _SCAN else restarts
        behind += length
    return "it has no end"


def turned_by_pillow(image: Image.Image) -> int:
    """The EXIF orientation that Pillow applies on its own: of TIFF files, and of no others. 1 is none."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1
    orientation = image.tag_v2.get(ExifTags.Base.Orientation, 1)
    return orientation if isinstance(orientation, int) and 2 <= orientation <= 8 else 1


def turned_back(image: NDArray[T], orientation: int) -> NDArray[T]:
    """An image ``[H, W, C]`` or ``[H, W]`` that was turned upright by its orientation, as it is stored."""
    if orientation in (5, 7):
        image = image.swapaxes(0, 1)
    quarter_turns = {3: 2, 6: 1, 7: 2, 8: 3}.get(orientation, 0)
    flipped = {2: image[:, ::-1], 4: image[::-1]}.get(orientation, image)
    return np.ascontiguousarray(np.rot90(flipped, quarter_turns))


MAX_PIXELS = 89_478_485
"""Images with more pixels than this (Pillow's own limit) are refused as decompression bombs."""
HEADER_CHECK_LIMIT = 2_000
"""Data sets of up to so many images open every header when they are made; in larger ones damage shows on reading."""

# What Pillow's decoders raise on damaged files, beside OSError; it differs from format to format.
_DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(RuntimeError, MemoryError, struct.error, zlib.error),
)


def read_image(path: File | str) -> NDArray[np.uint8]:
    """Read an image as uint8 ``[H, W, 3]``, RGB, in stored pixels.

    EXIF orientation is not applied, because COCO and SA-1B annotate stored pixels. Grayscale is repeated over the
    channels, palettes are looked up, CMYK is converted, 16 bits are scaled to 8, transparency is dropped, and of an
    animation the first frame is taken. JPEG files have no checksum: where coded data was exchanged for other data that
    can be decoded, nobody can tell.

    Raises:
        InputError: the file is missing, empty, truncated, too large, or not an image; the message names it.
    """
    return read_for_frame(path, None).image


def read_for_frame(path: File | str, frame: int | None) -> ScaledImage:
    """Read an image that is needed no larger than a model's frame: a JPEG of twice its size or more is decoded at the
    half, quarter or eighth that still has the size it gets there.

    That takes a third of the time, and differs from the whole image resized by about one level of 255 on average.

    Args:
        frame: None reads it whole, as any other file.

    Raises:
        InputError: as :func:`read_image`.
    """
    path = Path(path) if isinstance(path, str) else path
    with _opened(path) as opened:
        orientation, size_hw = turned_by_pillow(opened), (opened.height, opened.width)
        if frame is not None and max(size_hw) >= 2 * frame:
            # Does nothing to other formats.
            opened.draft(None, resized_size(size_hw, frame)[::-1])
        opened.load()
        image = _rgb(opened, path)
        if (flaw := flaw_of(path.read_bytes())) is not None:
            raise InputError(f"{path}: truncated or damaged image ({flaw}); fetch the file again")
        if orientation != 1:
            image = turned_back(image, orientation)
            size_hw = (image.shape[0], image.shape[1])
        return ScaledImage(image, size_hw)


@dataclass(frozen=True)
class StoredImage:
    """An image whose pixels are as its file has them.

    Attributes:
        mode: Pillow's name of what they are, such as ``L``, ``P``, ``I;16`` or ``RGB``.
        pixels: ``[H, W]`` or ``[H, W, C]``, of the mode's own dtype; of a palette the indices.
        palette: the colours uint8 ``[N, 3]`` of a file with a palette (mode ``P``); None of others.
    """

    mode: str
    pixels: NDArray[Any]
    palette: NDArray[np.uint8] | None


def read_stored(path: File) -> StoredImage:
    """Read an image whose pixels are numbers rather than light, such as labels: nothing is converted or scaled.

    Raises:
        InputError: as :func:`read_image`, except for what modes there are.
    """
    with _opened(path) as opened:
        orientation = turned_by_pillow(opened)
        opened.load()
        if (flaw := flaw_of(path.read_bytes())) is not None:
            raise InputError(f"{path}: truncated or damaged image ({flaw}); fetch the file again")
        colours = opened.getpalette("RGB") if opened.mode == "P" else None
        palette = None if colours is None else np.array(colours, np.uint8).reshape(-1, 3)
        return StoredImage(opened.mode, turned_back(np.array(opened), orientation), palette)


def image_size(path: File | str) -> tuple[int, int]:
    """Size ``(h, w)`` from the header alone; the pixels are not decoded.

    Raises:
        InputError: as :func:`read_image`, except for damage behind the header.
    """
    with _opened(Path(path) if isinstance(path, str) else path) as image:
        size_hw = image.height, image.width
        return size_hw[::-1] if turned_by_pillow(image) >= 5 else size_hw


def require_size(path: File, found_hw: tuple[int, int], listed_hw: tuple[int, int], source: File) -> None:
    """Refuse an image whose size is not the one its annotations were made for.

    Raises:
        InputError: ``found_hw`` and ``listed_hw`` differ; the message gives both.
    """
    if found_hw != listed_hw:
        raise wrong_size(path, found_hw, listed_hw, source)


def wrong_size(path: File, found_hw: tuple[int, int], listed_hw: tuple[int, int], source: File) -> InputError:
    """What :func:`require_size` raises."""
    return InputError(
        f"{path}: the image is {found_hw[1]}x{found_hw[0]} (width x height) but {source} lists "
        f"{listed_hw[1]}x{listed_hw[0]}; restore the image that was annotated"
    )


_LEVELS = normalise(torch.arange(256, dtype=torch.uint8).expand(3, 1, 256), 256)[:, 0].numpy()
"""What each level of each channel becomes in the frame, float32 ``[3, 256]``."""


def to_frame(image: NDArray[np.uint8], frame: int, size_hw: tuple[int, int] | None = None) -> Tensor:
    """An image uint8 ``[H, W, 3]`` as the model's input: float32 ``[3, frame, frame]``.

    The longer side is resized to ``frame`` with Pillow's bilinear filter on uint8 (as SAM's ``ResizeLongestSide``),
    then the image is normalised and padded with zeros at the bottom and at the right.

    Args:
        size_hw: of the original, where this is a reduced one (:func:`read_for_frame`).

    Raises:
        ValueError: not a uint8 ``[H, W, 3]`` array.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"to_frame needs uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    resized = resized_image(image, frame, size_hw)
    # As core.geometry.normalise, but each level is computed once.
    framed = torch.zeros(3, frame, frame)
    for channel, levels in enumerate(_LEVELS):
        into = framed[channel, : resized.shape[0], : resized.shape[1]].numpy()
        np.take(levels, resized[:, :, channel], out=into, mode="clip")
    return framed


def resized_image(image: NDArray[np.uint8], frame: int, size_hw: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """An image uint8 ``[H, W, 3]`` with its longer side resized to ``frame`` by Pillow's bilinear filter.

    Args:
        size_hw: as of :func:`to_frame`.
    """
    height, width = resized_size(size_hw or (image.shape[0], image.shape[1]), frame)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


@contextmanager
def _opened(path: File) -> Iterator[Image.Image]:
    """The image opened by Pillow, with everything that can go wrong reported as InputError."""
    try:
        # Between one and two times the limit Pillow only warns; our own check below refuses both alike. It warns of
        # damaged metadata too, of which nothing is used.
        with WITHOUT_PILLOWS_WARNINGS, path.open("rb") as stream, Image.open(stream) as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width}x{image.height}"
                raise InputError(f"{path}: {size} is more than {MAX_PIXELS} pixels; scale the image down")
            yield image
    except InputError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such image file; check the path or fetch the file again") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, not an image file; give the path of an image") from None
    except PermissionError:
        raise InputError(f"{path}: may not be read; change the file's permissions") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: more than {MAX_PIXELS} pixels; scale the image down") from None
    except UnidentifiedImageError:
        what = "is empty" if not path.read_bytes() else "is not an image (or of a format Pillow cannot read)"
        raise InputError(f"{path}: {what}; fetch the file again or remove it") from None
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: truncated or damaged image ({reason}); fetch the file again") from None


def _rgb(image: Image.Image, path: File) -> NDArray[np.uint8]:
    """A loaded image of any mode as uint8 ``[H, W, 3]``."""
    if image.mode == "F":
        raise InputError(f"{path}: floating-point pixels have no defined range; save the image with 8 bits a channel")
    if image.mode.startswith("I"):
        # Pillow hands out 16-bit gray as "I;16*" or "I", and its own conversion to RGB would clip it at 255.
        gray = np.asarray(image).astype(np.int64)
        if gray.min() < 0 or gray.max() > 65535:
            raise InputError(f"{path}: pixels beyond 16 bits; save the image with 8 bits a channel")
        return np.repeat(((gray + 128) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        # Converting such a palette straight to RGB warns; by way of RGBA the colours are the same.
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
