"""What bounds the image encoder and the training of mask decoders on a CPU: ``python -m benchmarks.bounds``.

One global block's attention by a fused kernel against the same in parts (:mod:`teachers.attention`), and the
time that the encoder's linear layers take with nothing between them, in float32 and in bfloat16. Then a mask decoder's
attention of images to the tokens of 16 prompts and back, forward and backward, by the fused kernel against matrix
products (:func:`teachers.two_way_transformer.attend_by_products`).
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._models import VITS
from benchmarks._timing import busy, machine, seconds_in_turns
from teachers.attention import attend_folded, attend_in_parts
from teachers.catalog import MODELS
from teachers.image_encoder import ImageEncoder
from teachers.two_way_transformer import attend_by_products

PROMPTS, HEADS, TOKENS = 16, 8, 7
"""Of a mask decoder: prompts at once, its heads, and its tokens where a prompt is a box."""


def main() -> None:
    """Parse the command line, measure, print one line a precision."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bounds", description=__doc__)
    parser.add_argument("--model", default="sam_vit_b", choices=VITS)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device, config = torch.device("cpu"), MODELS[options.model].config.vit
    encoder = ImageEncoder(config).requires_grad_(False)
    heads, grid, width = config.num_heads, config.grid, config.attention_widths[0] // config.num_heads
    print(f"{options.model} at {config.image_size}; {machine(device)}")
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (torch.randn(1, heads, grid * grid, width, dtype=dtype) for _ in range(3))
        rel_h, rel_w = (torch.randn(1, heads, grid, grid, grid, dtype=dtype) for _ in range(2))
        layers = [layer.to(dtype) for layer in encoder.modules() if isinstance(layer, nn.Linear)]
        inputs = {w: torch.randn(grid * grid, w, dtype=dtype) for w in {layer.in_features for layer in layers}}

        def linear(layers: list[nn.Linear] = layers, inputs: dict[int, Tensor] = inputs) -> None:
            for layer in layers:
                layer(inputs[layer.in_features])

        def attending(attend: Callable[..., Tensor], *parts: Tensor) -> Callable[[], Tensor]:
            return lambda: attend(*parts)

        with torch.no_grad():
            works: dict[str, Callable[[], object]] = {
                "fused": attending(attend_folded, q, k, v, rel_h, rel_w),
                "parts": attending(attend_in_parts, q, k, v, rel_h, rel_w),
                "linear": linear,
            }
            taken = seconds_in_turns(works, device, options.rounds)
        ratio = taken["fused"] / taken["parts"]
        print(
            f"{dtype!s:15} a global block's attention: fused {taken['fused']:.3f} s, in parts {taken['parts']:.3f} s, "
            f"{ratio:.2f}x; all {len(layers)} linear layers {taken['linear']:.2f} s"
        )
    for dtype in (torch.float32, torch.bfloat16):
        for name, queries, keys in (("image to tokens", grid * grid, TOKENS), ("tokens to image", TOKENS, grid * grid)):
            fused, products = decoder_attention(queries, keys, config.out_channels // 2, dtype, options.rounds)
            print(
                f"{dtype!s:15} {name}, with the gradient: fused {fused:.3f} s, products {products:.3f} s, "
                f"{fused / products:.2f}x"
            )


def decoder_attention(queries: int, keys: int, width: int, dtype: torch.dtype, rounds: int) -> tuple[float, float]:
    """Seconds of attention in a mask decoder, forward and backward: by the fused kernel, and by matrix products.

    Args:
        width: of all heads together.
    """
    # [N, heads, tokens, d]
    shapes = [(PROMPTS, HEADS, count, width // HEADS) for count in (queries, keys, keys)]
    given = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]

    def learning(attend: Callable[..., Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(attend(*given).sum(), given)

    works = {"fused": learning(F.scaled_dot_product_attention), "products": learning(attend_by_products)}
    taken = seconds_in_turns(works, torch.device("cpu"), rounds)
    return taken["fused"], taken["products"]


if __name__ == "__main__":
    main()
    print(busy())
