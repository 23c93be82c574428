"""What the mask decoder's attention needs in few bits: keys of one sign (BIG), queries and keys without outliers (PCC).

Both end in ordinary grids: BIG changes weights and is exact in float, PCC narrows a range.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from compressors.quantize.recording import LayerTrace
from students.quantized.layers import QuantizedProduct
from students.quantized.quantizers import UniformQuantizer
from teachers.sam import Sam
from teachers.two_way_transformer import CrossAttention

POINTS, APART, LEAST = 128, 32, 0.01
"""PTQ4SAM's test for two modes: points of the density, how many lie between its peaks, their share of its sum."""
VALUES = 4096
"""Most values that a density is made of."""
TAILS = (0.0, 1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.02, 0.05)
"""Shares of the values that PCC cuts at either end, each tried."""
FOCUS = 0.5
"""Of a row's largest attention: what is above is where it looks (SAQ-SAM's theta)."""


@torch.no_grad()
def fold_signs(model: Sam, run: Callable[[], object]) -> list[str]:
    """Give bimodal keys one sign, in place: the bimodal integration of PTQ4SAM (Lv et al. 2024, arXiv
    2405.03144).

    ``gamma_j`` is the sign of the mean of channel ``j`` of the keys. Rows of query and key projection are multiplied
    by it, which leaves every inner product as it is. Only tokens attend to the image with such keys.

    Args:
        run: calls the model on what keys are looked at.

    Returns:
        paths of the attentions that were changed.
    """
    changed = []
    for path, attention in model.mask_decoder.named_modules(prefix="mask_decoder"):
        if not isinstance(attention, CrossAttention) or not path.endswith("token_to_image"):
            continue
        found: list[Tensor] = []
        hook = attention.k_proj.register_forward_hook(lambda _, args, output, into=found: into.append(output))
        try:
            run()
        finally:
            hook.remove()
        # [keys, channels]
        keys = torch.cat([output.flatten(0, -2) for output in found]).float()
        if not is_bimodal(keys.flatten()):
            continue
        signs = torch.where(keys.mean(0) < 0, -1.0, 1.0)
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.mul_(signs[:, None])
            projection.bias.mul_(signs)
        changed.append(path)
    return changed


def is_bimodal(values: Tensor) -> bool:
    """Whether the density of values has two peaks that are far apart, as PTQ4SAM tests it, by Scott's bandwidth."""
    # Drawn, since equal steps through [tokens, channels] can meet the same few channels over and over.
    drawn = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))[:VALUES]
    values = values[drawn.to(values.device)].double()
    width = values.std() * len(values) ** -0.2
    if not width > 0:
        return False
    points = torch.linspace(float(values.min()), float(values.max()), POINTS, dtype=torch.float64, device=values.device)
    density = (-0.5 * ((points[:, None] - values) / width).square()).exp().sum(1)
    padded = torch.nn.functional.pad(density, (1, 1))
    peaks = (density > padded[:-2]) & (density >= padded[2:]) & (density >= LEAST * density.sum())
    kept: list[int] = []
    for place in sorted(peaks.nonzero().flatten().tolist(), key=lambda place: -float(density[place])):
        if all(abs(place - other) >= APART for other in kept):
            kept.append(place)
    return len(kept) == 2


@torch.no_grad()
def clip_by_focus(product: QuantizedProduct, trace: LayerTrace) -> None:
    """Narrow the grids of queries and keys, in place, until attention looks most where it does in float.

    This is the perceptual-consistency clipping of SAQ-SAM (AAAI 2026): of every row, what is above half of its largest
    attention; a range is judged by the overlap (IoU) of that with the float model's. Queries and keys take two turns.
    A grid, at first the one that the search found, stays unless a range overlaps more; of ranges that overlap equally
    the wider one is taken.

    Args:
        product: queries with keys, one grid each.
    """
    records = list(trace.records.values())
    focused = [focus(record.output) for record in records]

    def overlap() -> float:
        both = either = 0
        for record, expected in zip(records, focused, strict=True):
            found = focus(product.left(record.inputs[0]) @ product.right(record.inputs[1]))
            both, either = both + int((found & expected).sum()), either + int((found | expected).sum())
        return both / max(1, either)

    for number in (0, 1, 0, 1) if records else ():
        grid = (product.left, product.right)[number]
        if not isinstance(grid, UniformQuantizer) or grid.axis is not None:
            continue
        values = torch.cat([record.inputs[number].flatten() for record in records]).sort().values
        best, kept = overlap(), (grid.scale.clone(), grid.zero_point.clone())
        for tail in TAILS:
            cut = int(tail * len(values))
            grid.set_range(values[cut], values[len(values) - 1 - cut])
            if (found := overlap()) > best:
                best, kept = found, (grid.scale.clone(), grid.zero_point.clone())
        grid.scale.copy_(kept[0])
        grid.zero_point.copy_(kept[1])


def focus(logits: Tensor) -> Tensor:
    """Where each query looks: bool, of the shape of the logits ``[..., queries, keys]``."""
    attention = logits.softmax(-1)
    return attention > FOCUS * attention.amax(-1, keepdim=True)
