"""What few bits save: multiplications weighed by the bits of their two factors, and what is still done in float."""

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from core.cost import measure_cost
from core.protocols import Prompt
from students.kinds import build_model
from students.quantized.layers import QUANTISABLE, QuantizedConvolution, QuantizedLayer, QuantizedProduct
from students.quantized.plan import Plan, apply_plan, set_quantizing, simulated
from teachers.sam import SamConfig

FLOAT_BITS = 32


@dataclass(frozen=True)
class BitOperations:
    """For one image at the model's input size and one box prompt.

    Attributes:
        total: the sum over multiply-accumulates (counter ``full``) of the bits of one factor times those of the other,
            32 in float.
        float_macs: multiply-accumulates that are done in float, by layer; those outside of layers are ``products``
            (attention's where they stay float, relative positions, the decoder's masks).
    """

    total: int
    float_macs: dict[str, int]


@dataclass(frozen=True)
class Bits:
    """What rows of results say of a quantised model; see the columns of these names (:class:`core.result.ResultRow`).

    Attributes:
        simulated: in words; None where integers can do all of it.
    """

    weight_bits: int
    activation_bits: int
    bit_operations: int
    float_macs: dict[str, int]
    simulated: str | None

    @classmethod
    def of(cls, config: SamConfig, plan: Plan) -> "Bits":
        """Of a model of this shape, quantised by this plan."""
        counted, scheme = count_bit_operations(config, plan), plan.scheme
        bits = scheme.weight_bits, scheme.activation_bits
        return cls(*bits, counted.total, counted.float_macs, ", ".join(simulated(plan)) or None)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def count_bit_operations(config: SamConfig, plan: Plan) -> BitOperations:
    """Count from shapes alone."""
    full, of_layers, bits = _counted(config, plan)
    products = full - sum(of_layers.values())
    total = sum(macs * bits[path] for path, macs in of_layers.items()) + products * FLOAT_BITS**2
    in_float = {path: macs for path, macs in of_layers.items() if bits[path] == FLOAT_BITS**2}
    return BitOperations(total, {**in_float, "products": products} if products else in_float)


def bits_by_layer(config: SamConfig, plan: Plan) -> dict[str, int]:
    """The bit-operations of each layer that an image and a box go through; ``products`` as :class:`BitOperations`."""
    full, of_layers, bits = _counted(config, plan)
    found = {path: macs * bits[path] for path, macs in of_layers.items()}
    return {**found, "products": (full - sum(of_layers.values())) * FLOAT_BITS**2}


def _counted(config: SamConfig, plan: Plan) -> tuple[int, dict[str, int], dict[str, int]]:
    """Multiply-accumulates of the whole model and of each layer, and the bits of one factor times the other's."""
    with torch.device("meta"):
        model = build_model(config)
        apply_plan(model, plan)
    # Codes are not needed to count.
    set_quantizing(model, False)
    of_layers: dict[str, int] = {}
    bits: dict[str, int] = {}

    def watch(path: str, part: nn.Module) -> None:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            of_layers[path] = of_layers.get(path, 0) + _macs(module, args, output)

        bits[path] = _bits(part)
        part.register_forward_hook(hook)

    kinds = (*QUANTISABLE, QuantizedLayer, QuantizedProduct)
    for path, part in model.named_modules():
        if isinstance(part, kinds):
            watch(path, part)
    size = model.input_size
    with torch.no_grad():
        embedding = model.image_encoder(torch.empty(1, 3, size, size, device="meta"))
        model.decode_frame(embedding, Prompt(boxes_xyxy=torch.empty(1, 4, device="meta")))
    return _full_macs(config), of_layers, bits


@lru_cache(maxsize=16)
def _full_macs(config: SamConfig) -> int:
    """Of a shape, whatever its bits."""
    with torch.device("meta"):
        return measure_cost(build_model(config)).macs_full


def _macs(module: Any, args: tuple[Tensor, ...], output: Tensor) -> int:
    """Multiply-accumulates of one call."""
    if isinstance(module, QuantizedProduct):
        return output.numel() * args[0].shape[-1]
    shape = module.shape if isinstance(module, QuantizedLayer) else module.weight.shape
    transposed = isinstance(module, nn.ConvTranspose2d) or (
        isinstance(module, QuantizedConvolution) and module.transposed
    )
    # Every input of a transposed convolution meets the whole kernel; every output of the others does.
    each = torch.Size(shape)[1:].numel()
    return (args[0].numel() if transposed else output.numel()) * each


def _bits(part: nn.Module) -> int:
    """The bits of one factor times those of the other."""
    if isinstance(part, QuantizedProduct):
        return part.left.bits * part.right.bits
    if isinstance(part, QuantizedLayer):
        given = part.input_quantizer
        return part.weight_quantizer.bits * (FLOAT_BITS if given is None else given.bits)
    return FLOAT_BITS**2
