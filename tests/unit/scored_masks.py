"""Annotation files drawn at random, as an evaluator may meet them, and results for them that are partly right."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

HEIGHT, WIDTH = 150, 200
Truth = dict[str, Any]
Results = list[dict[str, Any]]


def encoded(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask as JSON holds it: compressed RLE with counts as a string."""
    rle = mask_api.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def ellipse(rng: np.random.Generator, radii: tuple[float, float]) -> tuple[NDArray[np.bool_], list[float]]:
    """A mask, and a polygon of about the same outline; its half axes are drawn from the range ``radii``."""
    half = rng.uniform(*radii, 2)
    centre = rng.uniform((20, 20), (HEIGHT - 20, WIDTH - 20)) if radii[1] < 50 else (HEIGHT / 2, WIDTH / 2)
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    angle = np.linspace(0, 2 * np.pi, 13)[:-1]
    outline = np.stack([centre[1] + half[1] * np.cos(angle), centre[0] + half[0] * np.sin(angle)], axis=1)
    mask = ((y - centre[0]) / half[0]) ** 2 + ((x - centre[1]) / half[1]) ** 2 <= 1
    return mask, [float(c) for c in outline.round(2).reshape(-1)]


def perturbed(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A mask like the given one: shifted, shrunk (perhaps to nothing), grown or itself."""
    moved = np.roll(mask, tuple(int(step) for step in rng.integers(-5, 6, 2)), (0, 1))
    return (moved, mask & moved, mask | moved, mask)[rng.integers(4)]


def random_truth(seed: int, images: int = 20) -> Truth:
    """Annotations of six categories in COCO's and LVIS's layout at once: polygons, both kinds of RLE, crowds.

    Category 6 is never annotated, 5 once; the image with the highest id shows nothing.
    """
    rng = np.random.default_rng(seed)
    annotations: Results = []
    for image_id in range(3, 3 * images, 3):
        for place in range(rng.integers(1, 9)):
            mask, polygon = ellipse(rng, ((3, 13), (15, 45), (60, 74))[place % 3])
            crowd = bool(rng.random() < 0.15)
            form = rng.integers(3)
            segmentation: Any = [polygon, [p + 1.0 for p in polygon]] if form == 0 else encoded(mask)
            if form == 1 or crowd:
                runs = np.diff(np.flatnonzero(np.diff(mask.T.reshape(-1), prepend=2, append=2)))
                counts = [0, *runs.tolist()] if mask[0, 0] else runs.tolist()
                segmentation = {"size": [HEIGHT, WIDTH], "counts": counts}
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
            annotations.append(
                {
                    "image_id": image_id,
                    "category_id": int(rng.integers(1, 5)) if annotations else 5,
                    "segmentation": segmentation,
                    "area": float(mask.sum()),
                    "bbox": [float(side) for side in box],
                    "iscrowd": int(crowd),
                }
            )
    order = rng.permutation(len(annotations))
    lists = [[int(c) for c in rng.permutation(6)[:2] + 1] for _ in range(2 * images)]
    return {
        "images": [
            {"id": 3 * n, "height": HEIGHT, "width": WIDTH}
            | {"neg_category_ids": lists[n], "not_exhaustive_category_ids": lists[n + images - 1]}
            for n in rng.permutation(images).tolist()
            for n in [n + 1]
        ],
        "annotations": [{**annotations[place], "id": number} for number, place in enumerate(order, 7)],
        "categories": [{"id": c, "name": f"thing {c}", "frequency": "frccrf"[c - 1]} for c in (4, 2, 6, 1, 5, 3)],
    }


def masks_of(truth: Truth) -> list[NDArray[np.bool_]]:
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    masks = []
    for annotation in truth["annotations"]:
        found = annotation["segmentation"]
        if not isinstance(found, dict) or isinstance(found["counts"], list):
            found = mask_api.frPyObjects(found, *sizes[annotation["image_id"]])
        masks.append(mask_api.decode(mask_api.merge(found) if isinstance(found, list) else found).astype(bool))
    return masks


def random_results(truth: Truth, seed: int, crowded: int = 0, decimals: int = 1) -> Results:
    """Perturbed annotations as results: few or many of each, ties in scores, wrong categories, some empty masks.

    Args:
        crowded: detections put on one image in addition.
        decimals: of the scores, so with few there are ties.
    """
    rng = np.random.default_rng(seed + 1000)
    categories = [category["id"] for category in truth["categories"]]
    silent_image = truth["annotations"][0]["image_id"]
    pairs = [pair for pair in zip(truth["annotations"], masks_of(truth), strict=True)]
    times = [int(n) for n in rng.integers(0, 4, len(pairs))]
    chosen = [
        pair for pair, n in zip(pairs, times, strict=True) if pair[0]["image_id"] != silent_image for _ in range(n)
    ]
    shown = [pair for pair in pairs if pair[0]["image_id"] == truth["annotations"][-1]["image_id"]]
    chosen += [shown[int(i)] for i in rng.integers(len(shown), size=crowded)]
    results = []
    for annotation, mask in chosen:
        wrong = rng.random() < 0.2
        results.append(
            {
                "image_id": annotation["image_id"],
                "category_id": int(rng.choice(categories)) if wrong else annotation["category_id"],
                "segmentation": encoded(perturbed(mask, rng)),
                "score": round(float(rng.random()), decimals),
            }
        )
    return [results[i] for i in rng.permutation(len(results))]
