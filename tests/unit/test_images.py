"""Reading images, and the frame against Meta's own resizing."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import InputError
from core.geometry import PIXEL_MEAN, PIXEL_STD
from data import images
from data.images import image_size, read_image, require_size, to_frame


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def meta_frame(image: np.ndarray, frame: int) -> torch.Tensor:
    """What ``SamPredictor.set_image`` and ``Sam.preprocess`` make of an image."""
    reason = "segment_anything is not installed (sampress[test])"
    transforms = pytest.importorskip("segment_anything.utils.transforms", reason=reason)
    pixels = torch.as_tensor(transforms.ResizeLongestSide(frame).apply_image(image)).permute(2, 0, 1)
    pixels = (pixels - torch.tensor(PIXEL_MEAN).view(-1, 1, 1)) / torch.tensor(PIXEL_STD).view(-1, 1, 1)
    return torch.nn.functional.pad(pixels, (0, frame - pixels.shape[2], 0, frame - pixels.shape[1]))


@settings(max_examples=25, deadline=None)
@given(height=st.integers(8, 150), width=st.integers(8, 150), frame=st.sampled_from([64, 100, 128]))
def test_frame_equals_meta(height: int, width: int, frame: int) -> None:
    image = noise(height, width)
    assert torch.equal(to_frame(image, frame), meta_frame(image, frame))


def test_frame_equals_meta_on_a_photo(shared: Path) -> None:
    image = read_image(shared / "data" / "photos" / "dog.jpg")
    assert torch.equal(to_frame(image, 1024), meta_frame(image, 1024))


def test_frame_of_a_very_long_image_keeps_one_row() -> None:
    assert torch.isfinite(to_frame(noise(1, 500), 64)).all()


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)])
def test_frame_refuses_other_arrays(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        to_frame(wrong, 64)


def test_png_is_read_as_stored(tmp_path: Path) -> None:
    image = noise(5, 7)
    Image.fromarray(image).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), image)
    assert read_image(str(tmp_path / "a.png")).flags.writeable
    assert image_size(tmp_path / "a.png") == (5, 7)


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(8, 16)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (8, 16, 3)


def test_gray_palette_cmyk_and_alpha_become_rgb(tmp_path: Path) -> None:
    flat = Image.new("RGB", (6, 4), (255, 0, 0))
    cases = {
        "gray.png": (flat.convert("L"), (76, 76, 76)),
        "bilevel.png": (Image.new("1", (6, 4), 1), (255, 255, 255)),
        "palette.png": (flat.convert("P"), (255, 0, 0)),
        "cmyk.tif": (flat.convert("CMYK"), (255, 0, 0)),
        "alpha.png": (Image.new("RGBA", (6, 4), (1, 2, 3, 0)), (1, 2, 3)),
        "gray_alpha.png": (Image.new("LA", (6, 4), (9, 0)), (9, 9, 9)),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / name)
        found = read_image(tmp_path / name)
        assert found.dtype == np.uint8 and found.shape == (4, 6, 3), name
        assert (found == expected).all(), name


def test_palette_with_transparency_keeps_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (6, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png", transparency=b"\x00\x80")
    assert (read_image(tmp_path / "a.png") == (10, 20, 30)).all()


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "a.gif") == (255, 0, 0)).all()


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_image(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and ";" in message
    return message


def test_what_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    assert "no such image file" in refusal(tmp_path / "missing.jpg")
    assert "no such image file" in refusal(tmp_path / "text.jpg" / "below.jpg")
    assert "is a folder" in refusal(tmp_path)
    assert "is empty" in refusal(tmp_path / "empty.jpg")
    assert "is not an image" in refusal(tmp_path / "text.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_images_are_refused(tmp_path: Path, kind: str, share: float) -> None:
    stored = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(stored, kind)
    (tmp_path / "cut").write_bytes(stored.getvalue()[: int(share * stored.tell())])
    assert "truncated" in refusal(tmp_path / "cut") or "not an image" in refusal(tmp_path / "cut")


def test_floats_and_more_than_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((2, 2), 70_000, np.int32)).save(tmp_path / "int.tif")
    assert "8 bits" in refusal(tmp_path / "float.tif")
    assert "16 bits" in refusal(tmp_path / "int.tif")


@pytest.mark.parametrize("side", [9_600, 14_000])
def test_decompression_bombs_are_refused(tmp_path: Path, side: int) -> None:
    # Below and above twice the limit Pillow behaves differently; both are refused before any pixel is decoded.
    assert images.MAX_PIXELS == Image.MAX_IMAGE_PIXELS
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    assert "pixels; scale the image down" in refusal(tmp_path / "bomb.png")


def test_other_size_than_listed_names_both() -> None:
    with pytest.raises(InputError, match=r"a\.jpg: the image is 4x3 .* b\.json lists 3x4"):
        require_size(Path("a.jpg"), (3, 4), (4, 3), Path("b.json"))


def test_warnings_of_pillow_are_ignored_until_the_last_thread_has_read(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    before = list(warnings.filters)
    first, second = (images._opened(tmp_path / "a.png") for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    # As a thread that still decodes would meet it.
    warnings.warn_explicit("damaged metadata", UserWarning, "TiffImagePlugin.py", 1, module="PIL.TiffImagePlugin")
    second.__exit__(None, None, None)
    assert list(warnings.filters) == before
