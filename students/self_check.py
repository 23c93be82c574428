"""What is looked at before a model is believed: two images through its image encoder, as it is going to compute.

Four ways in which an encoder has gone wrong without a word: it gives every image the same embedding; numbers overflow
in half precision, though not in float32; weights are not finite; and values that were kept from earlier weights answer
for the new ones, as TinyViT's attention biases do in evaluation mode.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from core.feature_maps import Features, joined, maps_of
from core.protocols import Segmenter, device_of
from core.seeding import generator_for

SAME = 1e-6
"""Embeddings of two images that differ by less than this part of their largest value are one."""
_ROUNDING = 1e-5


def encoder_problem(model: Segmenter, precision: torch.dtype | None = None, setting: str = "precision") -> str | None:
    """What is wrong with a model's image encoder, in one line with what to do; None if nothing is.

    Args:
        model: on its device, in evaluation mode.
        precision: what autocast is going to compute in; None is none.
        setting: of the precision, for the line.
    """
    images = _two_images(model)
    found = _embeddings(model, images, precision)
    named = str(precision).removeprefix("torch.") if precision is not None else "float32"
    problem = _problem(found)
    if problem is not None:
        exact = None if precision is None else _problem(_embeddings(model, images, None))
        if precision is not None and exact is None:
            others = "float32" if precision == torch.bfloat16 else "float32 or bfloat16"
            return f"in {named} its image encoder {problem}, in float32 it does not; give {setting}={others}"
        return f"its image encoder {problem}; the weights are damaged, or were trained to nothing: make them again"
    stale = stale_modules(model)
    if stale:
        return (
            f"{stale[0]} answers with values kept from earlier weights{_more(stale)}; load the weights before the "
            "first image, or call train() and eval() after loading"
        )
    return None


def stale_modules(model: object) -> list[str]:
    """Names of a model's modules that keep tensors which their present weights would not give."""
    if not isinstance(model, nn.Module):
        return []
    kept = _kept_tensors(model)
    if not kept:
        return []
    with _kept_anew(model), torch.inference_mode():
        _embeddings(model, _two_images(model)[:1], None)  # type: ignore[arg-type]
        anew = _kept_tensors(model)
    return sorted({name for (name, key), old in kept.items() if not _equal(old, anew.get((name, key)))})


def _problem(found: Features) -> str | None:
    """What is wrong with the embeddings (or the maps) of two images."""
    for tensor in maps_of(found).values():
        if not tensor.isfinite().all():
            return "gives numbers that are not finite (an overflow, or NaN)"
        first, second = tensor.double()
        # Values that are all zero are one embedding too.
        if (first - second).abs().max() <= SAME * first.abs().max():
            return "gives two different images one and the same embedding"
    return None


def _two_images(model: Segmenter) -> Tensor:
    """Noise, and a slope from dark to bright: float32 ``[2, 3, S, S]``, normalised as images are."""
    size = model.input_size
    noise = torch.randn(3, size, size, generator=generator_for(0, "self-check"))
    slope = torch.linspace(-2, 2, size).expand(3, size, size)
    return torch.stack([noise, slope]).to(device_of(model))


def _embeddings(model: Segmenter, images: Tensor, precision: torch.dtype | None) -> Features:
    """One after the other, as some exported encoders take one image at a time."""
    with torch.inference_mode(), torch.autocast(images.device.type, precision, enabled=precision is not None):
        found: Features = joined([model.encode(image[None]) for image in images])
        return found.float()


def _kept_tensors(model: nn.Module) -> dict[tuple[str, str], Tensor]:
    """Tensors that modules hold beside parameters and buffers, by module and attribute: what they computed once."""
    kept: dict[tuple[str, str], Tensor] = {}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute.startswith("_"):
                continue
            members: dict[Any, Any] = value if isinstance(value, dict) else {"": value}
            for key, tensor in members.items():
                if isinstance(tensor, Tensor) and not isinstance(tensor, nn.Parameter):
                    kept[name, f"{attribute}{key}"] = tensor
    return kept


@contextlib.contextmanager
def _kept_anew(model: nn.Module) -> Iterator[None]:
    """Let every module forget what it kept, as entering training mode does; the modes are as before at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _equal(old: Tensor, new: Tensor | None) -> bool:
    if new is None or old.shape != new.shape:
        return False
    return torch.allclose(old.float(), new.float(), rtol=_ROUNDING, atol=_ROUNDING, equal_nan=True)


def _more(names: list[str]) -> str:
    return f" ({len(names)} modules do)" if len(names) > 1 else ""
