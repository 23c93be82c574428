"""A run's picture of example masks, held in the page."""

import base64
import io
from pathlib import Path

from experiments.pages.page import text

MOST_BYTES = 2_000_000
"""Of a picture as it is; a larger one is made smaller."""
WIDTH = 1600
"""Of a picture that was made smaller, in pixels."""


def masks_part(path: Path) -> str:
    """The picture as an element that holds it; nothing where there is none.

    Raises:
        ValueError: the file is no picture.
    """
    if not path.is_file():
        return ""
    content, kind = path.read_bytes(), "png"
    if not content.startswith(b"\x89PNG"):
        raise ValueError("no PNG file")
    if len(content) > MOST_BYTES:
        content, kind = _smaller(content), "jpeg"
    description = "held-out pictures: boxes asked, ground truth, and the masks of each model with their IoUs"
    data = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return f'<figure class="masks"><img alt="{text(description)}" src="{data}"></figure>'


def _smaller(content: bytes) -> bytes:
    # Here, because most pages need no Pillow.
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            shown = image.convert("RGBA")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from None
    ground = Image.new("RGB", shown.size, "white")
    ground.paste(shown, mask=shown.getchannel("A"))
    ground.thumbnail((WIDTH, 4 * WIDTH))
    stream = io.BytesIO()
    ground.save(stream, "JPEG", quality=85)
    return stream.getvalue()
