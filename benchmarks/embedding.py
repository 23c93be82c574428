"""Filling the teacher's cache: images a second, and the share of the processor's measured matrix-product peak.

``python -m benchmarks.embedding --model sam_vit_h --device cuda --compile``. Images of random numbers, weights of
random numbers; nothing but the encoder is timed. The peak is measured in the same run, as square bfloat16 products of
``--peak-size``; the encoder's operations are those of the counter ``full``, two a multiply-add. Published beside it, on
an A100 40 GB: segment-anything-fast, ViT-H 25.2 and ViT-B 94.9 images/s (batch 32, encoder and decoder, compiled,
int8 for ViT-H).
"""

import argparse
from collections.abc import Callable

import torch

from benchmarks._models import VITS, random_sam
from benchmarks._timing import busy, default_device, machine, seconds_in_turns
from core.cost import measure_cost


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
    options = parser.parse_args()
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


def _encoding(encode: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> Callable[[], object]:
    def work() -> torch.Tensor:
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16):
            return encode(images)

    return work


if __name__ == "__main__":
    main()
    print(busy())
