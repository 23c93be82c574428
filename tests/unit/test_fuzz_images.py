"""Images of every format, damaged at random: pixels of the size the header tells, or a refusal in one line."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import InputError
from data import images
from data.images import image_size, read_image
from tests.unit.broken_images import encoded, scene, turned
from tests.unit.mutations import damaged

FAST = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LONG = settings(FAST, max_examples=6_000)
SMALL = scene(24, 32)
FILES = [
    encoded(SMALL, "JPEG"),
    encoded(SMALL, "JPEG", progressive=True, quality=60),
    encoded(SMALL.convert("CMYK"), "JPEG"),
    encoded(SMALL, "PNG"),
    encoded(SMALL.convert("P"), "PNG", transparency=bytes(range(256))),
    encoded(SMALL, "GIF", save_all=True, append_images=[scene(24, 32).rotate(180)]),
    encoded(SMALL, "WEBP"),
    encoded(SMALL, "BMP"),
    encoded(SMALL, "TIFF", compression="tiff_lzw"),
    turned("TIFF", 6),
]
files = st.sampled_from(FILES).flatmap(damaged)


@pytest.fixture(scope="module", autouse=True)
def little_memory() -> object:
    """A damaged header may tell any size: what is decoded stays small here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "MAX_PIXELS", 2_000_000)
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images") / "image"


def is_read_or_refused(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    try:
        size_hw = image_size(path)
        image = read_image(path)
    except InputError as error:
        message = str(error)
        assert message.startswith(f"{path}: ") and "\n" not in message and ";" in message and len(message) < 1000
        return
    assert image.dtype == np.uint8 and image.shape == (*size_hw, 3)


@FAST
@given(content=files)
def test_damaged_images(content: bytes, path: Path) -> None:
    is_read_or_refused(content, path)


@pytest.mark.slow
@LONG
@given(content=files)
def test_many_damaged_images(content: bytes, path: Path) -> None:
    is_read_or_refused(content, path)


@pytest.mark.parametrize("number", range(len(FILES)))
def test_each_is_read_as_it_is(number: int, path: Path) -> None:
    path.write_bytes(FILES[number])
    assert read_image(path).shape == (24 if number < 9 else 48, 32 if number < 9 else 64, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_no_cut_is_read_as_another_image(kind: str, path: Path) -> None:
    whole = encoded(SMALL, kind)
    path.write_bytes(whole)
    expected, read = read_image(path), 0
    for length in range(0, len(whole), 7):
        for filled in (whole[:length], whole[:length] + bytes(len(whole) - length)):
            path.write_bytes(filled)
            try:
                found = read_image(path)
            except InputError:
                continue
            assert np.array_equal(found, expected)
            read += 1
    # Only the last bytes of a file may go: of PNG those behind the pixels.
    assert read <= 8
