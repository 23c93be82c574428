"""What a model costs: its parameters, its stored bytes, and its multiply-accumulates by two named counters.

Published figures disagree by a quarter because their counters differ, so a count here always names its own:

``full``
    Every matrix product and convolution, those of attention (queries with keys, weights with values, queries with
    relative positions) included, and nothing else: ``torch.utils.flop_counter`` / 2. What the model computes.
``modules``
    The counter behind SlimSAM's table (torch-pruning's, itself ptflops'), which looks at modules only and so misses
    the products of attention. Its figures compare with that table. :func:`module_macs` has the rules.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from core.protocols import Prompt


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-accumulates (MACs) for one image at the model's input size and one box prompt.

    Attributes:
        parameters: of the whole model, shared ones once.
        encoder_parameters: of the image encoder.
        macs_full: image encoder, prompt encoder and mask decoder, by the counter ``full``.
        macs_modules: the same, by the counter ``modules``.
        encoder_macs_full: image encoder alone, by ``full``.
        encoder_macs_modules: image encoder alone, by ``modules``.
    """

    parameters: int
    encoder_parameters: int
    macs_full: int
    macs_modules: int
    encoder_macs_full: int
    encoder_macs_modules: int


class SamLike(Protocol):
    """A module whose image encoder and whose decoding in the model's frame can be run one after the other."""

    input_size: int

    @property
    def image_encoder(self) -> nn.Module:
        """Normalised images ``[B, 3, S, S]`` to embeddings ``[B, C, g, g]``."""
        ...

    def decode_frame(self, embedding: Tensor, prompt: Prompt) -> Any:
        """Decode prompts whose coordinates are in the model's frame."""
        ...


def measure_cost(model: SamLike) -> Cost:
    """Count a model's parameters and MACs from its shapes alone.

    The model is copied to the meta device (in float32, evaluation mode) and run there: no weight is read, no memory
    is taken for weights or activations, whatever the size, and the model itself is left as it was.

    Args:
        model: a ``torch.nn.Module`` of this form, on any device, the meta device included.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"only a torch module's cost can be measured, got {type(model).__name__}")
    shadow = _on_meta(model).float().eval().requires_grad_(False)
    size = model.input_size
    with torch.no_grad():
        with count_macs(shadow) as encoder:
            embedding = shadow.image_encoder(torch.empty(1, 3, size, size, device="meta"))
        with count_macs(shadow) as decoder:
            shadow.decode_frame(embedding, Prompt(boxes_xyxy=torch.empty(1, 4, device="meta")))
    return Cost(
        parameters=_parameter_count(model),
        encoder_parameters=_parameter_count(model.image_encoder),
        macs_full=encoder.full + decoder.full,
        macs_modules=encoder.modules + decoder.modules,
        encoder_macs_full=encoder.full,
        encoder_macs_modules=encoder.modules,
    )


def checkpoint_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights as they are stored: the tensors of its state dict, each in its own precision."""
    tensors = (value for value in model.state_dict().values() if isinstance(value, Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass
class Macs:
    """MACs by both counters, filled in when the block of :func:`count_macs` ends."""

    full: int = 0
    modules: int = 0


@contextmanager
def count_macs(module: nn.Module) -> Iterator[Macs]:
    """Count the MACs of what is run inside the block.

    Args:
        module: its submodules are those the counter ``modules`` sees; the counter ``full`` sees whatever runs. Its
            parameters must not require gradients.
    """
    # Here, because it brings a compiler along, which takes seconds to import.
    from torch.utils.flop_counter import FlopCounterMode

    macs = Macs()

    def hook(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        macs.modules += module_macs(part, inputs[0].shape, output.shape)

    handles = [part.register_forward_hook(hook) for part in module.modules() if type(part) in _RULES]
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            yield macs
    finally:
        for handle in handles:
            handle.remove()
    macs.full = counter.get_total_flops() // 2


def module_macs(module: nn.Module, inputs: torch.Size, output: torch.Size) -> int:
    """What the counter ``modules`` charges for one call of a module, given the shapes of its input and output.

    The rules of the torch-pruning that SlimSAM was published with, for the module types named here and not for types
    derived from them; anything else is free, as are products and functions called outside these modules:

    - ``Conv1d/2d/3d`` and ``ConvTranspose1d/2d/3d``: output positions x (kernel elements x input channels x output
      channels / groups, + output channels if there is a bias). A transposed convolution is thus charged
      stride-squared times its real work: four times in SAM's decoder.
    - ``Linear``: input elements x output width, + the output width once (not once a token) if there is a bias.
    - ``GELU, ReLU, ReLU6, LeakyReLU, PReLU, ELU`` and ``Upsample``: output elements.
    - ``BatchNorm1d/2d/3d, InstanceNorm1d/2d/3d, GroupNorm``: input elements, twice if affine.
    - ``MaxPool, AvgPool, AdaptiveMaxPool, AdaptiveAvgPool`` of every dimension: input elements.

    ``LayerNorm`` is free. The torch-pruning of today (1.6) charges it two an element: 0.04 % of SAM-B's encoder.
    """
    rule = _RULES.get(type(module))
    return rule(module, inputs, output) if rule else 0


def _convolution(module: Any, inputs: torch.Size, output: torch.Size) -> int:
    positions = output[0] * math.prod(output[2:])
    each = math.prod(module.kernel_size) * module.in_channels * (module.out_channels // module.groups)
    return positions * (each + (module.out_channels if module.bias is not None else 0))


def _linear(module: Any, inputs: torch.Size, output: torch.Size) -> int:
    return inputs.numel() * output[-1] + (output[-1] if module.bias is not None else 0)


def _output_elements(module: Any, inputs: torch.Size, output: torch.Size) -> int:
    return output.numel()


def _input_elements(module: Any, inputs: torch.Size, output: torch.Size) -> int:
    return inputs.numel()


def _normalisation(module: Any, inputs: torch.Size, output: torch.Size) -> int:
    return inputs.numel() * (2 if module.affine else 1)


_POOLS = ("MaxPool", "AvgPool", "AdaptiveMaxPool", "AdaptiveAvgPool")

_RULES: dict[type[nn.Module], Callable[[Any, torch.Size, torch.Size], int]] = {
    nn.Linear: _linear,
    **{getattr(nn, f"{kind}{n}d"): _convolution for kind in ("Conv", "ConvTranspose") for n in (1, 2, 3)},
    **dict.fromkeys((nn.GELU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.Upsample), _output_elements),
    **{getattr(nn, f"{kind}{n}d"): _normalisation for kind in ("BatchNorm", "InstanceNorm") for n in (1, 2, 3)},
    nn.GroupNorm: _normalisation,
    **{getattr(nn, f"{kind}{n}d"): _input_elements for kind in _POOLS for n in (1, 2, 3)},
}


def _parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _on_meta(model: Any) -> Any:
    """A copy of a module whose parameters and buffers have shapes but no memory."""
    # deepcopy takes what its memo holds for an object instead of copying the object.
    memo: dict[int, Any] = {id(value): value.detach().to("meta") for value in model.buffers()}
    memo |= {id(value): nn.Parameter(value.detach().to("meta"), False) for value in model.parameters()}
    return copy.deepcopy(model, memo)
