"""Weights that take up what few bits do to the mask decoder's attention (MAC of CAR-SAM, CVPR 2026).

Where queries meet keys on a grid, a change ``D`` of the query projection is chosen so that the product with those keys
is nearest to the float one; then one of the key projection for queries on theirs, and one of the value projection for
attention on its grid. With ``d`` channels a head, inputs ``X`` and what they meet ``K``, summed over prompts,

``sum (X'X) D (K'K) + ridge D = sum X' (float product - product) K``,

a Sylvester equation in several terms, is solved by conjugate gradients; of values ``D`` has a closed form. The paper's
ridge is not known here. This project's own are: logits count without what all keys of a row share, and a change is
taken back where the product, once its weight is rounded, is no nearer. What changes are weights: files stay ordinary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from compressors.quantize.calibration import Call
from compressors.quantize.layer_errors import decibels
from compressors.quantize.objective import best_of
from compressors.quantize.search import Search, quantized
from core.progress import say
from students.quantized.attention import QuantizedCrossAttention
from students.quantized.layers import QuantizedLayer
from students.quantized.plan import set_quantizing
from teachers.sam import Sam
from teachers.two_way_transformer import for_each_prompt

RIDGE = 0.01
"""Of the mean of the system's diagonal."""
ITERATIONS, TOLERANCE = 50, 1e-4
"""Most conjugate gradients, and the part of the right side that may be left."""

Inputs = tuple[Tensor, Tensor, Tensor]
"""What an attention is given: queries ``[N, Q, C]``, keys and values ``[N, K, C]``; either may come as ``[M]``."""


@torch.no_grad()
def absorb_errors(model: Sam, exact: Sam, calls: Sequence[Call], how: Search) -> list[dict[str, Any]]:
    """Change the projections of the mask decoder's attentions, in place.

    Args:
        model: calibrated and not packed.
        exact: the float model, with the same modules.
        calls: images and prompts; an attention is given what the float model's layers give it.
        how: the shares that grids of changed weights are searched among.

    Returns:
        a line an attention: ``layer``, and signal to quantisation noise of its logits and of what it mixes, in
        decibels, before and after.
    """
    set_quantizing(exact, False)
    embeddings = [exact.encode(images) for images, _ in calls]
    lines = []
    for path, attention in model.mask_decoder.named_modules(prefix="mask_decoder"):
        projections = [getattr(attention, f"{name}_proj", None) for name in "qkv"]
        if not isinstance(attention, QuantizedCrossAttention) or not all(
            isinstance(projection, QuantizedLayer) for projection in projections
        ):
            continue
        given: list[Inputs] = []
        original: Any = exact.get_submodule(path)
        hook = original.register_forward_pre_hook(lambda _, args, into=given: into.append(args))
        try:
            for embedding, (_, prompts) in zip(embeddings, calls, strict=True):
                for prompt in prompts:
                    exact.decode_frame(embedding, prompt)
        finally:
            hook.remove()
        _warn_of_few(path, attention, given)
        expected = [_computed(original, inputs) for inputs in given]
        before = after = _noise(attention, given, expected)
        for name in "qkv":
            layer: Any = getattr(attention, f"{name}_proj")
            kept = {key: value.clone() for key, value in layer.state_dict().items()}
            _absorb(attention, name, given, expected, how)
            found, product = _noise(attention, given, expected), "mixed" if name == "v" else "logits"
            if (found[product] or math.inf) > (after[product] or math.inf):
                after = found
            else:
                # What the change gains, its rounding may lose.
                layer.load_state_dict(kept)
        lines.append({"layer": path, "before_db": before, "after_db": after})
    return lines


def _warn_of_few(path: str, attention: QuantizedCrossAttention, given: list[Inputs]) -> None:
    """Say where a projection has more weights an output than vectors to choose them by: the ridge decides the rest."""
    for place, name in enumerate("qkv"):
        layer: QuantizedLayer = getattr(attention, f"{name}_proj")
        vectors = sum(inputs[place][..., 0].numel() for inputs in given)
        if vectors <= layer.shape[1]:
            say(
                f"method.mac: {path}.{name}_proj has {layer.shape[1] + 1} weights an output and only {vectors} vectors "
                "to choose them by; more of method.images or method.prompts would say more"
            )


def _computed(attention: QuantizedCrossAttention, inputs: Inputs) -> dict[str, Tensor]:
    """Operands and products of an attention, ``[N, heads, ...]``, on its grids where it quantises.

    Keys and logits are given without their mean over the keys: what all keys of a row share, softmax does not see.
    """
    q, k, v = attention.heads(*inputs)
    q, k = q * q.shape[-1] ** -0.5, k.transpose(-1, -2)
    quantizing = attention.scores.quantizing
    if quantizing:
        q, k, v = attention.scores.left(q), attention.scores.right(k), attention.mixing.right(v)
    logits = q @ k
    weights = logits.softmax(-1)
    if quantizing:
        weights = attention.mixing.left(weights)
    k, logits = _centred(k.transpose(-1, -2), -2), _centred(logits, -1)
    return {"q": q, "k": k, "v": v, "logits": logits, "weights": weights, "mixed": weights @ v}


def _centred(x: Tensor, dimension: int) -> Tensor:
    return x - x.mean(dimension, keepdim=True)


def _noise(
    attention: QuantizedCrossAttention, given: list[Inputs], expected: list[dict[str, Tensor]]
) -> dict[str, float | None]:
    found = [_computed(attention, inputs) for inputs in given]
    return {
        name: decibels([(one[name], other[name]) for one, other in zip(expected, found, strict=True)])
        for name in ("logits", "mixed")
    }


def _absorb(
    attention: QuantizedCrossAttention,
    name: str,
    given: list[Inputs],
    expected: list[dict[str, Tensor]],
    how: Search,
) -> None:
    """Solve for the change of one projection, add it, and find the grid of the changed weight."""
    layer: QuantizedLayer = getattr(attention, f"{name}_proj")
    equation, normal, right, seen = _Equation(), [], [], []
    for inputs, exact in zip(given, expected, strict=True):
        found = _computed(attention, inputs)
        x = quantized(layer.input_quantizer, inputs["qkv".index(name)].float())
        # The last column is the bias's. [N, T, C + 1]
        x = torch.cat([x, torch.ones_like(x[..., :1])], -1).double()
        x = for_each_prompt(x, len(found["q"]))
        seen.append(torch.einsum("nti,ntj->ij", x, x))
        q, k, weights, logits, mixed = (found[key].double() for key in ("q", "k", "weights", "logits", "mixed"))
        if name == "v":
            met = weights @ x[:, None]
            normal.append(torch.einsum("nhti,nhtj->hij", met, met))
            right.append(torch.einsum("nhti,nhtd->hid", met, exact["mixed"].double() - mixed))
        elif name == "q":
            # Queries are scaled once they are projected.
            equation.add(x * q.shape[-1] ** -0.5, exact["logits"].double() - logits, k)
        else:
            equation.add(_centred(x, -2), (exact["logits"].double() - logits).transpose(-1, -2), q)
    if name == "v":
        system = torch.stack(normal).sum(0)
        diagonal = system.diagonal(dim1=-2, dim2=-1)
        diagonal += RIDGE * diagonal.mean(-1, keepdim=True).clamp(min=1e-12)
        change = torch.linalg.solve(system, torch.stack(right).sum(0))
    else:
        change = equation.solved()
    # From [heads, C + 1, d] to [heads * d, C + 1]
    change = change.transpose(-1, -2).flatten(0, 1).float()
    assert layer.weight is not None and layer.bias is not None
    layer.weight.add_(change[:, :-1])
    layer.bias.add_(change[:, -1])
    _fit_grid(layer, torch.stack(seen).sum(0)[:-1, :-1].float(), how)


@dataclass
class _Equation:
    """``sum_n A_n D B_n + ridge D = right``, for each head, with ``A_n`` ``[c, c]`` and ``B_n`` ``[heads, d, d]``."""

    of_inputs: list[Tensor] = field(default_factory=list)
    of_met: list[Tensor] = field(default_factory=list)
    right: Any = 0.0

    def add(self, x: Tensor, residual: Tensor, met: Tensor) -> None:
        """Inputs ``[N, T, c]``, errors ``[N, heads, T, S]`` and what projected inputs meet, ``[N, heads, S, d]``."""
        self.of_inputs.append(x.transpose(-1, -2) @ x)
        self.of_met.append(met.transpose(-1, -2) @ met)
        self.right = self.right + torch.einsum("nti,nhtd->hid", x, residual @ met)

    def solved(self) -> Tensor:
        """``D`` ``[heads, c, d]``, by conjugate gradients that begin with the equation of the means."""
        a, b = torch.cat(self.of_inputs), torch.cat(self.of_met)
        ridge = RIDGE * (_trace(a)[:, None] * _trace(b)).sum(0) / (a.shape[-1] * b.shape[-1])
        ridge = ridge.clamp(min=1e-12)[:, None, None]
        # One term solves directly: in the bases of its two factors it is a division.
        (of_a, bases), (of_b, others) = torch.linalg.eigh(a.sum(0)), torch.linalg.eigh(b.mean(0))
        scales = of_a[:, None] * of_b[:, None, :] + ridge

        def nearly(right: Tensor) -> Tensor:
            return bases @ ((bases.T @ right @ others) / scales) @ others.transpose(-1, -2)

        def applied(change: Tensor) -> Tensor:
            # [N, heads, c, d]
            return torch.einsum("nij,nhjd->hid", a, change @ b) + ridge * change

        solution, rest = torch.zeros_like(self.right), self.right.clone()
        step = nearly(rest)
        product = (rest * step).sum((1, 2), keepdim=True)
        for _ in range(ITERATIONS):
            if not bool((rest.norm(dim=(1, 2)) > TOLERANCE * self.right.norm(dim=(1, 2))).any()):
                break
            moved = applied(step)
            length = product / (step * moved).sum((1, 2), keepdim=True).clamp(min=1e-300)
            solution, rest = solution + length * step, rest - length * moved
            near, before = nearly(rest), product
            product = (rest * near).sum((1, 2), keepdim=True)
            step = near + product / before.clamp(min=1e-300) * step
        return solution


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


def _fit_grid(layer: QuantizedLayer, second_moment: Tensor, how: Search) -> None:
    """The grid of a weight, whose outputs' squared error is least, by the second moment of its inputs ``[C, C]``."""
    grid, weight = layer.weight_quantizer, layer.weight
    assert weight is not None
    dims = [i for i, size in enumerate(grid.shape) if size == 1] if grid.shape else [0, 1]
    lowest, highest = (part.reshape(grid.shape) for part in (weight.amin(dims), weight.amax(dims)))

    def score(scale: Tensor) -> Tensor:
        grid.scale.copy_(scale)
        error = grid(weight) - weight
        by_row = ((error @ second_moment) * error).sum(1, keepdim=True)
        return by_row if grid.shape else by_row.sum()

    candidates = []
    for share in how.shares() if how.metric != "minmax" else [1.0]:
        grid.set_range(lowest * share, highest * share)
        candidates.append(grid.scale.clone())
    grid.scale.copy_(best_of(candidates, score))
