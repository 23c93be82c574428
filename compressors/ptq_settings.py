"""What post-training quantisation can be set to, and what is refused. Nothing here imports PyTorch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from compressors.setting_checks import MethodSettings, check_above_zero, check_at_least
from core.errors import InputError
from students.quantized.scheme import SINCE, Scheme

METRICS = ("hessian", "mse", "cosine", "minmax")


@dataclass(frozen=True)
class PtqSettings(Scheme, MethodSettings):
    """Of :class:`compressors.ptq.Ptq`.

    Attributes:
        init: the model to quantise (a file of any layout, or a released model's name); None: the teacher itself.
        metric: what grids are judged by; see :func:`compressors.quantize.objective.distance`.
        gradient: of the hessian metric; see :mod:`compressors.quantize.objective`. ``published`` is refused, since it
            is zero, unless ``force_gradient`` is set.
        force_gradient: whether the published gradient is taken all the same.
        order: whether layers are calibrated on what the float model gives them (``parallel``) or on what the quantised
            layers before them do (``sequential``). What a budget is spent by is always measured in the first way.
        bias_correction: biases take up what quantising the weight adds to each channel in the mean.
        candidates, lowest, highest, rounds, weights_in_search: see :class:`compressors.quantize.search.Search`.
        images: images to calibrate on.
        prompts: points, and as many boxes, an image.
        budget: the share of what eight bits everywhere cost that the model may cost: layers that lose most by fewer
            bits get more; see :mod:`compressors.quantize.mixed_precision`.
        budget_of: ``bit_operations``, or ``bytes`` of the quantised weights; or ``milliseconds`` of all layers for one
            image and one box in ``runtime``, measured on this machine, of which ``budget`` is the number: layers that
            lose most by eight bits stay float.
        levels: the bits that a layer may get instead, in rising order up to 8. With others than 8 alone, the layers'
            losses are measured with each: a calibration more for each.
        runtime: ``onnxruntime`` or ``openvino``.
        big: keys of two modes get one sign (PTQ4SAM); see :mod:`compressors.quantize.decoder_attention`.
        pcc: queries and keys of the mask decoder are clipped by where attention looks (SAQ-SAM).
        mac: its projections take up the errors of what they meet (CAR-SAM); see :mod:`compressors.quantize.absorbing`.
        reconstruct: what learns to answer as in float once grids are found: ``blocks``, ``layers``, or ``none``; see
            :class:`compressors.quantize.reconstruction.Reconstruction` for this and the following ones.
        learn: ``rounding`` of weights, ``scales`` of activations, or ``both``.
        steps: of each block or layer.
        batch: images (of the mask decoder: answered prompts of one) a step.
        lr: of roundings.
        drop: the probability that a value stays float in a step.
        first_channel_groups: groups of channels when a block or layer begins to learn; they are halved, in equal parts
            of its steps, until there are ``channel_groups`` (CAG of AHCPTQ); 0: as many from the beginning.
    """

    init: str | None = None
    metric: str = "hessian"
    gradient: str = "fisher"
    force_gradient: bool = False
    order: str = "parallel"
    bias_correction: bool = False
    candidates: int = 100
    lowest: float = 0.01
    highest: float = 1.2
    rounds: int = 3
    weights_in_search: str = field(default="float", metadata=SINCE)
    images: int = 8
    prompts: int = 8
    budget: float | None = field(default=None, metadata=SINCE)
    budget_of: str = field(default="bit_operations", metadata=SINCE)
    levels: tuple[int, ...] = field(default=(8,), metadata=SINCE)
    runtime: str = field(default="onnxruntime", metadata=SINCE)
    big: bool = field(default=False, metadata=SINCE)
    pcc: bool = field(default=False, metadata=SINCE)
    mac: bool = field(default=False, metadata=SINCE)
    reconstruct: str = field(default="none", metadata=SINCE)
    learn: str = field(default="both", metadata=SINCE)
    steps: int = field(default=100, metadata=SINCE)
    batch: int = field(default=4, metadata=SINCE)
    lr: float = field(default=3e-2, metadata=SINCE)
    drop: float = field(default=0.5, metadata=SINCE)
    first_channel_groups: int = field(default=0, metadata=SINCE)

    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        "metric": METRICS,
        "gradient": ("fisher", "perturbed", "published"),
        "order": ("parallel", "sequential"),
        "weights_in_search": ("float", "quantized"),
        "weights": ("channel", "tensor"),
        "activations": ("asymmetric", "symmetric"),
        "linear_weights": ("same", "channel", "tensor", "qkv"),
        "linear_activations": ("same", "asymmetric", "symmetric"),
        "product_activations": ("same", "asymmetric", "symmetric"),
        "products": ("tensor", "head", "float"),
        "softmax_grid": ("uniform", "logarithmic"),
        "gelu_grid": ("uniform", "hybrid"),
        "convolution_outputs": ("quantized", "float"),
        "decoder": ("quantized", "float"),
        "budget_of": ("bit_operations", "bytes", "milliseconds"),
        "runtime": ("onnxruntime", "openvino"),
        "reconstruct": ("none", "blocks", "layers"),
        "learn": ("both", "rounding", "scales"),
    }

    @property
    def images_per_step(self) -> int | None:
        """See :class:`compressors.setting_checks.MethodSettings`: of what is trained, if anything is."""
        return None if self.reconstruct == "none" else self.batch

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, candidates=1, rounds=1, images=1, prompts=1, steps=1, batch=1, channel_groups=0)
        check_at_least(self, first_channel_groups=0)
        check_above_zero(self, "lr")
        for name, allowed in (("weight_bits", range(2, 9)), ("activation_bits", (*range(2, 9), 32))):
            if getattr(self, name) not in allowed:
                more = ", or 32 for none" if 32 in allowed else ""
                raise InputError(f"method.{name}={getattr(self, name)} must be 2 to 8{more}")
        if not self.highest < math.inf:
            raise InputError(f"method.highest={self.highest} is a share of the range; give a finite one, such as 1.2")
        if not 0 < self.lowest <= self.highest:
            raise InputError(f"method.lowest={self.lowest} must be above 0 and at most method.highest={self.highest}")
        if not 0 <= self.drop < 1:
            raise InputError(f"method.drop={self.drop} must be at least 0 and below 1")
        if self.gradient == "published" and not self.force_gradient:
            raise InputError(
                "method.gradient=published differentiates a divergence between the float model and itself, which is "
                "zero there: layers would be weighed by rounding noise; give method.gradient=fisher, or "
                "method.force_gradient=true to measure it all the same"
            )
        self._check_grids()
        self._check_budget()

    def purposes(self) -> Mapping[str, tuple[str, ...]]:
        """See :class:`compressors.setting_checks.MethodSettings`."""
        learned = ("learn", "steps", "batch", "lr", "drop")
        searched = ("candidates", "lowest", "highest", "rounds", "weights_in_search")
        gradients = self.metric == "hessian" or self.budget is not None
        of_activations = ("activations", "linear_activations", "product_activations", "products")
        # A grid stands behind convolutions of 8 bits alone, which layers may have where others have fewer.
        some_in_eight = self.activation_bits < 8 and (self.budget is not None or bool(self.eight_bit_layers))
        return {
            "a search, which method.metric=minmax does not make,": searched if self.metric == "minmax" else (),
            "method.activation_bits of 2 to 8": of_activations if self.activation_bits == 32 else (),
            "activations of 8 bits": (() if self.activation_bits == 8 or some_in_eight else ("convolution_outputs",)),
            "method.metric=hessian": () if gradients else ("gradient",),
            "method.reconstruct=blocks or layers": () if self.reconstruct != "none" else learned,
            "method.budget": () if self.budget is not None else ("budget_of", "levels"),
            "method.budget_of=milliseconds": () if self.budget_of == "milliseconds" else ("runtime",),
        }

    def _check_grids(self) -> None:
        """Refuse grids, and mechanisms, of what stays float."""
        for name, given in (("twin", True), ("products", "head")):
            if getattr(self, name) == given and self.activation_bits == 32:
                raise InputError(
                    f"method.{name}={str(given).lower()} is for activations, which activation_bits=32 leaves in float"
                )
        for name, uniform in (("softmax_grid", "uniform"), ("gelu_grid", "uniform"), ("channel_groups", 0)):
            if (chosen := getattr(self, name)) == uniform:
                continue
            if self.activation_bits == 32:
                raise InputError(f"method.{name}={chosen} is for activations, which activation_bits=32 leaves in float")
            if self.twin and name != "channel_groups":
                raise InputError(f"method.twin=true has a grid of its own there; give method.{name}={uniform}")
        if self.softmax_grid != "uniform" and self.products == "float":
            raise InputError(
                f"method.softmax_grid={self.softmax_grid} is for products of attention, which are float here; "
                "give method.products=tensor"
            )
        if self.first_channel_groups and not 0 < self.channel_groups < self.first_channel_groups:
            raise InputError(
                f"method.first_channel_groups={self.first_channel_groups} merge into fewer, of which "
                f"method.channel_groups={self.channel_groups} is the number; give one above 0 and below"
            )
        if self.first_channel_groups and (self.reconstruct == "none" or self.learn == "rounding"):
            raise InputError(
                f"method.first_channel_groups={self.first_channel_groups} merge while their ranges learn; give "
                "method.reconstruct=blocks or layers, and method.learn=both or scales"
            )
        for name in ("big", "pcc", "mac"):
            if getattr(self, name) and self.activation_bits == 32:
                raise InputError(
                    f"method.{name}=true is for grids of activations, which activation_bits=32 leaves in float; "
                    f"give method.{name}=false"
                )
            if getattr(self, name) and "float" in (self.decoder, self.products):
                raise InputError(
                    f"method.{name}=true is for products of the mask decoder's attention, which are float here; "
                    f"give method.decoder=quantized method.products=tensor, or method.{name}=false"
                )

        if self.pcc and self.products == "head":
            raise InputError(
                "method.pcc=true clips one range of all heads, which method.products=head does not have; "
                "give method.products=tensor"
            )

    def _check_budget(self) -> None:
        if self.budget is None:
            return
        if self.gradient != "fisher":
            raise InputError(f"method.budget weighs layers by method.gradient=fisher, not by {self.gradient}")
        if self.budget_of == "milliseconds":
            if not 0 < self.budget < math.inf:
                problem = f"method.budget={self.budget} is of milliseconds"
                raise InputError(f"{problem}; give a finite number above 0, or null")
            if (self.weight_bits, self.activation_bits) != (8, 8):
                raise InputError(
                    "method.budget_of=milliseconds chooses between 8 bits and float, which is what runtimes compute; "
                    "give method.weight_bits=8 method.activation_bits=8"
                )
            if tuple(self.levels) != (8,):
                raise InputError(
                    f"method.levels={list(self.levels)} is for a budget of bit-operations or bytes; by milliseconds "
                    "layers have 8 bits or are float, which is what runtimes compute"
                )
            return
        if not 0 < self.budget <= 1:
            raise InputError(f"method.budget={self.budget} is a share; give one above 0 and at most 1, or null")
        if min(self.weight_bits, self.activation_bits) >= 8:
            raise InputError(
                "method.budget chooses layers for eight bits; give the others fewer, as method.weight_bits=4 "
                "method.activation_bits=4"
            )
        self._check_levels()
        if self.budget_of == "bytes" and self.weight_bits > 4:
            raise InputError(
                f"method.budget_of=bytes: codes of {self.weight_bits} bits take a byte each, as those of 8 do; give "
                "method.weight_bits=4 or fewer, or method.budget_of=bit_operations"
            )

    def _check_levels(self) -> None:
        few, levels = min(self.weight_bits, self.activation_bits), tuple(self.levels)
        if not levels or levels[-1] != 8 or levels[0] <= few or list(levels) != sorted(set(levels)):
            raise InputError(
                f"method.levels={list(levels)}: give numbers of bits above {few}, which all layers have, in rising "
                "order up to 8, such as method.levels=[8]"
            )
        if self.budget_of == "bytes" and any(4 < bits < 8 for bits in levels):
            raise InputError(
                f"method.levels={list(levels)}: codes of 5 to 7 bits take a byte each, as those of 8 do; give "
                "method.levels=[8], or method.budget_of=bit_operations"
            )
