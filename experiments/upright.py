"""An image as viewers show it, for commands that take one from whoever has looked at it."""

import contextlib
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from data.images import read_image

# What brings an image from the orientation that EXIF names to upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright_image(path: Path) -> NDArray[np.uint8]:
    """An image uint8 ``[H, W, 3]``, RGB, as viewers show it: turned as its EXIF data say.

    Whoever types a coordinate has read it off a viewer. Data sets, on the other hand, annotate stored pixels.

    Raises:
        InputError: as :func:`data.images.read_image`.
    """
    image = read_image(path)
    orientation = None
    # The pixels are whole; damaged EXIF data are treated as none.
    with contextlib.suppress(Exception), warnings.catch_warnings(), Image.open(path) as opened:
        warnings.simplefilter("ignore")
        orientation = opened.getexif().get(ExifTags.Base.Orientation)
    if orientation not in _UPRIGHT:
        return image
    return np.array(Image.fromarray(image).transpose(_UPRIGHT[orientation]))
