"""A corpus of images that are damaged, odd or no images at all, made here with Pillow and by byte surgery."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64


@dataclass(frozen=True)
class Odd:
    """One file of the corpus.

    Attributes:
        content: its bytes, or what makes something else at a path.
        refused: what the refusal says; None where the image is read.
        size_hw: of what is read.
    """

    content: bytes | Callable[[Path], object]
    refused: str | None = None
    size_hw: tuple[int, int] = (HEIGHT, WIDTH)

    def write(self, path: Path) -> None:
        """Put it at a path."""
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
        else:
            self.content(path)


def scene(height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    """An image with edges and noise."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 200, (-(-height // 8), -(-width // 8), 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    return Image.fromarray((blocks + rng.integers(0, 50, (height, width, 3))).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as a file's bytes."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes, flip: int = 0) -> bytes:
    """A chunk of a PNG file; ``flip`` is what its checksum is wrong by."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ flip)


def png(height: int, width: int, depth: int, colours: int, rows: bytes, *before: bytes, flip: int = 0) -> bytes:
    """A PNG file of any header; ``before`` are chunks that stand before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(rows), flip), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def turned(kind: str, orientation: int) -> bytes:
    """The scene, lossless but for JPEG, with an orientation in its EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    how: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    return encoded(scene(), kind, exif=exif, **how)


def _cut(content: bytes, share: float) -> bytes:
    return content[: int(share * len(content))]


def _holed(content: bytes) -> bytes:
    """From the middle on, what stands in a file that was given its length before its content: zeros."""
    middle = len(content) // 2
    return content[:middle] + bytes(len(content) - middle)


def corpus() -> dict[str, Odd]:
    """Every file by its name; what is odd without being damaged is read."""
    rng = np.random.default_rng(0)
    image = scene()
    jpeg, progressive = encoded(image, "JPEG", quality=90), encoded(image, "JPEG", quality=90, progressive=True)
    plain, webp, gif = encoded(image, "PNG"), encoded(image, "WEBP"), encoded(image, "GIF")
    cmyk = encoded(image.convert("CMYK"), "JPEG", quality=90)
    adobe = cmyk.index(b"Adobe")
    deep = rng.integers(0, 65536, (HEIGHT, WIDTH, 3)).astype(">u2")
    rows16 = b"".join(b"\0" + row.tobytes() for row in deep)
    gray16 = Image.fromarray(deep[..., 0].astype(np.uint16))
    garbage = bytearray(plain)
    garbage[len(plain) // 2 : len(plain) // 2 + 30] = rng.bytes(30)
    # The scan ends in a quantisation table of no length, where there is more to come.
    interrupted = bytearray(jpeg)
    interrupted[len(jpeg) // 2 : len(jpeg) // 2 + 4] = b"\xff\xdb\x00\x00"
    frames = [image, Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3))]
    palette = image.convert("P")
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    profile = rng.bytes(500_000)
    text = chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000)
    bomb_text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 50_000_000))
    truncated, damaged, strange = "truncated or damaged", "truncated or damaged|is not an image", "is not an image"
    cases = {
        **{f"cut_{int(100 * share)}.jpg": Odd(_cut(jpeg, share), damaged) for share in (0.02, 0.3, 0.6, 0.95)},
        "cut_1_byte.jpg": Odd(jpeg[:-1], truncated),
        "cut_60_progressive.jpg": Odd(_cut(progressive, 0.6), truncated),
        "holed.jpg": Odd(_holed(jpeg), truncated),
        "holed_progressive.jpg": Odd(_holed(progressive), truncated),
        "interrupted.jpg": Odd(bytes(interrupted), truncated),
        "cut_60.png": Odd(_cut(plain, 0.6), truncated),
        "garbage.png": Odd(bytes(garbage), truncated),
        "holed.png": Odd(_holed(plain), truncated),
        "header_checksum.png": Odd(plain[:30] + b"\0" + plain[31:], damaged),
        "cut_60.webp": Odd(_cut(webp, 0.6), damaged),
        "cut_60.gif": Odd(_cut(gif, 0.6), truncated),
        "bomb.png": Odd(png(50_000, 50_000, 8, 2, b"\0" * 100), "more than 89478485 pixels"),
        "half_a_bomb.png": Odd(png(9_000, 11_000, 8, 2, b"\0" * 100), "more than 89478485 pixels"),
        "large_and_empty.png": Odd(png(5_000, 5_000, 8, 2, b"\0" * 100), truncated, (5_000, 5_000)),
        "text_bomb.png": Odd(png(HEIGHT, WIDTH, 16, 2, rows16, bomb_text), "Decompressed data too large"),
        "no_size.png": Odd(png(0, 0, 8, 2, b""), damaged),
        "empty.jpg": Odd(b"", "is empty"),
        "one_byte.jpg": Odd(b"\xff", strange),
        "text.jpg": Odd(b"no image", strange),
        "error_page.jpg": Odd(b"<!DOCTYPE html><html><body>404 Not Found</body></html>", strange),
        "annotations.jpg": Odd(b'{"images": []}', strange),
        "zeros.jpg": Odd(bytes(4096), strange),
        "folder.jpg": Odd(lambda path: path.mkdir(), "is a folder|no such image file"),
        "link_to_nowhere.jpg": Odd(lambda path: path.symlink_to(path.with_name("nowhere.jpg")), "no such image file"),
        "link_to_itself.jpg": Odd(lambda path: path.symlink_to(path), "no such image file|truncated or damaged"),
        "float.tif": Odd(encoded(Image.fromarray(np.ones((HEIGHT, WIDTH), np.float32)), "TIFF"), "floating-point"),
        "other_size.png": Odd(encoded(scene(WIDTH, HEIGHT), "PNG"), "the image is 48x64 .* lists"),
        # Read as they are:
        "cmyk.jpg": Odd(cmyk),
        "ycck.jpg": Odd(cmyk[: adobe + 11] + b"\x02" + cmyk[adobe + 12 :]),
        "gray.jpg": Odd(encoded(image.convert("L"), "JPEG")),
        "gray16.png": Odd(encoded(gray16, "PNG")),
        "gray16.tif": Odd(encoded(gray16, "TIFF")),
        "colour16.png": Odd(png(HEIGHT, WIDTH, 16, 2, rows16)),
        "bilevel.png": Odd(encoded(image.convert("1"), "PNG")),
        "palette_transparent.png": Odd(encoded(palette, "PNG", transparency=bytes(range(256)))),
        "gray_alpha.png": Odd(encoded(image.convert("LA"), "PNG")),
        "alpha.png": Odd(encoded(image.convert("RGBA"), "PNG")),
        "checksum.png": Odd(png(HEIGHT, WIDTH, 16, 2, rows16, flip=1), truncated),
        "one_pixel.png": Odd(encoded(scene(1, 1), "PNG"), size_hw=(1, 1)),
        "wide.png": Odd(encoded(scene(20, 20_000), "PNG"), size_hw=(20, 20_000)),
        "tall.jpg": Odd(encoded(scene(20_000, 20), "JPEG"), size_hw=(20_000, 20)),
        "animated.gif": Odd(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])),
        "animated.png": Odd(encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])),
        "animated.webp": Odd(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)),
        "profile.jpg": Odd(encoded(image, "JPEG", icc_profile=profile)),
        "exif.jpg": Odd(encoded(image, "JPEG", exif=exif)),
        "exif_garbage.jpg": Odd(encoded(image, "JPEG", exif=b"Exif\0\0" + rng.bytes(200))),
        "long_text.png": Odd(png(HEIGHT, WIDTH, 16, 2, rows16, text)),
        "trailing.jpg": Odd(jpeg + b"what a telephone writes after its images" * 1000),
        "b\u00e4r \u718a photo.jpg": Odd(jpeg),
        "two  spaces & 'quotes'.png": Odd(plain),
        "png_in_fact.jpg": Odd(plain),
    }
    for orientation in range(1, 9):
        for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")):
            cases[f"turned_{orientation}.{suffix}"] = Odd(turned(kind, orientation))
    return cases
