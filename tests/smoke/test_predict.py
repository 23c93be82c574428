"""The command ``predict`` on an image of ``shapes``: masks, overlay, what it prints and what it refuses."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from data.prompts import central_point
from data.sample import ImageSample
from data.shapes import Shapes
from data.upright import upright_image
from experiments.commands.typed_prompt import TypedPrompt
from experiments.reporting.mask_images import draw_prediction

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def sample() -> ImageSample:
    """An image 128 wide and 96 high, or the other way round."""
    data = Shapes("validation", 20)
    return next(sample for sample in map(data.sample, range(20)) if sample.image.shape[0] != sample.image.shape[1])


@pytest.fixture
def file(sample: ImageSample, tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    Image.fromarray(sample.image).save(path)
    return path


@pytest.fixture
def call(command: Call) -> Call:
    """``predict`` from an empty folder."""
    return partial(command, "predict")


def written(path: Path) -> NDArray[np.bool_]:
    """The mask in a file, of which every pixel is 0 or 255."""
    with Image.open(path) as image:
        assert image.mode == "L"
        values = np.array(image)
    assert set(np.unique(values)) <= {0, 255}
    return values > 0


def largest(sample: ImageSample) -> tuple[NDArray[np.bool_], str]:
    """The mask of the largest object, and its box as it is typed."""
    chosen = int(sample.areas.argmax())
    return sample.masks[chosen], f"[{','.join(f'{value:g}' for value in sample.boxes_xyxy[chosen])}]"


def test_a_box(call: Call, file: Path, sample: ImageSample) -> None:
    truth, box = largest(sample)
    status, out, err = call("checkpoint=sam_pocket", f"image={file}", f"box={box}")
    assert status == 0 and not err
    # The folder is the current one unless out= says otherwise.
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["scene_mask.png", "scene_overlay.png"]
    mask = written(Path("scene_mask.png"))
    assert mask.shape == truth.shape
    assert (mask & truth).sum() > 0.8 * truth.sum() and (mask & truth).sum() > 0.7 * (mask | truth).sum()
    of_mask, of_overlay, of_time = out.splitlines()
    assert of_mask.startswith(f"mask: {mask.sum():,} pixels") and of_mask.endswith("scene_mask.png")
    assert "predicted IoU 0." in of_mask and of_overlay == "overlay: scene_overlay.png"
    assert of_time.startswith("sam_pocket: encoding ") and " ms, decoding " in of_time
    with Image.open("scene_overlay.png") as overlay:
        assert min(overlay.size) > 300
        colours = np.array(overlay.convert("RGB")).astype(int)
    # The box stands in it in its colour.
    assert (np.abs(colours - (86, 180, 233)).sum(2) < 30).sum() > 200


def test_points_with_candidates_as_json(call: Call, file: Path, sample: ImageSample, tmp_path: Path) -> None:
    truth = largest(sample)[0]
    (x, y), (ax, ay) = central_point(truth), central_point(np.logical_not(sample.masks.any(0)))
    words = ("checkpoint=sam_pocket", f"image={file}", f"points=[[{x:g},{y:g}],[{ax:g},{ay:g}]]", "labels=[1,0]")
    status, out, err = call(*words, "multimask=true", f"out={tmp_path / 'new' / 'folder'}", "format=json")
    rows = json.loads(out)["rows"]
    assert status == 0 and not err and len(rows) == 3 and not list(Path.cwd().iterdir())
    for index, row in enumerate(rows):
        assert row["mask"] == str(tmp_path / "new" / "folder" / f"scene_mask{index}.png") and row["index"] == index
        assert written(Path(row["mask"])).sum() == row["area"]
        assert 0 < row["iou_pred"] < 1.1 and row["encode_ms"] > 0 and row["decode_ms"] > 0
        assert Path(row["overlay"]).name == "scene_overlay.png" and Path(row["overlay"]).is_file()
        assert row["model"] == "sam_pocket" and row["image"] == str(file)
    best = written(Path(max(rows, key=lambda row: row["iou_pred"])["mask"]))
    assert (best & truth).sum() > 0.6 * truth.sum()
    status, _, _ = call(*words, f"out={tmp_path / 'new' / 'folder'}")
    assert status == 0 and (tmp_path / "new" / "folder" / "scene_mask.png").is_file()


def test_masks_of_an_earlier_prompt_do_not_stay(call: Call, file: Path, sample: ImageSample, tmp_path: Path) -> None:
    words, out = ["checkpoint=sam_pocket", f"image={file}", f"box={largest(sample)[1]}"], Path.cwd()
    assert call(*words, "multimask=true")[0] == 0
    # Of somebody else, and of another image: none of this prompt's.
    Image.new("L", (4, 4)).save(out / "other_mask0.png")
    Image.new("L", (4, 4)).save(out / "scene_mask1.png")
    (out / "scene_mask2.png").rename(tmp_path / "kept.png")
    (out / "scene_mask2.png").symlink_to(tmp_path / "kept.png")
    assert call(*words)[0] == 0
    found = {path.name for path in out.glob("*_*.png")}
    assert found == {"scene_mask.png", "scene_overlay.png", "other_mask0.png", "scene_mask1.png", "scene_mask2.png"}
    (out / "scene_mask1.png").unlink()
    assert call(*words, "multimask=true")[0] == 0
    assert not (out / "scene_mask.png").exists() and len(list(out.glob("scene_mask?.png"))) == 3


def test_one_point_without_label_is_inside(call: Call, file: Path, sample: ImageSample) -> None:
    x, y = central_point(largest(sample)[0])
    for name, words in {"default": (), "reported": ("labels=[1]",), "outside": ("labels=[0]",)}.items():
        assert call("checkpoint=sam_pocket", f"image={file}", f"points=[[{x:g},{y:g}]]", f"out={name}", *words)[0] == 0
    masks = {name: written(Path(name) / "scene_mask.png") for name in ("default", "reported", "outside")}
    assert (masks["default"] == masks["reported"]).all() and (masks["default"] != masks["outside"]).any()


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_an_image_is_upright_as_viewers_show_it(orientation: int, tmp_path: Path) -> None:
    from PIL import ImageOps

    stored = Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        expected = np.array(ImageOps.exif_transpose(image))
    assert np.array_equal(upright_image(tmp_path / "turned.png"), expected)


@pytest.mark.parametrize("size_hw", [(3000, 40), (1, 500), (1100, 2100), (1, 1)])
def test_any_size_is_drawn(size_hw: tuple[int, int], tmp_path: Path) -> None:
    image, masks = np.zeros((*size_hw, 3), np.uint8), np.ones((3, *size_hw), np.bool_)
    prompt = TypedPrompt(np.array([0, 0, 1, 1.0]), np.array([[0, 0.0], [0.5, 0.5]]), np.array([1, 0]))
    draw_prediction(tmp_path / "drawn.png", image, masks, np.array([0.5, 0.25, 1], np.float32), prompt)
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.width >= 900 and drawn.height >= 300


GIVEN = "checkpoint=sam_pocket image=scene.png"
REFUSED = [
    ("image=scene.png box=[1,2,30,40]", ["checkpoint is missing", "sam_pocket"]),
    ("checkpoint=sam_pocket box=[1,2,30,40]", ["image is missing", "image="]),
    (GIVEN, ["no prompt", "box=[x0,y0,x1,y1]", "points=[[x,y],...]"]),
    (f"{GIVEN} labels=[1]", ["labels=[1]", "give points"]),
    (f"{GIVEN} box=[1,2,30,400]", ["box=[1,2,30,400] reaches outside the image", "(width x height)"]),
    (f"{GIVEN} box=[1,2,1,40]", ["box=[1,2,1,40] has no area"]),
    (f"{GIVEN} box=[1,2,30,wide]", ["box", "a number"]),
    (f"{GIVEN} box=5", ["box=5", "give a list"]),
    (f"{GIVEN} points=[5,6] labels=[1]", ["points=[5,6] must be pairs of numbers", "[[x,y],...]"]),
    (f"{GIVEN} points=5", ["points=5", "give a list"]),
    (f"{GIVEN} points=[[5,6],[500,6]]", ["[500,6] lies outside the image"]),
    (f"{GIVEN} points=[[5,6],[7,8]] labels=[1]", ["labels=[1] for 2 points", "one a point"]),
    (f"{GIVEN} points=[[5,6]] labels=[0.5]", ["labels", "a whole number"]),
    (f"{GIVEN} box=[1,2,30,40] multimask=perhaps", ["multimask=perhaps", "true or false"]),
    (f"{GIVEN} box=[1,2,30,40] boxes=1", ["boxes is no setting", "box"]),
    (f"{GIVEN} box=[1,2,30,40] engine.device=tpu", ["engine.device=tpu"]),
    (f"{GIVEN} box=[1,2,30,40] out=scene.png", ["out=", "scene.png", "cannot be written"]),
    ("checkpoint=sam_pocket image=nowhere.png box=[1,2,30,40]", ["nowhere.png: no such image file"]),
    ("checkpoint=sam_pocket image=broken.png box=[1,2,30,40]", ["broken.png: truncated or damaged"]),
    ("checkpoint=sam_poket image=scene.png box=[1,2,30,40]", ["sam_poket", "did you mean sam_pocket"]),
    ("checkpoint=other.pth image=scene.png box=[1,2,30,40]", ["other.pth"]),
]


def test_what_is_wrong_is_refused_in_one_line(call: Call, file: Path) -> None:
    (file.parent / "broken.png").write_bytes(file.read_bytes()[:2000])
    torch.save({"weight": torch.zeros(3)}, file.parent / "other.pth")
    wrong = []
    for command, said in REFUSED:
        for path in file.parent.glob("*.p*"):
            command = command.replace(f"={path.name}", f"={path}")
        status, out, err = call(*command.split(" "))
        ok = status == 2 and not out and err.count("\n") == 1 and err.startswith("error: ")
        if not ok or not all(part in err for part in said):
            wrong.append(f"{command}: status {status}, said {err!r} and {out!r}")
        assert not list(Path.cwd().iterdir()), f"{command}: left files"
    assert not wrong, "\n".join(wrong)
