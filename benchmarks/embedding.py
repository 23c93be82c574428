"""Filling the teacher's cache, and reading it.

Images a second, and the share of the processor's measured matrix-product peak:

``python -m benchmarks.embedding --model sam_vit_h --device cuda --compile``. Images of random numbers, weights of
random numbers; nothing but the encoder is timed. The peak is measured in the same run, as square bfloat16 products of
``--peak-size``; the encoder's operations are those of the counter ``full``, two a multiply-add. Published beside it, on
an A100 40 GB: segment-anything-fast, ViT-H 25.2 and ViT-B 94.9 images/s (batch 32, encoder and decoder, compiled,
int8 for ViT-H).

``--kept 110000`` instead opens a cache of so many images, of SAM's shape (2.1 MB each; sparse files, of which keys
alone are written: 4 kB each), and reads whole records of another one, beside plain reading of its file.
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks._models import VITS, random_sam
from benchmarks._timing import busy, default_device, machine, seconds_in_turns
from core.cost import measure_cost
from data.embeddings import _HEADER, MAGIC, SHARD_BYTES, DiskEmbeddings

CHANNELS, GRID = 256, 64
READ = 200
"""Records that are read whole."""


def main() -> None:
    """Parse the command line, measure, print one line a way of running the encoder."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embedding", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="sam_vit_b", choices=VITS)
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="images at one time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak-size", type=int, default=4096, help="rows of the matrices behind the peak")
    parser.add_argument("--compile", action="store_true", help="also compiled")
    parser.add_argument("--kept", type=int, metavar="IMAGES", help="opens a cache of so many and reads one, instead")
    options = parser.parse_args()
    if options.kept:
        read_kept(options.kept)
        return
    device = torch.device(options.device)
    sam = random_sam(options.model)
    macs = measure_cost(sam).encoder_macs_full
    encoder = sam.image_encoder.to(device)
    forms: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"as it is": encoder}
    if options.compile:
        forms["compiled"] = torch.compile(encoder)

    works: dict[str, Callable[[], object]] = {}
    counts: dict[str, int] = {}
    for batch in options.batches:
        images = torch.randn(batch, 3, sam.input_size, sam.input_size, device=device)
        for form, encode in forms.items():
            name = f"{form}, batch {batch}"
            works[name], counts[name] = _encoding(encode, images), batch
    size = options.peak_size
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    works["peak"] = lambda: left @ right
    seconds = seconds_in_turns(works, device, options.rounds, warmup=2)

    peak = 2 * size**3 / seconds.pop("peak")
    print(
        f"{options.model} at {sam.input_size}, bfloat16; {machine(device)}; matrix products {peak / 1e12:.2f} TFLOP/s"
    )
    print(f"{'encoder':22} {'images/s':>9} {'of the peak':>12}")
    for name, taken in seconds.items():
        rate = counts[name] / taken
        print(f"{name:22} {rate:9.3f} {rate * 2 * macs / peak:11.0%}")


def read_kept(count: int) -> None:
    """Print how long a cache takes to be opened, and to be read."""
    header, valid = _HEADER.pack(MAGIC, CHANNELS, GRID), torch.ones(GRID, GRID, dtype=torch.bool)
    with tempfile.TemporaryDirectory() as name:
        whole, sparse = Path(name) / "whole", Path(name) / "sparse"
        kept = DiskEmbeddings(whole, CHANNELS, GRID)
        keys = [hashlib.sha256(number.to_bytes(8)).digest() for number in range(count)]
        for key in keys[:READ]:
            kept.put(key, torch.randn(CHANNELS, GRID, GRID).half(), valid)
        (file,) = whole.iterdir()
        record = (file.stat().st_size - len(header)) // READ
        a_shard = (SHARD_BYTES - len(header)) // record
        sparse.mkdir()
        for first in range(0, count, a_shard):
            with open(sparse / f"{first}.shard", "xb") as stream:
                stream.write(header)
                for place, key in enumerate(keys[first : first + a_shard]):
                    stream.seek(len(header) + place * record)
                    stream.write(key)
                stream.truncate(len(header) + len(keys[first : first + a_shard]) * record)
        began = time.perf_counter()
        found = len(DiskEmbeddings(sparse, CHANNELS, GRID))
        print(f"{found:,} images of {record / 1e6:.1f} MB: opened in {time.perf_counter() - began:.2f} s")
        kept = DiskEmbeddings(whole, CHANNELS, GRID)
        works: dict[str, Callable[[], object]] = {
            "records, their checksums compared": lambda: [kept.get(key) for key in keys[:READ]],
            "the file alone": lambda: [len(part) for part in _parts(file, record)],
        }
        for way, taken in seconds_in_turns(works, torch.device("cpu"), 5).items():
            print(f"{way:34} {READ * record / taken / 1e6:8.0f} MB/s {READ / taken:8.0f} images/s")


def _parts(file: Path, size: int) -> Iterator[bytes]:
    with open(file, "rb", buffering=0) as stream:
        while part := stream.read(size):
            yield part


def _encoding(encode: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> Callable[[], object]:
    def work() -> torch.Tensor:
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16):
            return encode(images)

    return work


if __name__ == "__main__":
    main()
    print(busy())
