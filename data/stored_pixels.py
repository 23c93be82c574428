"""Damage that Pillow conceals, and turns that it makes on its own: what must be known to read pixels as stored."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin

_END, _SCAN, _RESTART_INTERVAL, _EXTENSIONS = 0xD9, 0xDA, 0xDD, 0xC8
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, _EXTENSIONS, 0xCC}
_WITH_LENGTH = (frozenset(range(0xC0, 0xD0)) | frozenset(range(0xDA, 0xF0)) | {0xFE}) - {_EXTENSIONS}


def flaw_of(content: bytes) -> str | None:
    """What is wrong with a JPEG or PNG file that decoders say nothing of, in a few words; None for other files too.

    Decoders stop when they have all rows, and JPEG's fill in what is missing. So a file that was given its length
    before its content, or lost its middle, may be read as a picture of something else.
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
    """Whether the segments of the first picture follow each other to its end; coded data has no checksum.

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


def turned_by_pillow(picture: Image.Image) -> int:
    """The EXIF orientation that Pillow applies on its own: of TIFF files, and of no others. 1 is none."""
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        return 1
    orientation = picture.tag_v2.get(ExifTags.Base.Orientation, 1)
    return orientation if isinstance(orientation, int) and 2 <= orientation <= 8 else 1


def turned_back(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A picture ``[H, W, 3]`` that was turned upright by its orientation, as it is stored."""
    if orientation in (5, 7):
        image = image.transpose(1, 0, 2)
    quarter_turns = {3: 2, 6: 1, 7: 2, 8: 3}.get(orientation, 0)
    flipped = {2: image[:, ::-1], 4: image[::-1]}.get(orientation, image)
    return np.ascontiguousarray(np.rot90(flipped, quarter_turns))
