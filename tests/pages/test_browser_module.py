"""sam.js of docs/examples/browser by itself: images, prompts and masks are laid out as in Python, without a runtime."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.geometry import PIXEL_MEAN, PIXEL_STD, Stretched, upscale_logits
from core.protocols import Prompt
from data.images import to_frame
from students.export.segmenter import ExportedSam
from tests.pages.example_site import Site

RESIZED = [(90, 200), (128, 128), (37, 11), (401, 300), (1, 5), (64, 128), (401, 150), (160, 72), (130, 128)]
"""Heights and widths: larger and smaller than the frame, its own, and tall ones, whose columns Pillow resizes first."""


COMPARING = """async ([height, width, manifest]) => {
  const { toFrame, Answer } = await import("./sam.js");
  const read = async (name) => (await fetch(`arrays/${name}`)).arrayBuffer();
  const floats = async (name) => new Float32Array(await read(name));
  const image = new ImageData(new Uint8ClampedArray(await read("rgba")), width, height);
  const input = toFrame(image, manifest), expected = await floats("input");
  const ofInput = expected.reduce((most, value, i) => Math.max(most, Math.abs(value - input[i])), 0);
  const logits = { data: await floats("logits"), dims: [1, 4, 32, 32] };
  const mask = new Answer(manifest, [height, width], logits, { data: [0, 0, 0, 0] }, false).mask(3);
  const upscaled = await floats("upscaled");
  const wrong = upscaled.filter((logit, i) => (logit > 0) !== (mask[i] === 1)).map(Math.abs);
  return [input.length - expected.length, ofInput, mask.length - upscaled.length, Math.max(0, ...wrong)];
}"""
"""How far the module's input is from the expected one, and the largest logit on whose side of zero it is wrong."""


def test_images_are_resized_as_pillow_does_and_logits_as_pytorch_does(site: Site) -> None:
    generator, arrays = np.random.default_rng(0), site.folder / "arrays"
    arrays.mkdir()
    with site.opened() as page:
        for (height, width), family in itertools.product(RESIZED, ("sam", "sam2")):
            frame = Stretched(128) if family == "sam2" else 128
            rgba = generator.integers(0, 256, (height, width, 4), dtype=np.uint8)
            # What is transparent has levels of its own in no browser.
            rgba[..., 3] = 255
            logits = torch.from_numpy(generator.standard_normal((1, 4, 32, 32), dtype=np.float32))
            (arrays / "rgba").write_bytes(rgba.tobytes())
            (arrays / "input").write_bytes(to_frame(rgba[..., :3], frame).numpy().tobytes())
            (arrays / "logits").write_bytes(logits.numpy().tobytes())
            (arrays / "upscaled").write_bytes(upscale_logits(logits[:, 3:], (height, width), frame).numpy().tobytes())
            manifest = {"frame": 128, "family": family, "pixel_mean": PIXEL_MEAN, "pixel_std": PIXEL_STD}
            lacking, of_input, missing, of_logits = page.evaluate(COMPARING, [height, width, manifest])
            # Another level of 255 would be 0.017.
            assert lacking == missing == 0 and of_input < 1e-6 and of_logits < 1e-5, (height, width, family)


POINTS, EDGES = [[[7.0, 3.0, 1.0]], [[7.0, 3.0, 1.0], [20.0, 11.0, 0.0]], []], [3.0, 5.0, 40.0, 27.0]
LAID_OUT = """async ([family, size, prompts]) => {
  const { Sam } = await import("./sam.js");
  class Tensor { constructor(type, data, dims) { Object.assign(this, { data, dims }); } }
  const manifest = { frame: 64, grid: 4, family, pixel_mean: [0, 0, 0], pixel_std: [1, 1, 1] }, fed = [];
  const answers = (inputs) => (fed.push(inputs), { low_res_masks: { data: new Float32Array(4), dims: [1, 4, 1, 1] },
    iou_predictions: { data: new Float32Array(4) } });
  const encoder = { run: () => ({ image_embeddings: { data: new Float32Array([8]), dims: [1, 1, 1, 1] } }) };
  const sam = new Sam({ Tensor }, manifest, encoder, { inputNames: ["orig_im_size"], run: answers });
  await sam.setImage(new ImageData(size[1], size[0]));
  for (const prompt of prompts) await sam.predict(prompt);
  return fed.map((inputs) => Object.entries(inputs).map(([name, { data, dims }]) => [name, Array.from(data), dims]));
}"""
"""What the decoder is fed for each prompt."""


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_prompts_are_laid_out_as_in_python(site: Site, family: str) -> None:
    size_hw = (30, 50)
    prompts = [{"box": box, "points": points} for box in (None, EDGES) for points in POINTS if box or points]
    with site.opened() as page:
        answered = page.evaluate(LAID_OUT, [family, size_hw, prompts])
    layout = SimpleNamespace(_is_sam2=family == "sam2", input_size=Stretched(64) if family == "sam2" else 64)
    assert len(answered) == len(prompts) == 5
    for prompt, inputs in zip(prompts, answered, strict=True):
        box = torch.tensor([EDGES]) if prompt["box"] else None
        points = torch.tensor([prompt["points"]]) if prompt["points"] else None
        given = Prompt(box) if points is None else Prompt(box, points[..., :2], points[..., 2])
        coords, labels = ExportedSam._points(layout, given, size_hw)  # type: ignore[arg-type]
        found = {name: torch.tensor(data).float().reshape(dims) for name, data, dims in inputs}
        expected = {
            "point_coords": coords,
            "point_labels": labels,
            "mask_input": torch.zeros(1, 1, 16, 16),
            "has_mask_input": torch.zeros(1),
            "image_embeddings": torch.full((1, 1, 1, 1), 8.0),
            "orig_im_size": torch.ones(2),
        }
        torch.testing.assert_close(found, expected)


REFUSED = [
    ({}, "no prompt; give box: [x0, y0, x1, y1]"),
    ({"box": [1, 2, 3]}, "box=[1,2,3] must be four numbers"),
    ({"box": [1, 2, 3, "4"]}, 'box=[1,2,3,"4"] must be four numbers'),
    ({"box": [1, None, 3, 4]}, "box=[1,null,3,4] must be four numbers"),
    ({"box": [9, 2, 9, 4]}, "box=[9,2,9,4] has no area"),
    ({"box": [-1, 2, 9, 4]}, "box=[-1,2,9,4] reaches outside the image, which is 50x30 (width x height)"),
    ({"box": [1, 2, 9, 30.5]}, "box=[1,2,9,30.5] reaches outside"),
    ({"points": [[1, 2]]}, "points: [1,2] must be three numbers"),
    ({"points": 7}, "points=7 must be a list"),
    ({"points": [[1, 2, 1], [50, 2, 1]]}, "points: [50,2,1] lies outside the image, which is 50x30"),
    (
        {"box": EDGES, "points": [[1, 2, 2]]},
        "points: [1,2,2] has the label 2; give 1 (inside the object) or 0 (outside)",
    ),
]


def test_prompts_that_python_refuses_are_refused(site: Site) -> None:
    with site.opened() as page:
        said = page.evaluate(
            "async (prompts) => { const { Sam } = await import('./sam.js'), sam = new Sam({}, { frame: 64, grid: 4 });"
            " Object.assign(sam, { maps: {}, size: [30, 50] });"
            " return Promise.all(prompts.map((prompt) => sam.predict(prompt).catch((error) => error.message))) }",
            [prompt for prompt, _ in REFUSED],
        )
    for message, (_, words) in zip(said, REFUSED, strict=True):
        assert message.startswith(words) and "give " in message, message


def test_an_unstable_single_mask_of_sam_2_gives_way(site: Site) -> None:
    with site.opened() as page:
        best = page.evaluate(
            "async () => { const { Answer } = await import('./sam.js');"
            " const best = (family, logit, onePoint) => new Answer({ family, frame: 4 }, [4, 4],"
            " { data: new Float32Array(16).fill(logit), dims: [1, 4, 2, 2] }, { data: [9, 1, 3, 2] }, onePoint).best;"
            " return [best('sam2', 0.01, false), best('sam2', 1, false), best('sam', 0.01, false),"
            " best('sam', 1, true)] }"
        )
    assert best == [2, 0, 0, 2]
