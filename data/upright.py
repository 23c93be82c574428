"""An image as viewers show it, for commands that take one from whoever has looked at it."""

import contextlib
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from data.images import read_image


def upright_image(path: Path) -> NDArray[np.uint8]:
    """An image uint8 ``[H, W, 3]``, RGB, as viewers show it: turned as its EXIF data say.

    Whoever types a coordinate has read it off a viewer. Data sets, on the other hand, annotate stored pixels.

    Raises:
        InputError: as :func:`data.images.read_image`.
    """
    image = Image.fromarray(read_image(path))
    # The pixels are whole; damaged EXIF data are treated as none.
    with contextlib.suppress(Exception), warnings.catch_warnings(), Image.open(path) as opened:
        warnings.simplefilter("ignore")
        image.getexif()[ExifTags.Base.Orientation] = opened.getexif()[ExifTags.Base.Orientation]
    return np.array(ImageOps.exif_transpose(image))
