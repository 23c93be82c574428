"""A corpus of broken and odd images, read alone, in every data set, in training and in scoring."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from core.provenance import ROOT
from data import annotated_images, sa1b
from data.batches import ImageBatches, InstanceBatches
from data.coco import Coco
from data.detections import Detections
from data.images import image_size, read_image
from data.lvis import Lvis
from data.sa1b import Sa1b
from data.sample import ImageData
from evaluation.baselines import score_baselines
from evaluation.protocols import PROTOCOLS
from evaluation.scorer import Scored, Scorer
from tests.unit.broken_images import HEIGHT, WIDTH, Odd, corpus, scene
from tests.unit.tiny import tiny_sam

CORPUS = corpus()
REFUSED = [name for name, odd in CORPUS.items() if odd.refused]
READ = [name for name, odd in CORPUS.items() if not odd.refused and not name.startswith("turned_")]
READ += ["turned_6.jpg", "turned_7.tif"]
GOOD = [f"good_{number}.png" for number in range(6)]
BOX, POINT, DETECTED = (PROTOCOLS[f"{name}@1"] for name in ("box_single", "point_best_of_3", "detector_box_single"))


def one_line(error: InputError, path: Path) -> str:
    """The message, which names a file and a remedy in one line."""
    message = str(error)
    assert str(path) in message and "\n" not in message and ";" in message
    return message


@pytest.mark.parametrize("name", CORPUS)
def test_each_is_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    odd, path = CORPUS[name], tmp_path / name
    odd.write(path)
    if odd.refused and "lists" not in odd.refused:
        with pytest.raises(InputError, match=odd.refused) as caught:
            read_image(path)
        one_line(caught.value, path)
    elif not odd.refused:
        image = read_image(path)
        assert image.shape == (*odd.size_hw, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
        assert image_size(path) == odd.size_hw


def pixels(name: str, folder: Path) -> np.ndarray:
    CORPUS[name].write(folder / name)
    return read_image(folder / name).astype(np.int64)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_never_applied(orientation: int, tmp_path: Path) -> None:
    # As COCO's annotations, which are made on pixels as stored. Pillow itself turns TIFF.
    stored = np.asarray(scene())
    for suffix in ("png", "webp", "tif"):
        assert np.array_equal(pixels(f"turned_{orientation}.{suffix}", tmp_path), stored), suffix
    upright = pixels("turned_1.jpg", tmp_path)
    assert np.array_equal(pixels(f"turned_{orientation}.jpg", tmp_path), upright)


def test_what_is_odd_keeps_its_pixels(tmp_path: Path) -> None:
    image = np.asarray(scene()).astype(np.int64)
    exact = ("alpha.png", "animated.png", "animated.webp", "two  spaces & 'quotes'.png", "png_in_fact.jpg")
    for name in exact:
        assert np.array_equal(pixels(name, tmp_path), image), name
    for name in ("cmyk.jpg", "trailing.jpg", "profile.jpg", "animated.gif"):
        assert np.abs(pixels(name, tmp_path) - image).mean() < 20, name
    deep = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 3))
    assert np.abs(pixels("colour16.png", tmp_path) - deep / 257).max() <= 1
    gray = pixels("gray16.png", tmp_path)
    assert np.array_equal(gray, pixels("gray16.tif", tmp_path)) and np.array_equal(gray[..., 0], gray[..., 2])
    assert set(np.unique(pixels("bilevel.png", tmp_path)).tolist()) == {0, 255}
    assert not np.array_equal(pixels("ycck.jpg", tmp_path), pixels("cmyk.jpg", tmp_path))


@pytest.mark.slow
def test_bombs_take_no_memory(tmp_path: Path) -> None:
    names = ["bomb.png", "half_a_bomb.png", "large_and_empty.png", "text_bomb.png", "wide.png", "tall.jpg"]
    for name in names:
        CORPUS[name].write(tmp_path / name)
    code = (
        "import sys, resource\nfrom data.images import read_image\nfrom core.errors import InputError\n"
        "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (now + 300 * 2**20,) * 2)\n"
        "for path in sys.argv[1:]:\n"
        "    try: print(read_image(path).shape)\n"
        "    except InputError as error: print('refused')\n"
    )
    if not Path("/proc/self/statm").exists() or not hasattr(resource, "RLIMIT_AS"):
        pytest.skip("this system does not tell how much memory a process has")
    command = [sys.executable, "-c", code, *(str(tmp_path / name) for name in names)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split("\n")[:-1] == ["refused"] * 4 + ["(20, 20000, 3)", "(20000, 20, 3)"], done.stderr


def annotation(annotation_id: int, image_id: int, size_hw: tuple[int, int], place: int = 0) -> dict[str, Any]:
    """A rectangle in an image of any size."""
    height, width = size_hw
    x, y = min(4 * place, width - 1), min(3 * place, height - 1)
    w, h = max(1, width // 3), max(1, height // 3)
    w, h = min(w, width - x), min(h, height - y)
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    named = {"id": annotation_id, "image_id": image_id, "category_id": 1 + place % 2, "iscrowd": 0}
    return {**named, "bbox": [x, y, w, h], "area": w * h, "segmentation": [polygon]}


def good_image(number: int) -> Image.Image:
    return Image.fromarray(np.roll(np.asarray(scene()), 7 * number, axis=1))


def put(folder: Path, name: str, stored: str) -> tuple[int, int]:
    """Write a good or an odd image under a name; returns the size that is listed."""
    folder.mkdir(parents=True, exist_ok=True)
    if name in GOOD:
        good_image(GOOD.index(name)).save(folder / stored, "PNG")
        return HEIGHT, WIDTH
    CORPUS[name].write(folder / stored)
    return CORPUS[name].size_hw


Opened = Callable[..., Any]


def write_coco(root: Path, names: list[str]) -> Opened:
    """Images with two annotations each; those of good images have the same ids in every set."""
    images, annotations = [], []
    for name in names:
        number = [*GOOD, *CORPUS].index(name)
        size_hw = put(root / "val2017", name, name)
        images.append({"id": number, "file_name": name, "height": size_hw[0], "width": size_hw[1]})
        images[-1]["coco_url"] = f"http://images.cocodataset.org/val2017/{name}"
        images[-1] |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        annotations += [annotation(2 * number + place, number, size_hw, place) for place in range(2)]
    (root / "annotations").mkdir(exist_ok=True)
    categories = [{"id": 1, "frequency": "f"}, {"id": 2, "frequency": "r"}]
    content = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    for file in ("instances_val2017.json", "lvis_v1_val.json"):
        (root / "annotations" / file).write_text(content)
    return lambda **how: Coco(root, **how)


def write_lvis(root: Path, names: list[str]) -> Opened:
    write_coco(root, names)
    return lambda **how: Lvis(root, **how)


def write_sa1b(root: Path, names: list[str]) -> Opened:
    for name in names:
        number = 1 + [*GOOD, *CORPUS].index(name)
        size_hw = put(root, name, f"sa_{number}.jpg")
        header = {"image_id": number, "height": size_hw[0], "width": size_hw[1], "file_name": f"sa_{number}.jpg"}
        raws = [annotation(2 * number + place, number, size_hw, place) for place in range(2)]
        for raw in raws:
            del raw["category_id"]
        (root / f"sa_{number}.json").write_text(json.dumps({"image": header, "annotations": raws}))
    # One image more, since SA-1B keeps at most half of all for validation.
    for number in range(9000, 9000 + len(names)):
        put(root, GOOD[0], f"sa_{number}.jpg")
    return lambda **how: Sa1b(root, "train", validation_count=len(names), **how)


LAYOUTS = {"coco": write_coco, "lvis": write_lvis, "sa1b": write_sa1b}


def limit_headers(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    for module in (annotated_images, sa1b):
        monkeypatch.setattr(module, "HEADER_CHECK_LIMIT", limit)


@pytest.mark.parametrize("limit", [0, 2000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_broken_one_is_refused_in_every_layout(
    layout: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_headers(monkeypatch, limit)
    for place, name in enumerate(REFUSED):
        opened = LAYOUTS[layout](tmp_path / str(place), [GOOD[0], name])
        with pytest.raises(InputError, match=CORPUS[name].refused) as caught:
            data = opened()
            for index in range(len(data)):
                data.sample(index)
        one_line(caught.value, tmp_path / str(place))
        data = opened(missing="skip")
        read = [sample for index in range(len(data)) if (sample := tried(data, index)) is not None]
        assert len(read) == 1 and len(read[0].annotation_ids) == 2, name
        counted = {reason: count for reason, count in data.skipped.items() if count}
        assert counted == {"image_left_out": 1, "unreadable_image": 2}, name


def tried(data: Any, index: int) -> Any:
    try:
        return data.sample(index)
    except InputError as error:
        one_line(error, Path())
        return None


def scored(data: Any, folder: Path, **settings: Any) -> Scored:
    """Boxes and points, and where images have ids a detector's boxes, by a model of random weights."""
    protocols, detections = [BOX, POINT], None
    if not isinstance(data, Sa1b):
        entries = [
            {"image_id": raw["image_id"], "category_id": raw["category_id"], "bbox": raw["bbox"], "score": 0.5}
            for raw in data.truth()["annotations"]
        ]
        folder.mkdir(exist_ok=True)
        (folder / "boxes.json").write_text(json.dumps(entries))
        detections = Detections(folder / "boxes.json", data.sizes_hw(), category_ids=data.category_ids)
        protocols.append(DETECTED)
    return Scorer(tiny_sam(), protocols, detections, **settings).score(data)


def figures(found: Scored, ids: set[int]) -> dict[tuple[str, int, object], tuple[Any, ...]]:
    """What was measured on some images."""
    kept = {}
    for protocol, records in found.records.items():
        for r in records:
            if r.image_id in ids:
                own = (r.iou, r.area) if hasattr(r, "iou") else (r.counts, r.score)
                which = r.annotation_id if hasattr(r, "annotation_id") else f"{r.category_id}"
                kept[protocol, r.image_id, which] = (*own, r.iou_pred, r.mask_index, r.stability)
    return kept


@pytest.mark.parametrize(
    ("layout", "limit", "workers"),
    [("coco", 0, 0), ("coco", 0, 2), ("coco", 2000, 0), ("lvis", 0, 0), ("sa1b", 0, 0), ("sa1b", 2000, 0)],
)
def test_figures_of_the_others_are_what_they_are_without(
    layout: str, limit: int, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_headers(monkeypatch, limit)
    first = int(layout == "sa1b")
    good = set(range(first, first + len(GOOD)))
    alone = LAYOUTS[layout](tmp_path / "alone", GOOD)(missing="skip")
    expected = figures(scored(alone, tmp_path / "a"), good)
    assert len(expected) == 2 * len(GOOD) * (2 if layout == "sa1b" else 3)
    data = LAYOUTS[layout](tmp_path / "mixed", [*REFUSED, *GOOD, *READ])(missing="skip")
    found = scored(data, tmp_path / "m", workers=workers)
    assert figures(found, good) == expected
    assert (found.skipped["image_left_out"], found.skipped["unreadable_image"]) == (len(REFUSED), 2 * len(REFUSED))
    assert len({record.image_id for record in found.records[BOX.name]}) == len(GOOD) + len(READ)


def test_runs_score_around_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_headers(monkeypatch, 0)
    alone = write_coco(tmp_path / "alone", GOOD)()
    data = write_coco(tmp_path / "mixed", [*REFUSED[:8], *GOOD])(missing="skip")
    for score in (lambda of: Scorer(tiny_sam(), [BOX, POINT]).score(of).records, score_baselines):
        assert repr(score(data)) == repr(score(alone))
    assert data.skipped["image_left_out"] == 8


def names_of(batches: ImageBatches | InstanceBatches, count: int) -> list[str]:
    return [name for place in range(0, count, 4) for name in batches(range(place, place + 4)).names]


@pytest.mark.parametrize("limit", [0, 2000])
def test_training_goes_on_with_the_next_image(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_headers(monkeypatch, limit)
    broken = [name for name in REFUSED if "lists" not in str(CORPUS[name].refused)]
    opened = write_coco(tmp_path, [*GOOD[:4], *broken, *GOOD[4:]])
    data: ImageData = opened(missing="skip")
    batches = ImageBatches(data, 64, 4, seed=3)
    seen = names_of(batches, 2 * len(data))
    # A broken image's turn goes to the one after it; one epoch shows every image that can be read.
    assert set(seen) == set(GOOD) and data.skipped["image_left_out"] == len(broken)
    # Another process, which begins elsewhere, sees the same.
    again = ImageBatches(opened(missing="skip"), 64, 4, seed=3)
    assert again(range(8, 12)).names == tuple(seen[8:12])
    labelled = InstanceBatches(opened(missing="skip"), 64, 4, seed=3, count=2)
    assert names_of(labelled, 2 * len(data)) == seen
    assert labelled(range(4)).labelled.all()


@pytest.mark.parametrize("kind", [ImageBatches, InstanceBatches])
def test_training_refuses_in_one_line(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_headers(monkeypatch, 0)
    settings = {"count": 2} if kind is InstanceBatches else {}
    data = write_coco(tmp_path / "some", [GOOD[0], "cut_60.png"])()
    with pytest.raises(InputError, match=r"cut_60\.png: truncated or damaged") as caught:
        kind(data, 64, 4, 0, **settings)(range(2))
    one_line(caught.value, tmp_path)
    nothing = write_coco(tmp_path / "none", ["cut_60.png", "empty.jpg"])(missing="skip")
    with pytest.raises(InputError, match="coco: none of the 2 images can be read, such as") as caught:
        kind(nothing, 64, 4, 0, **settings)(range(2))
    one_line(caught.value, tmp_path)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, [GOOD[0], "b\u00e4r \u718a photo.jpg", "two  spaces & 'quotes'.png"])
    folder = tmp_path / "val2017"
    (tmp_path / "annotations" / "instances_val2017.json").unlink()
    assert len(Coco(tmp_path, labels=False)) == 3
    for name in (b"line\nbreak.png", b"\xff\xfe.png"):
        path = os.path.join(os.fsencode(folder), name)
        try:
            with open(path, "wb"):
                pass
        except OSError:
            continue  # This file system has no such names.
        with pytest.raises(InputError, match=r"the file name .* has characters that are no text; rename") as caught:
            Coco(tmp_path, labels=False)
        one_line(caught.value, folder)
        str(caught.value).encode()
        os.remove(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_images_that_may_not_be_read(tmp_path: Path) -> None:
    write_coco(tmp_path, GOOD[:2])
    (tmp_path / "val2017" / GOOD[1]).chmod(0)
    with pytest.raises(InputError, match=r"good_1\.png: may not be read; change the file's permissions"):
        Coco(tmp_path)
    assert Coco(tmp_path, missing="skip").skipped["image_left_out"] == 1


def test_json_and_images_of_sa1b_without_each_other(tmp_path: Path) -> None:
    opened = write_sa1b(tmp_path, GOOD)
    for number in (2, 9000):
        (tmp_path / f"sa_{number}.jpg").unlink()
    with pytest.raises(InputError, match=r"sa_2\.jpg: no such image file beside its JSON; fetch"):
        opened()
    assert len(opened(labels=False)) == len(GOOD) - 1
    (tmp_path / "sa_3.json").unlink()
    data = opened(missing="skip")
    assert len(data) == len(GOOD) - 2 and re.fullmatch(r"sa_1\.jpg", data.image_name(0))
    # Of an image without JSON nobody knows how many instances it had.
    assert (data.skipped["image_left_out"], data.skipped["unreadable_image"]) == (2, 2)
    assert len(opened(missing="skip", labels=False)) == len(GOOD) - 1
    with pytest.raises(InputError, match="missing=ignore is unknown"):
        opened(missing="ignore")


def test_the_corpus_is_large_and_has_both_kinds() -> None:
    assert len(REFUSED) >= 30 and len(CORPUS) >= len(REFUSED) + 50 and isinstance(CORPUS["cmyk.jpg"], Odd)
