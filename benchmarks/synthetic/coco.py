"""COCO's and LVIS's validation at their own size, from a few polygons: annotations, detections, and images of one pixel
size that are all one file.

``python -m benchmarks.synthetic.coco --out DIR --layout lvis`` writes ``annotations/lvis_v1_val.json`` (19,809 images,
244,707 instances, 1,203 categories) and ``--layout coco`` ``annotations/instances_val2017.json`` (5,000, 36,781, 80);
``--detections 1500000`` adds ``detections.json`` in COCO's results format. Polygons have the points of the published
files on average.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

SIZE_HW = (480, 640)
LAYOUTS = {"lvis": (19_809, 244_707, 1_203, 50), "coco": (5_000, 36_781, 80, 30)}
"""Images, instances, categories, and points of a polygon on average."""
NAMES = {"lvis": "lvis_v1_val.json", "coco": "instances_val2017.json"}


def _shapes(points: int, rng: np.random.Generator) -> list[str]:
    """Box, area and polygon of wavy ellipses, as JSON has them."""
    height, width = SIZE_HW
    found = []
    for _ in range(499):
        count = int(rng.integers(points // 2, points + points // 2 + 1))
        radius = 240 * np.exp(rng.uniform(np.log(0.02), 0))
        angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
        radii = radius * (1 + 0.2 * np.sin(3 * angles + rng.uniform(0, 6.3)))
        x = np.clip(rng.uniform(20, width - 20) + radii * np.cos(angles), 0, width)
        y = np.clip(rng.uniform(20, height - 20) + radii * np.sin(angles), 0, height)
        polygon = np.stack([x, y], 1).ravel().round(2).tolist()
        area = float(mask_api.area(mask_api.merge(mask_api.frPyObjects([polygon], height, width))))
        box = [round(float(side), 2) for side in (x.min(), y.min(), np.ptp(x), np.ptp(y))]
        found.append(json.dumps({"bbox": box, "area": area, "segmentation": [polygon]})[1:-1])
    return found


def _annotations(images: int, instances: int, categories: int, points: int, seed: int) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    shapes = _shapes(points, rng)
    owners = np.sort(rng.integers(1, images + 1, instances)).tolist()
    kinds = rng.integers(1, categories + 1, instances).tolist()
    for number, (image, kind) in enumerate(zip(owners, kinds, strict=True), 1):
        head = f'{{"id": {number}, "image_id": {image}, "category_id": {kind}, "iscrowd": 0, '
        yield f"{head}{shapes[number % len(shapes)]}}}"


def _listed(layout: str, image: int, categories: int) -> str:
    name = f'"id": {image}, "height": {SIZE_HW[0]}, "width": {SIZE_HW[1]}, "file_name": "{image:012}.jpg"'
    if layout == "lvis":
        url = f'"coco_url": "http://images.cocodataset.org/val2017/{image:012}.jpg"'
        absent = [(image + step) % categories + 1 for step in range(0, min(7, categories))]
        name = f'{name}, {url}, "neg_category_ids": {absent}, "not_exhaustive_category_ids": []'
    return f"{{{name}}}"


def write_coco(
    out: Path,
    layout: str,
    images: int,
    instances: int,
    categories: int,
    points: int,
    detections: int = 0,
    seed: int = 0,
) -> None:
    """Write into a new folder; the arguments are those of the command line."""
    (out / "annotations").mkdir(parents=True)
    (out / "val2017").mkdir()
    first = out / "val2017" / f"{1:012}.jpg"
    Image.new("RGB", SIZE_HW[::-1], (90, 120, 60)).save(first)
    for image in range(2, images + 1):
        os.link(first, first.with_name(f"{image:012}.jpg"))
    with open(out / "annotations" / NAMES[layout], "w", encoding="ascii") as file:
        file.write('{"images": [' + ",\n".join(_listed(layout, image, categories) for image in range(1, images + 1)))
        file.write('], "annotations": [')
        for place, text in enumerate(_annotations(images, instances, categories, points, seed)):
            file.write(("" if place == 0 else ",\n") + text)
        kinds = ", ".join(
            f'{{"id": {kind}, "name": "kind {kind}", "frequency": "{"rcf"[kind % 3]}"}}'
            for kind in range(1, categories + 1)
        )
        file.write(f'], "categories": [{kinds}]}}')
    if detections:
        _write_detections(out / "detections.json", images, categories, detections, seed)


def _write_detections(path: Path, images: int, categories: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed + 1)
    corners = rng.uniform(0, 1, (count, 2)) * (SIZE_HW[1] - 40, SIZE_HW[0] - 40)
    boxes = np.concatenate([corners, rng.uniform(4, 40, (count, 2))], 1).round(2).tolist()
    owners, kinds = rng.integers(1, images + 1, count).tolist(), rng.integers(1, categories + 1, count).tolist()
    scores = rng.uniform(0, 1, count).round(5).tolist()
    with open(path, "w", encoding="ascii") as file:
        for place, (image, kind, box, score) in enumerate(zip(owners, kinds, boxes, scores, strict=True)):
            entry = f'{{"image_id": {image}, "category_id": {kind}, "bbox": {box}, "score": {score}}}'
            file.write(("[" if place == 0 else ",\n") + entry)
        file.write("]")


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.synthetic.coco",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make; it must not exist yet")
    parser.add_argument("--layout", choices=sorted(LAYOUTS), default="lvis")
    parser.add_argument("--images", type=int, help="default: those of the published file; likewise below")
    parser.add_argument("--instances", type=int)
    parser.add_argument("--categories", type=int)
    parser.add_argument("--points", type=int, help="of a polygon, on average")
    parser.add_argument("--detections", type=int, default=0, help="boxes of a detector (default: none)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.out.exists():
        parser.error(f"--out {given.out}: exists already; remove it or name another")
    requested = (given.images, given.instances, given.categories, given.points)
    sizes = [one if one is not None else own for one, own in zip(requested, LAYOUTS[given.layout], strict=True)]
    if min(sizes) < 1 or sizes[3] < 6:
        parser.error("give at least 1 image, instance and category, and 6 points")
    write_coco(given.out, given.layout, *sizes, given.detections, given.seed)
    print("{}: {:,} images, {:,} instances, {:,} categories".format(given.out, *sizes[:3]))


if __name__ == "__main__":
    main()
