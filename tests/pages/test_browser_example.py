"""docs/examples/browser in a browser: an exported folder's masks by box and point are those of the Python segmenter."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.geometry import upscale_logits
from core.protocols import Prompt
from core.provenance import ROOT
from data.images import to_frame
from data.shapes import Shapes
from students.export.manifest import MANIFEST
from students.export.segmenter import ExportedSam
from teachers.weights import load_sam
from tests.pages.conftest import PHONE
from tests.pages.example_site import EXAMPLE, Site

READY, ENCODED, ANSWERED = "Choose an image", "encoded in", "answered in"
SIZE = (330, 250)
"""Width and height of the image, neither of them the frame's."""
BOX, FOREGROUND, BACKGROUND = (33, 30, 205, 175), (132, 100), (300, 230)
"""Prompts in pixels of the image."""


@pytest.fixture(scope="module")
def runtime() -> Path:
    """The folder of packages with onnxruntime-web in it."""
    package = EXAMPLE / "node_modules" / "onnxruntime-web" / "package.json"
    pinned = json.loads((EXAMPLE / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    if not package.is_file() or json.loads(package.read_text())["version"] != pinned:
        pytest.skip(f"onnxruntime-web {pinned} is not there (npm install --prefix {EXAMPLE.relative_to(ROOT)})")
    return EXAMPLE / "node_modules"


@pytest.fixture(scope="module")
def complete(site: Site, runtime: Path, pocket_onnx: Path) -> Site:
    """With the runtime, and sam_pocket as its model."""
    if not (site.folder / "model").exists():
        (site.folder / "node_modules").symlink_to(runtime)
        (site.folder / "model").symlink_to(pocket_onnx)
    return site


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "shapes.png"
    Image.fromarray(Shapes("validation", 1).image(0)).resize(SIZE).save(path)
    return path


def status_with(page: Any, text: str) -> str:
    """The status, as soon as it contains a text."""
    page.wait_for_function("text => document.getElementById('status').textContent.includes(text)", arg=text)
    status: str = page.inner_text("#status")
    return status


def choose(page: Any, image: Path) -> None:
    status_with(page, READY)
    page.set_input_files("#file", image)
    assert re.match(
        rf"{re.escape(image.name)}: {SIZE[0]} x {SIZE[1]} pixels, encoded in \d+ ms", status_with(page, ENCODED)
    )


def at(page: Any, x: float, y: float) -> tuple[float, float]:
    """Where a place of the image is in the window."""
    stage, image = page.locator("#stage").bounding_box(), page.locator("#image")
    scale = stage["width"] / image.evaluate("image => image.width")
    return stage["x"] + scale * x, stage["y"] + scale * y


def draw_box(page: Any, left: int, top: int, right: int, bottom: int) -> None:
    # From the corner at the right to that at the left: a box has no direction.
    page.mouse.move(*at(page, right, bottom))
    page.mouse.down()
    page.mouse.move(*at(page, left + 30, top + 30))
    page.mouse.move(*at(page, left, top))
    page.mouse.up()


def middle(page: Any, x: int, y: int) -> tuple[float, float]:
    """Where the middle of a pixel is in the window."""
    return at(page, x + 0.5, y + 0.5)


def shown_mask(page: Any) -> torch.Tensor:
    """What is painted over the image, bool ``[H, W]``."""
    rows = page.evaluate(
        "() => { const mask = document.getElementById('mask'), {width, height} = mask;"
        " const copy = new OffscreenCanvas(width, height).getContext('2d', {willReadFrequently: true});"
        " copy.drawImage(mask, 0, 0); const {data} = copy.getImageData(0, 0, width, height);"
        " return Array.from({length: height}, (_, y) => Array.from({length: width},"
        " (_, x) => data[4 * (y * width + x) + 3] ? 1 : 0).join('')) }"
    )
    return torch.tensor([[pixel == "1" for pixel in row] for row in rows])


def predicted_ious(page: Any) -> list[float]:
    return [float(text) for text in page.locator("#candidates .quiet").all_inner_texts()]


def prompt_in(status: str) -> Prompt:
    """The prompt that the page says it answered, in pixels."""
    box = re.search(r"box ([\d, ]+)", status)
    points = [(kind == "foreground", int(x), int(y)) for kind, x, y in re.findall(r"(\w+ground) (\d+), (\d+)", status)]
    return Prompt(
        torch.tensor([[float(edge) for edge in box[1].split(",")]]) if box else None,
        torch.tensor([[[x, y] for _, x, y in points]]).float() if points else None,
        torch.tensor([[int(label) for label, _, _ in points]]) if points else None,
    )


def iou(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found & expected).sum() / (found | expected).sum())


def assert_answers_as(page: Any, model: ExportedSam, image: Path, least: float = 0.999, of_iou: float = 1e-3) -> None:
    """Prompt by point, by box and by both; every candidate is the Python segmenter's.

    Args:
        least: IoU with its masks.
        of_iou: largest difference of a predicted IoU, which the page rounds to three digits.
    """
    size_hw = SIZE[::-1]
    embedding = model.encode(to_frame(np.array(Image.open(image)), model.input_size)[None])

    def compare(status: str, shown: int) -> None:
        prompt = prompt_in(status)
        single, three = (model.decode(embedding, prompt, size_hw, multimask) for multimask in (False, True))
        logits, ious = model.decode_frame(embedding, *model._points(prompt, size_hw))
        assert predicted_ious(page) == pytest.approx(ious[0].tolist(), abs=of_iou)
        choices = page.locator("#candidates input")
        assert choices.nth(shown).is_checked()
        expected = single if shown == 0 else three
        masks = expected.binary(size_hw)[0]
        assert iou(shown_mask(page), masks[0 if shown == 0 else shown - 1]) >= least
        for index, mask in enumerate(upscale_logits(logits, size_hw, model.input_size)[0] > 0):
            choices.nth(index).check()
            assert iou(shown_mask(page), mask) >= least, index
        choices.nth(shown).check()

    choose(page, image)
    page.mouse.click(*middle(page, *FOREGROUND))
    status = status_with(page, f"foreground 132, 100: {ANSWERED}")
    _, ious = model.decode_frame(embedding, *model._points(prompt_in(status), size_hw))
    compare(status, shown=1 + int(ious[0, 1:].argmax()))
    page.locator("#reset").click()
    assert page.locator("#candidates input").count() == 0 and not shown_mask(page).any()
    assert page.locator("#prompt *").count() == 0
    # An answer that comes after a reset is of no prompt.
    page.mouse.move(*middle(page, *FOREGROUND))
    page.mouse.down()
    page.evaluate(
        "() => { document.getElementById('stage').dispatchEvent(new PointerEvent('pointerup'));"
        " document.getElementById('reset').click() }"
    )
    page.mouse.up()
    page.wait_for_function("document.body.ariaBusy === 'false'")
    assert page.locator("#candidates input").count() == 0
    draw_box(page, *BOX)
    compare(status_with(page, f"box 33, 30, 205, 175: {ANSWERED}"), shown=0)
    page.mouse.click(*middle(page, *FOREGROUND))
    page.keyboard.down("Shift")
    page.mouse.click(*middle(page, *BACKGROUND))
    page.keyboard.up("Shift")
    compare(status_with(page, f"box 33, 30, 205, 175; foreground 132, 100; background 300, 230: {ANSWERED}"), shown=0)
    assert page.locator("#prompt rect").count() == 1 and page.locator("#prompt circle").count() == 2


def test_masks_and_predicted_ious_are_those_of_the_files(complete: Site, pocket_onnx: Path, image: Path) -> None:
    with complete.opened() as page:
        assert_answers_as(page, ExportedSam(pocket_onnx), image)
        assert page.inner_text("#model").startswith("sam_pocket · fp32 · 11.7 MB · frame of 128 pixels")
    served = {path.partition("?")[0].removeprefix("/") for path in complete.requested}
    assert {f"model/{name}" for name in (MANIFEST, "encoder.onnx", "decoder.onnx")} <= served


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sam2_pocket", ["checkpoint=sam2_pocket"]),
        ("w8", ["checkpoint=sam_pocket", "precision=w8", "upscale=false"]),
        ("w4", ["checkpoint=sam_pocket", "precision=w4"]),
    ],
)
def test_other_folders_and_jpeg_run_too(
    complete: Site, image: Path, tmp_path: Path, name: str, settings: Sequence[str]
) -> None:
    from experiments.cli.command_line import main

    folder, jpeg = complete.folder / name, tmp_path / "shapes.jpg"
    assert main(["export", *settings, "to=onnx", f"out={folder}"]) == 0
    Image.open(image).save(jpeg)
    with complete.opened(f"?model={name}") as page:
        assert_answers_as(page, ExportedSam(folder), jpeg)


@pytest.mark.slow
def test_an_int8_folder_runs_too(complete: Site, image: Path, tmp_path: Path) -> None:
    from benchmarks.runtimes import quickly_quantised

    folder = quickly_quantised(load_sam("sam_pocket"), tmp_path)
    (complete.folder / "int8").symlink_to(folder)
    with complete.opened("?model=int8") as page:
        assert_answers_as(page, ExportedSam(folder), image, least=0.98, of_iou=0.01)


def error_of(page: Any) -> str:
    page.wait_for_function("!document.getElementById('error').hidden")
    message: str = page.inner_text("#error")
    return message


def test_what_is_missing_is_named(site: Site, complete: Site, pocket_onnx: Path) -> None:
    for name, changes, message in (
        (
            "nowhere",
            None,
            r"nowhere/export\.json: not there \(HTTP 404\); write it with: python -m experiments export .*",
        ),
        ("other", {"to": "openvino"}, r"other/export\.json: the files are of to=openvino, browsers need to=onnx; .*"),
        ("later", {"format": "later"}, r"later/export\.json: is not of the format sampress-export-1; .*"),
        ("half", {}, r"half/encoder\.onnx: not there \(HTTP 404\); .*out=half"),
        ("damaged", {}, r"damaged/encoder\.onnx: ONNX Runtime cannot open it \(.*\); export the model again"),
    ):
        if changes is not None:
            (complete.folder / name).mkdir()
            content = json.loads((pocket_onnx / MANIFEST).read_text()) | changes
            (complete.folder / name / MANIFEST).write_text(json.dumps(content))
        if name == "damaged":
            (complete.folder / name / "encoder.onnx").write_bytes(b"not ONNX")
        with complete.opened(f"?model={name}") as page:
            assert re.fullmatch(message, error_of(page))
            assert page.locator("#file").is_disabled()


def test_without_webassembly_or_the_runtime_it_says_so(site: Site) -> None:
    with site.opened(script="delete globalThis.WebAssembly") as page:
        assert "no WebAssembly" in error_of(page)
    with site.opened(script="") as page:
        page.route("**/onnxruntime-web/**", lambda route: route.fulfill(status=404))
        page.reload()
        assert error_of(page).endswith("install it beside this page with: npm install")


def test_a_file_that_is_no_image_is_named_and_the_next_one_works(complete: Site, image: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(image.read_bytes()[:60])
    with complete.opened(viewport=PHONE, color_scheme="dark", has_touch=True) as page:
        status_with(page, READY)
        page.set_input_files("#file", tmp_path / "broken.png")
        assert error_of(page) == "broken.png: cannot be decoded as an image"
        assert page.locator("#stage").is_hidden()
        page.locator("#sample").click()
        assert status_with(page, ENCODED).startswith("sample: 640 x 480 pixels")
        # On a phone a background point is chosen above the image.
        page.locator("[name=kind][value='0']").check()
        page.touchscreen.tap(*middle(page, 256, 192))
        assert re.match(r"background 25[567], 19[123]: ", status_with(page, ANSWERED)), (
            "a pixel of the image is half of one here"
        )
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        inside = page.locator("#candidates label").evaluate_all(
            "labels => labels.length === 4 && labels.every((label) => label.scrollWidth <= label.clientWidth)"
        )
        assert inside
        dark = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
        page.emulate_media(color_scheme="light")
        assert page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor") != dark
