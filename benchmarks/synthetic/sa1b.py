"""SA-1B in its own layout and of its own shape, from a few images and masks under many names.

``python -m benchmarks.synthetic.sa1b --out DIR --images 20000`` writes shards as Meta publishes them, ``sa_000000.tar``
of ``./sa_1.jpg`` and ``./sa_1.json``; ``--folders`` writes the same as folders of files. Images are drawn at random,
with the grain of photographs (some 0.5 MB each), masks are blobs of all sizes. Images and masks repeat; names, ids and
which masks an image has do not.
"""

import argparse
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from pycocotools import mask as mask_api


def image_bytes(size_hw: tuple[int, int], rng: np.random.Generator) -> bytes:
    """A JPEG of a random scene: patches of colour on a slope, with grain."""
    height, width = size_hw
    coarse = rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    patches = rng.integers(0, 256, (height // 40 + 1, width // 40 + 1, 3), dtype=np.uint8)
    sharp = Image.fromarray(patches).resize((width, height), Image.Resampling.NEAREST)
    scene = Image.blend(smooth, sharp, 0.3).filter(ImageFilter.GaussianBlur(1))
    grain = rng.normal(0, 6, (height, width, 1))
    pixels = np.clip(np.asarray(scene) + grain, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=75)
    return stream.getvalue()


def blob(size_hw: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A mask bool ``[H, W]``: a wavy ellipse of any size, at any place inside."""
    height, width = size_hw
    radius = min(size_hw) / 2 * np.exp(rng.uniform(np.log(0.01), np.log(0.7)))
    centre = rng.uniform(0, 1, 2) * (height, width)
    stretch, turn = rng.uniform(0.5, 1), rng.uniform(0, np.pi)
    low = np.maximum(np.floor(centre - 1.5 * radius), 0).astype(int)
    high = np.minimum(np.ceil(centre + 1.5 * radius) + 1, size_hw).astype(int)
    rows, columns = np.mgrid[low[0] : high[0], low[1] : high[1]]
    y, x = rows - centre[0], columns - centre[1]
    along, across = x * np.cos(turn) + y * np.sin(turn), (y * np.cos(turn) - x * np.sin(turn)) / stretch
    angle = np.arctan2(across, along)
    waves = sum(rng.uniform(0, 0.25) / k * np.sin(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5, 9, 14))
    mask = np.zeros(size_hw, dtype=np.bool_)
    mask[low[0] : high[0], low[1] : high[1]] = np.hypot(along, across) < radius * (1 + waves)
    return mask


def annotation(mask: NDArray[np.bool_], rng: np.random.Generator) -> dict[str, Any]:
    """A mask as SA-1B writes it, less its id."""
    rle = mask_api.encode(np.asfortranarray(mask, dtype=np.uint8))
    pixels = np.flatnonzero(mask)
    row, column = divmod(int(pixels[rng.integers(len(pixels))]), mask.shape[1])
    return {
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode()},
        "bbox": [float(side) for side in mask_api.toBbox(rle)],
        "area": int(mask_api.area(rle)),
        "predicted_iou": round(float(rng.uniform(0.88, 1)), 6),
        "point_coords": [[column + 0.5, row + 0.5]],
        "crop_box": [0.0, 0.0, float(mask.shape[1]), float(mask.shape[0])],
        "stability_score": round(float(rng.uniform(0.92, 1)), 6),
    }


def members(
    images: int, masks: int, size_hw: tuple[int, int], distinct: int = 8, seed: int = 0
) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, JPEG and JSON of each image.

    Args:
        masks: an image, on average; half to one and a half times as many.
        distinct: different images; of masks there are four times as many as an image has.
    """
    rng = np.random.default_rng(seed)
    encoded = [image_bytes(size_hw, rng) for _ in range(min(distinct, images))]
    pool: list[str] = []
    while len(pool) < 4 * masks:
        if (mask := blob(size_hw, rng)).sum() >= 16:
            pool.append(json.dumps(annotation(mask, rng))[1:])
    annotation_id = 400_000_000
    for number in range(1, images + 1):
        count = int(rng.integers(masks // 2, masks + masks // 2 + 1)) if masks > 1 else masks
        chosen = rng.permutation(len(pool))[:count].tolist()
        parts = ", ".join(f'{{"id": {annotation_id + place}, {pool[own]}' for place, own in enumerate(chosen))
        annotation_id += count
        header = {"image_id": number, "width": size_hw[1], "height": size_hw[0], "file_name": f"sa_{number}.jpg"}
        content = f'{{"image": {json.dumps(header)}, "annotations": [{parts}]}}'
        yield number, encoded[number % len(encoded)], content.encode()


def write_sa1b(
    out: Path,
    images: int,
    masks: int = 100,
    size_hw: tuple[int, int] = (1500, 2250),
    folders: bool = False,
    shard: int = 2000,
    distinct: int = 8,
    seed: int = 0,
) -> None:
    """Write shards of ``shard`` images into a new folder; the arguments are those of the command line."""
    out.mkdir(parents=True)
    archive: tarfile.TarFile | None = None
    for number, image, content in members(images, masks, size_hw, distinct, seed):
        name = f"sa_{(number - 1) // shard:06}"
        first = (number - 1) % shard == 0
        if folders:
            if first:
                (out / name).mkdir()
            (out / name / f"sa_{number}.jpg").write_bytes(image)
            (out / name / f"sa_{number}.json").write_bytes(content)
            continue
        if first:
            if archive is not None:
                archive.close()
            archive = tarfile.open(out / f"{name}.tar", "w")  # noqa: SIM115 (one file after the other)
        assert archive is not None
        for suffix, body in (("jpg", image), ("json", content)):
            member = tarfile.TarInfo(f"./sa_{number}.{suffix}")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    if archive is not None:
        archive.close()


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.synthetic.sa1b",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make; it must not exist yet")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--masks", type=int, default=100, help="an image, on average (default: %(default)s)")
    parser.add_argument("--height", type=int, default=1500)
    parser.add_argument("--width", type=int, default=2250)
    parser.add_argument("--folders", action="store_true", help="folders of files instead of tar files")
    parser.add_argument("--shard", type=int, default=2000, help="images a tar or folder (default: %(default)s)")
    parser.add_argument("--distinct", type=int, default=8, help="different images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.out.exists():
        parser.error(f"--out {given.out}: exists already; remove it or name another")
    if min(given.images, given.masks, given.shard, given.distinct) < 1 or min(given.height, given.width) < 32:
        parser.error("give at least 1 image, mask, image a shard and different image, of at least 32x32 pixels")
    size_hw = (given.height, given.width)
    write_sa1b(given.out, given.images, given.masks, size_hw, given.folders, given.shard, given.distinct, given.seed)
    print(f"{given.out}: {given.images} images of {given.width}x{given.height}, some {given.masks} masks each")


if __name__ == "__main__":
    main()
